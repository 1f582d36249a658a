package cross

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/manifest"
)

// Options of a build.
type Options struct {
	Dir       string // the function's folder, with its edgefn.yaml
	Platforms []Platform
	Progress  func(step string) // nil: nobody looks
}

// Image is a built function. Its layers are read from files when it is written.
type Image struct {
	Function *functions.Function
	index    v1.ImageIndex
	digest   string
	temp     string
}

// Close removes the files that the build made. The image cannot be written
// afterwards.
func (i *Image) Close() error { return os.RemoveAll(i.temp) }

// Digest of the image index: the version.
func (i *Image) Digest() string { return i.digest }

type builder struct {
	dir  string
	fn   *functions.Function
	step func(string)
}

// Build makes an image of a function, which the caller closes. A manifest with
// faults is a *manifest.Error.
func Build(ctx context.Context, o Options) (*Image, error) {
	fn, err := manifest.Load(o.Dir)
	if err != nil {
		return nil, err
	}
	b := &builder{dir: o.Dir, fn: fn, step: o.Progress}
	if b.step == nil {
		b.step = func(string) {}
	}
	if len(o.Platforms) == 0 {
		o.Platforms = []Platform{Host()}
	}
	spec, err := json.Marshal(fn)
	if err != nil {
		return nil, err
	}
	temp, err := os.MkdirTemp("", "edgefn-build-")
	if err != nil {
		return nil, err
	}
	kept := false
	defer func() {
		if !kept {
			_ = os.RemoveAll(temp)
		}
	}()
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, p := range o.Platforms {
		dir := filepath.Join(temp, p.Arch+p.Variant)
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return nil, err
		}
		img, err := b.image(ctx, p, dir, string(spec))
		if err != nil {
			return nil, fmt.Errorf("build %s for %s: %w", fn.Name, p, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: p.oci()}})
	}
	annotated, ok := mutate.Annotations(index, map[string]string{functions.ImageLabel: string(spec)}).(v1.ImageIndex)
	if !ok {
		return nil, errors.New("annotate image index: it is none")
	}
	d, err := annotated.Digest()
	if err != nil {
		return nil, err
	}
	kept = true
	return &Image{Function: fn, index: annotated, digest: d.String(), temp: temp}, nil
}

// image makes the image of one platform.
func (b *builder) image(ctx context.Context, p Platform, temp, spec string) (v1.Image, error) {
	img := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	if b.fn.Image != "" {
		base, err := b.base(ctx, p, temp)
		if err != nil {
			return nil, err
		}
		if err := checkReadable(base); err != nil {
			return nil, err
		}
		img = base
	}
	parts, err := b.parts(ctx, p, temp)
	if err != nil {
		return nil, err
	}
	for _, part := range parts {
		l, err := layer(part.dir, part.files)
		if err != nil {
			return nil, err
		}
		if img, err = mutate.Append(img, mutate.Addendum{Layer: l}); err != nil {
			return nil, err
		}
	}
	old, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cf := old.DeepCopy()
	cf.OS, cf.Architecture, cf.Variant = p.OS, p.Arch, p.Variant
	cf.Created, cf.Author, cf.History = v1.Time{}, "", nil
	cf.Config = v1.Config{
		Env:        cf.Config.Env,
		WorkingDir: cf.Config.WorkingDir,
		Labels:     map[string]string{functions.ImageLabel: spec},
	}
	if cf.Config.WorkingDir == "" {
		cf.Config.WorkingDir = functions.AppDir
	}
	return mutate.ConfigFile(img, cf)
}

// WriteLayout writes the image as an OCI layout to dir, which is made.
func (i *Image) WriteLayout(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // an image is no secret
		return err
	}
	p, err := layout.Write(dir, mutate.IndexMediaType(empty.Index, types.OCIImageIndex))
	if err != nil {
		return err
	}
	return p.AppendIndex(i.index)
}

// WriteTar writes the image as a tar of an OCI layout.
func (i *Image) WriteTar(w io.Writer) error {
	dir, err := os.MkdirTemp("", "edgefn-layout-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := i.WriteLayout(dir); err != nil {
		return err
	}
	var names []string
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, p)
		}
		return err
	})
	if err != nil {
		return err
	}
	slices.Sort(names)
	tw := tar.NewWriter(w)
	for _, n := range names {
		rel, err := filepath.Rel(dir, n)
		if err != nil {
			return err
		}
		fi, err := os.Stat(n)
		if err != nil {
			return err
		}
		if err := add(tw, filepath.ToSlash(rel), file{from: n, size: fi.Size()}); err != nil {
			return err
		}
	}
	return tw.Close()
}

package cross

import (
	"archive/tar"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	emptyoci "github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/edgefn/edgefn/functions"
)

// annotationName names an image in a layout, for tools that list what they import.
const annotationName = "org.opencontainers.image.ref.name"

// Image is a built function: an OCI image index. Its layers are in files
// without a name, which Close or the end of the process removes.
type Image struct {
	Function  *functions.Function // what it was built of
	platforms []Platform
	digest    string
	layout    []byte // index.json
	blobs     []blob // by digest, each once
	layers    []*layer
}

// blob is one piece of content.
type blob struct {
	hash v1.Hash
	size int64
	open func() io.ReadCloser
}

// Digest is the digest of the image index: the version.
func (m *Image) Digest() string { return m.digest }

// Platforms are those that the image can run on.
func (m *Image) Platforms() []Platform { return slices.Clone(m.platforms) }

// Blob is one piece of an image: a layer, a configuration, a manifest or the
// index.
type Blob struct {
	Digest string
	Size   int64 // in bytes, as it is sent
}

// Blobs are the pieces of the image, each once.
func (m *Image) Blobs() []Blob {
	out := make([]Blob, len(m.blobs))
	for i, b := range m.blobs {
		out[i] = Blob{b.hash.String(), b.size}
	}
	return out
}

// Close gives the image's disk space back. It may not be written afterwards.
func (m *Image) Close() error {
	var errs []error
	for _, l := range m.layers {
		errs = append(errs, l.file.Close())
	}
	m.layers, m.blobs = nil, nil
	return errors.Join(errs...)
}

// contents are the parts of one platform's image.
type contents struct {
	platform Platform
	base     *base // or nil
	layers   []*layer
}

// newImage puts an index together. It takes the layers over.
func newImage(f *functions.Function, parts []contents) (*Image, error) {
	spec, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("encode function: %w", err)
	}
	m := &Image{Function: f}
	seen := map[v1.Hash]bool{}
	add := func(h v1.Hash, size int64, open func() io.ReadCloser) {
		if !seen[h] {
			seen[h] = true
			m.blobs = append(m.blobs, blob{h, size, open})
		}
	}
	addBytes := func(raw func() ([]byte, error)) error {
		b, err := raw()
		if err != nil {
			return err
		}
		h, size, err := v1.SHA256(bytes.NewReader(b))
		add(h, size, func() io.ReadCloser { return io.NopCloser(bytes.NewReader(b)) })
		return err
	}
	index := mutate.IndexMediaType(emptyoci.Index, types.OCIImageIndex)
	for _, c := range parts {
		img, err := c.image(string(spec))
		if err != nil {
			return nil, fmt.Errorf("put together image for %s: %w", c.platform, err)
		}
		m.platforms = append(m.platforms, c.platform)
		for _, l := range c.all() {
			add(l.digest, l.size, l.open)
			if !slices.Contains(m.layers, l) {
				m.layers = append(m.layers, l)
			}
		}
		if err := errors.Join(addBytes(img.RawConfigFile), addBytes(img.RawManifest)); err != nil {
			return nil, fmt.Errorf("put together image for %s: %w", c.platform, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: c.platform.oci()}})
	}
	index, ok := mutate.Annotations(index, map[string]string{functions.ImageLabel: string(spec)}).(v1.ImageIndex)
	if !ok {
		return nil, errors.New("annotate image index: it is none any more")
	}
	if err := addBytes(index.RawManifest); err != nil {
		return nil, fmt.Errorf("put together image index: %w", err)
	}
	slices.SortFunc(m.blobs, func(a, b blob) int { return cmp.Compare(a.hash.Hex, b.hash.Hex) })
	desc, err := partial.Descriptor(index)
	if err != nil {
		return nil, fmt.Errorf("describe image index: %w", err)
	}
	m.digest = desc.Digest.String()
	// The annotations of the index are in it; the layout only names it.
	desc.Annotations = map[string]string{annotationName: f.Name}
	m.layout, err = json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{*desc}})
	if err != nil {
		return nil, fmt.Errorf("encode layout: %w", err)
	}
	return m, nil
}

// all returns the layers, the lowest first.
func (c contents) all() []*layer {
	if c.base == nil {
		return c.layers
	}
	return slices.Concat(c.base.layers, c.layers)
}

// image makes the image of one platform. Of the base, ENV and WORKDIR count.
func (c contents) image(spec string) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(emptyoci.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	var layers []v1.Layer
	for _, l := range c.all() {
		vl, err := partial.CompressedToLayer(l)
		if err != nil {
			return nil, err
		}
		layers = append(layers, vl)
	}
	img, err := mutate.AppendLayers(img, layers...)
	if err != nil {
		return nil, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Variant = "linux", c.platform.Arch, c.platform.Variant
	cfg.Created, cfg.History = v1.Time{}, nil
	cfg.Config = v1.Config{WorkingDir: functions.AppDir, Labels: map[string]string{functions.ImageLabel: spec}}
	if c.base != nil {
		cfg.Config.Env = c.base.env
		if c.base.workdir != "" {
			cfg.Config.WorkingDir = c.base.workdir
		}
	}
	return mutate.ConfigFile(img, cfg)
}

const layoutVersion = `{"imageLayoutVersion":"1.0.0"}`

// WriteTar writes the image as a tar of an OCI layout, as containerd and skopeo
// import it. The same image gives the same bytes.
func (m *Image) WriteTar(w io.Writer) error { return m.WriteTarWithout(w, nil) }

// WriteTarWithout is WriteTar for a reader who has some of the blobs, named by
// their digests: those are left out.
func (m *Image) WriteTarWithout(w io.Writer, there map[string]bool) error {
	tw := tar.NewWriter(w)
	head := func(name string, kind byte, mode, size int64) error {
		return tw.WriteHeader(&tar.Header{Name: name, Typeflag: kind, Mode: mode, Size: size, ModTime: time.Unix(0, 0)})
	}
	for _, f := range []struct{ name, text string }{{"oci-layout", layoutVersion}, {"index.json", string(m.layout)}} {
		if err := head(f.name, tar.TypeReg, 0o644, int64(len(f.text))); err != nil {
			return err
		}
		if _, err := io.WriteString(tw, f.text); err != nil {
			return err
		}
	}
	if err := errors.Join(head("blobs/", tar.TypeDir, 0o755, 0), head("blobs/sha256/", tar.TypeDir, 0o755, 0)); err != nil {
		return err
	}
	for _, b := range m.blobs {
		if there[b.hash.String()] {
			continue
		}
		if err := head(path.Join("blobs/sha256", b.hash.Hex), tar.TypeReg, 0o644, b.size); err != nil {
			return err
		}
		if err := copyAll(tw, b.open()); err != nil {
			return err
		}
	}
	return tw.Close()
}

// WriteLayout writes the image as an OCI layout into dir, which is made if it is
// not there. A layout that is there is replaced.
func (m *Image) WriteLayout(dir string) error {
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil { //nolint:gosec // an image is no secret
		return err
	}
	keep := map[string]bool{}
	for _, b := range m.blobs {
		keep[b.hash.Hex] = true
		if err := writeFile(filepath.Join(blobs, b.hash.Hex), b.open()); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{"oci-layout": layoutVersion, "index.json": string(m.layout)} {
		if err := writeFile(filepath.Join(dir, name), io.NopCloser(bytes.NewReader([]byte(text)))); err != nil {
			return err
		}
	}
	// What an earlier image left is named by no index any more.
	names, err := os.ReadDir(blobs)
	for _, n := range names {
		if !keep[n.Name()] && len(n.Name()) == 64 {
			err = errors.Join(err, os.Remove(filepath.Join(blobs, n.Name())))
		}
	}
	return err
}

// writeFile writes r to a file that is whole or not there, and closes r.
func writeFile(name string, r io.ReadCloser) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".part-")
	if err != nil {
		return errors.Join(err, r.Close())
	}
	err = errors.Join(copyAll(f, r), f.Chmod(fs.FileMode(0o644)), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// copyAll copies all of r and closes it.
func copyAll(w io.Writer, r io.ReadCloser) error {
	_, err := io.Copy(w, r)
	return errors.Join(err, r.Close())
}

package cross

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// base is the lower part of a platform's image, from the manifest's image key.
type base struct {
	layers  []*layer
	env     []string
	workdir string
	size    int64 // of its files
	musl    bool  // its C library is musl, so wheels and npm packages are chosen for that
}

// baseSource is where a base comes from: several platforms' images, or one.
type baseSource struct {
	ref   string
	index v1.ImageIndex // or
	image v1.Image
	cache map[v1.Hash]*layer
	most  int64 // bytes of a base's files
}

// localBase returns the path that ref means, or false if it names an image at a
// registry. A path begins with ./, ../ or /, ends in .tar, or is there in dir.
func localBase(dir, ref string) (string, bool) {
	file := ref
	if !filepath.IsAbs(file) {
		file = filepath.Join(dir, ref)
	}
	if filepath.IsAbs(ref) || strings.HasPrefix(ref, "./") || strings.HasPrefix(ref, "../") || strings.HasSuffix(ref, ".tar") {
		return file, true
	}
	_, err := os.Stat(file)
	return file, err == nil
}

// openBase finds the image that ref names. Files it needs for that go to temp.
func openBase(ctx context.Context, o *Options, ref, temp string) (*baseSource, error) {
	s := &baseSource{ref: ref, cache: map[v1.Hash]*layer{}, most: o.MaxSize}
	file, local := localBase(o.Dir, ref)
	if !local {
		if o.Offline {
			return nil, fmt.Errorf("base image %s is at a registry, and the build is offline; name an OCI layout folder or a tar of one instead, such as ./base.tar", ref)
		}
		o.Progress("base image: asking the registry for " + ref)
		return s, s.openRemote(ctx)
	}
	info, err := os.Stat(file)
	switch {
	case err != nil:
		return nil, fmt.Errorf("open base image: %w", err)
	case info.IsDir():
		return s, s.openLayout(file)
	}
	docker, err := unpackLayout(file, temp, 2*o.MaxSize)
	if err != nil {
		return nil, fmt.Errorf("open base image %s: %w", ref, err)
	}
	if !docker {
		return s, s.openLayout(temp)
	}
	if s.image, err = tarball.ImageFromPath(file, nil); err != nil {
		return nil, fmt.Errorf("open base image %s: %w", ref, err)
	}
	return s, nil
}

func (s *baseSource) openLayout(dir string) (err error) {
	if s.index, err = layout.ImageIndexFromPath(dir); err != nil {
		return fmt.Errorf("open base image %s: it is no OCI layout: %w", s.ref, err)
	}
	return nil
}

// unpackLayout writes what belongs to an OCI layout from a tar to a folder. It
// reports whether the tar is one of docker's own form instead.
func unpackLayout(file, to string, most int64) (docker bool, err error) {
	f, err := os.Open(file)
	if err != nil {
		return false, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	oci := false
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return false, fmt.Errorf("it is no tar: %w", err)
		}
		name := path.Clean(h.Name)
		docker = docker || name == "manifest.json"
		oci = oci || name == "index.json"
		dir, hex := path.Split(name)
		if h.Typeflag != tar.TypeReg || (name != "index.json" && name != "oci-layout" && (dir != "blobs/sha256/" || len(hex) != 64)) {
			continue
		}
		if most -= h.Size; most < 0 {
			return false, errors.New("it is too large")
		}
		dest := filepath.Join(to, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(dest), 0o700); err != nil {
			return false, err
		}
		if err := writeFile(dest, io.NopCloser(tr)); err != nil {
			return false, err
		}
	}
	if !oci && !docker {
		return false, errors.New("it holds no index.json: it is no OCI layout")
	}
	return !oci, nil
}

// load brings in the layers for one platform and examines them.
func (s *baseSource) load(p Platform) (*base, error) {
	img := s.image
	if s.index != nil {
		var err error
		if img, err = choose(s.index, p, 0); err != nil {
			return nil, fmt.Errorf("base image %s: %w", s.ref, err)
		}
	}
	b, err := s.read(img, p)
	if err != nil {
		return nil, fmt.Errorf("base image %s for %s: %w", s.ref, p, err)
	}
	return b, nil
}

func (s *baseSource) read(img v1.Image, p Platform) (*base, error) {
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	if fits(p, cfg.OS, cfg.Architecture, cfg.Variant) < 0 {
		return nil, fmt.Errorf("it is for %s/%s; name one for this platform, or leave the platform out with --arch", cfg.OS, cfg.Architecture)
	}
	b := &base{env: cfg.Config.Env, workdir: cfg.Config.WorkingDir}
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	if len(layers) != len(cfg.RootFS.DiffIDs) {
		return nil, fmt.Errorf("it has %d layers, its config names %d", len(layers), len(cfg.RootFS.DiffIDs))
	}
	see := newExaminer(s.most)
	for i, l := range layers {
		sl, err := s.fetch(l, cfg.RootFS.DiffIDs[i])
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		if err := see.layer(sl); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		b.layers = append(b.layers, sl)
	}
	b.size, b.musl = see.size(), see.musl()
	return b, see.unreadable()
}

// fetch brings a layer into a spool and checks its digest.
func (s *baseSource) fetch(l v1.Layer, diffID v1.Hash) (*layer, error) {
	want, err := l.Digest()
	if err != nil {
		return nil, err
	}
	if have := s.cache[want]; have != nil {
		return have, nil
	}
	media, err := l.MediaType()
	if err != nil {
		return nil, err
	}
	switch media {
	case types.DockerLayer:
		media = types.OCILayer
	case types.DockerUncompressedLayer:
		media = types.OCIUncompressedLayer
	case types.OCILayer, types.OCIUncompressedLayer, types.OCILayerZStd:
	default:
		return nil, fmt.Errorf("%s is no kind of layer that a gateway can unpack", media)
	}
	sum := sha256.New()
	sp, err := newSpool(func(w io.Writer) error {
		r, err := l.Compressed()
		if err != nil {
			return err
		}
		// Compressed content is not larger than what it unpacks to, but for its headers.
		n, err := io.Copy(io.MultiWriter(w, sum), io.LimitReader(r, s.most+1))
		if err == nil && n > s.most {
			err = fmt.Errorf("is larger than %s", mebibytes(s.most))
		}
		return errors.Join(err, r.Close())
	})
	if err != nil {
		return nil, err
	}
	if got := hashOf(sum); got != want {
		return nil, errors.Join(fmt.Errorf("its digest is %s, its name says %s: it is damaged; fetch or build it again", got, want), sp.file.Close())
	}
	s.cache[want] = &layer{spool: sp, digest: want, diffID: diffID, media: media}
	return s.cache[want], nil
}

// fits says how well an image's platform serves p: -1 not at all, else the more
// the better. An arm machine runs what was made for older ones.
func fits(p Platform, os, arch, variant string) int {
	if os != "linux" || arch != p.Arch {
		return -1
	}
	if arch != "arm" {
		return 0
	}
	if variant == "" {
		variant = "v7" // as containerd takes it
	}
	if len(variant) != 2 || variant < "v5" || variant > p.Variant {
		return -1
	}
	return int(variant[1])
}

// maxDepth bounds indexes within indexes.
const maxDepth = 4

// choose returns the image of an index that serves p best.
func choose(index v1.ImageIndex, p Platform, depth int) (v1.Image, error) {
	var best v1.Image
	var found []string
	score, digest, twice := -1, v1.Hash{}, false
	var look func(index v1.ImageIndex, depth int) error
	look = func(index v1.ImageIndex, depth int) error {
		if depth > maxDepth {
			return errors.New("its indexes are nested too deep")
		}
		m, err := index.IndexManifest()
		if err != nil {
			return err
		}
		for _, d := range m.Manifests {
			switch {
			case d.MediaType.IsIndex():
				inner, err := index.ImageIndex(d.Digest)
				if err == nil {
					err = look(inner, depth+1)
				}
				if err != nil {
					return err
				}
			case d.MediaType.IsImage():
				img, on, err := platformOf(index, d)
				if err != nil {
					return err
				}
				found = append(found, on.String())
				switch n := fits(p, on.OS, on.Architecture, on.Variant); {
				case n > score:
					best, score, digest, twice = img, n, d.Digest, false
				case n >= 0 && n == score && d.Digest != digest:
					twice = true
				}
			}
		}
		return nil
	}
	if err := look(index, depth); err != nil {
		return nil, err
	}
	switch {
	case best == nil:
		return nil, fmt.Errorf("it has no image for %s, only for %s", p, strings.Join(found, ", "))
	case twice:
		return nil, fmt.Errorf("it has several images for %s; name one that holds a single image", p)
	}
	return best, nil
}

func platformOf(index v1.ImageIndex, d v1.Descriptor) (v1.Image, v1.Platform, error) {
	img, err := index.Image(d.Digest)
	if err != nil {
		return nil, v1.Platform{}, err
	}
	if d.Platform != nil {
		return img, *d.Platform, nil
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, v1.Platform{}, err
	}
	return img, v1.Platform{OS: cfg.OS, Architecture: cfg.Architecture, Variant: cfg.Variant}, nil
}

// uncompressed reads a layer's tar.
func uncompressed(l *layer) (io.ReadCloser, error) {
	vl, err := partial.CompressedToLayer(l)
	if err != nil {
		return nil, err
	}
	return vl.Uncompressed()
}

// readableMode reports whether the sandbox's user, who is neither the owner nor
// in the group, can use a file or folder.
func readableMode(m fs.FileMode) bool {
	if m.IsDir() {
		return m&0o001 != 0
	}
	return m&0o004 != 0
}

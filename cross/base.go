package cross

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// registryTimeout bounds fetching a base image's manifest; its layers have the
// time of the build.
const registryTimeout = 30 * time.Second

// base returns the image that a function's root is based on: an OCI layout
// folder or tar beside the manifest, or a reference into a registry.
func (b *builder) base(ctx context.Context, p Platform, temp string) (v1.Image, error) {
	ref := b.fn.Image
	local := ref
	if !filepath.IsAbs(local) {
		local = filepath.Join(b.dir, local)
	}
	fi, err := os.Stat(local)
	if err == nil {
		dir := local
		if !fi.IsDir() {
			dir = filepath.Join(temp, "base")
			if err := untar(local, dir); err != nil {
				return nil, fmt.Errorf("read base image %s: %w", ref, err)
			}
		}
		img, err := fromLayout(dir, p)
		if err != nil {
			return nil, fmt.Errorf("read base image %s: %w", ref, err)
		}
		return img, nil
	}
	b.step("fetching " + ref)
	r, err := name.ParseReference(ref)
	if err != nil {
		return nil, fmt.Errorf("image %q is no folder or tar of an OCI layout here and no reference into a registry: %w", ref, err)
	}
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	img, err := remote.Image(r, remote.WithContext(ctx), remote.WithPlatform(*p.oci()))
	if err != nil {
		return nil, fmt.Errorf("fetch base image %s: %w (without a registry, name a folder or tar of an OCI layout)", ref, err)
	}
	return img, nil
}

// fromLayout finds the image for p in an OCI layout.
func fromLayout(dir string, p Platform) (v1.Image, error) {
	l, err := layout.FromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("%s is no OCI layout: %w", dir, err)
	}
	idx, err := l.ImageIndex()
	if err != nil {
		return nil, err
	}
	var have []string
	img, err := find(idx, p, &have, 0)
	if err == nil && img == nil {
		err = fmt.Errorf("it has no image for %s, only for %s", p, strings.Join(have, ", "))
	}
	return img, err
}

func find(idx v1.ImageIndex, p Platform, have *[]string, depth int) (v1.Image, error) {
	if depth > 3 {
		return nil, errors.New("its indexes are nested too deep")
	}
	m, err := idx.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, d := range m.Manifests {
		switch {
		case d.MediaType.IsIndex():
			sub, err := idx.ImageIndex(d.Digest)
			if err != nil {
				return nil, err
			}
			if img, err := find(sub, p, have, depth+1); err != nil || img != nil {
				return img, err
			}
		case d.MediaType.IsImage():
			img, err := idx.Image(d.Digest)
			if err != nil {
				return nil, err
			}
			cf, err := img.ConfigFile()
			if err != nil {
				return nil, err
			}
			got := Platform{cf.OS, cf.Architecture, cf.Variant}
			*have = append(*have, got.String())
			if got == p || got.OS == p.OS && got.Arch == p.Arch && got.Variant == "" {
				return img, nil
			}
		}
	}
	return nil, nil
}

// private are files that only root reads in ordinary images and no function
// has a use for.
var private = []string{
	"root", "etc/shadow", "etc/gshadow", "etc/.pwd.lock", "etc/security/opasswd", "etc/sudoers", "etc/ssl/private",
	"var/cache", "var/log", "var/lib", "var/spool", "run", "tmp",
}

// checkReadable refuses a base with files that a sandbox's user cannot read.
func checkReadable(img v1.Image) error {
	r := mutate.Extract(img)
	defer r.Close()
	var bad []string
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read base image: %w", err)
		}
		n := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if slices.ContainsFunc(private, func(p string) bool { return n == p || n == p+"-" || strings.HasPrefix(n, p+"/") }) {
			continue
		}
		hidden := h.Typeflag == tar.TypeReg && h.Mode&0o004 == 0 || h.Typeflag == tar.TypeDir && h.Mode&0o005 != 0o005
		if hidden && h.Mode&0o111 != 0 && h.Mode&0o001 != 0 && h.Typeflag == tar.TypeReg {
			hidden = false // a program may be run without being read
		}
		if hidden {
			bad = append(bad, "/"+n)
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("base image has files that a function's user cannot read: %s%s: chmod o+r them in the image",
			strings.Join(bad[:min(3, len(bad))], ", "), more(len(bad)-3))
	}
	return nil
}

func more(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf(" and %d more", n)
}

// untar unpacks a tar of an OCI layout: plain files and folders only.
func untar(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.MkdirAll(to, 0o750); err != nil {
		return err
	}
	root, err := os.OpenRoot(to)
	if err != nil {
		return err
	}
	defer root.Close()
	var total int64
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		n := filepath.Clean(filepath.FromSlash(h.Name))
		if n == "." {
			continue
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(n, 0o750)
		case tar.TypeReg:
			if total += h.Size; total > 4*maxImage {
				return fmt.Errorf("it is larger than %d MiB", 4*maxImage>>20)
			}
			err = unpack(root, n, tr, h.Size)
		}
		if err != nil {
			return err
		}
	}
}

func unpack(root *os.Root, n string, r io.Reader, size int64) error {
	if err := root.MkdirAll(filepath.Dir(n), 0o750); err != nil {
		return err
	}
	w, err := root.Create(n)
	if err != nil {
		return err
	}
	_, err = io.CopyN(w, r, size)
	return errors.Join(err, w.Close())
}

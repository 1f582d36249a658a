package cross_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/edgefn/edgefn/cross"
	"github.com/edgefn/edgefn/functions"
)

// tarLayer makes a layer of headers; those of files get their name as content.
func tarLayer(t *testing.T, headers ...tar.Header) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(tw, h.Name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func file(name string, mode int64) tar.Header { return tar.Header{Name: name, Mode: mode} }

func directory(name string, mode int64) tar.Header {
	return tar.Header{Name: name + "/", Mode: mode, Typeflag: tar.TypeDir}
}

// baseImage makes an image of a platform with what a distribution's has.
func baseImage(t *testing.T, p v1.Platform, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Variant = p.OS, p.Architecture, p.Variant
	cfg.Config = v1.Config{
		Env: []string{"PATH=/opt/bin:/bin", "BASE=" + p.Architecture + p.Variant}, WorkingDir: "/srv",
		User: "1000", Entrypoint: []string{"/entry"}, Cmd: []string{"x"}, Labels: map[string]string{"a": "b"},
	}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	return img
}

func index(images ...v1.Image) v1.ImageIndex {
	idx := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, img := range images {
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: img})
	}
	return idx
}

var (
	amd64 = v1.Platform{OS: "linux", Architecture: "amd64"}
	armv6 = v1.Platform{OS: "linux", Architecture: "arm", Variant: "v6"}
	armv7 = v1.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}
)

// onBase is a function's folder with a layout of images as its base.
func onBase(t *testing.T, images ...v1.Image) string {
	t.Helper()
	dir := folder(t, map[string]string{"edgefn.yaml": "name: f\nruntime: exec\nhandler: /bin/true\nimage: ./base\n", "own.txt": "x"})
	if _, err := layout.Write(filepath.Join(dir, "base"), index(images...)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// images reads the built image back: one image per platform, in order.
func images(t *testing.T, img *cross.Image) []v1.Image {
	t.Helper()
	dir := t.TempDir()
	if err := img.WriteLayout(dir); err != nil {
		t.Fatal(err)
	}
	top, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	h, err := v1.NewHash(img.Digest())
	if err != nil {
		t.Fatal(err)
	}
	idx, err := top.ImageIndex(h)
	if err != nil {
		t.Fatal(err)
	}
	m, err := idx.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var out []v1.Image
	for i, d := range m.Manifests {
		one, err := idx.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := "linux/"+strings.Trim(d.Platform.Architecture+"/"+d.Platform.Variant, "/"), img.Platforms()[i].String(); got != want {
			t.Errorf("manifest %d is for %s, want %s", i, got, want)
		}
		out = append(out, one)
	}
	return out
}

func platform(t *testing.T, s string) cross.Platform {
	t.Helper()
	p, err := cross.ParsePlatform(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestBase(t *testing.T) {
	shared := tarLayer(t, directory("bin", 0o755), file("bin/sh", 0o755), file("etc/shadow", 0o640), directory("root", 0o700), file("usr/bin/sudo", 0o4111))
	dir := onBase(
		t, baseImage(t, armv6, shared, tarLayer(t, file("lib/v6", 0o644))),
		baseImage(t, amd64, shared, tarLayer(t, file("lib/amd64", 0o644))), baseImage(t, armv7, shared, tarLayer(t, file("lib/v7", 0o644))),
	)
	img := build(t, dir, platform(t, "amd64"), platform(t, "arm/v7"), platform(t, "arm/v6"))
	for i, one := range images(t, img) {
		cfg, err := one.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		c := cfg.Config
		if want := []string{"BASE=amd64", "BASE=armv7", "BASE=armv6"}[i]; !slices.Contains(c.Env, want) || c.WorkingDir != "/srv" {
			t.Errorf("%s: env %v and working directory %q, want %s and /srv", cfg.Architecture, c.Env, c.WorkingDir, want)
		}
		if c.User != "" || c.Entrypoint != nil || c.Cmd != nil || len(c.Labels) != 1 || c.Labels[functions.ImageLabel] == "" {
			t.Errorf("%s: config is %+v, want the function's label and no user, entrypoint or command", cfg.Architecture, c)
		}
		layers, err := one.Layers()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := layers[0].Digest(); err != nil || got != digest(t, shared) || len(layers) != 3 {
			t.Errorf("%s: %d layers, first %v, want the base's two below the code's", cfg.Architecture, len(layers), got)
		}
		for _, l := range layers { // the config's ids are those of the content
			r, err := l.Uncompressed()
			if err != nil {
				t.Fatal(err)
			}
			h, _, err := v1.SHA256(r)
			if want, derr := l.DiffID(); err != nil || derr != nil || h != want {
				t.Errorf("%s: content has %v, config says %v", cfg.Architecture, h, want)
			}
		}
	}
	if again := build(t, dir, img.Platforms()...); again.Digest() != img.Digest() {
		t.Error("the same base gave another digest")
	}
}

func digest(t *testing.T, l v1.Layer) v1.Hash {
	t.Helper()
	h, err := l.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestBaseRefused(t *testing.T) {
	ok := tarLayer(t, file("bin/sh", 0o755))
	arm := baseImage(t, armv7, ok)
	other := baseImage(t, amd64, ok, tarLayer(t, file("x", 0o644)))
	tests := []struct {
		name   string
		images []v1.Image
		want   []string // in the error; none: it builds
	}{
		{"a file for root alone", []v1.Image{baseImage(t, amd64, ok, tarLayer(t, file("opt/key", 0o600), file("opt/pub", 0o644)))}, []string{"1 of its files", "/opt/key", "-rw-------", "chmod o+r"}},
		{"a folder for root alone", []v1.Image{baseImage(t, amd64, tarLayer(t, directory("opt/in", 0o750), file("opt/in/x", 0o644)))}, []string{"/opt/in (d"}},
		{"a file that a later layer removes", []v1.Image{baseImage(t, amd64, tarLayer(t, file("opt/key", 0o600)), tarLayer(t, file("opt/.wh.key", 0)))}, nil},
		{"a folder that a later layer removes", []v1.Image{baseImage(t, amd64, tarLayer(t, file("opt/a/key", 0o600)), tarLayer(t, file(".wh.opt", 0)))}, nil},
		{"a folder that a later layer empties", []v1.Image{baseImage(t, amd64, tarLayer(t, directory("opt", 0o755), file("opt/key", 0o600)), tarLayer(t, file("opt/.wh..wh..opq", 0), file("opt/b", 0o644)))}, nil},
		{"a file that a later layer opens", []v1.Image{baseImage(t, amd64, tarLayer(t, file("opt/key", 0o600)), tarLayer(t, file("opt/key", 0o644)))}, nil},
		{"a hard link to a file for root alone", []v1.Image{baseImage(t, amd64, tarLayer(t, file("root/key", 0o600), tar.Header{Name: "opt/key", Typeflag: tar.TypeLink, Linkname: "root/key", Mode: 0o644}))}, []string{"/opt/key"}},
		{"what every distribution hides", []v1.Image{baseImage(t, amd64, tarLayer(
			t, file("etc/shadow-", 0o640), file("etc/gshadow", 0o640), directory("var/cache/ldconfig", 0o700), directory("var/cache/apt/archives/partial", 0o700),
			directory("var/log", 0o700), file("var/log/btmp", 0o660), file("etc/security/opasswd", 0o600), file("etc/.pwd.lock", 0o600), directory("etc/ssl/private", 0o700), file("etc/ssl/private/a.key", 0o600),
		))}, nil},
		{"not for this platform", []v1.Image{arm}, []string{"no image for linux/amd64", "linux/arm/v7"}},
		{"several for this platform", []v1.Image{baseImage(t, amd64, ok), other}, []string{"several images for linux/amd64"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			img, err := cross.Build(t.Context(), cross.Options{Dir: onBase(t, tt.images...), Platforms: []cross.Platform{platform(t, "amd64")}})
			if err == nil {
				_ = img.Close()
			}
			if (err == nil) != (tt.want == nil) {
				t.Fatalf("Build: %v, want %v", err, tt.want)
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not say %q", err, w)
				}
			}
		})
	}
}

func TestDamagedBase(t *testing.T) {
	l := tarLayer(t, file("bin/sh", 0o755))
	dir := onBase(t, baseImage(t, amd64, l))
	blob := filepath.Join(dir, "base", "blobs", "sha256", digest(t, l).Hex)
	b, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(blob, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := cross.Build(t.Context(), cross.Options{Dir: dir, Platforms: []cross.Platform{platform(t, "amd64")}}); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("Build: %v, want that the layer is damaged", err)
	}
}

// A tar as older versions of docker save write it.
func TestDockerArchive(t *testing.T) {
	dir := folder(t, map[string]string{"edgefn.yaml": "name: f\nruntime: exec\nhandler: /bin/true\nimage: base.tar\n"})
	tag, err := name.NewTag("base:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(filepath.Join(dir, "base.tar"), tag, baseImage(t, amd64, tarLayer(t, file("bin/sh", 0o755)))); err != nil {
		t.Fatal(err)
	}
	got := contents(t, images(t, build(t, dir, platform(t, "amd64")))[0])
	if got["bin/sh"] == nil || got["app/base.tar"] != nil {
		t.Errorf("image holds %v, want bin/sh and not the base's tar", got)
	}
}

func TestRegistry(t *testing.T) {
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer s.Close()
	ref := strings.TrimPrefix(s.URL, "http://") + "/site/base:1"
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	idx := index(baseImage(t, amd64, tarLayer(t, file("bin/sh", 0o755))), baseImage(t, armv6, tarLayer(t, file("bin/sh6", 0o755))))
	if err := remote.WriteIndex(tag, idx); err != nil {
		t.Fatal(err)
	}
	dir := folder(t, map[string]string{"edgefn.yaml": fmt.Sprintf("name: f\nruntime: exec\nhandler: /bin/true\nimage: %s\n", ref)})
	o := cross.Options{Dir: dir, Platforms: []cross.Platform{platform(t, "arm/v7")}}
	img, err := cross.Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = img.Close() })
	if got := contents(t, images(t, img)[0]); got["bin/sh6"] == nil {
		t.Errorf("image for arm/v7 holds %v, want what was made for v6", got)
	}
	o.Offline = true
	if _, err := cross.Build(t.Context(), o); err == nil || !strings.Contains(err.Error(), "offline") {
		t.Errorf("offline: %v, want an error that says so", err)
	}
	o.Offline = false
	s.Close()
	if _, err := cross.Build(t.Context(), o); err == nil || !strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("registry that is gone: %v, want an error that says so", err)
	}
}

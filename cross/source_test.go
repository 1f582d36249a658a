package cross_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/edgefn/edgefn/cross"
	"github.com/edgefn/edgefn/functions"
)

func TestLinks(t *testing.T) {
	for target, want := range map[string]string{
		"main.py": "", "../main.py": "", "nowhere": "", "../../main.py": "outside", "/etc/passwd": "outside", "..": "", "../..": "outside", "x/../../../y": "outside",
	} {
		t.Run(target, func(t *testing.T) {
			dir := folder(t, map[string]string{"edgefn.yaml": pythonManifest, "main.py": "", "sub/x.py": ""})
			if err := os.Symlink(target, filepath.Join(dir, "sub", "link")); err != nil {
				t.Fatal(err)
			}
			img, err := cross.Build(t.Context(), cross.Options{Dir: dir})
			if err != nil {
				if want == "" || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "sub/link") {
					t.Errorf("Build: %v, want %q", err, want)
				}
				return
			}
			t.Cleanup(func() { _ = img.Close() })
			if h := files(t, img)["app/sub/link"]; want != "" || h == nil || h.Linkname != target {
				t.Errorf("link became %v", h)
			}
		})
	}
}

func TestSourceRefused(t *testing.T) {
	t.Run("socket", func(t *testing.T) {
		dir := folder(t, map[string]string{"edgefn.yaml": pythonManifest})
		t.Chdir(dir) // a socket's path is short
		l, err := new(net.ListenConfig).Listen(t.Context(), "unix", "s")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if _, err := cross.Build(t.Context(), cross.Options{Dir: "."}); err == nil || !strings.Contains(err.Error(), "s is a socket") {
			t.Errorf("Build: %v, want that s is a socket", err)
		}
	})
	t.Run("too large", func(t *testing.T) {
		dir := folder(t, map[string]string{"edgefn.yaml": pythonManifest, "big.bin": strings.Repeat("x", 3<<20), "small.py": "x"})
		_, err := cross.Build(t.Context(), cross.Options{Dir: dir, MaxSize: 1 << 20})
		if err == nil || !strings.Contains(err.Error(), "big.bin (3.0 MiB)") || !strings.Contains(err.Error(), "at most 1.0 MiB") {
			t.Errorf("Build: %v, want the biggest file named", err)
		}
	})
	t.Run("too large with its base", func(t *testing.T) {
		dir := onBase(t, baseImage(t, amd64, tarLayer(t, file(strings.Repeat("x", 90), 0o644))))
		o := cross.Options{Dir: dir, Platforms: []cross.Platform{platform(t, "amd64")}, MaxSize: 90}
		if _, err := cross.Build(t.Context(), o); err == nil || !strings.Contains(err.Error(), "MiB") {
			t.Errorf("Build: %v, want that it is too large", err)
		}
	})
	t.Run("a program that cannot be run", func(t *testing.T) {
		dir := folder(t, map[string]string{"edgefn.yaml": "name: f\nruntime: exec\nhandler: ./run\n", "run": "#!/bin/sh\n"})
		if _, err := cross.Build(t.Context(), cross.Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "chmod +x") {
			t.Errorf("Build: %v, want how to make it executable", err)
		}
		if err := os.Remove(filepath.Join(dir, "run")); err != nil {
			t.Fatal(err)
		}
		if _, err := cross.Build(t.Context(), cross.Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "./run is not there") {
			t.Errorf("Build: %v, want that it is not there", err)
		}
	})
}

// What permissions, times and names of folders say must not show in the digest.
func TestDigestIsOfContentAlone(t *testing.T) {
	src := map[string]string{"edgefn.yaml": pythonManifest, "main.py": "x", "d/a": "", "d/b": ""}
	a, b := folder(t, src), folder(t, src)
	if err := errors.Join(os.Chmod(filepath.Join(b, "main.py"), 0o600), os.Chmod(filepath.Join(b, "d"), 0o700), os.Chtimes(filepath.Join(b, "d/a"), testTime, testTime)); err != nil {
		t.Fatal(err)
	}
	if x, y := build(t, a, cross.Platforms...), build(t, b, cross.Platforms...); x.Digest() != y.Digest() {
		t.Errorf("digests %s and %s differ", x.Digest(), y.Digest())
	}
	if err := os.Chmod(filepath.Join(b, "main.py"), 0o700); err != nil {
		t.Fatal(err)
	}
	if x, y := build(t, a), build(t, b); x.Digest() == y.Digest() {
		t.Error("a file that may be run gave the digest of one that may not")
	}
}

// The image is what the OCI specification asks for, written as a folder, over an
// older one, and as a tar.
func TestWrittenImages(t *testing.T) {
	img := build(t, folder(t, map[string]string{"edgefn.yaml": pythonManifest, "main.py": "x", "vendor/a.py": ""}), cross.Platforms...)
	old := build(t, folder(t, map[string]string{"edgefn.yaml": pythonManifest, "main.py": "old"}))
	dir := t.TempDir()
	for _, m := range []*cross.Image{old, img, img} {
		if err := m.WriteLayout(dir); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, p)
			names = append(names, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := img.WriteTar(&buf); err != nil {
		t.Fatal(err)
	}
	var inTar []string
	for name, h := range tarFiles(t, buf.Bytes()) {
		if len(h) > 0 {
			inTar = append(inTar, name)
		}
	}
	slices.Sort(inTar)
	if slices.Sort(names); !slices.Equal(names, inTar) {
		t.Errorf("folder has %v, tar has %v", names, inTar)
	}
	for name, b := range tarFiles(t, buf.Bytes()) {
		if hex, ok := strings.CutPrefix(name, "blobs/sha256/"); ok && hex != "" {
			if h, _, err := v1.SHA256(bytes.NewReader(b)); err != nil || h.Hex != hex {
				t.Errorf("blob %s has the digest %s", hex, h.Hex)
			}
		}
	}
	top, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(top); err != nil {
		t.Errorf("layout: %v", err)
	}
	if n := len(img.Blobs()); n == 0 || img.Function.Name != "f" {
		t.Errorf("image has %d blobs of %v", n, img.Function)
	}
}

// A build leaves nothing behind, done, failed or given up; an image that nobody
// closes neither.
func TestNothingIsLeft(t *testing.T) {
	if _, err := os.Stat("/proc/self"); err != nil {
		t.Skip("no /proc")
	}
	good := folder(t, vendored())
	src := vendored()
	src["cmd/f/main.go"] = "package main\n\nfunc main() { nope() }\n"
	bad := folder(t, src)
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	img, err := cross.Build(t.Context(), cross.Options{Dir: good, Offline: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := img.WriteTar(io.Discard); err != nil {
		t.Error(err)
	}
	if _, err := cross.Build(t.Context(), cross.Options{Dir: bad, Offline: true}); err == nil {
		t.Error("bad source was built")
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = cross.Build(ctx, cross.Options{Dir: good, Offline: true, Progress: func(s string) {
		if strings.HasPrefix(s, "go: compiling") {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v, want %v", err, context.Canceled)
	}
	names, err := os.ReadDir(temp)
	if err != nil || len(names) > 0 {
		t.Errorf("left behind: %v %v", names, err)
	}
	if err := img.Close(); err != nil {
		t.Error(err)
	}
}

func TestScaffold(t *testing.T) {
	for _, name := range []string{"null", "-x", "007", "fan"} {
		for _, rt := range functions.Runtimes {
			dir := filepath.Join(t.TempDir(), "f")
			if err := cross.Scaffold(dir, name, rt); err != nil {
				t.Fatal(err)
			}
			if rt == functions.Go && name != "fan" {
				continue // compiled once
			}
			img := build(t, dir)
			f := img.Function
			if f.Name != name || f.Runtime != rt || f.Triggers[0].MQTT.Topic != name+"/in" || f.Output.Topic != name+"/out" {
				t.Errorf("%s %s became %+v", rt, name, f)
			}
		}
	}
	if err := cross.Scaffold(t.TempDir(), "Fan", functions.Python); err == nil {
		t.Error("a name that is none was taken")
	}
	dir := folder(t, map[string]string{"mine": "x"})
	if err := cross.Scaffold(dir, "fan", functions.Python); err == nil || !strings.Contains(err.Error(), "mine") {
		t.Errorf("folder that is not empty: %v, want what it holds", err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("folder now holds %v", names)
	}
}

var testTime = time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)

// tarFiles reads a tar.
func tarFiles(t *testing.T, b []byte) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for tr := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if out[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}

package cross_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/edgefn/edgefn/cross"
	"github.com/edgefn/edgefn/functions"
)

// folder writes files of a function and returns its folder.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o644)
		if strings.HasSuffix(name, ".sh") {
			mode = 0o755
		}
		if err := os.WriteFile(p, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func build(t *testing.T, dir string, platforms ...cross.Platform) *cross.Image {
	t.Helper()
	img, err := cross.Build(t.Context(), cross.Options{Dir: dir, Platforms: platforms})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = img.Close() })
	return img
}

// files lists what the image of the first platform holds, with its modes.
func files(t *testing.T, img *cross.Image) map[string]*tar.Header {
	t.Helper()
	dir := t.TempDir()
	if err := img.WriteLayout(dir); err != nil {
		t.Fatal(err)
	}
	l, err := layout.FromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	top, err := l.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	m, err := top.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Manifests) != 1 || m.Manifests[0].Digest.String() != img.Digest() {
		t.Fatalf("layout holds %v, want the one index %s", m.Manifests, img.Digest())
	}
	idx, err := top.ImageIndex(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	im, err := idx.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if im.Annotations[functions.ImageLabel] == "" {
		t.Error("index has no annotation with the function")
	}
	first, err := idx.Image(im.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return contents(t, first)
}

func contents(t *testing.T, img v1.Image) map[string]*tar.Header {
	t.Helper()
	out := map[string]*tar.Header{}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		for tr := tar.NewReader(r); ; {
			h, err := tr.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 0 {
				t.Errorf("%s has owner %d:%d and time %v", h.Name, h.Uid, h.Gid, h.ModTime)
			}
			out[h.Name] = h
		}
	}
	return out
}

const pythonManifest = "name: f\nruntime: python\nhandler: main:handle\n"

func TestPython(t *testing.T) {
	dir := folder(t, map[string]string{
		"edgefn.yaml": pythonManifest, "main.py": "def handle(e, c): pass\n", "lib/util.py": "", "tool.sh": "#!/bin/sh\n",
		"vendor/dep/__init__.py": "x = 1\n", "__pycache__/main.pyc": "no", "secret.txt": "no", ".edgefnignore": "*.txt\n", ".git/config": "no",
	})
	got := files(t, build(t, dir))
	var names []string
	for n := range got {
		names = append(names, n)
	}
	slices.Sort(names)
	want := []string{"app/", "app/lib/", "app/lib/util.py", "app/main.py", "app/tool.sh", "app/vendor/", "app/vendor/dep/", "app/vendor/dep/__init__.py"}
	if !slices.Equal(names, want) {
		t.Errorf("image holds %v, want %v", names, want)
	}
	if got["app/tool.sh"].Mode != 0o755 || got["app/main.py"].Mode != 0o644 {
		t.Errorf("modes are %o and %o", got["app/tool.sh"].Mode, got["app/main.py"].Mode)
	}
}

func TestSameSourceSameDigest(t *testing.T) {
	src := map[string]string{"edgefn.yaml": pythonManifest, "main.py": "def handle(e, c): pass\n", "b/c.py": "", "a.py": ""}
	one, two := build(t, folder(t, src)), build(t, folder(t, src))
	if one.Digest() != two.Digest() {
		t.Errorf("digests differ: %s and %s", one.Digest(), two.Digest())
	}
	src["edgefn.yaml"] += "timeout: 2s\n"
	if three := build(t, folder(t, src)); three.Digest() == one.Digest() {
		t.Error("a changed manifest gave the same digest")
	}
	var a, b bytes.Buffer
	if err := one.WriteTar(&a); err != nil {
		t.Fatal(err)
	}
	if err := two.WriteTar(&b); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("tars differ")
	}
}

// wheel is a minimal wheel of a package, PEP 427.
func wheel(t *testing.T) string {
	t.Helper()
	var buf bytes.Buffer
	zw := zip.NewWriter(&buf)
	for name, text := range map[string]string{
		"greet/__init__.py":                 "def hello(): return 'hello'\n",
		"greet-1.0.dist-info/METADATA":      "Metadata-Version: 2.1\nName: greet\nVersion: 1.0\n",
		"greet-1.0.dist-info/WHEEL":         "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
		"greet-1.0.dist-info/RECORD":        "greet/__init__.py,,\ngreet-1.0.dist-info/METADATA,,\ngreet-1.0.dist-info/WHEEL,,\ngreet-1.0.dist-info/RECORD,,\n",
		"greet-1.0.dist-info/top_level.txt": "greet\n",
	} {
		w, err := zw.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

func TestWheels(t *testing.T) {
	src := map[string]string{
		"edgefn.yaml": pythonManifest, "main.py": "import greet\ndef handle(e, c): return greet.hello()\n",
		"requirements.txt": "greet==1.0\n", "wheels/greet-1.0-py3-none-any.whl": wheel(t),
	}
	img := build(t, folder(t, src))
	got := files(t, img)
	if got["app/.deps/greet/__init__.py"] == nil {
		t.Errorf("package is not in the image: %v", got)
	}
	if got["app/wheels/greet-1.0-py3-none-any.whl"] != nil {
		t.Error("the wheel itself is in the image")
	}
	if again := build(t, folder(t, src)); again.Digest() != img.Digest() {
		t.Error("the same wheels gave another digest")
	}
}

func TestNPM(t *testing.T) {
	src := map[string]string{
		"edgefn.yaml": "name: f\nruntime: node\nhandler: main:handle\n", "main.mjs": "import dep from 'dep'; export const handle = () => dep;\n",
		"package.json":           `{"name":"f","version":"1.0.0","dependencies":{"dep":"file:./local/dep"}}`,
		"local/dep/package.json": `{"name":"dep","version":"1.0.0","main":"index.js"}`, "local/dep/index.js": "module.exports = 42;\n",
	}
	dir := folder(t, src)
	npm := exec.Command("npm", "install", "--package-lock-only", "--install-links", "--no-audit", "--no-fund")
	npm.Dir = dir
	if out, err := npm.CombinedOutput(); err != nil {
		t.Fatalf("make lock file: %v\n%s", err, out)
	}
	img := build(t, dir)
	if got := files(t, img); got["app/node_modules/dep/index.js"] == nil && (got["app/node_modules/dep"] == nil || got["app/local/dep/index.js"] == nil) {
		t.Errorf("package is not in the image: %v", got)
	}
	if again := build(t, dir); again.Digest() != img.Digest() {
		t.Error("the same lock file gave another digest")
	}
}

func TestGo(t *testing.T) {
	src := map[string]string{
		"edgefn.yaml": "name: f\nruntime: go\nhandler: .\n",
		"go.mod":      "module example.org/f\n\ngo 1.25\n\nrequire (\n\tgithub.com/edgefn/edgefn-go v0.0.0\n\texample.org/dep v0.0.0\n)\n\nreplace example.org/dep => ./dep\n",
		"main.go":     "package main\n\nimport (\n\t\"context\"\n\n\t\"example.org/dep\"\n\t\"github.com/edgefn/edgefn-go\"\n)\n\nfunc main() {\n\tedgefn.Run(func(context.Context, edgefn.Event) (any, error) { return dep.Answer, nil })\n}\n",
		"dep/go.mod":  "module example.org/dep\n\ngo 1.25\n", "dep/dep.go": "package dep\n\nconst Answer = 42\n",
	}
	dir := folder(t, src)
	arm, err := cross.ParsePlatform("arm/v6")
	if err != nil {
		t.Fatal(err)
	}
	img := build(t, dir, cross.Host(), arm)
	if got := files(t, img); got["app/function"] == nil || got["app/function"].Mode != 0o755 || got["app/main.go"] != nil {
		t.Errorf("image holds %v, want the program alone", got)
	}
	if again := build(t, dir, cross.Host(), arm); again.Digest() != img.Digest() {
		t.Error("the same source gave another digest")
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "go.mod")); string(b) != src["go.mod"] {
		t.Errorf("the author's go.mod was changed:\n%s", b)
	}
}

func TestRefused(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		link  string
		want  []string
	}{
		{"link out of the folder", map[string]string{"edgefn.yaml": pythonManifest}, "/etc/passwd", []string{"link", "/etc/passwd", ".edgefnignore"}},
		{"compiler error", map[string]string{"edgefn.yaml": "name: f\nruntime: go\nhandler: .\n", "go.mod": "module x\n", "main.go": "package main\nfunc main() { nope() }\n"}, "", []string{"undefined: nope"}},
		{"no go.mod", map[string]string{"edgefn.yaml": "name: f\nruntime: go\nhandler: .\n"}, "", []string{"go mod init"}},
		{"wheel that is not there", map[string]string{"edgefn.yaml": pythonManifest, "requirements.txt": "nothere==1\n", "wheels/README": ""}, "", []string{"nothere"}},
		{"image that is none", map[string]string{"edgefn.yaml": pythonManifest + "image: base\n", "base/x": ""}, "", []string{"base", "OCI layout"}},
		{"manifest", map[string]string{"edgefn.yaml": "name: f\nruntimes: python\n"}, "", []string{"edgefn.yaml:2", "runtime"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := folder(t, tt.files)
			if tt.link != "" {
				if err := os.Symlink(tt.link, filepath.Join(dir, "link")); err != nil {
					t.Fatal(err)
				}
			}
			img, err := cross.Build(t.Context(), cross.Options{Dir: dir})
			if err == nil {
				_ = img.Close()
				t.Fatal("it was built")
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not say %q", err, w)
				}
			}
		})
	}
}

// A function's own image serves as a base like any other.
func TestBaseImage(t *testing.T) {
	base := build(t, folder(t, map[string]string{"edgefn.yaml": pythonManifest, "base.py": ""}))
	for _, kind := range []string{"folder", "tar"} {
		t.Run(kind, func(t *testing.T) {
			dir := folder(t, map[string]string{"edgefn.yaml": pythonManifest + "image: ./base\n", ".edgefnignore": "base\n", "main.py": ""})
			to := filepath.Join(dir, "base")
			if kind == "folder" {
				if err := base.WriteLayout(to); err != nil {
					t.Fatal(err)
				}
			} else {
				var b bytes.Buffer
				if err := base.WriteTar(&b); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(to, b.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got := files(t, build(t, dir))
			if got["app/base.py"] == nil || got["app/main.py"] == nil {
				t.Errorf("image holds %v, want base.py and main.py", got)
			}
		})
	}
}

func TestScaffoldBuilds(t *testing.T) {
	for _, rt := range functions.Runtimes {
		t.Run(string(rt), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "my-fn")
			if err := cross.Scaffold(dir, "my-fn", rt); err != nil {
				t.Fatal(err)
			}
			if img := build(t, dir); img.Function.Name != "my-fn" || img.Function.Runtime != rt {
				t.Errorf("built %v of runtime %s", img.Function, img.Function.Runtime)
			}
			if err := cross.Scaffold(dir, "my-fn", rt); err == nil {
				t.Error("a folder that is not empty was written to")
			}
		})
	}
}

func TestParsePlatform(t *testing.T) {
	for s, want := range map[string]string{"arm64": "linux/arm64", "arm/v7": "linux/arm/v7", "linux/amd64": "linux/amd64"} {
		if p, err := cross.ParsePlatform(s); err != nil || p.String() != want {
			t.Errorf("%s is %v, %v, want %s", s, p, err, want)
		}
	}
	if _, err := cross.ParsePlatform("sparc"); err == nil || !strings.Contains(err.Error(), "arm/v6") {
		t.Errorf("sparc: %v, want an error that lists what there is", err)
	}
}

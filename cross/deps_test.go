package cross_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"debug/elf"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/edgefn/edgefn/cross"
)

// wheelOf is a hand-made wheel (PEP 427) of a package with one module and a
// console script.
func wheelOf(t *testing.T, pkg, tag, module string) string {
	t.Helper()
	info := pkg + "-1.0.dist-info/"
	files := map[string]string{
		pkg + "/__init__.py":      module,
		info + "METADATA":         "Metadata-Version: 2.1\nName: " + pkg + "\nVersion: 1.0\n",
		info + "WHEEL":            "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: " + tag + "\n",
		info + "entry_points.txt": "[console_scripts]\n" + pkg + " = " + pkg + ":main\n",
	}
	files[info+"RECORD"] = strings.Join(slices.Sorted(maps.Keys(files)), ",,\n") + ",,\n" + info + "RECORD,,\n"
	var b bytes.Buffer
	zw := zip.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		w, err := zw.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// text reads a file of an image; missing if it is not there.
func text(t *testing.T, img v1.Image, name string) string {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	found := "missing"
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
			if h.Name == name {
				b, err := io.ReadAll(tr)
				if err != nil {
					t.Fatal(err)
				}
				found = string(b)
			}
		}
	}
	return found
}

// A wheel with compiled code is chosen for each platform; the oldest C library
// that there is a wheel for serves the most gateways.
func TestWheelsPerPlatform(t *testing.T) {
	files := map[string]string{
		"edgefn.yaml": pythonManifest, "main.py": "def handle(e, c): pass\n", "requirements.txt": "fast\nplain\n",
		"wheels/plain-1.0-py3-none-any.whl": wheelOf(t, "plain", "py3-none-any", "who = 'any'\n"),
	}
	for _, tag := range []string{"py3-none-manylinux_2_17_x86_64", "py3-none-manylinux_2_31_x86_64", "py3-none-manylinux2014_aarch64", "py3-none-linux_armv6l"} {
		files["wheels/fast-1.0-"+tag+".whl"] = wheelOf(t, "fast", tag, "who = '"+tag+"'\n")
	}
	dir := folder(t, files)
	img := build(t, dir, platform(t, "amd64"), platform(t, "arm64"), platform(t, "arm/v6"), platform(t, "arm/v7"))
	for i, want := range []string{"manylinux_2_17_x86_64", "manylinux2014_aarch64", "linux_armv6l", "linux_armv6l"} {
		one := images(t, img)[i]
		if got := text(t, one, "app/.deps/fast/__init__.py"); !strings.Contains(got, want) {
			t.Errorf("platform %d got the wheel %s, want %s", i, got, want)
		}
		if got := text(t, one, "app/.deps/plain/__init__.py"); !strings.Contains(got, "any") {
			t.Errorf("platform %d has no plain: %s", i, got)
		}
		for name := range contents(t, one) {
			if strings.Contains(name, "/bin/") || strings.HasSuffix(name, "RECORD") || strings.HasSuffix(name, "direct_url.json") || strings.Contains(name, "__pycache__") {
				t.Errorf("%s differs between machines and is in the image", name)
			}
		}
	}
	if again := build(t, dir, img.Platforms()...); again.Digest() != img.Digest() {
		t.Error("the same wheels gave another digest")
	}
	if err := os.Remove(filepath.Join(dir, "wheels/fast-1.0-py3-none-linux_armv6l.whl")); err != nil {
		t.Fatal(err)
	}
	_, err := cross.Build(t.Context(), cross.Options{Dir: dir, Platforms: []cross.Platform{platform(t, "arm/v7")}})
	if err == nil {
		t.Fatal("no wheel for the platform: it was built")
	}
	for _, want := range []string{
		"native wheels for linux/arm/v7 are missing", "wheels/fast-1.0-py3-none-manylinux2014_aarch64.whl serves linux/arm64\n",
		"pip download -d wheels --only-binary=:all: --platform manylinux2014_armv7l fast==1.0",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no wheel for the platform: %v, want %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "plain") {
		t.Errorf("a wheel that serves all is named: %v", err)
	}
}

// Packages without compiled code are installed once and shared as one layer.
func TestWheelsForAll(t *testing.T) {
	dir := folder(t, map[string]string{
		"edgefn.yaml": pythonManifest, "main.py": "", "requirements.txt": "plain\n",
		"wheels/plain-1.0-py3-none-any.whl": wheelOf(t, "plain", "py3-none-any", ""),
	})
	var steps []string
	img, err := cross.Build(t.Context(), cross.Options{Dir: dir, Platforms: cross.Platforms, Offline: true, Progress: func(s string) { steps = append(steps, s) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = img.Close() })
	if n := strings.Count(strings.Join(steps, "\n"), "installing"); n != 1 {
		t.Errorf("installed %d times: %q", n, steps)
	}
	var first v1.Hash
	for i, one := range images(t, img) {
		layers, err := one.Layers()
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = digest(t, layers[0])
		}
		if digest(t, layers[0]) != first {
			t.Error("platforms do not share the layer")
		}
	}
}

func TestToolsMissing(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		o     cross.Options
		want  []string
	}{
		{"npm", map[string]string{
			"edgefn.yaml":  "name: f\nruntime: node\nhandler: main:handle\n",
			"package.json": `{"dependencies":{"a":"1"}}`, "package-lock.json": `{"lockfileVersion":3,"packages":{}}`,
		}, cross.Options{}, []string{"npm", "apt install npm"}},
		{"go", map[string]string{"edgefn.yaml": "name: f\nruntime: go\nhandler: .\n", "go.mod": "module x\n"}, cross.Options{}, []string{"go command", "go.dev/dl"}},
		{"the network", map[string]string{"edgefn.yaml": pythonManifest, "requirements.txt": "a\n"}, cross.Options{Offline: true}, []string{"offline", "wheels/", "pip download"}},
		{"a lock file", map[string]string{
			"edgefn.yaml": "name: f\nruntime: node\nhandler: main:handle\n", "package.json": `{"dependencies":{"a":"1"}}`,
		}, cross.Options{}, []string{"package.json", "npm install"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("PATH", t.TempDir())
			tt.o.Dir = folder(t, tt.files)
			_, err := cross.Build(t.Context(), tt.o)
			if err == nil {
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

// No python that runs has pip.
func TestNoPip(t *testing.T) {
	t.Setenv("PYTHONHOME", t.TempDir())
	dir := folder(t, map[string]string{"edgefn.yaml": pythonManifest, "requirements.txt": "a\n"})
	if _, err := cross.Build(t.Context(), cross.Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "apt install python3-pip") {
		t.Errorf("Build: %v, want how to get pip", err)
	}
}

// npmPackage is a package as npm pack makes it.
func npmPackage(t *testing.T, files map[string]string) string {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := tw.WriteHeader(&tar.Header{Name: "package/" + name, Mode: 0o644, Size: int64(len(files[name])), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestNPMTarball(t *testing.T) {
	dir := folder(t, map[string]string{
		"edgefn.yaml": "name: f\nruntime: node\nhandler: main:handle\n", "main.mjs": "", ".edgefnignore": "*.tgz\n",
		"package.json": `{"name":"f","version":"1.0.0","dependencies":{"dep":"file:dep.tgz"},"devDependencies":{"dev":"file:dev.tgz"}}`,
		"dep.tgz":      npmPackage(t, map[string]string{"package.json": `{"name":"dep","version":"1.0.0","bin":{"dep":"cli.js"},"scripts":{"postinstall":"touch ran"}}`, "index.js": "module.exports = 42\n", "cli.js": "#!/usr/bin/env node\n"}),
		"dev.tgz":      npmPackage(t, map[string]string{"package.json": `{"name":"dev","version":"1.0.0"}`}),
	})
	npm := exec.Command("npm", "install", "--package-lock-only", "--no-audit", "--no-fund", "--offline")
	npm.Dir = dir
	if out, err := npm.CombinedOutput(); err != nil {
		t.Fatalf("make lock file: %v\n%s", err, out)
	}
	// What lies here is not what the lock file says.
	if err := os.MkdirAll(filepath.Join(dir, "node_modules", "stale"), 0o755); err != nil {
		t.Fatal(err)
	}
	var steps []string
	o := cross.Options{Dir: dir, Offline: true, Platforms: []cross.Platform{platform(t, "amd64"), platform(t, "arm/v7")}, Progress: func(s string) { steps = append(steps, s) }}
	img, err := cross.Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = img.Close() })
	for _, one := range images(t, img) {
		got := contents(t, one)
		if got["app/node_modules/dep/index.js"] == nil || got["app/node_modules/.bin/dep"] == nil || got["app/node_modules/.bin/dep"].Linkname != "../dep/cli.js" {
			t.Errorf("package or its link is not in the image: %v", slices.Sorted(maps.Keys(got)))
		}
		for _, name := range []string{"app/node_modules/stale/", "app/node_modules/dev/package.json", "app/node_modules/dep/ran", "app/dep.tgz", "app/node_modules/.package-lock.json"} {
			if got[name] != nil {
				t.Errorf("%s is in the image", name)
			}
		}
	}
	all := strings.Join(steps, "\n")
	if strings.Count(all, "npm ci") != 1 || !strings.Contains(all, "install scripts are not run, those of dep") {
		t.Errorf("steps are %q, want one npm ci and a word on the script of dep", steps)
	}
	again, err := cross.Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	if again.Digest() != img.Digest() {
		t.Error("the same lock file gave another digest")
	}
}

func TestNodeModulesAsTheyAre(t *testing.T) {
	dir := folder(t, map[string]string{
		"edgefn.yaml": "name: f\nruntime: node\nhandler: main:handle\n", "main.mjs": "",
		"package.json": `{"dependencies":{"dep":"1"}}`, "node_modules/dep/index.js": "",
	})
	if got := files(t, build(t, dir)); got["app/node_modules/dep/index.js"] == nil || got["app/main.mjs"] == nil {
		t.Errorf("image holds %v", got)
	}
}

const goMain = `package main

import (
	"context"

	"example.org/dep"
	"github.com/edgefn/edgefn-go"
)

func main() {
	edgefn.Run(func(context.Context, edgefn.Event) (any, error) { return dep.Answer, nil })
}
`

// vendored is a module with its dependency in vendor/, as go mod vendor makes
// it, and nothing of the SDK.
func vendored() map[string]string {
	return map[string]string{
		"edgefn.yaml": "name: f\nruntime: go\nhandler: ./cmd/f\n", "cmd/f/main.go": goMain,
		"go.mod":                        "module example.org/f\n\ngo 1.24\n\nrequire example.org/dep v1.0.0\n",
		"vendor/modules.txt":            "# example.org/dep v1.0.0\n## explicit; go 1.24\nexample.org/dep\n",
		"vendor/example.org/dep/dep.go": "package dep\n\nconst Answer = 42\n",
	}
}

func TestGoVendor(t *testing.T) {
	src := vendored()
	dir := folder(t, src)
	o := cross.Options{Dir: dir, Platforms: cross.Platforms, Offline: true}
	img, err := cross.Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = img.Close() })
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "arm": elf.EM_ARM}
	for i, one := range images(t, img) {
		program, err := elf.NewFile(strings.NewReader(text(t, one, "app/function")))
		if err != nil {
			t.Fatal(err)
		}
		if want := machines[img.Platforms()[i].Arch]; program.Machine != want || program.Section(".interp") != nil {
			t.Errorf("program for %s is for %v, want a static one for %v", img.Platforms()[i], program.Machine, want)
		}
	}
	for name, want := range src {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s was changed: %v", name, err)
		}
	}
	// The same source elsewhere: no path is in the program.
	other, err := cross.Build(t.Context(), cross.Options{Dir: folder(t, src), Platforms: cross.Platforms, Offline: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	if other.Digest() != img.Digest() {
		t.Error("the same source in another folder gave another digest")
	}
}

func TestGoRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		change map[string]string
		want   string
	}{
		"a package that is no program": {map[string]string{"cmd/f/main.go": "package f\n"}, "no program"},
		"a package that is not there":  {map[string]string{"edgefn.yaml": "name: f\nruntime: go\nhandler: ./cmd/g\n"}, "cmd/g"},
		"a go.mod that is none":        {map[string]string{"go.mod": "modul x\n"}, "go.mod:1"},
	} {
		t.Run(name, func(t *testing.T) {
			src := vendored()
			maps.Copy(src, tt.change)
			if _, err := cross.Build(t.Context(), cross.Options{Dir: folder(t, src), Offline: true}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Build: %v, want %q", err, tt.want)
			}
		})
	}
}

package cross_test

import (
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/edgefn/edgefn/cross"
)

// machineCode is the beginning of an ELF file for a machine: a library that
// cannot be loaded, but says whom it is for.
func machineCode(m elf.Machine) string {
	class := elf.ELFCLASS64
	if m == elf.EM_ARM || m == elf.EM_386 {
		class = elf.ELFCLASS32
	}
	head := append([]byte(elf.ELFMAG), byte(class), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT), 0, 0, 0, 0, 0, 0, 0, 0, 0)
	head = binary.LittleEndian.AppendUint16(head, uint16(elf.ET_DYN))
	return string(binary.LittleEndian.AppendUint16(head, uint16(m)))
}

var (
	onAMD64, onARM64, onARM = machineCode(elf.EM_X86_64), machineCode(elf.EM_AARCH64), machineCode(elf.EM_ARM)
	machO                   = "\xcf\xfa\xed\xfe\x0c\x00\x00\x01"
)

// attributes are build attributes of a 32-bit arm program with a name, as
// compilers write them, and an architecture.
func attributes(arch byte) []byte {
	attrs := append([]byte{67}, "2.09\x00\x05ARM1176JZF-S\x00\x06"...)
	attrs = append(attrs, arch, 8, 1, 9, 1)
	sub := binary.LittleEndian.AppendUint32([]byte{1}, uint32(5+len(attrs)))
	sub = append(append([]byte("aeabi\x00"), sub...), attrs...)
	return append(binary.LittleEndian.AppendUint32([]byte{'A'}, uint32(4+len(sub))), sub...)
}

// armProgram is a whole ELF file with such attributes.
func armProgram(t *testing.T, attrs []byte) string {
	t.Helper()
	const names = "\x00.ARM.attributes\x00.shstrtab\x00"
	var b bytes.Buffer
	put := func(v any) {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	h := elf.Header32{
		Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_ARM), Version: uint32(elf.EV_CURRENT),
		Ehsize: 52, Shentsize: 40, Shnum: 3, Shstrndx: 2, Shoff: uint32(52 + len(attrs) + len(names)),
	}
	copy(h.Ident[:], machineCode(elf.EM_ARM))
	put(h)
	b.Write(attrs)
	b.WriteString(names)
	put(elf.Section32{})
	put(elf.Section32{Name: 1, Type: 0x70000003, Off: 52, Size: uint32(len(attrs)), Addralign: 1})
	put(elf.Section32{Name: 17, Type: uint32(elf.SHT_STRTAB), Off: uint32(52 + len(attrs)), Size: uint32(len(names)), Addralign: 1})
	return b.String()
}

// executable makes files of a folder programs.
func executable(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, n := range names {
		if err := os.Chmod(filepath.Join(dir, n), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// refusedBuild builds what must fail, and returns why.
func refusedBuild(t *testing.T, dir string, platforms ...cross.Platform) string {
	t.Helper()
	img, err := cross.Build(t.Context(), cross.Options{Dir: dir, Platforms: platforms})
	if err == nil {
		_ = img.Close()
		t.Fatal("it was built")
	}
	return err.Error()
}

func says(t *testing.T, got string, wants ...string) {
	t.Helper()
	for _, w := range wants {
		if !strings.Contains(got, w) {
			t.Errorf("it does not say %q:\n%s", w, got)
		}
	}
}

// A go function becomes a program for each platform, with no emulator and no
// compiler but Go's.
func TestGoForEveryPlatform(t *testing.T) {
	dir := folder(t, map[string]string{
		"edgefn.yaml": "name: f\nruntime: go\nhandler: .\n", "go.mod": "module example.org/f\n\ngo 1.25\n",
		"main.go": "package main\n\nimport (\n\t\"context\"\n\n\t\"github.com/edgefn/edgefn-go\"\n\t\"example.org/f/platform\"\n)\n\n" +
			"func main() {\n\tedgefn.Run(func(context.Context, edgefn.Event) (any, error) { return platform.Name, nil })\n}\n",
		"platform/name.go": "package platform\n\nconst Name = \"of the author's own\"\n",
	})
	img := build(t, dir, cross.Platforms...)
	want := []struct {
		machine elf.Machine
		class   elf.Class
		goarm   string
	}{{elf.EM_X86_64, elf.ELFCLASS64, ""}, {elf.EM_AARCH64, elf.ELFCLASS64, ""}, {elf.EM_ARM, elf.ELFCLASS32, "7"}, {elf.EM_ARM, elf.ELFCLASS32, "6"}}
	for i, one := range images(t, img) {
		program := strings.NewReader(text(t, one, "app/function"))
		f, err := elf.NewFile(program)
		if err != nil {
			t.Fatal(err)
		}
		if f.Machine != want[i].machine || f.Class != want[i].class {
			t.Errorf("program for %s is for %v, %v", cross.Platforms[i], f.Machine, f.Class)
		}
		if s := f.Section(".interp"); s != nil {
			t.Errorf("program for %s is not static", cross.Platforms[i])
		}
		info, err := buildinfo.Read(program)
		if err != nil {
			t.Fatal(err)
		}
		goarm := ""
		for _, s := range info.Settings {
			if s.Key == "GOARM" {
				goarm = s.Value
			}
		}
		if goarm != want[i].goarm {
			t.Errorf("program for %s is for GOARM %q, want %q", cross.Platforms[i], goarm, want[i].goarm)
		}
	}
	if again := build(t, dir, cross.Platforms...); again.Digest() != img.Digest() {
		t.Error("the same source gave another digest")
	}
}

// Platforms share what is not native, and a change of code moves its layer alone.
func TestLayersAreShared(t *testing.T) {
	src := map[string]string{
		"edgefn.yaml": pythonManifest, "main.py": "def handle(e, c): pass\n", "vendor/dep.py": "x = 1\n",
		"platform/linux-amd64/lib/fast.so": onAMD64, "platform/linux-arm64/lib/fast.so": onARM64,
		"platform/linux-arm-v6/lib/fast.so": onARM,
	}
	dir := folder(t, src)
	img := build(t, dir, cross.Platforms...)
	digests := map[string]int{}
	var own []string
	for i, one := range images(t, img) {
		layers, err := one.Layers()
		if err != nil {
			t.Fatal(err)
		}
		if len(layers) != 3 {
			t.Fatalf("%s has %d layers, want vendor, code and its own", cross.Platforms[i], len(layers))
		}
		for _, l := range layers {
			digests[digest(t, l).String()]++
		}
		own = append(own, text(t, one, "app/lib/fast.so"))
		for name := range contents(t, one) {
			if strings.Contains(name, "platform") {
				t.Errorf("%s is in the image for %s", name, cross.Platforms[i])
			}
		}
	}
	// What is for ARMv6 serves ARMv7 where that has no folder of its own.
	if want := []string{onAMD64, onARM64, onARM, onARM}; !slices.Equal(own, want) {
		t.Errorf("platforms have %q, want %q", own, want)
	}
	if len(digests) != 5 {
		t.Errorf("four images have %d different layers, want vendor, code, amd64, arm64 and arm", len(digests))
	}
	if again := build(t, folder(t, src), cross.Platforms...); again.Digest() != img.Digest() {
		t.Error("the same source gave another digest")
	}

	src["main.py"] = "def handle(e, c): return 1\n"
	changed := build(t, folder(t, src), cross.Platforms...)
	var moved []cross.Blob
	for _, b := range changed.Blobs() {
		if !slices.Contains(img.Blobs(), b) {
			moved = append(moved, b)
		}
	}
	// The layer, the index, and a configuration and manifest for each platform.
	if len(moved) != 1+1+2*len(cross.Platforms) {
		t.Errorf("a change of code moves %d blobs: %v", len(moved), moved)
	}
	there := map[string]bool{}
	for _, b := range img.Blobs() {
		there[b.Digest] = true
	}
	var part bytes.Buffer
	if err := changed.WriteTarWithout(&part, there); err != nil {
		t.Fatal(err)
	}
	sent := 0
	for name := range tarFiles(t, part.Bytes()) {
		if hex, ok := strings.CutPrefix(name, "blobs/sha256/"); ok && hex != "" {
			sent++
			if there["sha256:"+hex] {
				t.Errorf("%s is sent again", name)
			}
		}
	}
	if sent != len(moved) {
		t.Errorf("%d blobs are sent, want %d", sent, len(moved))
	}
}

// A large file does not move with the code either.
func TestLargeFilesHaveTheirLayer(t *testing.T) {
	src := map[string]string{
		"edgefn.yaml": pythonManifest, "main.py": "def handle(e, c): pass\n", "models/tiny/big.bin": strings.Repeat("model", 100_000), "models/tiny/notes.txt": "x",
	}
	before := build(t, folder(t, src))
	if got := files(t, before); got["app/models/tiny/big.bin"] == nil || got["app/models/tiny/notes.txt"] == nil || got["app/models/"] == nil {
		t.Errorf("image holds %v", got)
	}
	src["main.py"] = "def handle(e, c): return 1\n"
	after := build(t, folder(t, src))
	layers, err := images(t, after)[0].Layers()
	if err != nil {
		t.Fatal(err)
	}
	kept := func(l v1.Layer) bool {
		return slices.ContainsFunc(before.Blobs(), func(b cross.Blob) bool { return b.Digest == digest(t, l).String() })
	}
	if len(layers) != 2 || !kept(layers[0]) || kept(layers[1]) {
		t.Errorf("of %d layers the first one, of large files, should be as before, and the second one not", len(layers))
	}
}

// Native code that does not serve a platform is refused before any tool runs,
// with the file, whom it serves and what to do; given per platform, it is built.
func TestNativeCode(t *testing.T) {
	amd64, arm64, armv6 := platform(t, "amd64"), platform(t, "arm64"), platform(t, "arm/v6")
	node := "name: f\nruntime: node\nhandler: main:handle\n"
	exec := "name: f\nruntime: exec\nhandler: [./tool]\n"
	for _, tt := range []struct {
		name     string
		files    map[string]string
		programs []string
		refused  []string          // what is said for arm64
		add      map[string]string // what makes it right
		see      map[string]string // files of the image for arm64, then
	}{
		{
			name: "python extension module", files: map[string]string{"edgefn.yaml": pythonManifest, "main.py": "", "vendor/fast/_c.cpython-311-x86_64-linux-gnu.so": onAMD64},
			refused: []string{
				"native code for linux/arm64 is missing", "vendor/fast/_c.cpython-311-x86_64-linux-gnu.so is for linux/amd64",
				"platform/linux-arm64/vendor/fast/", "requirements.txt", "wheels/", ".edgefnignore",
			},
			add: map[string]string{"platform/linux-arm64/vendor/fast/_c.cpython-311-aarch64-linux-gnu.so": onARM64},
			see: map[string]string{"app/vendor/fast/_c.cpython-311-aarch64-linux-gnu.so": onARM64},
		},
		{
			name: "side by side", files: map[string]string{"edgefn.yaml": pythonManifest, "main.py": "", "lib/x86/fast.so": onAMD64, "lib/arm/slow.so": onARM64},
			refused: []string{"lib/x86/fast.so is for linux/amd64"},
			add:     map[string]string{"lib/arm/fast.so": onARM64, "lib/x86/slow.so": onAMD64},
			see:     map[string]string{"app/lib/arm/fast.so": onARM64},
		},
		{
			name: "node addon", files: map[string]string{
				"edgefn.yaml": node, "main.mjs": "", "node_modules/fast/index.js": "", "node_modules/fast/build/Release/fast.node": onAMD64,
				"node_modules/fast/prebuilds/linux-arm64/fast.node": onARM64,
			},
			refused: []string{"node_modules/fast/build/Release/fast.node is for linux/amd64", "platform/linux-arm64/node_modules/fast/build/Release/fast.node"},
			add:     map[string]string{"platform/linux-arm64/node_modules/fast/build/Release/fast.node": onARM64},
			see:     map[string]string{"app/node_modules/fast/build/Release/fast.node": onARM64, "app/node_modules/fast/index.js": ""},
		},
		{
			name: "prebuilt addons", files: map[string]string{
				"edgefn.yaml": node, "main.mjs": "", "node_modules/@a/usb/prebuilds/darwin-x64/node.napi.node": machO,
				"node_modules/@a/usb/prebuilds/linux-x64/node.napi.glibc.node": onAMD64, "node_modules/@a/other/node.node": onARM64,
			},
			refused: []string{"node_modules/@a/usb/prebuilds/darwin-x64/node.napi.node is for macOS", "linux-x64/node.napi.glibc.node is for linux/amd64"},
			add:     map[string]string{"node_modules/@a/usb/prebuilds/linux-arm64/node.napi.armv8.node": onARM64},
			see:     map[string]string{"app/node_modules/@a/usb/prebuilds/linux-arm64/node.napi.armv8.node": onARM64},
		},
		{
			name: "program", files: map[string]string{"edgefn.yaml": exec, "tool": onAMD64}, programs: []string{"tool"},
			refused: []string{"handler: native code for linux/arm64", "tool is for linux/amd64", "platform/linux-arm64/tool"},
			add:     map[string]string{"platform/linux-arm64/tool": onARM64},
			see:     map[string]string{"app/tool": onARM64},
		},
		{
			name: "program on a Mac", files: map[string]string{"edgefn.yaml": exec, "tool": machO}, programs: []string{"tool"},
			refused: []string{"tool is for macOS", "platform/linux-arm64/tool"},
			add:     map[string]string{"tool": onARM64},
			see:     map[string]string{"app/tool": onARM64},
		},
		{
			name: "program that is not there", files: map[string]string{"edgefn.yaml": exec, "platform/linux-amd64/tool": onAMD64}, programs: []string{"platform/linux-amd64/tool"},
			refused: []string{"./tool is not there for linux/arm64", "platform/linux-arm64"},
			add:     map[string]string{"platform/linux-arm64/tool": onARM64},
			see:     map[string]string{"app/tool": onARM64},
		},
		{
			name: "program without its x bit", files: map[string]string{"edgefn.yaml": exec, "platform/linux-arm64/tool": onARM64},
			refused: []string{"./tool is not executable; run chmod +x", "/platform/linux-arm64/tool"},
			add:     map[string]string{"platform/linux-arm64/tool": onARM64},
			see:     map[string]string{"app/tool": onARM64},
		},
		{
			name: "program that a script runs", files: map[string]string{"edgefn.yaml": "name: f\nruntime: exec\nhandler: [./run.sh]\n", "run.sh": "#!/bin/sh\n", "bin/tool": onARM}, programs: []string{"bin/tool"},
			refused: []string{"bin/tool is for linux/arm/v7 and linux/arm/v6"},
			add:     map[string]string{"platform/linux-arm64/bin/tool": onARM64},
			see:     map[string]string{"app/bin/tool": onARM64, "app/run.sh": "#!/bin/sh\n"},
		},
		{
			name: "a file in place of a folder", files: map[string]string{"edgefn.yaml": pythonManifest, "main.py": "", "lib/fast.so/inner.so": onAMD64},
			refused: []string{"lib/fast.so/inner.so"},
			add:     map[string]string{"platform/linux-arm64/lib/fast.so": onARM64},
			see:     map[string]string{"app/lib/fast.so": onARM64},
		},
		{
			name: "wrong file in the right folder", files: map[string]string{"edgefn.yaml": pythonManifest, "main.py": "", "platform/linux-arm64/fast.so": onAMD64},
			refused: []string{"  platform/linux-arm64/fast.so is for linux/amd64"},
			add:     map[string]string{"platform/linux-arm64/fast.so": onARM64},
			see:     map[string]string{"app/fast.so": onARM64},
		},
		{
			name: "unknown machine", files: map[string]string{"edgefn.yaml": pythonManifest, "main.py": "", "x.so.1.2": machineCode(elf.EM_386)},
			refused: []string{"x.so.1.2 is for another machine (EM_386)"},
			add:     map[string]string{".edgefnignore": "*.so.1.2\n"},
			see:     map[string]string{"app/x.so.1.2": "missing"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := folder(t, tt.files)
			executable(t, dir, tt.programs...)
			says(t, refusedBuild(t, dir, arm64), tt.refused...)
			for name, content := range tt.add {
				p := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
				executable(t, dir, name)
			}
			img := images(t, build(t, dir, arm64))[0]
			for name, want := range tt.see {
				if got := text(t, img, name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
		})
	}

	t.Run("all platforms at once", func(t *testing.T) {
		dir := folder(t, map[string]string{"edgefn.yaml": pythonManifest, "requirements.txt": "nothere==1\n", "wheels/README": "", "fast.so": onAMD64})
		got := refusedBuild(t, dir, amd64, arm64, armv6)
		says(t, got, "native code for linux/arm64", "native code for linux/arm/v6")
		if strings.Contains(got, "nothere") || strings.Contains(got, "for linux/amd64 is missing") {
			t.Errorf("it says too much:\n%s", got)
		}
	})
	t.Run("what is no program", func(t *testing.T) {
		// The firmware of some device is data, and so is a text.
		dir := folder(t, map[string]string{"edgefn.yaml": pythonManifest, "main.py": "", "firmware.elf": machineCode(elf.EM_AVR), "short.so": "\x7f", "link.so": "INPUT(x)"})
		build(t, dir, cross.Platforms...)
	})
	t.Run("ARMv7 on ARMv6", func(t *testing.T) {
		dir := folder(t, map[string]string{"edgefn.yaml": pythonManifest, "main.py": "", "fast.so": armProgram(t, attributes(10))})
		build(t, dir, platform(t, "arm/v7"))
		says(t, refusedBuild(t, dir, armv6), "fast.so is for linux/arm/v7\n")
		dir = folder(t, map[string]string{"edgefn.yaml": pythonManifest, "main.py": "", "fast.so": armProgram(t, attributes(6))})
		build(t, dir, platform(t, "arm/v7"), armv6)
	})
}

func TestPlatformFolders(t *testing.T) {
	for name, tt := range map[string]struct {
		file string
		want []string
	}{
		"unknown":      {"platform/linux-armv7/x", []string{"platform/linux-armv7 is none of", "linux-amd64, linux-arm64, linux-arm-v7, linux-arm-v6"}},
		"other case":   {"platform/Linux-arm64/x", []string{"platform/Linux-arm64"}},
		"a file":       {"platform/README", []string{"platform/README", "stand beside platform"}},
		"not a folder": {"platform/linux-arm64", []string{"platform/linux-arm64 is none"}},
	} {
		t.Run(name, func(t *testing.T) {
			says(t, refusedBuild(t, folder(t, map[string]string{"edgefn.yaml": pythonManifest, "main.py": "", tt.file: ""})), tt.want...)
		})
	}
	dir := folder(t, map[string]string{
		"edgefn.yaml": pythonManifest, "main.py": "", "platform/old/x": "", "platform/linux-arm64/notes.txt": "", "platform/linux-arm64/data": "arm", ".edgefnignore": "platform/old\nnotes.txt\n",
	})
	one := images(t, build(t, dir, platform(t, "arm64")))[0]
	if text(t, one, "app/data") != "arm" || text(t, one, "app/notes.txt") != "missing" {
		t.Error("what .edgefnignore names is in the image, or what it does not name is not")
	}
	dir = folder(t, map[string]string{"edgefn.yaml": pythonManifest, "main.py": "", "platform/else/x": "", ".edgefnignore": "platform\n"})
	if got := files(t, build(t, dir)); len(got) != 2 {
		t.Errorf("image holds %v, want main.py", got)
	}
	// A program may have that name.
	dir = folder(t, map[string]string{"edgefn.yaml": "name: f\nruntime: exec\nhandler: [./platform]\n", "platform": "#!/bin/sh\n"})
	executable(t, dir, "platform")
	if got := files(t, build(t, dir)); got["app/platform"] == nil {
		t.Errorf("image holds %v", got)
	}
}

// What npm installs is examined too: an addon is not compiled, so it must be
// given.
func TestAddonThatNPMWouldCompile(t *testing.T) {
	dir := folder(t, map[string]string{
		"edgefn.yaml": "name: f\nruntime: node\nhandler: main:handle\n", "main.mjs": "",
		"package.json":           `{"name":"f","version":"1.0.0","dependencies":{"dep":"file:./local/dep"}}`,
		"local/dep/package.json": `{"name":"dep","version":"1.0.0","scripts":{"install":"node-gyp rebuild"}}`,
		"local/dep/binding.gyp":  "{}", ".edgefnignore": "local\n",
		"package-lock.json": `{"name":"f","version":"1.0.0","lockfileVersion":3,"requires":true,"packages":{` +
			`"":{"name":"f","version":"1.0.0","dependencies":{"dep":"file:./local/dep"}},` +
			`"node_modules/dep":{"version":"1.0.0","resolved":"file:local/dep","hasInstallScript":true}}}`,
	})
	says(t, refusedBuild(t, dir, platform(t, "arm64")), "package dep is an addon", "linux/arm64", "platform/linux-arm64/node_modules/dep/build/Release")
	p := filepath.Join(dir, "platform/linux-arm64/node_modules/dep/build/Release/dep.node")
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(onARM64), 0o600); err != nil {
		t.Fatal(err)
	}
	one := images(t, build(t, dir, platform(t, "arm64")))[0]
	if text(t, one, "app/node_modules/dep/build/Release/dep.node") != onARM64 {
		t.Error("the addon is not in the image")
	}
}

// Wheels are chosen for the python of the node, not for the one at hand.
func TestWheelsForTheNodesPython(t *testing.T) {
	files := map[string]string{"edgefn.yaml": pythonManifest, "main.py": "", "requirements.txt": "fast\n"}
	for _, py := range []string{"cp39", "cp313"} {
		tag := py + "-" + py + "-manylinux2014_aarch64"
		files["wheels/fast-1.0-"+tag+".whl"] = wheelOf(t, "fast", tag, "who = '"+py+"'\n")
	}
	dir := folder(t, files)
	_, err := cross.Build(t.Context(), cross.Options{Dir: dir, Platforms: []cross.Platform{platform(t, "amd64")}, Python: "3.13.1"})
	if err == nil {
		t.Fatal("it was built without a wheel")
	}
	says(t, err.Error(), "for linux/amd64 and python 3.13: ", "--platform manylinux2014_x86_64 --python-version 3.13 fast==1.0")
	for version, want := range map[string]string{"3.9.2": "cp39", "3.13": "cp313"} {
		img, err := cross.Build(t.Context(), cross.Options{Dir: dir, Platforms: []cross.Platform{platform(t, "arm64")}, Python: version})
		if err != nil {
			t.Fatal(err)
		}
		if got := text(t, images(t, img)[0], "app/.deps/fast/__init__.py"); !strings.Contains(got, want) {
			t.Errorf("for python %s: %s", version, got)
		}
		if err := img.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestRuns(t *testing.T) {
	for machine, want := range map[string][]string{
		"amd64": {"amd64"}, "arm64": {"arm64"}, "arm/v7": {"arm/v7", "arm/v6"}, "arm/v6": {"arm/v6"},
	} {
		for _, p := range cross.Platforms {
			name := strings.TrimPrefix(p.String(), "linux/")
			if got := platform(t, machine).Runs(p); got != slices.Contains(want, name) {
				t.Errorf("a machine of platform %s runs %s: %v", machine, name, got)
			}
		}
	}
}

func TestBuildAttributes(t *testing.T) {
	for arch, want := range map[byte]bool{0: false, 6: false, 7: false, 8: true, 9: false, 10: true, 11: false, 12: false, 14: true} {
		got, ok := cross.CPUArch(attributes(arch))
		if !ok || got != uint64(arch) {
			t.Errorf("architecture %d is read as %d, %v", arch, got, ok)
		}
		if got := cross.NeedsARMv7(strings.NewReader(armProgram(t, attributes(arch)))); got != want {
			t.Errorf("a program of architecture %d needs ARMv7: %v", arch, got)
		}
	}
	if cross.NeedsARMv7(strings.NewReader(onARM)) {
		t.Error("a program that says nothing is refused")
	}
}

func FuzzBuildAttributes(f *testing.F) {
	whole := attributes(10)
	for i := range whole {
		f.Add(whole[:i])
	}
	f.Add(whole)
	f.Fuzz(func(_ *testing.T, b []byte) {
		cross.CPUArch(b)
		cross.NeedsARMv7(bytes.NewReader(b))
	})
}

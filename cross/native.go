package cross

import (
	"cmp"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
)

// native is a file of machine code.
type native struct {
	path   string     // in the image, under functions.AppDir
	from   string     // in the function's folder
	serves []Platform // those that can run or load it; none: another machine or system
	what   string     // that it is for, in words
}

// loadable are names by which runtimes and the dynamic loader find machine code.
var loadable = regexp.MustCompile(`\.(so|node)$|\.so\.[0-9.]+$`)

// readNative says what machine a file is for; nil: it holds no machine code.
func readNative(e entry) (_ *native, err error) {
	r, err := e.open()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	head := make([]byte, 20)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, err
	}
	f := &native{path: strings.TrimPrefix(e.path, appPath+"/")}
	f.from = cmp.Or(e.from, f.path)
	switch head = head[:n]; {
	case n == 20 && string(head[:4]) == elf.ELFMAG:
		f.readELF(head)
		at, random := r.(io.ReaderAt)
		if random && slices.Contains(f.serves, Platform{"arm", "v6"}) && needsARMv7(at) {
			f.serves, f.what = []Platform{{"arm", "v7"}}, "linux/arm/v7"
		}
	case n > 4 && isMachO([4]byte(head[:4])):
		f.what = "macOS"
	case n > 2 && string(head[:2]) == "MZ":
		f.what = "Windows"
	default:
		return nil, nil //nolint:nilnil // it is no machine code, which is no error
	}
	return f, nil
}

// readELF reads the first 20 bytes of an ELF file: its class, byte order and machine.
func (f *native) readELF(head []byte) {
	class, little := elf.Class(head[elf.EI_CLASS]), elf.Data(head[elf.EI_DATA]) == elf.ELFDATA2LSB
	machine := elf.Machine(binary.BigEndian.Uint16(head[18:]))
	if little {
		machine = elf.Machine(binary.LittleEndian.Uint16(head[18:]))
	}
	switch {
	case little && machine == elf.EM_X86_64 && class == elf.ELFCLASS64:
		f.serves = []Platform{{"amd64", ""}}
	case little && machine == elf.EM_AARCH64 && class == elf.ELFCLASS64:
		f.serves = []Platform{{"arm64", ""}}
	case little && machine == elf.EM_ARM:
		f.serves = []Platform{{"arm", "v7"}, {"arm", "v6"}}
	}
	f.what = "another machine (" + machine.String() + ")"
	if len(f.serves) > 0 {
		f.what = joined(f.serves)
	}
}

// isMachO knows a Mach-O file by its first bytes, in either byte order, and a
// universal one.
func isMachO(b [4]byte) bool {
	switch binary.BigEndian.Uint32(b[:]) {
	case 0xfeedface, 0xfeedfacf, 0xcefaedfe, 0xcffaedfe, 0xcafebabe:
		return true
	}
	return false
}

func joined(ps []Platform) string {
	words := make([]string, len(ps))
	for i, p := range ps {
		words[i] = p.String()
	}
	return strings.Join(words, " and ")
}

// natives lists the machine code in a tree: the files that may be executed or
// have the name of something that is loaded. What programs of other systems are
// in a package, beside those of Linux, is never loaded and does not count.
func natives(t tree) ([]*native, error) {
	var out []*native
	for _, e := range t {
		named := loadable.MatchString(path.Base(e.path))
		if e.kind != 0 || !e.exec && !named {
			continue
		}
		n, err := readNative(e)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.path, err)
		}
		if n != nil && (named || n.what != "macOS" && n.what != "Windows") {
			out = append(out, n)
		}
	}
	return out, nil
}

// buildRelease is where node-gyp builds: what is there is loaded before any
// other file of the package.
const buildRelease = "build/Release/"

// group names the files of which one per platform is enough: those of one name,
// up to its first dot, in one package, such as prebuilds/linux-arm64/usb.node and
// prebuilds/linux-x64/usb.node, or a.cpython-311-aarch64-linux-gnu.so and its
// like for x86_64. A package is a folder in node_modules or vendor; the author's
// own files are another.
func (f *native) group() string {
	parts := strings.Split(f.path, "/")
	stem, _, _ := strings.Cut(parts[len(parts)-1], ".")
	pack := ""
	for i, dir := range parts[:len(parts)-1] {
		if dir != modulesName && (i > 0 || dir != vendorName) {
			continue
		}
		end := i + 2
		if strings.HasPrefix(parts[i+1], "@") {
			end++
		}
		pack = strings.Join(parts[:min(end, len(parts))], "/")
	}
	if strings.Contains(f.path, buildRelease) {
		return f.path
	}
	return pack + "\x00" + stem
}

// nativeError is machine code that an image for a platform cannot use.
type nativeError struct {
	platform Platform
	files    []*native
}

// Error names the first files, what they serve and what to do.
func (e *nativeError) Error() string {
	const most = 3
	var b strings.Builder
	fmt.Fprintf(&b, "native code for %s is missing:", e.platform)
	for _, f := range e.files[:min(most, len(e.files))] {
		fmt.Fprintf(&b, "\n  %s is for %s", f.from, f.what)
	}
	if more := len(e.files) - most; more > 0 {
		fmt.Fprintf(&b, "\n  and %d more", more)
	}
	f := e.files[0]
	fmt.Fprintf(&b, "\nput what is built for %s into %s/%s, in the same place (%s), ",
		e.platform, platformName, e.platform.folder(), path.Join(platformName, e.platform.folder(), f.path))
	if strings.Contains(path.Base(f.path), ".so") {
		fmt.Fprintf(&b, "or, for a Python package, name it in %s with its wheels in %s/, ", requirementsName, wheelsName)
	}
	fmt.Fprintf(&b, "or leave out what the function does not need with %s", ignoreName)
	return b.String()
}

// checkNative refuses files of a tree that are machine code for others than p
// where none of their group is for p.
func checkNative(p Platform, t tree) error {
	files, err := natives(t)
	if err != nil {
		return err
	}
	served := map[string]bool{}
	for _, f := range files {
		if slices.ContainsFunc(f.serves, p.Runs) {
			served[f.group()] = true
		}
	}
	files = slices.DeleteFunc(files, func(f *native) bool { return served[f.group()] })
	if len(files) == 0 {
		return nil
	}
	return &nativeError{p, files}
}

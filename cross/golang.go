package cross

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/mod/modfile"

	"github.com/edgefn/edgefn/functions/runtimes/golang"
)

// sdkDir is where the SDK seems to be in the author's module. The go command
// records the path of a replacement in the program, so it is always the same.
const sdkDir = ".edgefn-sdk"

// goModule is what a build of a go function needs beside the author's files,
// which stay as they are.
type goModule struct {
	dir  string   // where go runs
	args []string // of go build
}

// prepareGo makes the SDK part of the author's module, without writing to it:
// through a go.mod of our own and an overlay.
func (b *builder) prepareGo(ctx context.Context) (*goModule, error) {
	if _, err := exec.LookPath("go"); err != nil {
		return nil, errors.New("the go command is not here; install it from go.dev/dl or by apt install golang, to build functions of the go runtime")
	}
	dir, err := filepath.EvalSymlinks(b.o.Dir) // overlays go by the true path
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("find the source: %w", err)
	}
	root, err := moduleRoot(dir)
	if err != nil {
		return nil, err
	}
	m := &goModule{dir: dir}
	overlay := map[string]string{}
	if _, err := os.Stat(filepath.Join(root, "vendor", "modules.txt")); err == nil {
		// The go command reads modules.txt past every overlay.
		copied := filepath.Join(b.temp, "module")
		if err := b.copyModule(root, copied); err != nil {
			return nil, fmt.Errorf("copy module with its vendor folder: %w", err)
		}
		if err := vendorSDK(copied); err != nil {
			return nil, err
		}
		rel, err := filepath.Rel(root, dir)
		if err != nil {
			return nil, err
		}
		m.dir, root = filepath.Join(copied, rel), copied
		m.args = append(m.args, "-mod=vendor")
	} else {
		m.args = append(m.args, "-mod=mod")
	}
	sdk := filepath.Join(b.temp, "sdk")
	if err := golang.Write(sdk); err != nil {
		return nil, err
	}
	names, err := os.ReadDir(sdk)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		overlay[filepath.Join(root, sdkDir, n.Name())] = filepath.Join(sdk, n.Name())
	}
	mod, err := b.writeGoMod(root)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(map[string]any{"Replace": overlay})
	if err != nil {
		return nil, err
	}
	over := filepath.Join(b.temp, "overlay.json")
	if err := os.WriteFile(over, text, 0o600); err != nil {
		return nil, err
	}
	m.args = append(m.args, "-modfile="+mod, "-overlay="+over, "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=")
	out, err := b.tool(ctx, dir, nil, "go", "version")
	if err != nil {
		return nil, err
	}
	b.o.Progress(out)
	return m, nil
}

// moduleRoot finds the folder of the module that dir is in.
func moduleRoot(dir string) (string, error) {
	for d := dir; ; d = filepath.Dir(d) {
		if info, err := os.Stat(filepath.Join(d, "go.mod")); err == nil && info.Mode().IsRegular() {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("%s is in no go module: there is no go.mod; make one with go mod init NAME", dir)
		}
	}
}

// writeGoMod writes the author's go.mod with the SDK replaced by the one that
// edgefn carries, and required if it is not yet.
func (b *builder) writeGoMod(root string) (string, error) {
	file := filepath.Join(root, "go.mod")
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	f, err := modfile.Parse("go.mod", text, nil)
	if err != nil {
		return "", err
	}
	required := false
	for _, r := range f.Require {
		required = required || r.Mod.Path == golang.Module
	}
	for _, r := range f.Replace {
		if r.Old.Path == golang.Module {
			if err := f.DropReplace(r.Old.Path, r.Old.Version); err != nil {
				return "", err
			}
		}
	}
	if !required {
		err = f.AddRequire(golang.Module, golang.Require)
	}
	if err := errors.Join(err, f.AddReplace(golang.Module, "", "./"+sdkDir, "")); err != nil {
		return "", err
	}
	f.Cleanup()
	if text, err = f.Format(); err != nil {
		return "", err
	}
	mod := filepath.Join(b.temp, "go.mod")
	if err := os.WriteFile(mod, text, 0o600); err != nil {
		return "", err
	}
	// The sums stand beside the file that -modfile names.
	switch sum, err := os.ReadFile(filepath.Join(root, "go.sum")); {
	case errors.Is(err, fs.ErrNotExist):
		return mod, nil
	case err != nil:
		return "", err
	default:
		return mod, os.WriteFile(filepath.Join(b.temp, "go.sum"), sum, 0o600)
	}
}

// copyModule copies a module.
func (b *builder) copyModule(from, to string) error {
	root, err := os.OpenRoot(from)
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // it was only read
	t, err := walk(root, "", func(p string, _ bool) bool { return p == ".git" || p == modulesName })
	if err != nil {
		return err
	}
	if err := checkSize(b.o.MaxSize, 0, t); err != nil {
		return err
	}
	return copyTree(t, to)
}

// vendorSDK adds the SDK to a vendor folder, or replaces the one that is there.
func vendorSDK(root string) error {
	list := filepath.Join(root, "vendor", "modules.txt")
	text, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	ours := false
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "# ") {
			ours = strings.HasPrefix(line, "# "+golang.Module+" ")
		}
		if !ours {
			out.WriteString(line)
		}
	}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return err
	}
	f, err := modfile.ParseLax("go.mod", mod, nil)
	if err != nil {
		return err
	}
	version := golang.Require
	for _, r := range f.Require {
		if r.Mod.Path == golang.Module {
			version = r.Mod.Version
		}
	}
	sdk, err := modfile.Parse("go.mod", []byte(golang.GoMod), nil)
	if err != nil {
		return err
	}
	fmt.Fprintf(&out, "# %[1]s %[2]s => ./%[3]s\n## explicit; go %[4]s\n%[1]s\n# %[1]s => ./%[3]s\n", golang.Module, version, sdkDir, sdk.Go.Version)
	dest := filepath.Join(root, "vendor", filepath.FromSlash(golang.Module))
	if err := errors.Join(os.RemoveAll(dest), golang.Write(dest), os.Remove(filepath.Join(dest, "go.mod"))); err != nil {
		return err
	}
	return os.WriteFile(list, out.Bytes(), 0o600)
}

// cgoHint explains what the go command says of a package in C.
func cgoHint(output string) string {
	if strings.Contains(output, "build constraints exclude all Go files") {
		return "\na package that is written in C (cgo) cannot be compiled for other machines: use one in pure go"
	}
	return ""
}

// compileGo makes the program for one platform and returns it as a tree.
func (b *builder) compileGo(ctx context.Context, m *goModule, p Platform) (tree, error) {
	file := filepath.Join(b.temp, strings.ReplaceAll(p.String(), "/", "-"))
	b.o.Progress("go: compiling for " + p.String())
	env := []string{
		"CGO_ENABLED=0", "GOWORK=off", "GOOS=linux", "GOARCH=" + p.Arch, "GOARM=" + strings.TrimPrefix(p.Variant, "v"),
		"GOAMD64=v1", "GOARM64=v8.0",
	}
	if b.o.Offline {
		env = append(env, "GOPROXY=off", "GOTOOLCHAIN=local")
	}
	argv := append([]string{"go", "build", "-o", file}, m.args...)
	if _, err := b.tool(ctx, m.dir, env, append(argv, b.f.Handler[0])...); err != nil {
		var te *toolError
		if errors.As(err, &te) && te.output != "" {
			return nil, fmt.Errorf("compile for %s:\n%s%s", p, te.output, cgoHint(te.output))
		}
		return nil, fmt.Errorf("compile for %s: %w", p, err)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	magic := make([]byte, 4)
	_, err = io.ReadFull(f, magic)
	info, serr := f.Stat()
	if err := errors.Join(err, serr, f.Close()); err != nil {
		return nil, err
	}
	if string(magic) != "\x7fELF" {
		return nil, fmt.Errorf("package %s is no program: it must be package main, with func main() { edgefn.Run(handle) }", b.f.Handler[0])
	}
	return tree{{
		path: path.Join(appPath, "function"), exec: true, size: info.Size(),
		open: func() (io.ReadCloser, error) { return os.Open(file) },
	}}, nil
}

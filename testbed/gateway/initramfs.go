package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"

	"github.com/cavaliergopher/cpio"
)

// File is one that a run lays over the gateway's root, at every boot.
type File struct {
	Content []byte
	Mode    fs.FileMode // permissions, or fs.ModeSymlink and the target as content
}

// writeInitramfs makes an initramfs of the program that mounts the root, the
// modules that it loads and the files of a run, by their paths in the root.
func writeInitramfs(ctx context.Context, to, modules string, overlay map[string]File) error {
	init, err := buildProgram(ctx, "github.com/edgefn/edgefn/testbed/gateway/initramfs", filepath.Dir(to))
	if err != nil {
		return err
	}
	content := map[string]File{"init": {init, 0o755}}
	entries, err := os.ReadDir(modules)
	if err != nil {
		return err
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(modules, e.Name()))
		if err != nil {
			return err
		}
		content[path.Join("modules", e.Name())] = File{b, 0o644}
	}
	for name, f := range overlay {
		content[path.Join("overlay", name)] = f
	}
	return writeArchive(to, content)
}

// writeArchive writes files and the folders that they are in, sorted, as the
// kernel wants them: a folder before what is in it.
func writeArchive(to string, content map[string]File) (err error) {
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := cpio.NewWriter(f)
	names := map[string]bool{}
	for name := range content {
		for dir := name; dir != "."; dir = path.Dir(dir) {
			names[dir] = true
		}
	}
	sorted := make([]string, 0, len(names))
	for name := range names {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	for _, name := range sorted {
		file, ok := content[name]
		h := &cpio.Header{Name: name, Mode: cpio.TypeDir | 0o755}
		if ok {
			h.Size = int64(len(file.Content))
			h.Mode = cpio.TypeReg | cpio.FileMode(file.Mode.Perm())
			if file.Mode&fs.ModeSymlink != 0 {
				h.Mode = cpio.TypeSymlink | 0o777
			}
		}
		if err := w.WriteHeader(h); err != nil {
			return fmt.Errorf("write %s to the initramfs: %w", name, err)
		}
		if _, err := w.Write(file.Content); err != nil {
			return err
		}
	}
	return w.Close()
}

// buildProgram cross-compiles one of the testbed's programs for the gateway.
func buildProgram(ctx context.Context, pkg, scratch string) ([]byte, error) {
	to := filepath.Join(scratch, path.Base(pkg)+"."+arch)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", to, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if _, err := outputOf(cmd); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(to)
	return b, errors.Join(err, os.Remove(to))
}

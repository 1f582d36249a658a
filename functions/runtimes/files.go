package runtimes

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

//go:embed python/main.py python/edgefn/*.py node/main.mjs node/wire.mjs node/sdk.mjs node/edgefn.d.ts
var shims embed.FS

// NodeTypes returns the TypeScript declarations that authors of node functions
// may copy.
func NodeTypes() []byte {
	b, err := shims.ReadFile("node/edgefn.d.ts")
	if err != nil {
		panic(err) // it is embedded by name
	}
	return b
}

// Write writes the shims to dir, which is mounted at Mount: folders python and
// node, readable by everyone. Each file is replaced as a whole, and only if it
// differs, so that a running sandbox sees the old or the new one.
func Write(dir string) error {
	return fs.WalkDir(shims, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		path := filepath.Join(dir, filepath.FromSlash(name))
		if d.IsDir() {
			if err := os.MkdirAll(path, 0o755); err != nil { //nolint:gosec // read in the sandbox by another user
				return fmt.Errorf("write runtimes: %w", err)
			}
			return os.Chmod(path, 0o755) //nolint:gosec // as above, whatever the umask
		}
		b, err := shims.ReadFile(name)
		if err != nil {
			return err
		}
		if err := replaceIfNew(path, b); err != nil {
			return fmt.Errorf("write runtimes: %w", err)
		}
		return nil
	})
}

func replaceIfNew(path string, b []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, b) {
		return os.Chmod(path, 0o644) //nolint:gosec // read in the sandbox by another user
	}
	if filepath.Ext(path) == ".py" {
		// What Compile made of another version would be taken for this one's.
		if err := os.RemoveAll(filepath.Join(filepath.Dir(path), "__pycache__")); err != nil {
			return err
		}
	}
	return replace(path, b)
}

func replace(path string, b []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(b)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// compileScript compiles what is in the folder of its argument. The result is
// not checked against its source at each import: both are written together.
const compileScript = `import py_compile, sys, os
for d, _, names in os.walk(sys.argv[1]):
    for n in sorted(names):
        if n.endswith(".py"):
            py_compile.compile(os.path.join(d, n), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
`

// Compile compiles the python shim in dir, which Write wrote, with a python
// interpreter, by its path. An instance of that version of python then starts
// in 8 ms instead of 13. Any other version compiles the shim at each start, so
// an error here is no reason to stop.
func Compile(ctx context.Context, dir, python string) error {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, python, "-I", "-S", "-c", compileScript, filepath.Join(dir, "python"))
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = waitDelay
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("compile the python shim with %s: %w: %s", python, err, bytes.TrimSpace(out.Bytes()))
	}
	// Written with the umask; an instance has another user.
	return filepath.WalkDir(filepath.Join(dir, "python"), func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return os.Chmod(path, 0o755) //nolint:gosec // as above
		default:
			return os.Chmod(path, 0o644) //nolint:gosec // as above
		}
	})
}

// Package golang carries the SDK of go functions: package edgefn, which authors
// import as github.com/edgefn/edgefn-go.
//
// The sources are embedded, so that a build needs no network: Write makes a
// module of them, which a build uses in place of the required one.
package golang

import (
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// SDK holds the sources under sdk/, tests included.
//
//go:embed sdk/*.go
var SDK embed.FS

const (
	// Module is the path by which authors import the SDK.
	Module = "github.com/edgefn/edgefn-go"
	// Require is the version that a function's go.mod names. Whatever it names
	// is replaced by the SDK of the edgefn that builds it.
	Require = "v0.0.0"
	// GoMod is the SDK's own go.mod.
	GoMod = "module " + Module + "\n\ngo 1.21\n"
)

// Write writes the SDK to dir as a module, without its tests. dir is made if it
// is not there; files of the same names are overwritten.
func Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // sources, for any user
		return fmt.Errorf("write the go SDK: %w", err)
	}
	names, err := fs.Glob(SDK, "sdk/*.go")
	if err != nil {
		return err
	}
	files := map[string][]byte{"go.mod": []byte(GoMod)}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		b, err := SDK.ReadFile(name)
		if err != nil {
			return err
		}
		files[path.Base(name)] = b
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil { //nolint:gosec // as above
			return fmt.Errorf("write the go SDK: %w", err)
		}
	}
	return nil
}

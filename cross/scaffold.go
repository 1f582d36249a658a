package cross

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/edgefn/edgefn/functions"
)

// templates hold a folder per runtime. NAME in a file stands for the
// function's name; a name that ends in .sh is executable; go.mod is kept under
// another name, since a folder with one would not be embedded.
//
//go:embed templates
var templates embed.FS

// Scaffold writes a function that deploys as it is into dir, which is made, or
// must be empty.
func Scaffold(dir, name string, rt functions.Runtime) error {
	if es, err := os.ReadDir(dir); err == nil && len(es) > 0 {
		return fmt.Errorf("make function in %s: the folder is not empty: name a new one", dir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make function: %w", err)
	}
	from := path.Join("templates", string(rt))
	names, err := templates.ReadDir(from)
	if err != nil {
		return fmt.Errorf("make function: runtime %q is none of %v", rt, functions.Runtimes)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // source code
		return fmt.Errorf("make function: %w", err)
	}
	for _, d := range names {
		b, err := templates.ReadFile(path.Join(from, d.Name()))
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if strings.HasSuffix(d.Name(), ".sh") {
			mode = 0o755
		}
		text := strings.ReplaceAll(string(b), "NAME", name)
		to := filepath.Join(dir, strings.TrimSuffix(d.Name(), ".template"))
		if err := os.WriteFile(to, []byte(text), mode); err != nil {
			return fmt.Errorf("make function: %w", err)
		}
	}
	return nil
}

package cross

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"github.com/edgefn/edgefn/functions"
)

// templates has a folder for each runtime, with a function that works.
//
//go:embed templates
var templates embed.FS

const templateEnd = ".tmpl" // so that no tool takes a template for source

// Scaffold writes a function that deploys as it is into dir, which is made if
// it is not there. A folder that holds anything is refused, and left as it is.
func Scaffold(dir, name string, rt functions.Runtime) (err error) {
	if !functions.ValidName(name) {
		return fmt.Errorf("%q is no function name; use 1 to 63 lower-case letters, digits and hyphens", name)
	}
	if !slices.Contains(functions.Runtimes, rt) {
		return fmt.Errorf("runtime %q is not known; use one of %v", rt, functions.Runtimes)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // source, for any user
		return fmt.Errorf("make folder: %w", err)
	}
	if err := checkEmpty(dir); err != nil {
		return err
	}
	folder := path.Join("templates", string(rt))
	names, err := templates.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, n := range names {
		t, err := template.ParseFS(templates, path.Join(folder, n.Name()))
		if err != nil {
			return err
		}
		var text bytes.Buffer
		if err := t.Execute(&text, struct{ Name, Text string }{name, yamlText(name)}); err != nil {
			return err
		}
		file := filepath.Join(dir, strings.TrimSuffix(n.Name(), templateEnd))
		mode := fs.FileMode(0o644)
		if strings.HasSuffix(file, ".sh") {
			mode = 0o755
		}
		if err := os.WriteFile(file, text.Bytes(), mode); err != nil {
			return fmt.Errorf("write function: %w", err)
		}
	}
	return nil
}

// yamlText is a name as a YAML value that is text and nothing else.
func yamlText(name string) string {
	if name == "null" || name[0] == '-' {
		return strconv.Quote(name)
	}
	return name
}

// checkEmpty refuses a folder that holds anything.
func checkEmpty(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("look into folder: %w", err)
	}
	names, err := d.Readdirnames(1)
	if err := errors.Join(ignoreEOF(err), d.Close()); err != nil {
		return fmt.Errorf("look into folder %s: %w", dir, err)
	}
	if len(names) > 0 {
		return fmt.Errorf("folder %s is not empty: it holds %s; name a new folder", dir, names[0])
	}
	return nil
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

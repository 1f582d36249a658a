package manifest

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/edgefn/edgefn/functions"
)

// FileName is the manifest's name in a function's folder.
const FileName = "edgefn.yaml"

// MaxSize bounds a manifest, in bytes.
const MaxSize = 64 << 10

// Sample is a manifest with every key and what it means.
//
//go:embed sample.yaml
var Sample []byte

// Fault is one thing that is wrong with a manifest.
type Fault struct {
	File string
	Line int // from 1; 0: the file as a whole
	functions.Fault
}

// String is the fault as one line: FILE:LINE: FIELD: MESSAGE; HINT.
func (f Fault) String() string {
	if f.Line == 0 {
		return f.File + ": " + f.Fault.String()
	}
	return fmt.Sprintf("%s:%d: %s", f.File, f.Line, f.Fault.String())
}

// Error is a manifest that cannot be used: all that is wrong with it.
type Error struct {
	Faults []Fault // at least one, in the order of their lines
}

// Error lists the faults, one per line.
func (e *Error) Error() string {
	lines := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// Load reads the manifest of the function in a folder. A manifest with faults
// is an *Error.
func Load(dir string) (*functions.Function, error) {
	file := filepath.Join(dir, FileName)
	b, err := read(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read the manifest of %s: there is no %s; name a function's folder, or make one with edgefn init: %w", dir, FileName, fs.ErrNotExist)
	case err != nil:
		return nil, fmt.Errorf("read the manifest: %w", err)
	}
	return Parse(file, b)
}

// Locate gives faults of a function their places in the manifest of its folder,
// as far as that can be read.
func Locate(dir string, faults []functions.Fault) *Error {
	file := filepath.Join(dir, FileName)
	d := &decoder{file: file, lines: map[string]int{}, failed: map[string]bool{}, silent: map[string]bool{}}
	if b, err := read(file); err == nil {
		if root := d.document(b); root != nil {
			d.function(root)
		}
	}
	e := &Error{}
	for _, f := range faults {
		e.Faults = append(e.Faults, Fault{File: file, Line: d.line(f.Field), Fault: f})
	}
	return e
}

// read reads at most one byte more than a manifest may have.
func read(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	return b, errors.Join(err, f.Close())
}

// Parse decodes and validates a manifest; file is its name in messages. Keys
// that are not there have their defaults. A manifest with faults is an *Error.
func Parse(file string, b []byte) (*functions.Function, error) {
	d := &decoder{file: file, lines: map[string]int{}, failed: map[string]bool{}, silent: map[string]bool{}}
	root := d.document(b)
	if root == nil {
		return nil, d.err()
	}
	f := d.function(root)
	for _, fault := range f.Validate() {
		if !d.known(fault.Field) {
			d.faults = append(d.faults, Fault{File: file, Line: d.line(fault.Field), Fault: fault})
		}
	}
	if err := d.err(); err != nil {
		return nil, err
	}
	return f, nil
}

var yamlError = regexp.MustCompile(`(?s)^yaml: (?:line (\d+): )?(.*)$`)

// document parses the text and returns its top mapping, or nil after a fault.
func (d *decoder) document(b []byte) *yaml.Node {
	if len(b) > MaxSize {
		d.fault(0, "", "", "is larger than %d bytes", MaxSize)
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		d.fault(0, "", "the least is name, runtime and handler", "is empty")
		return nil
	case err != nil:
		d.syntax(err)
		return nil
	}
	switch err := dec.Decode(&more); {
	case errors.Is(err, io.EOF):
	case err != nil:
		d.syntax(err)
		return nil
	default:
		d.fault(more.Line, "", "give each function a folder of its own", "has a second document")
		return nil
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		d.fault(doc.Line, "", "the least is name, runtime and handler", "is no mapping of keys to values")
		return nil
	}
	if !d.plain(doc.Content[0]) {
		return nil
	}
	return doc.Content[0]
}

// syntax translates an error of the YAML parser.
func (d *decoder) syntax(err error) {
	line, message, hint := 0, err.Error(), ""
	if m := yamlError.FindStringSubmatch(message); m != nil {
		message = m[2]
		if m[1] != "" {
			line, _ = strconv.Atoi(m[1]) // digits only; too many stay 0
		}
	}
	if strings.Contains(message, "cannot start any token") {
		hint = "indent with blanks, not tabs, and quote text that begins with a special character"
	}
	d.fault(line, "", hint, "is no YAML: %s", message)
}

// plain refuses what makes a document mean more than it shows. It follows no
// alias, so its work is bounded by the text.
func (d *decoder) plain(n *yaml.Node) bool {
	ok := true
	switch {
	case n.Kind == yaml.AliasNode:
		d.fault(n.Line, "", "write the value out", "has an alias (*%s), which is not supported", n.Value)
		ok = false
	case n.Anchor != "":
		d.fault(n.Line, "", "write the value out where it is used", "has an anchor (&%s), which is not supported", n.Anchor)
		ok = false
	case n.Style&yaml.TaggedStyle != 0:
		d.fault(n.Line, "", "remove it", "has a tag (%s), which is not supported", n.Tag)
		ok = false
	}
	for _, c := range n.Content {
		ok = d.plain(c) && ok
	}
	return ok
}

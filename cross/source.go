package cross

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// maxFiles bounds the files of a folder that becomes part of an image.
const maxFiles = 100000

// entry is a file, folder or link of an image.
type entry struct {
	path string      // in the image's root, with slashes and none at the start
	from string      // in the function's folder, where that is another place; else empty
	kind fs.FileMode // 0, fs.ModeDir or fs.ModeSymlink
	exec bool        // of a file: whether anybody may run it
	size int64       // of a file
	link string      // of a link: its target
	open func() (io.ReadCloser, error)
}

// tree is what a layer holds, sorted by path.
type tree []entry

// size is the sum of the sizes of its files.
func (t tree) size() int64 {
	var sum int64
	for _, e := range t {
		sum += e.size
	}
	return sum
}

// walk lists the files under root, as paths under prefix. skip leaves out paths
// (relative to root); a folder that it leaves out is not entered. The tree reads
// its files through root, which must stay open. Folders come before what is in
// them.
func walk(root *os.Root, prefix string, skip func(path string, dir bool) bool) (tree, error) {
	var t tree
	err := fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if p == "." {
			return nil
		}
		if skip(p, d.IsDir()) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		e, err := newEntry(root, p, d)
		if err != nil {
			return err
		}
		e.path = path.Join(prefix, p)
		t = append(t, e)
		if len(t) > maxFiles {
			return fmt.Errorf("more than %d files; leave out what the function does not need with %s", maxFiles, ignoreName)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", root.Name(), err)
	}
	slices.SortFunc(t, func(a, b entry) int { return cmp.Compare(a.path, b.path) })
	return t, nil
}

func newEntry(root *os.Root, p string, d fs.DirEntry) (entry, error) {
	e := entry{kind: d.Type()}
	switch {
	case d.IsDir():
		return e, nil
	case d.Type() == fs.ModeSymlink:
		target, err := root.Readlink(p)
		if err != nil {
			return e, err
		}
		if to := path.Join(path.Dir(p), target); path.IsAbs(target) || to == ".." || strings.HasPrefix(to, "../") {
			return e, fmt.Errorf("%s is a link to %s, outside of the folder; copy what is needed, or leave the link out with %s", p, target, ignoreName)
		}
		e.link = target
		return e, nil
	case !d.Type().IsRegular():
		return e, fmt.Errorf("%s is a %s; an image holds files, folders and links: leave it out with %s", p, kindName(d.Type()), ignoreName)
	}
	info, err := d.Info()
	if err != nil {
		return e, err
	}
	e.exec, e.size = info.Mode()&0o111 != 0, info.Size()
	e.open = func() (io.ReadCloser, error) { return root.Open(p) }
	return e, nil
}

func kindName(m fs.FileMode) string {
	switch {
	case m&fs.ModeSocket != 0:
		return "socket"
	case m&fs.ModeNamedPipe != 0:
		return "named pipe"
	case m&fs.ModeDevice != 0:
		return "device"
	}
	return "special file"
}

// readIgnores reads the author's .edgefnignore, if there is one.
func readIgnores(root *os.Root) (ignores, error) {
	text := strings.Join(defaultIgnores, "\n")
	own, err := root.ReadFile(ignoreName)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read %s: %w", ignoreName, err)
	}
	def, err := parseIgnores(text)
	if err != nil {
		return nil, err
	}
	g, err := parseIgnores(string(own))
	return append(def, g...), err
}

// copyTree writes a tree into a folder, which is made if it is not there.
func copyTree(t tree, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, e := range t {
		dest := filepath.Join(dir, filepath.FromSlash(e.path))
		var err error
		switch e.kind {
		case fs.ModeDir:
			err = os.MkdirAll(dest, 0o700)
		case fs.ModeSymlink:
			err = os.Symlink(e.link, dest)
		default:
			r, oerr := e.open()
			if oerr != nil {
				return oerr
			}
			err = writeFile(dest, r)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// split parts a tree into what is under one of the folders and the rest.
func split(t tree, folders ...string) (under, rest tree) {
	for _, e := range t {
		in := slices.ContainsFunc(folders, func(f string) bool { return e.path == f || strings.HasPrefix(e.path, f+"/") })
		if in {
			under = append(under, e)
		} else {
			rest = append(rest, e)
		}
	}
	return under, rest
}

// checkSize refuses an image that is larger than most; base is the size of what
// it is made of already.
func checkSize(most, base int64, trees ...tree) error {
	all := slices.Concat(trees...)
	sum := base + all.size()
	if sum <= most {
		return nil
	}
	slices.SortStableFunc(all, func(a, b entry) int { return cmp.Compare(b.size, a.size) })
	var names []string
	if base > 0 {
		names = append(names, fmt.Sprintf("the base (%s)", mebibytes(base)))
	}
	for _, e := range all[:min(3, len(all))] {
		names = append(names, fmt.Sprintf("%s (%s)", e.path, mebibytes(e.size)))
	}
	return fmt.Errorf("image is %s large, at most %s are allowed; the biggest are %s: leave out what the function does not need with %s",
		mebibytes(sum), mebibytes(most), strings.Join(names, ", "), ignoreName)
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

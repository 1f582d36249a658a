package access

import (
	"fmt"
	"io"
	"os"
)

// maxFile bounds what is read of a password or rules file.
const maxFile = 8 << 20

// watched is a file that is read again when it changed. The zero value has not
// been read.
type watched struct {
	path  string
	seen  os.FileInfo // as it was last read; nil: never
	fault error       // of what was last read
}

// read returns the file's content if it changed since the last call that
// returned it, nil otherwise. A file that another was renamed over is a change.
func (w *watched) read() (text []byte, changed bool, err error) {
	info, err := os.Stat(w.path)
	if err != nil {
		return nil, false, err
	}
	if w.seen != nil && info.Size() == w.seen.Size() && info.ModTime().Equal(w.seen.ModTime()) && os.SameFile(info, w.seen) {
		return nil, false, nil
	}
	if !info.Mode().IsRegular() {
		return nil, false, fmt.Errorf("%s is not a file", w.path)
	}
	f, err := os.Open(w.path)
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = f.Close() }() // only read from
	text, err = io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, false, err
	}
	if len(text) > maxFile {
		return nil, false, fmt.Errorf("%s has more than %d bytes", w.path, maxFile)
	}
	w.seen = info
	return text, true, nil
}

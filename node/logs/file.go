package logs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// logFile is a file of lines that is rotated: PATH is the current one, PATH.1
// the one before, and so on. It is not safe for concurrent use.
//
// It is our own because the library in use for it starts a goroutine per file
// that never ends, and bounds files in whole megabytes.
type logFile struct {
	path  string
	limit int64 // bytes of a file
	files int   // kept, the current one included

	f    *os.File // nil: to be opened
	size int64
}

// write appends p, which ends in a newline.
func (l *logFile) write(p []byte) error {
	if l.f == nil {
		if err := l.open(); err != nil {
			return err
		}
	}
	if l.size > 0 && l.size+int64(len(p)) > l.limit {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	n, err := l.f.Write(p)
	l.size += int64(n)
	if err != nil {
		// Start the next line on a line of its own.
		_ = l.close()
		return fmt.Errorf("write log: %w", err)
	}
	return nil
}

// open opens the current file and ends a line that was cut.
func (l *logFile) open() error {
	if err := os.MkdirAll(filepath.Dir(l.path), 0o750); err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	l.f = f
	if l.size, err = f.Seek(0, io.SeekEnd); err != nil {
		_ = l.close()
		return fmt.Errorf("open log: %w", err)
	}
	var last [1]byte
	if l.size > 0 {
		if _, err := f.ReadAt(last[:], l.size-1); err == nil && last[0] != '\n' {
			if n, err := f.Write([]byte{'\n'}); err == nil {
				l.size += int64(n)
			}
		}
	}
	return nil
}

// rotate begins a new file.
func (l *logFile) rotate() error {
	if err := l.close(); err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	if l.files == 1 {
		if err := os.Truncate(l.path, 0); err != nil {
			return fmt.Errorf("rotate log: %w", err)
		}
		return l.open()
	}
	for i := l.files - 1; i > 0; i-- {
		if err := os.Rename(l.name(i-1), l.name(i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("rotate log: %w", err)
		}
	}
	return l.open()
}

// name of the ith file, 0 being the current one.
func (l *logFile) name(i int) string {
	if i == 0 {
		return l.path
	}
	return fmt.Sprintf("%s.%d", l.path, i)
}

func (l *logFile) close() error {
	if l.f == nil {
		return nil
	}
	err := l.f.Close()
	l.f, l.size = nil, 0
	return err
}

// section is a file, open, with the part of it that is to be read.
type section struct {
	f    *os.File
	size int64
}

// sections opens every file that there is, oldest first, as it is now. The
// caller closes them. Rotation does not take them away.
func (l *logFile) sections() ([]section, error) {
	var out []section
	for i := l.files - 1; i >= 0; i-- {
		f, err := os.Open(l.name(i))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			var info fs.FileInfo
			if info, err = f.Stat(); err == nil {
				out = append(out, section{f, info.Size()})
				continue
			}
			_ = f.Close()
		}
		closeSections(out)
		return nil, fmt.Errorf("read log: %w", err)
	}
	return out, nil
}

func closeSections(ss []section) {
	for _, s := range ss {
		_ = s.f.Close() // only read from
	}
}

// remove deletes every file.
func (l *logFile) remove() error {
	err := l.close()
	for i := range l.files {
		if rerr := os.Remove(l.name(i)); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}

package etcd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	// dataName is etcd's own directory in the store's.
	dataName = "etcd"
	// firstName is a file that stands in the store's directory from before
	// etcd's files are made until it has served for the first time. An etcd
	// that is interrupted in between may have a log that names no member: it
	// waits for a leader for ever after.
	firstName = "first-start"
)

// clean removes what an interrupted first start has left and reports whether
// the start to come is the first. Nothing was ever served from what it removes.
// Files with no mark beside them, such as a restored copy, are left alone.
func clean(dir string) (first bool, err error) {
	data, mark := filepath.Join(dir, dataName), filepath.Join(dir, firstName)
	if _, err := os.Stat(mark); err == nil {
		if err := os.RemoveAll(data); err != nil {
			return false, fmt.Errorf("remove what an interrupted first start has left: %w", err)
		}
		return true, nil
	}
	switch _, err := os.Stat(filepath.Join(data, "member")); {
	case err == nil:
		return false, nil
	case !errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("look for its files: %w", err)
	}
	if err := os.WriteFile(mark, []byte("etcd has not served from here yet\n"), 0o600); err != nil {
		return false, fmt.Errorf("mark its first start: %w", err)
	}
	return true, syncDir(dir)
}

// served takes the mark of a first start away, for good, before anything is
// acknowledged.
func served(dir string) error {
	if err := os.Remove(filepath.Join(dir, firstName)); err != nil {
		return fmt.Errorf("end its first start: %w", err)
	}
	return syncDir(dir)
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("make its directory durable: %w", err)
	}
	err = errors.Join(d.Sync(), d.Close())
	if err != nil {
		return fmt.Errorf("make its directory durable: %w", err)
	}
	return nil
}

package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Names in the data folder of a node while it is restored.
const (
	restoreDir  = "restore"
	uploadName  = "upload"     // not whole, or not yet wanted
	backupName  = "backup.tar" // the store is to be restored from it
	pendingName = "images.tar" // it is; the images are to be imported
)

// Staged is a backup in the data folder of a node, checked. Nothing happens with
// it before Commit.
type Staged struct {
	Info Info

	dir string // of data
}

// Stage brings a backup to the data folder of a node and checks it. One at a
// time may be staged. The disk needs room for all of it.
func Stage(ctx context.Context, data string, r io.Reader, progress func(bytes int64)) (*Staged, error) {
	s := &Staged{dir: data}
	dir := filepath.Join(data, restoreDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a folder for the backup: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, uploadName), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make a file for the backup: %w", err)
	}
	var full error
	// What is written is what was checked.
	in := readerFunc(func(p []byte) (int, error) {
		n, err := r.Read(p)
		if _, werr := f.Write(p[:n]); werr != nil {
			full = werr
			return n, werr //nolint:wrapcheck // it is said below what was done
		}
		return n, err //nolint:wrapcheck // a reader hands on what it wraps
	})
	s.Info, err = Check(measured(contextReader(ctx, in), progress))
	if full != nil {
		err = fmt.Errorf("bring the backup to %s: %w", dir, full)
	}
	if err == nil {
		if err = f.Sync(); err != nil {
			err = fmt.Errorf("make the backup durable: %w", err)
		}
	}
	err = errors.Join(err, f.Close())
	if err != nil {
		return nil, errors.Join(err, s.Discard())
	}
	return s, nil
}

// Commit has the next start of the node restore the backup, in place of one that
// was committed before and not yet restored.
func (s *Staged) Commit() error {
	return s.rename(uploadName, backupName)
}

// Discard gives the backup up.
func (s *Staged) Discard() error {
	if err := os.Remove(filepath.Join(s.dir, restoreDir, uploadName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the staged backup: %w", err)
	}
	return s.tidy()
}

// tidy removes the folder, if nothing is in it.
func (s *Staged) tidy() error {
	err := os.Remove(filepath.Join(s.dir, restoreDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return fmt.Errorf("remove the folder of the backup: %w", err)
	}
	return nil
}

func (s *Staged) rename(from, to string) error {
	dir := filepath.Join(s.dir, restoreDir)
	if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
		return fmt.Errorf("stage the backup: %w", err)
	}
	// The folder may be new itself.
	return errors.Join(syncDir(dir), syncDir(s.dir))
}

// syncDir makes the names in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("make %s durable: %w", dir, err)
	}
	defer d.Close() //nolint:errcheck // only read
	if err := d.Sync(); err != nil {
		return fmt.Errorf("make %s durable: %w", dir, err)
	}
	return nil
}

// Restored is what became of a backup that was committed.
type Restored struct {
	Info Info
	// Old is where the store is that was there before; empty: there was none.
	Old string
	// Err is why the backup was given up, and the store is what it was; nil: it is
	// restored.
	Err error
}

// RestoreStore restores the store from the backup that is committed in the data
// folder of a node. It returns nil if there is none. restore is to replace the
// store by the copy that it is given, or leave all as it was and fail; it says where
// what was there is. The caller holds the lock of the data folder, and the store
// is not open.
//
// If ctx is done, the next start goes on. Where restoring fails otherwise, the
// backup is given up: a node must not stay down for that. With an error the store
// is not to be opened, for the next start would restore it once more.
func RestoreStore(ctx context.Context, data string, progress func(bytes int64), restore func(ctx context.Context, r io.Reader) (old string, err error)) (*Restored, error) {
	s := &Staged{dir: data}
	if err := s.Discard(); err != nil { // of one that was interrupted
		return nil, err
	}
	path := filepath.Join(data, restoreDir, backupName)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // none is no error
	}
	out := &Restored{}
	err := func() error {
		f, err := Open(path, progress)
		if err != nil {
			return err
		}
		defer f.Close() //nolint:errcheck // only read
		out.Info = f.Info
		out.Old, err = restore(ctx, measured(contextReader(ctx, f.Store()), progress))
		return err
	}()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err == nil:
		return out, s.rename(backupName, pendingName)
	}
	out.Err = fmt.Errorf("restore the backup: %w", err)
	if err := os.Remove(path); err != nil {
		return out, errors.Join(out.Err, fmt.Errorf("give the backup up: %w", err))
	}
	return out, s.tidy()
}

// HasImages reports whether images are to be imported.
func HasImages(data string) bool {
	_, err := os.Stat(filepath.Join(data, restoreDir, pendingName))
	return err == nil
}

// ErrUnfit means that an image is not one that this machine can run. An importer's error
// is it where trying again is of no use.
var ErrUnfit = errors.New("image is not for this node")

// ImportImages imports the images of the backup that RestoreStore restored last,
// and deletes it. load takes a tar of an OCI layout of one version, which may
// lack blobs that it was given with an earlier one; has reports whether the
// image of a version is there. What this machine cannot run is left out and
// returned, a line for each. After any other error the next start tries again.
func ImportImages(ctx context.Context, data string, has func(ctx context.Context, version string) (bool, error), load func(ctx context.Context, tar io.Reader) error) (left []string, err error) {
	path := filepath.Join(data, restoreDir, pendingName)
	f, err := Open(path, nil)
	if errors.Is(err, ErrDamaged) {
		// The store is restored: what is lost is to be deployed again.
		left = []string{err.Error()}
	} else if err != nil {
		return nil, err
	}
	if f != nil {
		left, err = f.load(ctx, has, load)
		if err = errors.Join(err, f.Close()); err != nil {
			return left, err
		}
	}
	if err := os.Remove(path); err != nil {
		return left, fmt.Errorf("remove the restored backup: %w", err)
	}
	return left, (&Staged{dir: data}).tidy()
}

func (b *File) load(ctx context.Context, has func(context.Context, string) (bool, error), load func(context.Context, io.Reader) error) (left []string, err error) {
	loaded := map[string]bool{} // blobs that are there for sure
	for _, fn := range b.Info.Functions {
		for _, v := range fn.Versions {
			what := fmt.Sprintf("function %q, version %s", fn.Name, v.Version)
			there, err := has(ctx, v.Version)
			switch {
			case err != nil:
				return left, fmt.Errorf("import image of %s: %w", what, err)
			case there:
				continue
			case v.Missing != "":
				left = append(left, what+": it is not in the backup: "+v.Missing)
				continue
			}
			err = b.loadVersion(ctx, v, loaded, load)
			if errors.Is(err, ErrUnfit) {
				left = append(left, what+": "+err.Error())
				continue
			}
			if err != nil {
				return left, fmt.Errorf("import image of %s: %w", what, err)
			}
			for d := range v.Blobs {
				loaded[d] = true
			}
		}
	}
	return left, nil
}

func (b *File) loadVersion(ctx context.Context, v Version, loaded map[string]bool, load func(context.Context, io.Reader) error) error {
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = pw.CloseWithError(b.writeImage(pw, v, loaded)) // never fails
	}()
	err := load(ctx, pr)
	_ = pr.Close() // never fails; the writer ends if it was not all read
	<-done
	return err
}

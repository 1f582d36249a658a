package etcd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
)

// Snapshot implements store.Snapshotter. The copy is as etcd's own tools make
// and take it: the database, and its SHA-256 at the end. While it is written,
// pages that it needs are kept, so the file grows by what is written meanwhile:
// w is not to be slow. The leases are in it with their whole time.
func (s *Store) Snapshot(ctx context.Context, w io.Writer) (revision int64, err error) {
	revision, err = s.snapshot(ctx, w)
	if err != nil {
		return 0, fmt.Errorf("copy the store: %w", err)
	}
	return revision, nil
}

func (s *Store) snapshot(ctx context.Context, w io.Writer) (revision int64, err error) {
	ctx, v, end, err := s.begin(ctx, longCall)
	if err != nil {
		return 0, err
	}
	defer end()
	head, err := ask(ctx, v, func() (*clientv3.GetResponse, error) { return v.client.Get(ctx, "\x00", clientv3.WithCountOnly()) })
	if err != nil {
		return 0, translate(ctx, err)
	}
	r, err := ask(ctx, v, func() (*clientv3.SnapshotResponse, error) { return v.client.SnapshotWithVersion(ctx) })
	if err != nil {
		return 0, translate(ctx, err)
	}
	_, err = io.Copy(w, r.Snapshot)
	err = errors.Join(err, r.Snapshot.Close())
	if why := context.Cause(ctx); why != nil {
		err = why
	}
	if err != nil {
		return 0, err
	}
	return head.Header.Revision, nil
}

// Restoring says how to restore.
type Restoring struct {
	Name string // of the member; empty: as in Config
	// MoveAside moves a store that is there to DIR.old-N, with the first N that
	// is free. Without it, one that is there is left alone and an error.
	MoveAside bool
	Logger    *slog.Logger // nil discards
}

// Errors of Restore, beside ErrInUse.
var (
	// ErrExists: there is a store already.
	ErrExists = errors.New("there is a store already")
	// ErrCopy: the copy is none, or damaged, or cut short.
	ErrCopy = errors.New("the copy is damaged")
)

// Names beside a store's directory, while it is restored.
const (
	restoringSuffix = ".restoring" // not complete
	restoredSuffix  = ".restored"  // complete, and about to take the directory's place
	oldSuffix       = ".old-"
)

// Restore makes the directory of a store from a copy by Snapshot. Nothing that
// is there is changed before the new one is complete and durable beside it, for
// which the disk needs room for twice the copy. A Restore that is interrupted
// before that has no effect; after it, the next Open or Restore finishes it.
// Leases are restored with their whole time; revisions go on from the copy's.
func Restore(ctx context.Context, dir string, r io.Reader, o Restoring) error {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if err := restore(ctx, filepath.Clean(dir), r, o); err != nil {
		return fmt.Errorf("restore the store in %q: %w", dir, err)
	}
	return nil
}

func restore(ctx context.Context, dir string, r io.Reader, o Restoring) error {
	if err := finishRestore(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create its directory: %w", err)
	}
	held, err := lock(dir)
	if err != nil {
		return err
	}
	defer held.Close() //nolint:errcheck // a lock
	_, err = os.Stat(filepath.Join(dir, dataName))
	there := err == nil
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("look for a store: %w", err)
	case there && !o.MoveAside:
		return fmt.Errorf("%w: have it moved aside, or restore elsewhere", ErrExists)
	}
	work := dir + restoringSuffix
	if err := os.RemoveAll(work); err != nil {
		return fmt.Errorf("remove what an interrupted restore has left: %w", err)
	}
	defer os.RemoveAll(work) //nolint:errcheck // once it is done there is none
	if err := os.MkdirAll(work, 0o700); err != nil {
		return fmt.Errorf("create a directory to work in: %w", err)
	}
	file := filepath.Join(work, "copy")
	if err := receive(ctx, file, r); err != nil {
		if noRoom(err) {
			return fmt.Errorf("%w: free room for twice the copy on the disk of %s", err, work)
		}
		return err
	}
	if err := unpack(file, work, o); err != nil {
		return err
	}
	if err := os.Remove(file); err != nil {
		return fmt.Errorf("remove the copy: %w", err)
	}
	if err := syncTree(work); err != nil {
		return err
	}
	if err := os.Rename(work, dir+restoredSuffix); err != nil {
		return fmt.Errorf("put the restored store in its place: %w", err)
	}
	if err := syncDir(filepath.Dir(dir)); err != nil {
		return err
	}
	return finishRestore(dir)
}

// finishRestore puts a store that was restored in its place, if there is one,
// and moves what is there aside.
func finishRestore(dir string) error {
	dir = filepath.Clean(dir)
	if dir == "." {
		return nil
	}
	restored := dir + restoredSuffix
	if _, err := os.Stat(restored); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("look for a restored store: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, dataName)); err == nil {
		for n := 1; ; n++ {
			old := fmt.Sprintf("%s%s%d", dir, oldSuffix, n)
			if _, err := os.Lstat(old); err == nil {
				continue
			}
			if err := os.Rename(dir, old); err != nil {
				return fmt.Errorf("move the old store aside: %w", err)
			}
			break
		}
	} else if err := os.RemoveAll(dir); err != nil { // no store, a lock at most
		return fmt.Errorf("remove an empty directory: %w", err)
	}
	if err := os.Rename(restored, dir); err != nil {
		return fmt.Errorf("put the restored store in its place: %w", err)
	}
	return syncDir(filepath.Dir(dir))
}

// receive writes a copy to a file and looks at it: its length and checksum, and
// then whether it makes sense.
func receive(ctx context.Context, path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("make a file for the copy: %w", err)
	}
	defer f.Close() //nolint:errcheck // synced below
	n, err := io.Copy(f, readerFunc(func(b []byte) (int, error) {
		if err := context.Cause(ctx); err != nil {
			return 0, err
		}
		return r.Read(b)
	}))
	if err != nil {
		return fmt.Errorf("read the copy: %w", err)
	}
	// bbolt's pages are multiples of 512 bytes, so a copy without its checksum is seen.
	if n <= sha256.Size || n%512 != sha256.Size {
		return fmt.Errorf("%w: it has %d bytes, which no complete copy has: it is cut short, or is none", ErrCopy, n)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, n-sha256.Size)); err != nil {
		return fmt.Errorf("read the copy: %w", err)
	}
	want := make([]byte, sha256.Size)
	if _, err := f.ReadAt(want, n-sha256.Size); err != nil {
		return fmt.Errorf("read the copy: %w", err)
	}
	if !bytes.Equal(sum.Sum(nil), want) {
		return fmt.Errorf("%w: its checksum does not match", ErrCopy)
	}
	buckets := make(map[string]bool)
	err = checkPages(f, n-sha256.Size, func(bucket, _, _ []byte) { buckets[string(bucket)] = true })
	if bad := (*pageError)(nil); errors.As(err, &bad) {
		return fmt.Errorf("%w: %w", ErrCopy, err)
	}
	if err != nil {
		return fmt.Errorf("read the copy: %w", err)
	}
	if !buckets["meta"] {
		return fmt.Errorf("%w: it is a database, and none of a store", ErrCopy)
	}
	return nil
}

// readerFunc is a function as an io.Reader.
type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// unpack makes etcd's directory in dir from a copy that is sound. It goes
// through etcd's own code on a goroutine of its own, which etcd may end.
func unpack(file, dir string, o Restoring) error {
	cfg := Config{Name: o.Name}
	cfg.defaults()
	segments()
	ended := make(chan error, 1)
	go func() {
		err := errors.New("etcd's code ended early")
		defer func() { ended <- err }()
		end := endGoroutine{func(why error) { err = why }}
		log := zap.New(slogCore{log: o.Logger}, zap.WithFatalHook(end), zap.WithPanicHook(end))
		peer := "unix://" + filepath.Join(dir, "store.sock") // a start takes its own
		err = snapshot.NewV3(log).Restore(snapshot.RestoreConfig{
			SnapshotPath:   file,
			Name:           cfg.Name,
			OutputDataDir:  filepath.Join(dir, dataName),
			PeerURLs:       []string{peer},
			InitialCluster: cfg.Name + "=" + peer,
		})
	}()
	if err := <-ended; err != nil {
		return fmt.Errorf("make its files: %w", err)
	}
	return nil
}

// syncTree makes all files and names under dir durable.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("make the restored files durable: %w", err)
		}
		return syncDir(path)
	})
}

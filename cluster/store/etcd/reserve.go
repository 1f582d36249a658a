package etcd

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// reserveName is a file in the store's directory that keeps room on the disk
// until the store is in need of it.
const reserveName = "reserve"

const (
	// DefaultReserve is the size of the reserve, on a disk that is large enough.
	DefaultReserve = 16 << 20
	// reservePart is the part of its disk that the reserve is at most.
	reservePart = 8
	// putRoom is what has to be free beside a whole reserve for a put to be
	// taken: two log segments. A batch that waits for the database then finds its
	// room in the reserve.
	putRoom = 2 * segmentBytes
	// giveRoom is where the reserve is given back: with less, one more log
	// segment and the pages that deletes copy may not find room.
	giveRoom = segmentBytes + 2<<20
	// lastRoom is where even deletes are refused, and below which etcd is not
	// started: one log segment and the pages that deletes copy. On a small disk
	// it is half of the reserve.
	lastRoom = segmentBytes + 2<<20
	// takeRoom is what has to be free, beyond what puts need, for the reserve
	// to be made again; it keeps a disk at the brink from swinging.
	takeRoom = 8 << 20
	// freeWait is how long the blocks of the reserve may take to be free, once
	// in the life of a full disk.
	freeWait = 500 * time.Millisecond
	// failedFor is how long a reserve that could not be changed is left alone.
	failedFor = time.Minute
)

// reserve is the reserve file of a store. Its three levels are fields for tests.
type reserve struct {
	dir, path       string
	size            int64 // what it is to be when whole
	put, give, last int64
	log             *slog.Logger

	mu     sync.Mutex
	held   int64     // bytes that the file has on the disk
	failed time.Time // when it could not be changed
}

// room is how much room a store has.
type room struct {
	free int64 // on the disk, without the reserve
	held int64 // by the reserve
	need int64 // of both, for a put
	last int64 // free, for a delete
}

// puts reports whether puts are taken. The reserve counts as room, so that one
// given back does not invite puts to eat it.
func (r room) puts() bool { return r.free+r.held >= r.need }

// deletes reports whether deletes are taken.
func (r room) deletes() bool { return r.free >= r.last }

// newReserve finds the reserve of a directory; size is what it is to be on a
// disk that is large enough.
func newReserve(dir, path string, size int64, log *slog.Logger) (*reserve, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil, fmt.Errorf("read the size of the disk at %s: %w", dir, err)
	}
	total := int64(st.Blocks) * int64(st.Bsize) //nolint:unconvert // it is narrower on other machines
	r := &reserve{
		dir: dir, path: path, log: log,
		size: min(size, total/reservePart),
		put:  putRoom, give: giveRoom,
	}
	r.last = min(lastRoom, r.size/2)
	var f unix.Stat_t
	switch err := unix.Stat(path, &f); {
	case err == nil:
		r.held = int64(f.Blocks) * 512 //nolint:unconvert // it is narrower on other machines
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("look for the reserve %s: %w", path, err)
	}
	return r, nil
}

// look reads the free space, gives the reserve back where it is needed, and
// makes it again where there is room. It costs a system call as a rule.
func (r *reserve) look() (room, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	free, err := freeBytes(r.dir)
	if err != nil {
		return room{}, err
	}
	switch {
	case time.Since(r.failed) < failedFor:
		return r.room(free), nil
	case free < r.give && r.held > 0:
		r.log.Warn("the disk of the store is nearly full, its reserve is given back", keyFree, free, keyReserve, r.held, "path", r.dir)
		err = r.release(free)
	case r.held < r.size && free+r.held >= r.size+r.put+takeRoom:
		err = r.fill()
	default:
		return r.room(free), nil
	}
	if err != nil { // it serves without
		r.failed = time.Now()
		r.log.Warn("the reserve of the store is not as it should be", keyErr, err)
	}
	if free, err = freeBytes(r.dir); err != nil {
		return room{}, err
	}
	return r.room(free), nil
}

func (r *reserve) room(free int64) room {
	return room{free: free, held: r.held, need: r.size + r.put, last: r.last}
}

// release gives the blocks back; free is what was free before. The file stays,
// since its name is worth keeping on a full disk. A file system with a journal
// frees blocks only once it has written there that they are free, and ext4 some
// moments after a sync that waits for this: so until they are seen.
func (r *reserve) release(free int64) error {
	f, err := os.OpenFile(r.path, os.O_WRONLY, 0)
	if err == nil {
		err = errors.Join(f.Truncate(0), f.Sync(), f.Close())
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("give back the reserve: %w", err)
	}
	held := r.held
	r.held = 0
	for begun := time.Now(); time.Since(begun) < freeWait; time.Sleep(freeWait / 100) {
		now, err := freeBytes(r.dir)
		if err != nil {
			return err
		}
		if now >= free+held/2 {
			break
		}
	}
	return nil
}

// fill makes the reserve whole. A disk that has filled up meanwhile leaves it
// as it can be; a file system without preallocation is written to.
func (r *reserve) fill() error {
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("make the reserve: %w", err)
	}
	defer f.Close() //nolint:errcheck // its content is of no use
	err = unix.Fallocate(int(f.Fd()), 0, 0, r.size)
	if errors.Is(err, unix.EOPNOTSUPP) {
		zero := make([]byte, 64<<10)
		for at := int64(0); at < r.size; at += int64(len(zero)) {
			if _, err = f.WriteAt(zero[:min(int64(len(zero)), r.size-at)], at); err != nil {
				break
			}
		}
		err = errors.Join(err, f.Sync())
	}
	if err != nil && !noRoom(err) {
		return fmt.Errorf("make the reserve %s: %w", r.path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("look at the reserve %s: %w", r.path, err)
	}
	r.held = int64(st.Blocks) * 512 //nolint:unconvert // it is narrower on other machines
	return nil
}

// errNoRoom: the disk has not the room that a start of etcd needs.
var errNoRoom = errors.New("no room on the disk")

// noRoom reports whether an error comes from a disk or quota that is full.
func noRoom(err error) bool {
	return errors.Is(err, errNoRoom) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// freeBytes is what is free to us on the file system of dir.
func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("read the free space at %s: %w", dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil //nolint:unconvert // it is narrower on other machines
}

package powercut

import (
	"context"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Disk is a disk with ext4 on it. It is not safe for concurrent use, but for
// Slow and IgnoreFlush.
type Disk struct {
	dir   string
	image *image
	boots int

	server *fuse.Server // nil: not mounted
	loop   string       // device; empty: none
	at     string       // where ext4 is mounted
}

// Why says what this machine lacks for a Disk, or is empty.
func Why() string {
	if os.Geteuid() != 0 {
		return "a disk of its own needs root"
	}
	for _, dev := range []string{"/dev/fuse", "/dev/loop-control"} {
		f, err := os.OpenFile(dev, os.O_RDWR, 0)
		if err != nil {
			return fmt.Sprintf("a disk of its own needs %s: %v", dev, err)
		}
		_ = f.Close()
	}
	for _, program := range []string{"losetup", "mkfs.ext4"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Sprintf("a disk of its own needs %s: %v", program, err)
		}
	}
	return ""
}

// Create makes a disk of size bytes, formatted, with its files in dir.
func Create(dir string, size int64) (*Disk, error) {
	m, err := createImage(filepath.Join(dir, "image"), size)
	if err != nil {
		return nil, err
	}
	// Nothing is discarded and nothing is left to be initialised later, so that
	// the image is whole after the first flush.
	out, err := exec.Command("mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", m.file.Name()).CombinedOutput()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("format the disk: %w: %s", err, out), m.close())
	}
	return &Disk{dir: dir, image: m}, nil
}

// Mount turns the disk on at a directory.
func (d *Disk) Mount(at string) (err error) {
	d.boots++
	d.at = at
	defer func() {
		if err != nil {
			err = errors.Join(err, d.unmount())
		}
	}()
	// A mount of its own for each boot, so that no page of the last one is left.
	dir := filepath.Join(d.dir, "boot"+strconv.Itoa(d.boots))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	d.server, err = fs.Mount(dir, &root{image: d.image}, &fs.Options{
		MountOptions: fuse.MountOptions{FsName: "powercut", Name: "powercut", MaxWrite: 1 << 20, DirectMount: true},
		Logger:       log.New(os.Stderr, "powercut: ", 0),
	})
	if err != nil {
		return fmt.Errorf("mount the disk's file: %w", err)
	}
	out, err := exec.Command("losetup", "--find", "--show", filepath.Join(dir, "disk")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("make a loop device: %w: %s", err, out)
	}
	d.loop = strings.TrimSpace(string(out))
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount(d.loop, at, "ext4", unix.MS_NOATIME, "errors=remount-ro"); err != nil {
		return fmt.Errorf("mount %s at %s: %w", d.loop, at, err)
	}
	return nil
}

// PowerOff takes the power away after a number of writes, or at once if it is 0:
// what is written or flushed later fails. Whatever uses the disk is to be ended
// then, before Cut.
func (d *Disk) PowerOff(after int) { d.image.powerOff(after) }

// Off reports whether the power is away.
func (d *Disk) Off() bool { return d.image.isOff() }

// Cut is a power cut: it unmounts the disk with nothing written any more, and
// takes back volatile sectors, all but a part of about kept. Mount turns it on
// again.
func (d *Disk) Cut(rnd *rand.Rand, kept float64) (volatile, lost int, err error) {
	d.image.powerOff(0)
	if err := d.unmount(); err != nil {
		return 0, 0, err
	}
	return d.image.crash(rnd, kept)
}

// Slow makes each write and flush take longer; 0 is as fast as it can be.
func (d *Disk) Slow(by time.Duration) { d.image.delay.Store(int64(by)) }

// IgnoreFlush makes the disk lie: a flush makes nothing durable any more.
func (d *Disk) IgnoreFlush(lie bool) { d.image.lies.Store(lie) }

// Flush makes everything durable that was written to the file system.
func (d *Disk) Flush() error {
	f, err := os.Open(d.at)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// Counts returns how many bytes were written and how often the disk was flushed.
func (d *Disk) Counts() (written, flushes int64) {
	d.image.mu.Lock()
	defer d.image.mu.Unlock()
	return d.image.written, d.image.flushes
}

// Close unmounts the disk and removes its files.
func (d *Disk) Close() error {
	d.Slow(0)
	err := errors.Join(d.unmount(), d.image.close())
	return errors.Join(err, os.RemoveAll(d.dir))
}

// unmount undoes Mount, as far as it came. What still holds a mount, such as a
// mount namespace that is just going away, is waited for.
func (d *Disk) unmount() error {
	err := d.unmountFrom()
	if d.loop != "" {
		out, lerr := exec.Command("losetup", "--detach", d.loop).CombinedOutput()
		if lerr != nil {
			err = errors.Join(err, fmt.Errorf("detach %s: %w: %s", d.loop, lerr, out))
		}
		d.loop = ""
	}
	if d.server != nil {
		err = errors.Join(err, d.endServer())
	}
	return err
}

// holders is how long those who hold a mount have until they let it go.
const holders = 15 * time.Second

func (d *Disk) unmountFrom() error {
	if d.at == "" {
		return nil
	}
	at := d.at
	d.at = ""
	for end := time.Now().Add(holders); ; time.Sleep(20 * time.Millisecond) {
		err := syscall.Unmount(at, 0)
		switch {
		case err == nil:
			continue // one may lie over another
		case errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENOENT):
			return nil
		case time.Now().After(end):
			return errors.Join(fmt.Errorf("unmount %s: %w", at, err), syscall.Unmount(at, syscall.MNT_DETACH))
		}
	}
}

func (d *Disk) endServer() error {
	server := d.server
	d.server = nil
	for end := time.Now().Add(holders); ; time.Sleep(20 * time.Millisecond) {
		err := server.Unmount() // the loop device lets go a moment after it was detached
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

// root is the directory with the disk's file.
type root struct {
	fs.Inode
	image *image
}

var _ fs.NodeOnAdder = (*root)(nil)

// OnAdd implements fs.NodeOnAdder.
func (r *root) OnAdd(ctx context.Context) {
	r.AddChild("disk", r.NewPersistentInode(ctx, &file{image: r.image}, fs.StableAttr{Mode: fuse.S_IFREG}), true)
}

// file is the disk's file.
type file struct {
	fs.Inode
	image *image
}

var (
	_ fs.NodeOpener    = (*file)(nil)
	_ fs.NodeGetattrer = (*file)(nil)
	_ fs.NodeReader    = (*file)(nil)
	_ fs.NodeWriter    = (*file)(nil)
	_ fs.NodeFsyncer   = (*file)(nil)
	_ fs.NodeFlusher   = (*file)(nil)
)

// Open implements fs.NodeOpener.
func (f *file) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, 0, 0
}

// Getattr implements fs.NodeGetattrer.
func (f *file) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size, out.Blksize = fuse.S_IFREG|0o600, uint64(f.image.size), 4096
	return 0
}

// Read implements fs.NodeReader.
func (f *file) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	n := min(int64(len(dest)), f.image.size-off)
	if n <= 0 {
		return fuse.ReadResultData(nil), 0
	}
	if err := f.image.readAt(dest[:n], off); err != nil {
		return nil, syscall.EIO
	}
	return fuse.ReadResultData(dest[:n]), 0
}

// Write implements fs.NodeWriter.
func (f *file) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	if err := f.image.writeAt(data, off); err != nil {
		return 0, syscall.EIO
	}
	return uint32(len(data)), 0
}

// Fsync implements fs.NodeFsyncer.
func (f *file) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	if err := f.image.flush(); err != nil {
		return syscall.EIO
	}
	return 0
}

// Flush implements fs.NodeFlusher: closing a file makes nothing durable.
func (f *file) Flush(context.Context, fs.FileHandle) syscall.Errno { return 0 }

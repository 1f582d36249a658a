package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/cluster/store/etcd"
)

// A test that has to kill a process, or whose store does not end well, runs
// the test binary again with these variables: what to do, and where.
const (
	childMode = "EDGEFN_TEST_STORE_CHILD"
	childDir  = "EDGEFN_TEST_STORE_DIR"
)

// command is a child process.
func command(ctx context.Context, mode, dir string) *exec.Cmd {
	c := exec.CommandContext(ctx, os.Args[0])
	c.Env = append(os.Environ(), childMode+"="+mode, childDir+"="+dir)
	c.Stderr = os.Stderr
	return c
}

// ownMounts gives a child a mount namespace, which takes root.
func ownMounts(t *testing.T, c *exec.Cmd) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a file system of its own takes root")
	}
	c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
}

// runChild runs a child that says "ok" when all is as it should be, else why not.
func runChild(t *testing.T, c *exec.Cmd) {
	t.Helper()
	out, err := c.Output()
	if errors.Is(err, unix.EPERM) {
		t.Skip("no mount namespace can be made here")
	}
	if err != nil || !strings.HasSuffix(string(out), "ok\n") {
		t.Errorf("child: %v\n%s", err, out)
	}
}

// child is the main function of a child process.
func child(mode, dir string) int {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	run, ok := map[string]func(context.Context, string) error{
		"commit":   childCommits,
		"readonly": childReadOnly,
		"corrupt":  childCorrupt,
		"disk":     childDisk,
		"diskfull": childDiskFull,
	}[mode]
	if !ok {
		fmt.Println("unknown mode", mode)
		return 2
	}
	if err := run(ctx, dir); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ok")
	return 0
}

// childCommits commits from four goroutines until it is killed, and says of
// each commit when it is acknowledged.
func childCommits(ctx context.Context, dir string) error {
	s, err := etcd.Open(ctx, etcd.Config{Dir: filepath.Join(dir, "data")})
	if err != nil {
		return err
	}
	prefix := fmt.Sprint(os.Getpid())
	var wg sync.WaitGroup
	var out sync.Mutex
	for g := range 4 {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				k := fmt.Sprintf("%s/%d/%d", prefix, g, n)
				_, err := s.Commit(ctx, nil, []store.Op{{Key: k, Value: []byte("v")}, {Key: k + "/too", Value: []byte("v")}})
				out.Lock()
				if err == nil {
					fmt.Println(k)
				} else {
					fmt.Println("error", err)
				}
				out.Unlock()
			}
		})
	}
	wg.Wait()
	return ctx.Err()
}

// mount mounts a tmpfs on dir, for this process and its children alone.
func mount(dir, options string, flags uintptr) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	return unix.Mount("tmpfs", dir, "tmpfs", flags, options)
}

func childReadOnly(ctx context.Context, dir string) error {
	if err := mount(dir, "", unix.MS_RDONLY); err != nil {
		return err
	}
	for _, d := range []string{dir, filepath.Join(dir, "new")} {
		_, err := etcd.Open(ctx, etcd.Config{Dir: d})
		if !errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), d) {
			return fmt.Errorf("open in %s: %w", d, err)
		}
	}
	return nil
}

// childCorrupt opens a store whose files are damaged.
func childCorrupt(ctx context.Context, dir string) error {
	s, err := etcd.Open(ctx, etcd.Config{Dir: dir, Start: 5 * time.Second})
	if err == nil {
		return errors.Join(errors.New("it opened"), s.Close())
	}
	if !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "damaged") {
		return fmt.Errorf("the error does not say what is wrong: %w", err)
	}
	return nil
}

// childDisk lets a store fill a small disk in a process of its own, makes room
// and looks for what was acknowledged.
func childDisk(ctx context.Context, dir string) error {
	if err := mount(dir, "size=96m", 0); err != nil {
		return err
	}
	c := command(ctx, "diskfull", dir)
	out, err := c.Output()
	if err != nil || !strings.HasSuffix(string(out), "ok\n") {
		return fmt.Errorf("the store on a full disk: %w\n%s", err, out)
	}
	data := filepath.Join(dir, "data")
	if _, err := etcd.Open(ctx, etcd.Config{Dir: data}); !errors.Is(err, store.ErrFull) {
		return fmt.Errorf("open on a full disk: %w", err)
	}
	if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
		return err
	}
	s, err := etcd.Open(ctx, etcd.Config{Dir: data})
	if err != nil {
		return err
	}
	e, _, err := s.Get(ctx, "kept", store.Read{})
	if err != nil || string(e.Value) != "1" {
		return fmt.Errorf("what was acknowledged: %q, %w", e.Value, err)
	}
	if err := put(ctx, s, "new", "1"); err != nil {
		return err
	}
	return s.Close()
}

func childDiskFull(ctx context.Context, dir string) error {
	s, err := etcd.Open(ctx, etcd.Config{Dir: filepath.Join(dir, "data")})
	if err != nil {
		return err
	}
	if err := put(ctx, s, "kept", "1"); err != nil {
		return err
	}
	if err := fill(filepath.Join(dir, "filler")); err != nil {
		return err
	}
	if err := put(ctx, s, "refused", "1"); !errors.Is(err, store.ErrFull) || !strings.Contains(err.Error(), dir) {
		return fmt.Errorf("a put on a full disk: %w", err)
	}
	// Deletes are let through, so enough of them meet the end of the disk. Long
	// keys fill the log soonest.
	for i := 0; ; i++ {
		_, err := s.Commit(ctx, nil, []store.Op{{Key: fmt.Sprint(i) + strings.Repeat("k", 1<<20), Delete: true}})
		if err == nil && i < 100 {
			continue
		}
		if !errors.Is(err, etcd.ErrFailed) || !errors.Is(err, unix.ENOSPC) {
			return fmt.Errorf("delete %d on a full disk: %w", i, err)
		}
		break
	}
	select {
	case <-s.Done():
	default:
		return errors.New("it is not done")
	}
	if err := s.Err(); !errors.Is(err, etcd.ErrFailed) {
		return fmt.Errorf("its reason: %w", err)
	}
	if _, _, err := s.Get(ctx, "kept", store.Read{}); !errors.Is(err, etcd.ErrFailed) {
		return fmt.Errorf("a read of a store that failed: %w", err)
	}
	return s.Close()
}

// fill writes a file until the disk is full.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	b := make([]byte, 4096)
	for err == nil {
		_, err = f.Write(b)
	}
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, io.ErrShortWrite) {
		return err
	}
	return f.Close()
}

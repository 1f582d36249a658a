package etcd_test

import (
	"context"
	"errors"
	"fmt"
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

// ownMounts gives a child a mount namespace and, without root, a user namespace
// that it takes.
func ownMounts(t *testing.T, c *exec.Cmd) {
	t.Helper()
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		c.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
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
		"full":     childFull,
		"start":    childStartFull,
		"reckless": childReckless,
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

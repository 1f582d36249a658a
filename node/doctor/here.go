package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/runtimes"
	"github.com/edgefn/edgefn/node"
	"github.com/edgefn/edgefn/node/api"
)

// Bounds of a look at the machine.
const (
	programTime = 10 * time.Second // a card that is busy at boot is slow
	socketTime  = time.Second
	flushTime   = 3 * time.Second // no further write is begun after that
	flushCount  = 10
	flushBytes  = 4096
)

// Here is the machine that runs this program. status asks its node.
func Here(status func(context.Context) (api.Status, error)) Machine {
	groups, _ := os.Getgroups()
	if gid := os.Getgid(); !slices.Contains(groups, gid) {
		groups = append(groups, gid)
	}
	return Machine{
		Root: os.DirFS("/"), Arch: runtime.GOARCH, UID: os.Getuid(), Groups: groups, Now: time.Now,
		Kernel: kernel, Synchronised: synchronised, Space: space, Flush: flush,
		Version: version, Answers: answers, Listen: listen,
		Runtimes: func(ctx context.Context) map[functions.Runtime]string { return runtimes.Discover(ctx, node.HostPath) },
		Status:   status,
	}
}

func kernel() (release, machine string, err error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", "", fmt.Errorf("ask for the kernel's name: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:]), nil
}

// synchronised asks as adjtimex(2) says, changing nothing.
func synchronised() (bool, error) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return false, fmt.Errorf("ask for the clock's state: %w", err)
	}
	return state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0, nil
}

func space(path string) (Space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return Space{}, fmt.Errorf("ask for the room at %s: %w", path, err)
	}
	unit := uint64(st.Bsize)
	return Space{
		Bytes: st.Blocks * unit, FreeBytes: st.Bavail * unit, Inodes: st.Files, FreeInodes: st.Ffree,
		ReadOnly: int64(st.Flags)&unix.ST_RDONLY != 0, //nolint:unconvert // its type differs by architecture
		Memory:   int64(st.Type) == unix.TMPFS_MAGIC,  //nolint:unconvert // as above
	}, nil
}

func flush(ctx context.Context, dir string) (took []time.Duration, err error) {
	f, err := os.CreateTemp(dir, ".edgefn-doctor")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	block := make([]byte, flushBytes)
	began := time.Now()
	for i := range int64(flushCount) {
		if ctx.Err() != nil || time.Since(began) > flushTime {
			break
		}
		at := time.Now()
		if _, err := f.WriteAt(block, i*flushBytes); err != nil {
			return took, err
		}
		// What a store does: data and what it takes to find it, no more.
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return took, fmt.Errorf("flush %s: %w", filepath.Base(f.Name()), err)
		}
		took = append(took, time.Since(at))
	}
	return took, ctx.Err()
}

func version(ctx context.Context, program string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, programTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "--version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("run %s --version: %w", program, err)
	}
	return string(out), nil
}

func answers(path string) bool {
	c, err := net.DialTimeout("unix", path, socketTime) //nolint:noctx // a Unix socket answers at once
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

func listen(ctx context.Context, addr string) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return l.Close()
}

// Command probe is a function that tells what it sees and misbehaves on demand.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/edgefn/edgefn/functions/wire"
)

// order is the data of an event.
type order struct {
	Do  string `json:"do"`
	Arg string `json:"arg"`
}

func main() {
	if len(os.Args) > 1 {
		time.Sleep(time.Hour) // a child that stays
	}
	f := os.NewFile(3, "wire")
	c := wire.NewConn(f, wire.MaxFrame+wire.Overhead)
	check(c.Write(wire.KindHello, 0, wire.Hello{V: wire.Version, Runtime: "probe", SDK: "0"}))
	for {
		fr, err := c.Read()
		if err != nil {
			return
		}
		var b wire.EventBody
		check(fr.Into(&b))
		data, _ := b.Event["data"].([]byte)
		var o order
		check(json.Unmarshal(data, &o))
		out := map[string]any{}
		if err := do(o, out); err != nil {
			check(c.Write(wire.KindFailure, fr.ID, wire.Failure{Kind: "raised", Message: err.Error()}))
			continue
		}
		j, err := json.Marshal(out)
		check(err)
		check(c.Write(wire.KindResult, fr.ID, wire.Result{Data: j}))
	}
}

func do(o order, out map[string]any) error {
	switch o.Do {
	case "look":
		look(out)
	case "print":
		fmt.Println(o.Arg)
		fmt.Fprintln(os.Stderr, o.Arg)
	case "write":
		return os.WriteFile(o.Arg, []byte("x"), 0o600)
	case "leave": // things that a later event must not see
		check(os.WriteFile("/tmp/left", []byte("x"), 0o600))
		check(os.WriteFile("/dev/shm/left", []byte("x"), 0o600))
		cmd := exec.Command(os.Args[0], "stay")
		check(cmd.Start())
		_, err := unix.SysvShmGet(4711, 4096, unix.IPC_CREAT|0o600)
		out["shm"] = fmt.Sprint(err)
	case "mark": // the open file of stdin, and the host's device behind it
		_, err := unix.FcntlInt(0, unix.F_SETFL, unix.O_APPEND|unix.O_NONBLOCK)
		check(err)
		_ = unix.Flock(0, unix.LOCK_EX|unix.LOCK_NB) // another event may hold it while it lives
		out["utime"] = fmt.Sprint(os.Chtimes("/dev/null", time.Unix(1, 0), time.Unix(1, 0)))
	case "marks":
		flags, err := unix.FcntlInt(0, unix.F_GETFL, 0)
		check(err)
		out["flags"] = flags & (unix.O_APPEND | unix.O_NONBLOCK)
	case "listen": // an abstract socket, for a while
		l, err := net.Listen("unix", "@leak")
		if err != nil {
			return err
		}
		defer l.Close()
		time.Sleep(500 * time.Millisecond)
	case "meet":
		c, err := net.Dial("unix", "@leak")
		if err != nil {
			return err
		}
		_ = c.Close()
	case "sleep":
		d, err := time.ParseDuration(o.Arg)
		check(err)
		time.Sleep(d)
	case "allocate":
		var keep [][]byte
		for range 1 << 20 {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			keep = append(keep, b)
		}
		out["kept"] = len(keep)
	case "fork":
		n := 0
		for range 10000 {
			if err := exec.Command(os.Args[0], "stay").Start(); err != nil {
				out["error"] = err.Error()
				break
			}
			n++
		}
		out["started"] = n
	case "exit":
		os.Exit(7)
	case "dial":
		conn, err := net.DialTimeout("tcp", o.Arg, 2*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("hello\n")); err != nil {
			return err
		}
		check(conn.(*net.TCPConn).CloseWrite())
		b, err := io.ReadAll(conn)
		out["got"] = string(b)
		return err
	case "syscalls":
		for name, trap := range map[string]uintptr{"mount": unix.SYS_MOUNT, "unshare": unix.SYS_UNSHARE, "bpf": unix.SYS_BPF, "ptrace": unix.SYS_PTRACE, "setns": unix.SYS_SETNS, "keyctl": unix.SYS_KEYCTL, "perf": unix.SYS_PERF_EVENT_OPEN} {
			_, _, errno := syscall.Syscall(trap, 0, 0, 0)
			out[name] = int(errno)
		}
		_, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		out["clone"] = int(errno)
	case "devices":
		devices(out, o.Arg)
	case "garbage":
		_, _ = os.NewFile(3, "wire").Write([]byte(o.Arg))
		time.Sleep(time.Minute)
	case "read":
		b, err := os.ReadFile(o.Arg)
		out["text"] = string(b)
		return err
	default:
		return fmt.Errorf("cannot %q", o.Do)
	}
	return nil
}

// devices uses a device, which stands in for /dev/loop-control, and tries what
// should not be possible with its node.
func devices(out map[string]any, path string) {
	es, _ := os.ReadDir("/dev")
	var names []string
	for _, e := range es {
		names = append(names, e.Name())
	}
	out["list"] = strings.Join(names, " ")
	text := func(err error) string {
		if errno := syscall.Errno(0); errors.As(err, &errno) {
			return errno.Error()
		}
		return ""
	}
	const loopCtlRemove, noSuchLoop = 0x4c81, 1 << 19 // linux/loop.h
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.IoctlSetInt(fd, loopCtlRemove, noSuchLoop)
		_ = unix.Close(fd)
	}
	out["ioctl"] = text(err)
	out["chmod"] = text(os.Chmod(path, 0o600))
	out["chown"] = text(os.Chown(path, os.Getuid(), os.Getgid()))
	out["times"] = text(os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0)))
	out["setxattr"] = text(unix.Setxattr(path, "user.x", []byte("x"), 0))
	out["rename"] = text(os.Rename(path, path+"0"))
	out["remove"] = text(os.Remove(path))
	out["mknod"] = text(unix.Mknod("/tmp/node", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
}

func look(out map[string]any) {
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		k, v, _ := strings.Cut(line, ":")
		out[k] = strings.TrimSpace(v)
	}
	out["pid"] = os.Getpid()
	score, _ := os.ReadFile("/proc/self/oom_score_adj")
	out["oom"] = strings.TrimSpace(string(score))
	ps, _ := filepath.Glob("/proc/[0-9]*")
	out["processes"] = len(ps)
	for _, d := range []string{"/tmp", "/dev/shm", "/run", "/app", "/edgefn/bin"} {
		es, err := os.ReadDir(d)
		var names []string
		for _, e := range es {
			names = append(names, e.Name())
		}
		if err != nil {
			names = []string{err.Error()}
		}
		out[d] = strings.Join(names, " ")
	}
	ifs, _ := net.Interfaces()
	var names []string
	for _, i := range ifs {
		names = append(names, i.Name)
	}
	out["interfaces"] = strings.Join(names, " ")
	_, err := unix.SysvShmGet(4711, 4096, 0o600)
	out["shm"] = fmt.Sprint(err)
	wd, _ := os.Getwd()
	out["cwd"] = wd
	out["env"] = strings.Join(os.Environ(), "\n")
	fds, _ := os.ReadDir("/proc/self/fd")
	out["fds"] = len(fds)
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	out["mounts"] = string(mounts)
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

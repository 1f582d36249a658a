package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// restartPause is how long a program that ended by itself stays down. What
// starts it again is what systemd is to a node.
const restartPause = 500 * time.Millisecond

// program is a command that is kept running until it is told to end.
type program struct {
	argv    []string
	env     []string
	logPath string

	mu      sync.Mutex
	cmd     *exec.Cmd
	done    chan struct{} // closed when cmd has ended
	wanted  bool
	started time.Time
	ended   int // how often it ended by itself, having been ready
	ready   func(log string) bool
	from    int64 // where the log of the present process begins
}

// start starts it, and starts it again whenever it ends by itself.
func (p *program) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = true
	return p.launch()
}

// launch needs mu.
func (p *program) launch() error {
	out, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	if fi, err := out.Stat(); err == nil {
		p.from = fi.Size()
	}
	cmd := exec.Command(p.argv[0], p.argv[1:]...)
	cmd.Env = append(os.Environ(), p.env...)
	cmd.Stdout, cmd.Stderr = out, out
	// A group of its own: the terminal's Ctrl-C is for this process.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", filepath.Base(p.argv[0]), err)
	}
	done := make(chan struct{})
	p.cmd, p.done, p.started = cmd, done, time.Now()
	go func() {
		_ = cmd.Wait()
		p.mu.Lock()
		byItself := p.wanted && p.cmd == cmd
		if byItself && p.ready(p.tail()) {
			p.ended++
		}
		p.mu.Unlock()
		close(done)
		if !byItself {
			return
		}
		time.Sleep(restartPause)
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.wanted && p.cmd == cmd {
			_ = p.launch() // it ran before
		}
	}()
	return nil
}

// tail is the log of the present process; it needs mu.
func (p *program) tail() string {
	f, err := os.Open(p.logPath)
	if err != nil {
		return ""
	}
	defer f.Close()
	if _, err := f.Seek(p.from, 0); err != nil {
		return ""
	}
	var b bytes.Buffer
	_, _ = b.ReadFrom(f)
	return b.String()
}

// letGo lets it end by itself: it is not started again and that is not counted.
func (p *program) letGo() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = false
}

// end sends a signal and waits; it stays down until start.
func (p *program) end(sig syscall.Signal) {
	p.letGo()
	p.mu.Lock()
	cmd, done := p.cmd, p.done
	p.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Signal(sig)
	select {
	case <-done:
	case <-time.After(40 * time.Second):
		_ = cmd.Process.Kill()
		<-done
	}
}

// pid is the process, 0 if it does not run.
func (p *program) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	select {
	case <-p.done:
		return 0
	default:
		return p.cmd.Process.Pid
	}
}

// isReady reports whether the present process has said that it is ready.
func (p *program) isReady() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd != nil && p.ready(p.tail())
}

// endedBySelf returns how often it ended by itself since the last call.
func (p *program) endedBySelf() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.ended
	p.ended = 0
	return n
}

// process is one of the machine's.
type process struct {
	pid, parent int
	argv        []string
}

// processes lists the machine's processes.
func processes() []process {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var all []process
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(dir + "/stat")
		if err != nil {
			continue
		}
		// pid (comm) state ppid ...: a name may hold anything, proc(5).
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) < 2 || fields[0] == "Z" {
			continue
		}
		parent, err := strconv.Atoi(fields[1])
		if err != nil {
			continue
		}
		cmdline, err := os.ReadFile(dir + "/cmdline")
		if err != nil {
			continue
		}
		all = append(all, process{pid: pid, parent: parent, argv: strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")})
	}
	return all
}

// below returns the descendants of a process, parents first.
func below(all []process, pid int) []process {
	var found []process
	for _, p := range all {
		if p.parent == pid {
			found = append(append(found, p), below(all, p.pid)...)
		}
	}
	return found
}

// shims returns the containerd shims whose containerd is below dir.
func shims(all []process, dir string) []process {
	return slices.DeleteFunc(slices.Clone(all), func(p process) bool {
		return !strings.Contains(p.argv[0], "containerd-shim") || !slices.ContainsFunc(p.argv, func(a string) bool { return strings.HasPrefix(a, dir+"/") })
	})
}

// killAll kills what names dir in its arguments, and all below it, until
// nothing of it is left.
func killAll(dir string) error {
	self := os.Getpid()
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		all := processes()
		var found []process
		for _, p := range all {
			if p.pid != self && slices.ContainsFunc(p.argv, func(a string) bool { return strings.Contains(a, dir+"/") }) {
				found = append(append(found, p), below(all, p.pid)...)
			}
		}
		if len(found) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("processes do not end: %v", found)
		}
		for _, p := range found {
			if p.pid != self {
				_ = syscall.Kill(p.pid, syscall.SIGKILL)
			}
		}
	}
}

// groups returns the control groups of edgefn that processes are in.
func groups(of []process) []string {
	var found []string
	for _, p := range of {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			// ID:CONTROLLERS:PATH, cgroups(7)
			f := strings.SplitN(strings.TrimSpace(line), ":", 3)
			if len(f) < 3 || !strings.Contains(f[2], "/edgefn/") {
				continue
			}
			path := filepath.Join("/sys/fs/cgroup", strings.TrimPrefix(f[1], "name="), f[2])
			if !slices.Contains(found, path) {
				found = append(found, path)
			}
		}
	}
	return found
}

// unmountBelow unmounts everything at and below dir.
func unmountBelow(dir string) error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var points []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && (f[4] == dir || strings.HasPrefix(f[4], dir+"/")) {
			points = append(points, f[4])
		}
	}
	var errs []error
	for _, at := range slices.Backward(points) {
		if err := syscall.Unmount(at, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", at, err))
		}
	}
	return errors.Join(errs...)
}

// freePort returns a port of the loopback address that nobody listens at.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/edgefn/edgefn/functions/init/cell"
	"github.com/edgefn/edgefn/functions/init/control"
)

// controlSocket is where the node listens, inside the sandbox.
const controlSocket = "/run/edgefn/init.sock"

// serve is process 1 until the node closes the connection.
func serve() error {
	// A small heap that is collected often: this process lives as long as its
	// function and should cost next to nothing.
	debug.SetGCPercent(25)
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: controlSocket, Net: "unixpacket"})
	if err != nil {
		return fmt.Errorf("reach node: %w", err)
	}
	factory, err := cell.NewFactory()
	if err != nil {
		return err
	}
	s := &server{conn: control.NewConn(c), factory: factory, slots: map[int]*running{}, pids: map[int]*running{}, early: map[int]unix.WaitStatus{}}
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	go s.reap(children)
	if err := s.conn.Send(control.Message{Kind: control.Ready, V: control.Version}); err != nil {
		return err
	}
	for {
		m, files, err := s.conn.Recv()
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, unix.ECONNRESET) {
			return nil // process 1 ends, and the kernel ends all others
		}
		if err != nil {
			return err
		}
		if err := s.handle(m, files); err != nil {
			return err
		}
	}
}

// running is a slot that is taken.
type running struct {
	slot   int
	seq    uint64
	pid    int  // 0: its start is under way
	killed bool // while its start was under way
}

// server starts and buries. Starts run side by side, since joining control
// groups takes the kernel milliseconds.
type server struct {
	conn    *control.Conn
	factory *cell.Factory
	program *control.Program
	path    string

	mu       sync.Mutex // guards what follows
	slots    map[int]*running
	pids     map[int]*running
	starting int
	early    map[int]unix.WaitStatus // ended before their start had returned
}

func (s *server) handle(m control.Message, files []*os.File) error {
	switch m.Kind {
	case control.Configure:
		control.CloseAll(files)
		answer := control.Message{Kind: control.Configured}
		if err := s.configure(m.Program); err != nil {
			answer.Error = err.Error()
		}
		return s.conn.Send(answer)
	case control.Start:
		r, err := s.reserve(m, files)
		if err != nil {
			control.CloseAll(files)
			return s.conn.Send(control.Message{Kind: control.Started, Slot: m.Slot, Seq: m.Seq, Error: err.Error()})
		}
		go s.start(r, files)
		return nil
	case control.Kill:
		s.mu.Lock()
		defer s.mu.Unlock()
		if r := s.slots[m.Slot]; r != nil && r.seq == m.Seq {
			r.kill()
		}
		return nil
	case control.Ready, control.Configured, control.Started, control.Exited:
	}
	control.CloseAll(files)
	return fmt.Errorf("node sent an unexpected %q message", m.Kind)
}

// kill ends process 1 of a cell, and with it all of it.
func (r *running) kill() {
	if r.killed = true; r.pid != 0 {
		_ = unix.Kill(r.pid, unix.SIGKILL)
	}
}

func (s *server) configure(p *control.Program) error {
	if p == nil || len(p.Argv) == 0 {
		return errors.New("no program given")
	}
	path, err := lookPath(p.Argv[0], p.Dir, p.Env)
	if err != nil {
		return err
	}
	s.program, s.path = p, path
	return nil
}

// reserve takes a slot for a start.
func (s *server) reserve(m control.Message, files []*os.File) (*running, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.program == nil:
		return nil, errors.New("start before configure")
	case len(files) < 3:
		return nil, fmt.Errorf("start with %d descriptors, need at least 3", len(files))
	case s.slots[m.Slot] != nil:
		return nil, fmt.Errorf("slot %d is taken", m.Slot)
	}
	r := &running{slot: m.Slot, seq: m.Seq}
	s.slots[m.Slot] = r
	s.starting++
	return r, nil
}

// start starts the instance of a reserved slot and says so.
func (s *server) start(r *running, files []*os.File) {
	defer control.CloseAll(files)
	pid, err := s.startCell(r.slot, files)
	answer := control.Message{Kind: control.Started, Slot: r.slot, Seq: r.seq}
	s.mu.Lock()
	defer s.mu.Unlock()
	st, ended := s.early[pid]
	delete(s.early, pid)
	if err != nil {
		delete(s.slots, r.slot)
		answer.Error = err.Error()
	} else {
		r.pid = pid
		s.pids[pid] = r
		if r.killed {
			r.kill()
		}
	}
	_ = s.conn.Send(answer) // if the node is gone, serve ends too
	if ended && err == nil {
		s.bury(r, st)
	}
	if s.starting--; s.starting == 0 {
		clear(s.early)
	}
}

// startCell runs the program in a cell. The process id counts with an error too.
func (s *server) startCell(slot int, files []*os.File) (int, error) {
	// Opened anew for each: what one instance sets on its stdin (flags, locks,
	// owners of signals) belongs to the open file.
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer func() { _ = null.Close() }()
	p := s.program
	sp := cell.Spec{
		Path: s.path, Argv: p.Argv, Env: p.Env, Dir: p.Dir,
		ID: p.FirstUID + slot, TmpBytes: p.TmpBytes, MaxFiles: p.MaxFiles, MaxProcs: p.MaxProcs, PrivateNet: p.PrivateNet,
		Stdin: null, Socket: files[0], Stdout: files[1], Stderr: files[2], Join: files[3:],
	}
	if p.Unified {
		if len(files) != 4 {
			return 0, fmt.Errorf("start with %d descriptors, need 4", len(files))
		}
		sp.Cgroup, sp.Join = files[3], nil
	}
	return s.factory.Start(sp)
}

// bury frees the slot of an instance that ended and says so; s.mu is held.
func (s *server) bury(r *running, st unix.WaitStatus) {
	delete(s.pids, r.pid)
	delete(s.slots, r.slot)
	m := control.Message{Kind: control.Exited, Slot: r.slot, Seq: r.seq, Code: -1}
	if st.Exited() {
		m.Code = st.ExitStatus()
	} else if st.Signaled() {
		m.Signal = int(st.Signal())
	}
	_ = s.conn.Send(m)
}

// reap collects every child that ended.
func (s *server) reap(children <-chan os.Signal) {
	for range children {
		s.mu.Lock()
		for {
			var st unix.WaitStatus
			pid, err := unix.Wait4(-1, &st, unix.WNOHANG, nil)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
			if r := s.pids[pid]; r != nil {
				s.bury(r, st)
			} else if s.starting > 0 {
				s.early[pid] = st // of a start that has not returned, or an orphan
			}
		}
		s.mu.Unlock()
	}
}

// lookPath finds a program as exec would, in the PATH of env; one with a slash
// is taken relative to dir.
func lookPath(name, dir string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return name, runnable(name)
	}
	for _, kv := range env {
		path, ok := strings.CutPrefix(kv, "PATH=")
		if !ok {
			continue
		}
		for _, d := range filepath.SplitList(path) {
			if p := filepath.Join(d, name); runnable(p) == nil {
				return p, nil
			}
		}
		return "", fmt.Errorf("program %q is not in %s", name, kv)
	}
	return "", fmt.Errorf("program %q: no PATH is set", name)
}

func runnable(path string) error {
	fi, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("program cannot be run: %w", err)
	case fi.IsDir() || fi.Mode()&0o111 == 0:
		return fmt.Errorf("program %s is not executable", path)
	}
	return nil
}

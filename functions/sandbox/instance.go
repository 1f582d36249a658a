package sandbox

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/edgefn/edgefn/functions/init/control"
	"github.com/edgefn/edgefn/functions/pool"
)

// instance is one process tree in a slot.
type instance struct {
	s       *Sandbox
	slot    int
	seq     uint64
	group   *slotGroup
	cpuBase time.Duration

	socket, stdout, stderr *os.File

	started chan error // receives once
	once    sync.Once
	exited  chan struct{}
	exit    pool.Exit // set before exited is closed
}

// Start implements pool.Sandbox.
func (s *Sandbox) Start(ctx context.Context, slot int) (pool.Instance, error) {
	in := &instance{s: s, slot: slot, started: make(chan error, 1), exited: make(chan struct{})}
	if err := s.register(in); err != nil {
		return nil, err
	}
	if err := s.checkDevices(); err != nil {
		s.forget(in)
		return nil, fmt.Errorf("start instance: %w", err)
	}
	theirs, err := in.pipes()
	if err != nil {
		s.forget(in)
		return nil, err
	}
	if err = in.group.begin(); err == nil {
		in.cpuBase = in.group.cpuTime()
		err = s.conn.Send(control.Message{Kind: control.Start, Slot: slot, Seq: in.seq}, append(slices.Clone(theirs), in.group.join...)...)
	}
	control.CloseAll(theirs)
	if err == nil {
		select {
		case err = <-in.started:
		case <-s.done:
			err = fmt.Errorf("sandbox is gone")
		case <-ctx.Done():
			in.Kill() // its end is reaped as any other
			err = ctx.Err()
		}
	}
	if err != nil {
		in.closeFiles()
		s.forget(in)
		return nil, fmt.Errorf("start instance: %w", err)
	}
	return in, nil
}

// register gives an instance its slot, number and control group.
func (s *Sandbox) register(in *instance) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.done:
		return fmt.Errorf("start instance: sandbox is gone")
	default:
	}
	if s.slots[in.slot] != nil {
		return fmt.Errorf("start instance: slot %d is taken", in.slot)
	}
	if s.groups[in.slot] == nil {
		g, err := s.h.groups.slot(s.id, in.slot, s.spec.Function.Memory, maxProcs, hostIDs(s.id))
		if err != nil {
			return err
		}
		s.groups[in.slot] = g
	}
	s.seq++
	in.seq, in.group = s.seq, s.groups[in.slot]
	s.slots[in.slot] = in
	return nil
}

// forget frees the slot of an instance that never ran.
func (s *Sandbox) forget(in *instance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slots[in.slot] == in {
		delete(s.slots, in.slot)
	}
}

// pipes makes the instance's wire and output, and returns the instance's ends.
func (in *instance) pipes() (theirs []*os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	_ = unix.SetNonblock(fds[0], true) // ours waits in the runtime's poller
	in.socket = os.NewFile(uintptr(fds[0]), "instance")
	theirs = []*os.File{os.NewFile(uintptr(fds[1]), "instance")}
	for _, ours := range []**os.File{&in.stdout, &in.stderr} {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			control.CloseAll(theirs)
			in.closeFiles()
			return nil, fmt.Errorf("make pipe: %w", err)
		}
		_ = unix.SetNonblock(p[0], true)
		*ours = os.NewFile(uintptr(p[0]), "output")
		theirs = append(theirs, os.NewFile(uintptr(p[1]), "output"))
	}
	return theirs, nil
}

func (in *instance) closeFiles() {
	for _, f := range []*os.File{in.socket, in.stdout, in.stderr} {
		if f != nil {
			_ = f.Close()
		}
	}
}

func (in *instance) end(e pool.Exit) {
	in.once.Do(func() {
		in.exit = e
		close(in.exited)
	})
}

// Socket implements pool.Instance.
func (in *instance) Socket() *os.File { return in.socket }

// Stdout implements pool.Instance.
func (in *instance) Stdout() *os.File { return in.stdout }

// Stderr implements pool.Instance.
func (in *instance) Stderr() *os.File { return in.stderr }

// Usage implements pool.Instance.
func (in *instance) Usage() (cpu time.Duration, peak int64) {
	return in.group.cpuTime() - in.cpuBase, in.group.peakBytes()
}

// Kill implements pool.Instance.
func (in *instance) Kill() {
	// If the message cannot be sent init is gone, and the instance with it.
	_ = in.s.conn.Send(control.Message{Kind: control.Kill, Slot: in.slot, Seq: in.seq})
}

// Exited implements pool.Instance.
func (in *instance) Exited() <-chan struct{} { return in.exited }

// Exit implements pool.Instance.
func (in *instance) Exit() pool.Exit {
	<-in.exited
	return in.exit
}

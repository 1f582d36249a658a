package gpio

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edgefn/edgefn/drivers"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/triggers"
)

// States of a Source, as Status tells them.
const (
	StateConnecting = "connecting" // not listening yet
	StateConnected  = "connected"  // listening
	StateRefused    = "refused"    // the line cannot be listened to like this; tried again with back-off
	StateOffline    = "offline"    // the line does not work; tried again with back-off
	StateStopped    = "stopped"    // Run has returned
)

// Waits before a line is tried again.
const (
	firstWait = 500 * time.Millisecond
	maxWait   = time.Minute
)

// Devices are the node's lines.
type Devices interface {
	// Edges calls f with each edge until ctx is done, and then returns nil.
	Edges(ctx context.Context, line, owner string, o drivers.EdgeOptions, f func(drivers.Edge)) error
}

var _ Devices = (*drivers.Devices)(nil)

// Config configures a Source. Logger and Drain may be left out.
type Config struct {
	Binding triggers.Binding // its trigger must be of a line
	Sink    triggers.Sink
	Node    string // the node's name
	Devices Devices
	Logger  *slog.Logger // nil discards
	// Drain is how long Run goes on after its context is done, so that events
	// that the Sink has taken can be settled; 0: 30 s.
	Drain time.Duration
}

// Source hands the edges of one trigger to the node. Its methods are safe for
// concurrent use.
type Source struct {
	cfg     Config
	log     *slog.Logger
	running atomic.Bool

	mu    sync.Mutex
	state string
	err   error
}

// New makes a Source. It touches no device.
func New(cfg Config) (*Source, error) {
	b := cfg.Binding
	switch {
	case b.Trigger.GPIO == nil:
		return nil, fmt.Errorf("trigger %q of function %q is none of a line", b.Trigger.Name, b.Function)
	case cfg.Sink == nil || cfg.Devices == nil || cfg.Node == "":
		return nil, fmt.Errorf("trigger %q of function %q: sink, devices or the node's name is missing", b.Trigger.Name, b.Function)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Drain <= 0 {
		cfg.Drain = 30 * time.Second
	}
	return &Source{
		cfg: cfg, state: StateConnecting,
		log: cfg.Logger.With("component", "gpio", "line", b.Trigger.GPIO.Line, "function", b.Function, "trigger", b.Trigger.Name),
	}, nil
}

// Status tells the state, one of the State constants, and why it is so: the
// last error, or nil once all is well.
func (s *Source) Status() (state string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.err
}

func (s *Source) set(state string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state, s.err = state, err
}

// Run listens and hands events to the Sink until ctx is done. Then it waits up to
// Config.Drain for what the Sink has taken to be settled, and returns nil. It
// runs once.
func (s *Source) Run(ctx context.Context) error {
	if !s.running.CompareAndSwap(false, true) {
		return errors.New("source was run before; make a new one")
	}
	g := s.cfg.Binding.Trigger.GPIO
	feed := &triggers.Feed{Binding: s.cfg.Binding, Sink: s.cfg.Sink, Logger: s.log}
	wait := firstWait
	o := drivers.EdgeOptions{
		Rising: g.Edge != functions.EdgeFalling, Falling: g.Edge != functions.EdgeRising,
		Debounce: g.Debounce, Coalesce: g.Coalesce,
		Begun: func() {
			wait = firstWait
			s.set(StateConnected, nil)
			s.log.Info("listening")
		},
	}
	for ctx.Err() == nil {
		err := s.cfg.Devices.Edges(ctx, g.Line, s.cfg.Binding.Function, o, func(e drivers.Edge) {
			if e.Lost > 0 {
				s.log.Warn("edges lost", "lost", e.Lost, "line_seq", e.Seq)
			}
			feed.Deliver(ctx, Event(s.cfg.Node, g.Line, e))
			if g.Coalesce {
				feed.Idle(ctx) // what comes meanwhile waits in the line's queue, where it becomes one
			}
		})
		if err == nil || ctx.Err() != nil {
			continue
		}
		state := StateOffline
		if errors.Is(err, drivers.ErrUnknown) || errors.Is(err, drivers.ErrShared) {
			state = StateRefused
		}
		s.set(state, err)
		s.log.Warn("no edges", "err", err, "retry_in", wait.String())
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
		wait = min(2*wait, maxWait)
	}
	feed.Drain(s.cfg.Drain)
	s.set(StateStopped, nil)
	return nil
}

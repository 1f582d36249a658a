package sensor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edgefn/edgefn/drivers"
	"github.com/edgefn/edgefn/triggers"
)

// States of a Source, as Status tells them.
const (
	StateConnecting = "connecting" // no reading yet
	StateConnected  = "connected"  // the sensor gives readings
	StateRefused    = "refused"    // the sensor cannot be read like this; tried again with back-off
	StateOffline    = "offline"    // the sensor does not work; tried again with back-off
	StateStopped    = "stopped"    // Run has returned
)

// Waits before a sensor that was refused is tried again.
const (
	firstWait = 500 * time.Millisecond
	maxWait   = time.Minute
)

// Devices are the node's sensors.
type Devices interface {
	// Samples calls f with each sample until ctx is done, and then returns nil.
	Samples(ctx context.Context, sensor string, every time.Duration, f func(drivers.Sample)) error
}

var _ Devices = (*drivers.Devices)(nil)

// Config configures a Source. Logger and Drain may be left out.
type Config struct {
	Binding triggers.Binding // its trigger must be of a sensor
	Sink    triggers.Sink
	Node    string // the node's name
	Devices Devices
	Logger  *slog.Logger // nil discards
	// Drain is how long Run goes on after its context is done, so that events
	// that the Sink has taken can be settled; 0: 30 s.
	Drain time.Duration
}

// Source hands the samples of one trigger to the node. Its methods are safe for
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
	case b.Trigger.Sensor == nil:
		return nil, fmt.Errorf("trigger %q of function %q is none of a sensor", b.Trigger.Name, b.Function)
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
		log: cfg.Logger.With("component", "sensor", "device", b.Trigger.Sensor.Device, "function", b.Function, "trigger", b.Trigger.Name),
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

// Run reads and hands events to the Sink until ctx is done. Then it waits up to
// Config.Drain for what the Sink has taken to be settled, and returns nil. It
// runs once.
func (s *Source) Run(ctx context.Context) error {
	if !s.running.CompareAndSwap(false, true) {
		return errors.New("source was run before; make a new one")
	}
	t := s.cfg.Binding.Trigger.Sensor
	feed := &triggers.Feed{Binding: s.cfg.Binding, Sink: s.cfg.Sink, Logger: s.log}
	f := filter{trigger: *t}
	wait := firstWait
	for ctx.Err() == nil {
		err := s.cfg.Devices.Samples(ctx, t.Device, t.Every, func(sample drivers.Sample) {
			wait = firstWait
			if sample.Kind == drivers.Fault {
				s.set(StateOffline, sample.Err)
			} else {
				s.set(StateConnected, nil)
			}
			if sample, ok := f.pass(sample); ok {
				feed.Deliver(ctx, Event(s.cfg.Node, t.Device, sample))
			}
		})
		if err == nil || ctx.Err() != nil {
			continue
		}
		s.set(StateRefused, err)
		s.log.Warn("no samples", "err", err, "retry_in", wait.String())
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		wait = min(2*wait, maxWait)
	}
	feed.Drain(s.cfg.Drain)
	s.set(StateStopped, nil)
	return nil
}

package gpio

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/edgefn/edgefn/drivers"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/triggers"
)

// lossEvery is how often it is logged that edges are lost. Each event says it
// too.
const lossEvery = time.Minute

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
	Logger  *slog.Logger  // nil discards
	Drain   time.Duration // see triggers.LocalConfig
}

// Source hands the edges of one trigger to the node. Its methods are safe for
// concurrent use.
type Source struct {
	*triggers.Local

	cfg Config
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
	s := &Source{cfg: cfg}
	s.Local = triggers.NewLocal(triggers.LocalConfig{
		Binding: b, Sink: cfg.Sink, Listen: s.listen, Refused: refused, Drain: cfg.Drain,
		Logger: cfg.Logger.With("component", "gpio", "line", b.Trigger.GPIO.Line),
	})
	return s, nil
}

// refused: it is the config, or another listener.
func refused(err error) bool {
	return errors.Is(err, drivers.ErrUnknown) || errors.Is(err, drivers.ErrShared)
}

// listen hands the edges of the line over until ctx is done.
func (s *Source) listen(ctx context.Context, l *triggers.Local) error {
	g := s.cfg.Binding.Trigger.GPIO
	o := drivers.EdgeOptions{
		Rising: g.Edge != functions.EdgeFalling, Falling: g.Edge != functions.EdgeRising,
		Debounce: g.Debounce, Coalesce: g.Coalesce,
		Begun: func() {
			l.Reached(nil)
			l.Logger().Info("listening")
		},
	}
	var lost uint64 // not logged yet
	var logged time.Time
	return s.cfg.Devices.Edges(ctx, g.Line, s.cfg.Binding.Function, o, func(e drivers.Edge) {
		if lost += e.Lost; lost > 0 && time.Since(logged) >= lossEvery {
			l.Logger().Warn("edges lost", "lost", lost, "line_seq", e.Seq)
			lost, logged = 0, time.Now()
		}
		l.Deliver(ctx, Event(s.cfg.Node, g.Line, e))
		if g.Coalesce {
			l.Idle(ctx) // what comes meanwhile waits in the line's queue, where it becomes one
		}
	})
}

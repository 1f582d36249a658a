package triggers

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edgefn/edgefn/functions"
)

// States of a Local, as Status tells them.
const (
	StateConnecting = "connecting" // nothing has come yet
	StateConnected  = "connected"  // the device works
	StateRefused    = "refused"    // the device cannot be used like this; tried again with back-off
	StateOffline    = "offline"    // the device does not work; tried again with back-off
	StateStopped    = "stopped"    // Run has returned
)

// Waits of a Local before its device is tried again.
const (
	localFirst = 500 * time.Millisecond
	localMax   = time.Minute
)

// LocalConfig configures a Local. Logger and Drain may be left out.
type LocalConfig struct {
	Binding Binding
	Sink    Sink
	// Listen calls Reached and Deliver until ctx is done, and then returns nil.
	// After an error it is called again, with back-off.
	Listen func(ctx context.Context, l *Local) error
	// Refused says of an error of Listen that it is not the device's doing.
	Refused func(err error) bool
	Logger  *slog.Logger // nil discards
	// Drain is how long Run goes on after its context is done, so that events
	// that the Sink has taken can be settled; 0: 30 s.
	Drain time.Duration
}

// Local is what the sources have in common whose devices are this machine's:
// one trigger, events that cannot be asked for again, a device that may be
// away. Its methods are safe for concurrent use, except that Listen calls
// Reached and Deliver from one goroutine.
type Local struct {
	cfg     LocalConfig
	feed    Feed
	running atomic.Bool
	wait    time.Duration // before the next try; of the goroutine of Run

	mu    sync.Mutex
	state string
	err   error
}

// NewLocal makes a Local.
func NewLocal(cfg LocalConfig) *Local {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Drain <= 0 {
		cfg.Drain = 30 * time.Second
	}
	cfg.Logger = cfg.Logger.With("function", cfg.Binding.Function, "trigger", cfg.Binding.Trigger.Name)
	return &Local{
		cfg: cfg, state: StateConnecting, wait: localFirst,
		feed: Feed{Binding: cfg.Binding, Sink: cfg.Sink, Logger: cfg.Logger},
	}
}

// Logger says in each record whose trigger it is.
func (l *Local) Logger() *slog.Logger { return l.cfg.Logger }

// Status tells the state, one of the State constants, and why it is so: the
// last error, or nil once all is well.
func (l *Local) Status() (state string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state, l.err
}

func (l *Local) set(state string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state, l.err = state, err
}

// Reached says that the device is listened to, and what is wrong with it; nil:
// it works.
func (l *Local) Reached(err error) {
	l.wait = localFirst
	if err != nil {
		l.set(StateOffline, err)
		return
	}
	l.set(StateConnected, nil)
}

// Deliver hands an event over; see Feed.
func (l *Local) Deliver(ctx context.Context, e functions.Event) { l.feed.Deliver(ctx, e) }

// Idle waits until all that was delivered is settled; see Feed.
func (l *Local) Idle(ctx context.Context) { l.feed.Idle(ctx) }

// Run listens and hands events to the Sink until ctx is done. Then it waits up to
// LocalConfig.Drain for what the Sink has taken to be settled, and returns nil.
// It runs once.
func (l *Local) Run(ctx context.Context) error {
	if !l.running.CompareAndSwap(false, true) {
		return errors.New("source was run before; make a new one")
	}
	for ctx.Err() == nil {
		err := l.cfg.Listen(ctx, l)
		if err == nil || ctx.Err() != nil {
			continue
		}
		state := StateOffline
		if l.cfg.Refused(err) {
			state = StateRefused
		}
		l.set(state, err)
		l.cfg.Logger.Warn("device is not listened to", "err", err, "retry_in", l.wait.String())
		t := time.NewTimer(l.wait)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
		l.wait = min(2*l.wait, localMax)
	}
	l.feed.Drain(l.cfg.Drain)
	l.set(StateStopped, nil)
	return nil
}

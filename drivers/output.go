package drivers

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// output is an output line with those who hold it.
type output struct {
	spec Spec
	log  *slog.Logger

	mu      sync.Mutex
	dev     Output // nil: not open
	holders []*lease
	high    bool // the level that it was told last
	known   bool // and took
	set     time.Time
	err     error // of the last failure
}

// lease is a function's hold of an output.
type lease struct {
	holder               // under output.mu
	turn   chan struct{} // one token: whose command is being carried out; the others wait in order
	gone   chan struct{} // closed when the lease ends, or its command is taken away
}

func newOutput(s Spec, log *slog.Logger) *output {
	return &output{spec: s, log: log.With(keyDevice, s.Name)}
}

// all are the holders. The caller holds mu.
func (o *output) all() []holder {
	all := make([]holder, len(o.holders))
	for i, l := range o.holders {
		all[i] = l.holder
	}
	return all
}

func (o *output) index(function string) int {
	return slices.IndexFunc(o.holders, func(l *lease) bool { return l.function == function })
}

// canHold says whether a function may hold the line.
func (o *output) canHold(function string, priority int) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return admit(o.spec.Name, function, priority, o.all())
}

// hold makes a function a holder. It has been admitted.
func (o *output) hold(function string, priority int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if i := o.index(function); i >= 0 {
		o.holders[i].priority = priority
		if o.holders[i].command != nil {
			o.apply()
		}
		return
	}
	o.holders = append(o.holders, &lease{
		holder: holder{function: function, priority: priority},
		turn:   make(chan struct{}, 1), gone: make(chan struct{}),
	})
}

// drop ends a function's hold.
func (o *output) drop(function string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := o.index(function)
	if i < 0 {
		return
	}
	close(o.holders[i].gone)
	o.holders = slices.Delete(o.holders, i, i+1)
	o.apply()
}

// release takes a function's command away and ends a pulse that it has.
func (o *output) release(function string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := o.index(function)
	if i < 0 {
		return
	}
	l := o.holders[i]
	close(l.gone)
	l.gone = make(chan struct{})
	l.command = nil
	o.apply()
}

// command carries one command of a function out: on for a time, or for good
// where pulse is 0; nil gives the command up. The commands of one function take
// their turn, in the order in which they came; those of another do not wait for
// them, or a higher priority could not stop a pulse.
func (o *output) command(ctx context.Context, closing <-chan struct{}, function string, on *bool, pulse time.Duration) error {
	o.mu.Lock()
	i := o.index(function)
	if i < 0 {
		o.mu.Unlock()
		return fmt.Errorf("%w: function %q does not hold %q", ErrNotHeld, function, o.spec.Name)
	}
	l := o.holders[i]
	gone := l.gone
	o.mu.Unlock()
	taken := fmt.Errorf("%w: the command of function %q on %q was taken away", ErrNotHeld, function, o.spec.Name)
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-gone:
		return taken
	case <-closing:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := o.put(l, gone, on, false); err != nil || pulse == 0 {
		return err
	}
	t := time.NewTimer(pulse)
	defer t.Stop()
	var ended error
	select {
	case <-t.C:
	case <-gone: // and with it the command
		return taken
	case <-closing:
		return ErrClosed // close puts the line to safe
	case <-ctx.Done():
		ended = ctx.Err()
	}
	off := false
	if err := o.put(l, gone, &off, true); err != nil {
		return err
	}
	return ended
}

// put stores a command and lets it count. One that the line does not take is not
// stored, or it would take place later though its caller was told that it had
// failed; but the end of a pulse is.
func (o *output) put(l *lease, gone <-chan struct{}, on *bool, end bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case <-gone:
		return fmt.Errorf("%w: the command of function %q on %q was taken away", ErrNotHeld, l.function, o.spec.Name)
	default:
	}
	if o.dev == nil {
		return ErrClosed
	}
	before := l.command
	l.command = on
	err := o.drive(o.due())
	if err != nil && !end {
		l.command = before
	}
	return err
}

// due is the level that the holders' commands make. The caller holds mu.
func (o *output) due() (high bool) {
	if on, ok := arbitrate(o.all()); ok {
		return o.spec.high(on)
	}
	return o.spec.Safe == High
}

// apply drives the line to what is due, if that is another level than it has. The
// caller holds mu.
func (o *output) apply() {
	high := o.due()
	if o.dev == nil || (o.known && o.high == high) {
		return
	}
	if err := o.drive(high); err != nil {
		o.log.Error("line does not take its level", keyErr, err)
	}
}

// drive drives the line, though it may have the level: the chip may have been
// away. The caller holds mu.
func (o *output) drive(high bool) error {
	err := o.dev.Set(high)
	o.err, o.high, o.known, o.set = err, high, err == nil, time.Now()
	if err != nil {
		return fmt.Errorf("drive line %q: %w", o.spec.Name, err)
	}
	return nil
}

// read returns the level that the line was told: an output that is read back
// gives what was commanded.
func (o *output) read() (bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dev == nil {
		return false, ErrClosed
	}
	if !o.known {
		return false, fmt.Errorf("read line %q: %w", o.spec.Name, o.err)
	}
	return o.spec.on(o.high), nil
}

// open takes the line and gives it its initial level, in one step.
func (o *output) open(d Driver) error {
	high := o.spec.Safe == High
	if o.spec.Initial != "" {
		high = o.spec.Initial == High
	}
	dev, err := d.Output(o.spec, high)
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dev, o.high, o.known, o.set, o.err = dev, high, true, time.Now(), nil
	return nil
}

// close puts the line to safe and lets go of it.
func (o *output) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dev == nil {
		return nil
	}
	err := o.drive(o.spec.Safe == High)
	if e := o.dev.Close(); err == nil {
		err = e
	}
	o.dev = nil
	for _, l := range o.holders {
		l.command = nil
	}
	return err
}

func (o *output) info(i *Info) {
	o.mu.Lock()
	defer o.mu.Unlock()
	i.Holders = shown(o.all())
	if o.known {
		i.Value, i.Time = onOff(o.spec.on(o.high)), o.set
	}
	i.fault(o.err)
}

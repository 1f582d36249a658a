package drivers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// CanListen returns nil if owner may listen to a line with o, or why it may not:
// ErrUnknown, or ErrShared where a listener of another owner wants another
// debounce.
func (d *Devices) CanListen(line, owner string, o EdgeOptions) error {
	l, ok := d.inputs[line]
	if !ok {
		if _, out := d.outputs[line]; out {
			return fmt.Errorf("%w: line %q is an output and has no edges", ErrUnknown, line)
		}
		return d.unknown("line", line)
	}
	if o.Debounce < 0 || (!o.Rising && !o.Falling) {
		return fmt.Errorf("edges of line %q: neither rising nor falling is asked for, or the debounce is negative", line)
	}
	return l.canListen(owner, o)
}

// Edges calls f with the edges of an input, one after the other, until ctx is
// done; then it returns nil. f may block: up to 1024 edges wait, then the oldest
// are dropped, and counted in Lost of the next. The error is one of CanListen's,
// ErrBusy or ErrFault if the line is lost, or ErrClosed. owner is the function's
// name.
func (d *Devices) Edges(ctx context.Context, line, owner string, o EdgeOptions, f func(Edge)) error {
	if err := d.CanListen(line, owner, o); err != nil {
		return err
	}
	if !d.isOpen() {
		return ErrClosed
	}
	return d.inputs[line].listen(ctx, d.closing, owner, o, f)
}

// Samples calls f with readings of a sensor, one at once and then one at each
// multiple of every, until ctx is done; then it returns nil. All who listen share
// the readings. When the sensor fails f is given a Fault, once, and a Recovered
// when it works again; in between it is tried more and more rarely. f may block:
// a newer reading takes the place of one that waits. The error is ErrUnknown or ErrClosed.
func (d *Devices) Samples(ctx context.Context, sensor string, every time.Duration, f func(Sample)) error {
	s, ok := d.sensors[sensor]
	switch {
	case !ok:
		return d.unknown("sensor", sensor)
	case every < s.typ.MinEvery:
		return fmt.Errorf("sensor %q: every %s is faster than a %s converts: use %s or more", sensor, every, s.typ.Name, s.typ.MinEvery)
	case !d.isOpen():
		return ErrClosed
	}
	return s.listen(ctx, d.closing, d.start, every, f)
}

// ReadLine returns the logical level of a line; of an output, what it was told.
func (d *Devices) ReadLine(_ context.Context, line string) (on bool, err error) {
	if l, ok := d.inputs[line]; ok {
		return l.read()
	}
	if l, ok := d.outputs[line]; ok {
		return l.read()
	}
	return false, d.unknown("line", line)
}

// ReadSensor returns a reading that is no older than the sensor's MinEvery. It
// blocks while the sensor converts. The error wraps ErrUnknown, ErrFault,
// ErrClosed or ctx's.
func (d *Devices) ReadSensor(ctx context.Context, sensor string) (Reading, error) {
	s, ok := d.sensors[sensor]
	if !ok {
		return Reading{}, d.unknown("sensor", sensor)
	}
	return s.read(ctx, d.start, s.young)
}

// CanHold returns nil if Hold would do it, or why it would not: ErrUnknown or
// ErrHeld for each line.
func (d *Devices) CanHold(function string, want []Lease) error {
	var faults []error
	for _, w := range want {
		if o, ok := d.outputs[w.Line]; ok {
			faults = append(faults, o.canHold(function, w.Priority))
		} else if _, ok := d.inputs[w.Line]; !ok {
			faults = append(faults, d.unknown("line", w.Line))
		}
	}
	return errors.Join(faults...)
}

// Hold makes a function the holder of the outputs in want and of no others, all
// or, with CanHold's error, none of them. It keeps the commands of those that it
// held before. Inputs in want are passed over: nobody holds them.
func (d *Devices) Hold(function string, want []Lease) error {
	d.lease.Lock()
	defer d.lease.Unlock()
	if err := d.CanHold(function, want); err != nil {
		return err
	}
	for name, o := range d.outputs {
		i := slices.IndexFunc(want, func(w Lease) bool { return w.Line == name })
		if i < 0 {
			o.drop(function)
			continue
		}
		o.hold(function, want[i].Priority)
	}
	return nil
}

// Drop takes all of a function's leases and commands away.
func (d *Devices) Drop(function string) {
	d.lease.Lock()
	defer d.lease.Unlock()
	for _, o := range d.outputs {
		o.drop(function)
	}
}

// Release takes all of a function's commands away and ends its pulses. It
// remains the holder.
func (d *Devices) Release(function string) {
	for _, o := range d.outputs {
		o.release(function)
	}
}

// Set commands an output on or off for a function that holds it, after the
// commands that the function has given before. It blocks until it is done. The
// error wraps ErrUnknown, ErrNotHeld, ErrClosed, what the driver met, or ctx's.
func (d *Devices) Set(ctx context.Context, function, line string, on bool) error {
	return d.command(ctx, function, line, &on, 0)
}

// Pulse commands an output on, and off again after a time. It blocks until then.
// When ctx is done, the line goes off at once and the error is ctx's. Otherwise
// it is as Set.
func (d *Devices) Pulse(ctx context.Context, function, line string, length time.Duration) error {
	if length <= 0 {
		return fmt.Errorf("pulse line %q: %s is no length", line, length)
	}
	on := true
	return d.command(ctx, function, line, &on, length)
}

// Relinquish gives a function's command of an output up, after those that it has
// given before: the line takes the next holder's, or its safe level. The errors
// are those of Set.
func (d *Devices) Relinquish(ctx context.Context, function, line string) error {
	return d.command(ctx, function, line, nil, 0)
}

func (d *Devices) command(ctx context.Context, function, line string, on *bool, pulse time.Duration) error {
	o, ok := d.outputs[line]
	if !ok {
		if _, in := d.inputs[line]; in {
			return fmt.Errorf("%w: line %q is an input and takes no commands", ErrUnknown, line)
		}
		return d.unknown("line", line)
	}
	if !d.isOpen() {
		return ErrClosed
	}
	return o.command(ctx, d.closing, function, on, pulse)
}

// Package sim is the driver of a machine that has no hardware: every line and
// sensor of the config is there, and does what it is told.
package sim

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/edgefn/edgefn/drivers"
)

var _ drivers.Driver = (*Driver)(nil)

// usual is what a sensor reads until it is told otherwise, by the quantity's
// name without its number.
var usual = map[string]float64{"temperature": 21.5, "humidity": 45, "pressure": 101325, "voltage": 1.65}

func usualOf(q drivers.Quantity) float64 { return usual[strings.TrimRight(q.Name, "0123456789")] }

// Driver is a machine in memory. Its methods are safe for concurrent use. A
// device exists once Devices have opened it, and keeps what it was told until
// the Driver is gone.
type Driver struct {
	begun time.Time

	mu      sync.Mutex
	lines   map[string]*line
	sensors map[string]*sensor
}

// New makes a Driver.
func New() *Driver {
	return &Driver{begun: time.Now(), lines: map[string]*line{}, sensors: map[string]*sensor{}}
}

// line is an input or an output. The Driver's mu guards it.
type line struct {
	d     *Driver
	spec  drivers.Spec
	taken bool
	high  bool
	err   error // nil: it works
	watch *watch
}

type watch struct {
	drivers.Watch
	seq uint32
	f   func(drivers.RawEdge, error)
	mu  sync.Mutex // held while f runs; it is called by whoever changes the line
}

type sensor struct {
	d      *Driver
	typ    drivers.SensorType
	values map[drivers.Quantity]float64
	err    error
}

// Find implements drivers.Driver. Names mean what they say.
func (d *Driver) Find(s drivers.Spec) (string, error) { return s.Line, nil }

func (d *Driver) take(s drivers.Spec) (*line, error) {
	l, ok := d.lines[s.Name]
	if !ok {
		l = &line{d: d, high: s.ActiveLow} // off
		d.lines[s.Name] = l
	}
	if l.taken {
		return nil, fmt.Errorf("%w: %q is open", drivers.ErrBusy, s.Name)
	}
	l.spec, l.taken = s, true
	return l, nil
}

// Input implements drivers.Driver. It is off until it is told otherwise.
func (d *Driver) Input(s drivers.Spec) (drivers.Input, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l, err := d.take(s)
	if err != nil {
		return nil, err
	}
	return input{l}, nil
}

// Output implements drivers.Driver.
func (d *Driver) Output(s drivers.Spec, high bool) (drivers.Output, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l, err := d.take(s)
	if err != nil {
		return nil, err
	}
	l.high = high
	return output{l}, nil
}

// Sensor implements drivers.Driver.
func (d *Driver) Sensor(s drivers.Spec) (drivers.Sensor, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	x, ok := d.sensors[s.Name]
	if !ok {
		t, _ := drivers.TypeOf(s)
		x = &sensor{d: d, typ: t, values: map[drivers.Quantity]float64{}}
		for _, q := range t.Quantities {
			x.values[q] = usualOf(q)
		}
		d.sensors[s.Name] = x
	}
	return x, nil
}

// Bus implements drivers.Driver: there is none.
func (d *Driver) Bus(name string) (string, error) {
	return "", fmt.Errorf("%w: no bus %s: the node's hardware is simulated", drivers.ErrUnknown, name)
}

// Discover implements drivers.Driver: there is nothing but what the config names.
func (d *Driver) Discover(context.Context) ([]drivers.Found, error) { return nil, nil }

// Close implements drivers.Driver.
func (d *Driver) Close() error { return nil }

func unknown(name string, there []string) error {
	if len(there) == 0 {
		return fmt.Errorf("%w: %q: there is none", drivers.ErrUnknown, name)
	}
	return fmt.Errorf("%w: %q: near are %s", drivers.ErrUnknown, name, strings.Join(drivers.Near(name, there, 5), ", "))
}

// SetLine puts an input on or off. It returns when its listeners have the edge.
func (d *Driver) SetLine(name string, on bool) error {
	d.mu.Lock()
	l, ok := d.lines[name]
	if !ok {
		defer d.mu.Unlock()
		if x, ok := d.sensors[name]; ok {
			return fmt.Errorf("%q is a sensor: give it a value, such as %s=%v, or fault or ok", name, x.typ.Quantities[0].Name, usualOf(x.typ.Quantities[0]))
		}
		return unknown(name, slices.Sorted(maps.Keys(d.names())))
	}
	if l.spec.Direction == drivers.Out {
		d.mu.Unlock()
		return fmt.Errorf("line %q is an output: only functions command it", name)
	}
	high := on != l.spec.ActiveLow
	changed := l.high != high
	l.high = high
	w := l.watch
	if !changed || w == nil || (high && !w.Rising) || (!high && !w.Falling) {
		d.mu.Unlock()
		return nil
	}
	w.seq++
	now := time.Now()
	e := drivers.RawEdge{Rising: high, Seq: w.seq, Kernel: now.Sub(d.begun), Time: now}
	w.mu.Lock() // before mu is released, so that edges keep their order
	d.mu.Unlock()
	defer w.mu.Unlock()
	if w.f != nil {
		w.f(e, nil)
	}
	return nil
}

// Level returns a line's level: whether its voltage is high.
func (d *Driver) Level(name string) (high bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l, ok := d.lines[name]
	if !ok {
		return false, unknown(name, slices.Sorted(maps.Keys(d.lines)))
	}
	return l.high, nil
}

// SetSensor makes a sensor read a value. key is a quantity's name, with or
// without its unit: temperature, temperature_C.
func (d *Driver) SetSensor(name, key string, value float64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	x, ok := d.sensors[name]
	if !ok {
		if _, ok := d.lines[name]; ok {
			return fmt.Errorf("%q is a line: it can be on or off, fault or ok", name)
		}
		return unknown(name, slices.Sorted(maps.Keys(d.names())))
	}
	var keys []string
	for _, q := range x.typ.Quantities {
		if key == q.Name || key == q.Key() {
			x.values[q] = value
			return nil
		}
		keys = append(keys, q.Name)
	}
	return fmt.Errorf("%w: sensor %q has no %q: it has %s", drivers.ErrUnknown, name, key, strings.Join(keys, ", "))
}

// Fail makes a device fail with an error, which is to wrap drivers.ErrFault; nil
// makes it work again. A line that is watched is lost.
func (d *Driver) Fail(name string, err error) error {
	d.mu.Lock()
	if x, ok := d.sensors[name]; ok {
		defer d.mu.Unlock()
		x.err = err
		return nil
	}
	l, ok := d.lines[name]
	if !ok {
		defer d.mu.Unlock()
		return unknown(name, slices.Sorted(maps.Keys(d.names())))
	}
	l.err = err
	w := l.watch
	if err == nil || w == nil {
		d.mu.Unlock()
		return nil
	}
	l.watch = nil
	w.mu.Lock()
	d.mu.Unlock()
	defer w.mu.Unlock()
	if w.f != nil {
		w.f(drivers.RawEdge{}, err)
		w.f = nil
	}
	return nil
}

func (d *Driver) names() map[string]bool {
	all := map[string]bool{}
	for n := range d.lines {
		all[n] = true
	}
	for n := range d.sensors {
		all[n] = true
	}
	return all
}

type input struct{ *line }

func (i input) Read() (bool, error) {
	i.d.mu.Lock()
	defer i.d.mu.Unlock()
	return i.high, i.err
}

func (i input) Blind() bool { return false }

func (i input) Watch(want drivers.Watch, f func(drivers.RawEdge, error)) (func(), error) {
	i.d.mu.Lock()
	defer i.d.mu.Unlock()
	if i.err != nil {
		return nil, i.err
	}
	w := &watch{Watch: want, f: f}
	i.watch = w
	return func() {
		i.d.mu.Lock()
		if i.watch == w {
			i.watch = nil
		}
		i.d.mu.Unlock()
		w.mu.Lock()
		defer w.mu.Unlock()
		w.f = nil
	}, nil
}

func (i input) Close() error { return i.free() }

type output struct{ *line }

func (o output) Set(high bool) error {
	o.d.mu.Lock()
	defer o.d.mu.Unlock()
	if o.err != nil {
		return o.err
	}
	o.high = high
	return nil
}

func (o output) Close() error { return o.free() }

func (l *line) free() error {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	l.taken = false
	return nil
}

func (s *sensor) Read() (map[drivers.Quantity]float64, error) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	if s.err != nil {
		return nil, s.err
	}
	return maps.Clone(s.values), nil
}

func (s *sensor) Close() error { return nil }

package drivers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// machine is a driver whose hardware the test moves by hand.
type machine struct {
	mu      sync.Mutex
	places  map[string]string // by line; itself where it is not there
	busy    map[string]string // who has a line
	missing map[string]bool   // buses
	inputs  map[string]*fakeInput
	outputs map[string]*fakeOutput
	sensors map[string]*fakeSensor
	taken   map[string]bool
	opens   int // of anything
	finds   int
	closed  bool
}

func newMachine() *machine {
	return &machine{
		places: map[string]string{}, busy: map[string]string{}, missing: map[string]bool{}, taken: map[string]bool{},
		inputs: map[string]*fakeInput{}, outputs: map[string]*fakeOutput{}, sensors: map[string]*fakeSensor{},
	}
}

func (m *machine) Find(s Spec) (string, error) {
	m.finds++
	if p, ok := m.places[s.Line]; ok {
		if p == "" {
			return "", fmt.Errorf("%w: no line is called %q", ErrUnknown, s.Line)
		}
		return p, nil
	}
	return s.Line, nil
}

func (m *machine) take(s Spec) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.opens++
	if by, ok := m.busy[s.Line]; ok {
		return fmt.Errorf("%w: line %s is used by %q", ErrBusy, s.Line, by)
	}
	if m.taken[s.Line] {
		return fmt.Errorf("%w: by ourselves", ErrBusy)
	}
	m.taken[s.Line] = true
	return nil
}

func (m *machine) free(s Spec) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.taken[s.Line] = false
}

func (m *machine) Input(s Spec) (Input, error) {
	if err := m.take(s); err != nil {
		return nil, err
	}
	i := &fakeInput{m: m, spec: s}
	m.inputs[s.Name] = i
	return i, nil
}

func (m *machine) Output(s Spec, high bool) (Output, error) {
	if err := m.take(s); err != nil {
		return nil, err
	}
	o := &fakeOutput{m: m, spec: s}
	_ = o.Set(high)
	m.outputs[s.Name] = o
	return o, nil
}

func (m *machine) Sensor(s Spec) (Sensor, error) {
	m.opens++
	if m.missing[s.Bus] {
		return nil, fmt.Errorf("%w: no bus %s", ErrUnknown, s.Bus)
	}
	x := &fakeSensor{values: map[Quantity]float64{}}
	t, _ := TypeOf(s)
	for _, q := range t.Quantities {
		x.values[q] = max(1, t.ranges[base(q.Name)].low)
	}
	m.sensors[s.Name] = x
	return x, nil
}

func (m *machine) Bus(name string) (string, error) {
	if m.missing[name] {
		return "", fmt.Errorf("%w: no bus %s", ErrUnknown, name)
	}
	return "/dev/" + name, nil
}

func (m *machine) Discover(context.Context) ([]Found, error) {
	return []Found{
		{Kind: KindLine, Name: "GPIO17", At: "gpiochip:x/17"},
		{Kind: KindLine, Name: "GPIO18", At: "gpiochip:x/18"},
		{Kind: string(I2C), Name: "i2c-1"},
		{Kind: string(OneWire), Name: "28-000000000001"},
	}, nil
}

func (m *machine) Close() error { m.closed = true; return nil }

type fakeInput struct {
	m    *machine
	spec Spec

	mu      sync.Mutex
	high    bool
	blind   bool
	watch   Watch
	watches int
	f       func(RawEdge, error)
	seq     uint32
	refuse  error
	both    error      // refuses a watch of both directions
	call    sync.Mutex // held while f runs
}

func (i *fakeInput) Read() (bool, error) { i.mu.Lock(); defer i.mu.Unlock(); return i.high, nil }
func (i *fakeInput) Blind() bool         { return i.blind }
func (i *fakeInput) Close() error        { i.m.free(i.spec); return nil }

func (i *fakeInput) Watch(w Watch, f func(RawEdge, error)) (func(), error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.refuse != nil {
		return nil, i.refuse
	}
	if i.both != nil && w.Rising && w.Falling {
		return nil, i.both
	}
	if i.f != nil {
		panic("watched twice")
	}
	i.watch, i.f, i.seq = w, f, 0
	i.watches++
	return func() {
		i.call.Lock() // f has returned
		defer i.call.Unlock()
		i.mu.Lock()
		defer i.mu.Unlock()
		i.f, i.watch = nil, Watch{}
	}, nil
}

// edge moves the line, after the kernel has lost some edges.
func (i *fakeInput) edge(rising bool, lost uint32) {
	i.call.Lock()
	defer i.call.Unlock()
	i.mu.Lock()
	i.high = rising
	f := i.f
	if f == nil || (rising && !i.watch.Rising) || (!rising && !i.watch.Falling) {
		i.mu.Unlock()
		return
	}
	i.seq += 1 + lost
	e := RawEdge{Rising: rising, Seq: i.seq, Time: time.Now(), Kernel: time.Duration(i.seq)}
	if i.blind {
		e.Seq = 0
	}
	i.mu.Unlock()
	f(e, nil)
}

// lose takes the line away.
func (i *fakeInput) lose(err error) {
	i.call.Lock()
	defer i.call.Unlock()
	i.mu.Lock()
	f := i.f
	i.mu.Unlock()
	f(RawEdge{}, err)
}

type fakeOutput struct {
	m      *machine
	spec   Spec
	mu     sync.Mutex
	levels []bool // that it was told
	err    error
	closed bool
}

func (o *fakeOutput) Set(high bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return o.err
	}
	o.levels = append(o.levels, high)
	return nil
}

func (o *fakeOutput) Close() error {
	o.m.free(o.spec)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	return nil
}

func (o *fakeOutput) told() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	b := make([]byte, len(o.levels))
	for i, l := range o.levels {
		b[i] = "LH"[map[bool]int{false: 0, true: 1}[l]]
	}
	return string(b)
}

type fakeSensor struct {
	mu     sync.Mutex
	values map[Quantity]float64
	err    error
	flaps  bool // it fails twice, works once, and so on
	takes  time.Duration
	reads  []time.Time
	closed bool
}

func (x *fakeSensor) Read() (map[Quantity]float64, error) {
	x.mu.Lock()
	x.reads = append(x.reads, time.Now())
	values, err, takes := maps.Clone(x.values), x.err, x.takes
	if x.flaps && len(x.reads)%3 != 0 {
		err = errors.New("a loose wire")
	}
	x.mu.Unlock()
	time.Sleep(takes)
	if err != nil {
		return nil, err
	}
	return values, nil
}

func (x *fakeSensor) Close() error { x.closed = true; return nil }

func (x *fakeSensor) fail(err error) { x.mu.Lock(); x.err = err; x.mu.Unlock() }

func (x *fakeSensor) count() int { x.mu.Lock(); defer x.mu.Unlock(); return len(x.reads) }

func (x *fakeSensor) times() []time.Time {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.reads)
}

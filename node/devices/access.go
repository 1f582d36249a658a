package devices

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/edgefn/edgefn/drivers"
	"github.com/edgefn/edgefn/functions"
)

// Hardware is the lines, sensors and buses of a node: *drivers.Devices. A
// function's name stands for it where lines are held.
type Hardware interface {
	// Open opens every device, or says everything that keeps it from that.
	Open(ctx context.Context) error
	// Run looks after them until ctx is done; then every output goes to its safe
	// value.
	Run(ctx context.Context) error

	Line(name string) (drivers.Spec, bool)
	Sensor(name string) (drivers.SensorType, bool)
	// Bus returns the device file of a bus that a function may be given.
	Bus(name string) (path string, err error)

	// CanListen says whether a function may listen to a line beside others.
	CanListen(line, function string, o drivers.EdgeOptions) error
	Edges(ctx context.Context, line, function string, o drivers.EdgeOptions, f func(drivers.Edge)) error
	Samples(ctx context.Context, sensor string, every time.Duration, f func(drivers.Sample)) error
	ReadLine(ctx context.Context, line string) (on bool, err error)
	ReadSensor(ctx context.Context, sensor string) (drivers.Reading, error)

	// Hold gives a function the outputs that it wants, and takes from it those
	// that it wants no more. CanHold says whether that would succeed.
	Hold(function string, want []drivers.Lease) error
	CanHold(function string, want []drivers.Lease) error
	// Drop takes all outputs from a function, Release only what it commands.
	Drop(function string)
	Release(function string)
	// Set, Pulse and Relinquish take place in the order of their calls for one
	// line, and return when they have.
	Set(ctx context.Context, function, line string, on bool) error
	Pulse(ctx context.Context, function, line string, d time.Duration) error
	Relinquish(ctx context.Context, function, line string) error

	List() []drivers.Info
	Discover(ctx context.Context) ([]drivers.Found, error)
	// Simulate changes what a simulated device says: on, off, QUANTITY=VALUE,
	// fault or ok.
	Simulate(name, what string) error
}

// Access gives functions their devices, and carries out what they command.
type Access struct{ hw Hardware }

// New makes the access to devices.
func New(hw Hardware) *Access { return &Access{hw} }

// leases are the outputs that a function wants to hold.
func (a *Access) leases(fn *functions.Function) []drivers.Lease {
	var out []drivers.Lease
	for _, g := range fn.Grants.Lines {
		if s, ok := a.hw.Line(g.Line); ok && s.Direction == drivers.Out {
			out = append(out, drivers.Lease{Line: g.Line, Priority: g.Priority})
		}
	}
	return out
}

// Holds reports whether a function wants outputs.
func (a *Access) Holds(fn *functions.Function) bool { return len(a.leases(fn)) > 0 }

// Hold gives a function its outputs, and takes from it those that it wants no
// more. deployed are all functions of the node.
func (a *Access) Hold(fn *functions.Function, deployed []*functions.Function) error {
	if faults := a.Faults(fn, deployed); len(faults) > 0 {
		return errors.New(faults[0].String())
	}
	if err := a.hw.Hold(fn.Name, a.leases(fn)); err != nil {
		return fmt.Errorf("grants.lines: %w", err)
	}
	return nil
}

// Drop takes all outputs from a function.
func (a *Access) Drop(function string) { a.hw.Drop(function) }

// Release takes from a function what it commands; it may command again.
func (a *Access) Release(function string) { a.hw.Release(function) }

// Faults says everything about devices that keeps the node from serving a
// function beside those that are deployed.
func (a *Access) Faults(fn *functions.Function, deployed []*functions.Function) []functions.Fault {
	var faults []functions.Fault
	add := func(field, hint, format string, args ...any) {
		faults = append(faults, functions.Fault{Field: field, Message: fmt.Sprintf(format, args...), Hint: hint})
	}
	for i := range fn.Triggers {
		field := fmt.Sprintf("triggers[%d].", i)
		switch t := &fn.Triggers[i]; {
		case t.GPIO != nil:
			a.checkGPIO(fn.Name, deployed, t.GPIO, func(key, hint, format string, args ...any) { add(field+"gpio."+key, hint, format, args...) })
		case t.Sensor != nil:
			a.checkSensor(t.Sensor, func(key, hint, format string, args ...any) { add(field+"sensor."+key, hint, format, args...) })
		}
	}
	for i, g := range fn.Grants.Lines {
		field := fmt.Sprintf("grants.lines[%d]", i)
		s, ok := a.hw.Line(g.Line)
		switch {
		case !ok:
			a.addUnknown(add, field, "line", g.Line)
		case s.Direction != drivers.Out && g.Priority != 0:
			add(field+".priority", "remove it", "%q is an input: priorities are of those who drive an output", g.Line)
		}
	}
	for i, name := range fn.Grants.Sensors {
		if _, ok := a.hw.Sensor(name); !ok {
			a.addUnknown(add, fmt.Sprintf("grants.sensors[%d]", i), "sensor", name)
		}
	}
	for i, name := range fn.Grants.Buses {
		if _, err := a.hw.Bus(name); err != nil {
			add(fmt.Sprintf("grants.buses[%d]", i), "", "%v", err)
		}
	}
	for _, l := range a.leases(fn) {
		if err := a.hw.CanHold(fn.Name, []drivers.Lease{l}); err != nil {
			i := slices.IndexFunc(fn.Grants.Lines, func(g functions.LineGrant) bool { return g.Line == l.Line })
			add(fmt.Sprintf("grants.lines[%d]", i), fmt.Sprintf("to share it, each writes {line: %s, priority: N} with a number of its own", l.Line), "%v", err)
		}
	}
	return faults
}

// faultOf adds a fault of one key.
type faultOf func(key, hint, format string, args ...any)

func (a *Access) checkGPIO(function string, deployed []*functions.Function, g *functions.GPIOTrigger, add faultOf) {
	s, ok := a.hw.Line(g.Line)
	switch {
	case !ok:
		a.addUnknown(add, "line", "line", g.Line)
		return
	case s.Direction == drivers.Out:
		add("line", "name an input", "%q is an output: its edges are made by functions", g.Line)
		return
	}
	// A function that is deployed listens also while its source is not up.
	for _, other := range deployed {
		if other.Name == function {
			continue
		}
		for _, t := range other.Triggers {
			if t.GPIO != nil && t.GPIO.Line == g.Line && t.GPIO.Debounce != g.Debounce {
				add("debounce", "use the same, or remove that function to change it", "%v, but function %q has %q debounced for %v", g.Debounce, other.Name, g.Line, t.GPIO.Debounce)
				return
			}
		}
	}
}

func (a *Access) checkSensor(s *functions.SensorTrigger, add faultOf) {
	typ, ok := a.hw.Sensor(s.Device)
	if !ok {
		a.addUnknown(add, "device", "sensor", s.Device)
		return
	}
	if s.Every < typ.MinEvery {
		add("every", fmt.Sprintf("read it every %v or less often", typ.MinEvery), "%v is faster than %q, a %s, converts", s.Every, s.Device, typ.Name)
	}
	var names []string
	for _, q := range typ.Quantities {
		names = append(names, q.Name)
	}
	for q := range s.Change {
		if !slices.Contains(names, q) {
			add("change."+q, fmt.Sprintf("it measures %s", strings.Join(names, ", ")), "%q, a %s, does not measure %q", s.Device, typ.Name, q)
		}
	}
}

// addUnknown adds that the node has no device of a kind by a name, and says
// which ones it has.
func (a *Access) addUnknown(add faultOf, field, kind, name string) {
	var names []string
	for _, i := range a.hw.List() {
		switch {
		case i.Kind == kind:
			names = append(names, i.Name)
		case i.Name == name:
			add(field, fmt.Sprintf("functions are granted it under %ss: and triggered by it with %s:", i.Kind, triggerOf[i.Kind]), "%q is no %s but a %s", name, kind, i.Kind)
			return
		}
	}
	hint := "name it under devices: in the node's config"
	if len(names) > 0 {
		hint += ", where there are " + strings.Join(names, ", ")
	}
	add(field, hint, "this node has no %s %q", kind, name)
}

// triggerOf is the trigger that a kind of device is for.
var triggerOf = map[string]string{"line": "gpio", "sensor": "sensor"}

// BusPaths are the device files that a function's sandbox gets.
func (a *Access) BusPaths(fn *functions.Function) ([]string, error) {
	var out []string
	for _, name := range fn.Grants.Buses {
		path, err := a.hw.Bus(name)
		if err != nil {
			return nil, fmt.Errorf("grants.buses: %w", err)
		}
		out = append(out, path)
	}
	return out, nil
}

// Drive has one command of a line take place and returns when it has.
func (a *Access) Drive(ctx context.Context, function string, e functions.Effect) error {
	switch e := e.(type) {
	case functions.SetLine:
		return a.hw.Set(ctx, function, e.Line, e.On)
	case functions.PulseLine:
		return a.hw.Pulse(ctx, function, e.Line, e.For)
	case functions.ReleaseLine:
		return a.hw.Relinquish(ctx, function, e.Line)
	}
	return fmt.Errorf("%T is no command of a line", e)
}

// Gone reports whether a command that Drive returned an error for is to be let
// go: the function does not hold the line any more, or there is no such output.
// A chip that is away is ErrUnknown too, and comes back: that is no reason.
func (a *Access) Gone(e functions.Effect, err error) bool {
	return errors.Is(err, drivers.ErrNotHeld) || !a.IsOutput(functions.LineOf(e))
}

// IsOutput reports whether a line is one that can be commanded.
func (a *Access) IsOutput(line string) bool {
	s, ok := a.hw.Line(line)
	return ok && s.Direction == drivers.Out
}

// ReadLine returns the level of a line.
func (a *Access) ReadLine(ctx context.Context, line string) (on bool, err error) {
	return a.hw.ReadLine(ctx, line)
}

// ReadSensor returns a reading in JSON.
func (a *Access) ReadSensor(ctx context.Context, sensor string) ([]byte, error) {
	r, err := a.hw.ReadSensor(ctx, sensor)
	if err != nil {
		return nil, err
	}
	values := make(map[string]float64, len(r.Values))
	for q, v := range r.Values {
		values[q.Key()] = v
	}
	b, err := json.Marshal(values)
	if err != nil {
		return nil, fmt.Errorf("read sensor %q: %w", sensor, err)
	}
	return b, nil
}

// Listeners are the names of the functions that a device triggers.
func Listeners(device string, deployed []*functions.Function) []string {
	out := []string{}
	for _, fn := range deployed {
		if slices.ContainsFunc(fn.Triggers, func(t functions.Trigger) bool {
			return t.GPIO != nil && t.GPIO.Line == device || t.Sensor != nil && t.Sensor.Device == device
		}) {
			out = append(out, fn.Name)
		}
	}
	return out
}

package node

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
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/settle"
	"github.com/edgefn/edgefn/node/settle/outbox"
)

// Devices are the lines, sensors and buses of a node: *drivers.Devices. A
// function's name stands for it where lines are held.
type Devices interface {
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

// lookAfterDevices runs the devices until ctx is done. What they meet then is
// that an output may not be safe.
func (n *Node) lookAfterDevices(ctx context.Context) {
	if err := n.devices.Run(ctx); err != nil {
		n.log.Error("devices did not close well, an output may not have its safe value", logErr, err)
	}
}

// leases are the outputs that a function wants to hold.
func (n *Node) leases(fn *functions.Function) []drivers.Lease {
	var out []drivers.Lease
	for _, g := range fn.Grants.Lines {
		if s, ok := n.devices.Line(g.Line); ok && s.Direction == drivers.Out {
			out = append(out, drivers.Lease{Line: g.Line, Priority: g.Priority})
		}
	}
	return out
}

// hold gives a function its outputs.
func (n *Node) hold(fn *functions.Function) error {
	if faults := n.deviceFaults(fn); len(faults) > 0 {
		return errors.New(faults[0].String())
	}
	if err := n.devices.Hold(fn.Name, n.leases(fn)); err != nil {
		return fmt.Errorf("grants.lines: %w", err)
	}
	return nil
}

// unhold gives a function's outputs back to the version that served before; d
// is nil if there was none.
func (n *Node) unhold(d *deployment, name string) {
	if d == nil {
		n.devices.Drop(name)
		return
	}
	if err := n.hold(d.svc.Spec()); err != nil {
		n.log.Error("function does not get its lines back", logFunction, name, logErr, err)
	}
}

// deviceFaults says everything about devices that keeps this node from serving
// a function.
func (n *Node) deviceFaults(fn *functions.Function) []functions.Fault {
	var faults []functions.Fault
	add := func(field, hint, format string, args ...any) {
		faults = append(faults, functions.Fault{Field: field, Message: fmt.Sprintf(format, args...), Hint: hint})
	}
	for i := range fn.Triggers {
		field := fmt.Sprintf("triggers[%d].", i)
		switch t := &fn.Triggers[i]; {
		case t.GPIO != nil:
			n.checkGPIO(fn.Name, t.GPIO, func(key, hint, format string, args ...any) { add(field+"gpio."+key, hint, format, args...) })
		case t.Sensor != nil:
			n.checkSensor(t.Sensor, func(key, hint, format string, args ...any) { add(field+"sensor."+key, hint, format, args...) })
		}
	}
	for i, g := range fn.Grants.Lines {
		field := fmt.Sprintf("grants.lines[%d]", i)
		s, ok := n.devices.Line(g.Line)
		switch {
		case !ok:
			n.addUnknown(add, field, "line", g.Line)
		case s.Direction != drivers.Out && g.Priority != 0:
			add(field+".priority", "remove it", "%q is an input: priorities are of those who drive an output", g.Line)
		}
	}
	for i, name := range fn.Grants.Sensors {
		if _, ok := n.devices.Sensor(name); !ok {
			n.addUnknown(add, fmt.Sprintf("grants.sensors[%d]", i), "sensor", name)
		}
	}
	for i, name := range fn.Grants.Buses {
		if _, err := n.devices.Bus(name); err != nil {
			add(fmt.Sprintf("grants.buses[%d]", i), "", "%v", err)
		}
	}
	for _, l := range n.leases(fn) {
		if err := n.devices.CanHold(fn.Name, []drivers.Lease{l}); err != nil {
			i := slices.IndexFunc(fn.Grants.Lines, func(g functions.LineGrant) bool { return g.Line == l.Line })
			add(fmt.Sprintf("grants.lines[%d]", i), fmt.Sprintf("to share it, each writes {line: %s, priority: N} with a number of its own", l.Line), "%v", err)
		}
	}
	return faults
}

// faultOf adds a fault of one key.
type faultOf func(key, hint, format string, args ...any)

func (n *Node) checkGPIO(function string, g *functions.GPIOTrigger, add faultOf) {
	s, ok := n.devices.Line(g.Line)
	switch {
	case !ok:
		n.addUnknown(add, "line", "line", g.Line)
		return
	case s.Direction == drivers.Out:
		add("line", "name an input", "%q is an output: its edges are made by functions", g.Line)
		return
	}
	// A function that is deployed listens also while its source is not up.
	for _, d := range n.deployments() {
		if d.name == function {
			continue
		}
		for _, t := range d.svc.Spec().Triggers {
			if t.GPIO != nil && t.GPIO.Line == g.Line && t.GPIO.Debounce != g.Debounce {
				add("debounce", "use the same, or remove that function to change it", "%v, but function %q has %q debounced for %v", g.Debounce, d.name, g.Line, t.GPIO.Debounce)
				return
			}
		}
	}
}

func (n *Node) checkSensor(s *functions.SensorTrigger, add faultOf) {
	typ, ok := n.devices.Sensor(s.Device)
	if !ok {
		n.addUnknown(add, "device", "sensor", s.Device)
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
func (n *Node) addUnknown(add faultOf, field, kind, name string) {
	var names []string
	for _, i := range n.devices.List() {
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

// busPaths are the device files that a function's sandbox gets.
func (n *Node) busPaths(fn *functions.Function) ([]string, error) {
	var out []string
	for _, name := range fn.Grants.Buses {
		path, err := n.devices.Bus(name)
		if err != nil {
			return nil, fmt.Errorf("grants.buses: %w", err)
		}
		out = append(out, path)
	}
	return out, nil
}

// actuate has one command of a line take place. It returns outbox.ErrGone where the
// function does not hold the line any more.
func (n *Node) actuate(ctx context.Context, function string, e functions.Effect) (err error) {
	switch e := e.(type) {
	case functions.SetLine:
		err = n.devices.Set(ctx, function, e.Line, e.On)
	case functions.PulseLine:
		err = n.devices.Pulse(ctx, function, e.Line, e.For)
	case functions.ReleaseLine:
		err = n.devices.Relinquish(ctx, function, e.Line)
	default:
		err = fmt.Errorf("%T is no command of a line", e)
	}
	// A chip that is away is ErrUnknown too, and comes back: that is no reason to
	// let a command go.
	if line := functions.LineOf(e); errors.Is(err, drivers.ErrNotHeld) || (err != nil && !n.isOutput(line)) {
		return goneError{err}
	}
	return err
}

// goneError is outbox.ErrGone in the words of the devices.
type goneError struct{ error }

func (e goneError) Is(target error) bool { return target == outbox.ErrGone }
func (e goneError) Unwrap() error        { return e.error }

// loseLines takes from a function what it commands, since it fails again and
// again.
func (n *Node) loseLines(function string) {
	d, ok := n.lookup(function)
	if !ok || len(n.leases(d.svc.Spec())) == 0 {
		return
	}
	n.settler.Outbox.Forsake(function) // first, or they would follow
	n.devices.Release(function)
	text := fmt.Sprintf("failed %d times in a row: its lines go to their safe values", settle.MaxFailures)
	n.log.Warn("function keeps failing, its lines go to their safe values", logFunction, function)
	n.noteLine(function, "warning", text)
}

// noteLine writes a line into a function's log.
func (n *Node) noteLine(function, level, text string) {
	if d, ok := n.lookup(function); ok {
		d.svc.Note(level, "", text)
	}
}

// isOutput reports whether a line is one that can be commanded.
func (n *Node) isOutput(line string) bool {
	s, ok := n.devices.Line(line)
	return ok && s.Direction == drivers.Out
}

// readSensor returns a reading in JSON.
func (n *Node) readSensor(ctx context.Context, sensor string) ([]byte, error) {
	r, err := n.devices.ReadSensor(ctx, sensor)
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

// Devices implements api.Backend.
func (n *Node) Devices(ctx context.Context) (api.Devices, error) {
	out := api.Devices{Devices: []api.Device{}, Found: []api.FoundDevice{}}
	for _, i := range n.devices.List() {
		d := api.Device{
			Name: i.Name, Kind: i.Kind, What: i.What, Where: i.Where, State: i.State,
			Value: i.Value, Time: i.Time, Error: i.Error, Lost: i.Lost, Holders: []api.Holder{},
		}
		for _, h := range i.Holders {
			d.Holders = append(d.Holders, api.Holder(h))
		}
		d.Listeners = n.listeners(i.Name)
		out.Devices = append(out.Devices, d)
	}
	found, err := n.devices.Discover(ctx)
	if err != nil {
		out.Unseen = err.Error()
	}
	for _, f := range found {
		out.Found = append(out.Found, api.FoundDevice{Kind: f.Kind, Name: f.Name, What: f.What, UsedBy: f.UsedBy, Config: f.Config, Device: f.Device})
	}
	return out, nil
}

// listeners are the functions that a device triggers.
func (n *Node) listeners(device string) []string {
	out := []string{}
	for _, d := range n.deployments() {
		if slices.ContainsFunc(d.svc.Spec().Triggers, func(t functions.Trigger) bool {
			return t.GPIO != nil && t.GPIO.Line == device || t.Sensor != nil && t.Sensor.Device == device
		}) {
			out = append(out, d.name)
		}
	}
	return out
}

// Simulate implements api.Backend.
func (n *Node) Simulate(_ context.Context, name, what string) error {
	err := n.devices.Simulate(name, what)
	switch {
	case errors.Is(err, drivers.ErrUnknown):
		return fmt.Errorf("%w: %w", api.ErrNotFound, err)
	case err != nil:
		return fmt.Errorf("%w: %w", api.ErrInvalid, err)
	}
	return nil
}

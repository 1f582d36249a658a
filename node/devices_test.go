package node_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/drivers"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/node"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/devices"
)

// hardwareConfig has simulated devices.
func (w *world) hardwareConfig() node.Config {
	c := w.config()
	c.Hardware = node.HardwareSim
	c.Devices = []drivers.Spec{
		{Name: "door", Where: "gate.yaml:2", Line: "GPIO17"},
		{Name: "relay", Where: "gate.yaml:3", Line: "GPIO27", Direction: drivers.Out, Safe: drivers.Low},
		{Name: "greenhouse", Where: "gate.yaml:4", Sensor: "bme280", Bus: "i2c-1"},
	}
	return c
}

func device(t *testing.T, n *node.Node, name string) api.Device {
	t.Helper()
	d, err := n.Devices(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range d.Devices {
		if i.Name == name {
			return i
		}
	}
	t.Fatalf("no device %q in %+v", name, d)
	return api.Device{}
}

// A deploy that finds its line taken by one that was faster is told so as any.
func TestAFasterDeployTakesTheLine(t *testing.T) {
	w := newWorld(t)
	w.handle("drive", drive)
	n, _ := w.run(w.hardwareConfig())
	_, err := n.Deploy(t.Context(), image(t, driving("slow")), api.DeployOptions{}, func(p api.Progress) {
		if p.Step == "activate" {
			deploy(t, n, driving("fast"))
		}
	})
	wantError(t, err, api.ErrRefused, `held by function "fast"`)
	if faults := api.Faults(err); len(faults) != 1 || faults[0].Field != "grants.lines[0]" {
		t.Errorf("faults: %+v", faults)
	}
	if got := device(t, n, "relay").Holders; len(got) != 1 || got[0].Function != "fast" {
		t.Errorf("holders: %+v", got)
	}
}

func TestLeasesAcrossDeploysAndRestarts(t *testing.T) {
	w := newWorld(t)
	w.handle("drive", drive)
	n, stop := w.run(w.hardwareConfig())
	deploy(t, n, driving("lamp"))
	wantSettled(t, send(t, n, "lamp", "lamp/a", "", "on"))
	// A new version goes on with what the old one commands.
	f := driving("lamp")
	f.Timeout++
	deploy(t, n, f)
	if got := device(t, n, "relay").Value; got != "on" {
		t.Errorf("relay is %s after a new version", got)
	}
	refused := func(n *node.Node) {
		t.Helper()
		_, err := n.Deploy(t.Context(), image(t, driving("other")), api.DeployOptions{}, func(api.Progress) {})
		wantError(t, err, api.ErrRefused, `grants.lines[0]`, `held by function "lamp"`)
		if faults := api.Faults(err); len(faults) != 1 || faults[0].Field != "grants.lines[0]" {
			t.Errorf("faults: %+v", faults)
		}
	}
	refused(n)
	// One that does not want the line any more commands nothing.
	f.Grants.Lines = nil
	deploy(t, n, f)
	wantRelay(t, n, "off")
	deploy(t, n, driving("other"))
	if _, err := n.Deploy(t.Context(), image(t, driving("lamp")), api.DeployOptions{}, func(api.Progress) {}); err == nil {
		t.Error("two functions hold one line")
	}
	if err := n.Remove(t.Context(), "other", api.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	deploy(t, n, driving("lamp"))
	stop()
	n, stop = w.run(w.hardwareConfig())
	refused(n)
	// What the config names no more keeps its function from serving, and says so.
	cfg := w.hardwareConfig()
	cfg.Devices = cfg.Devices[:1]
	stop()
	n, _ = w.run(cfg)
	eventually(t, "it fails", func() bool {
		d, err := n.Describe(t.Context(), "lamp")
		return err == nil && d.State == "failing" && strings.Contains(d.Error, `this node has no line "relay"`)
	})
}

// A version that is tried again and again does not take back the lines of the
// one that replaces it.
func TestLeasesOfAVersionThatReplacesAFailingOne(t *testing.T) {
	w := newWorld(t)
	w.handle("drive", drive)
	n, stop := w.run(w.hardwareConfig())
	f := driving("lamp")
	f.Handler, f.Grants = []string{"lost"}, functions.Grants{}
	w.handle("lost", drive)
	deploy(t, n, f)
	stop()
	w.handle("lost", nil)
	n, _ = w.run(w.hardwareConfig())
	eventually(t, "it fails", func() bool { d, err := n.Describe(t.Context(), "lamp"); return err == nil && d.State == "failing" })
	w.st.set(func(_ []store.Guard, ops []store.Op) error {
		if slices.ContainsFunc(ops, func(op store.Op) bool { return strings.Contains(op.Key, "/versions/lamp/") }) {
			time.Sleep(2 * time.Second) // longer than until the next try of the old one
		}
		return nil
	}, nil)
	deploy(t, n, driving("lamp"))
	w.st.set(nil, nil)
	wantSettled(t, send(t, n, "lamp", "lamp/a", "", "on"))
	wantRelay(t, n, "on")
}

// halfBlind are devices beside which not all can be seen.
type halfBlind struct{ devices.Hardware }

func (halfBlind) Discover(context.Context) ([]drivers.Found, error) {
	return []drivers.Found{{Kind: "i2c", Name: "i2c-1"}}, errors.New("GPIO chip gpiochip3: permission denied")
}

func TestDevicesAreListedThoughNotAllCanBeSeen(t *testing.T) {
	w := newWorld(t)
	w.around = func(d devices.Hardware) devices.Hardware { return halfBlind{d} }
	n, _ := w.run(w.hardwareConfig())
	d, err := n.Devices(t.Context())
	if err != nil || len(d.Devices) != 3 || len(d.Found) != 1 || d.Unseen != "GPIO chip gpiochip3: permission denied" {
		t.Errorf("got %+v, %v", d, err)
	}
}

// A fault in the config keeps no output from being safe but its own.
func TestSafeOfAConfigWithFaults(t *testing.T) {
	cfg := node.Defaults()
	cfg.Hardware = node.HardwareSim
	cfg.Devices = []drivers.Spec{
		{Name: "relay", Where: "c.yaml:2", Line: "GPIO27", Direction: drivers.Out, Safe: drivers.Low},
		{Name: "lamp", Where: "c.yaml:3", Line: "GPIO22", Direction: drivers.Out},
		{Name: "attic", Where: "c.yaml:4", Sensor: "bme281", Bus: "i2c-1"},
	}
	names, err := node.Safe(t.Context(), &cfg)
	if !cmp.Equal(names, []string{"relay"}) {
		t.Errorf("safe are %v, want the relay", names)
	}
	wantError(t, err, api.ErrInvalid, `c.yaml:3: device "lamp": safe is missing`)
}

// watched calls closed when the outputs are safe.
type watched struct {
	devices.Hardware
	closed func()
}

func (d watched) Run(ctx context.Context) error {
	defer d.closed()
	return d.Hardware.Run(ctx)
}

// Sandboxes may take their time to go.
func TestLinesAreSafeBeforeSandboxesGo(t *testing.T) {
	w := newWorld(t)
	w.handle("drive", drive)
	gone := false
	w.around = func(d devices.Hardware) devices.Hardware {
		return watched{d, func() {
			for _, p := range w.pools {
				p.mu.Lock()
				gone = gone || p.closed
				p.mu.Unlock()
			}
		}}
	}
	n, stop := w.run(w.hardwareConfig())
	deploy(t, n, driving("lamp"))
	stop()
	if gone {
		t.Error("a sandbox went first")
	}
}

func TestOutputThatDoesNotGoToSafeIsTold(t *testing.T) {
	w := newWorld(t)
	n, stop := w.run(w.hardwareConfig())
	if err := n.Simulate(t.Context(), "relay", "fault"); err != nil {
		t.Fatal(err)
	}
	stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	if log := w.logs.String(); !strings.Contains(log, "an output may not have its safe value") || !strings.Contains(log, "simulated fault") {
		t.Errorf("the node ended without a word about its relay:\n%s", log)
	}
}

// Of two deploys at the same time that do not go together one is refused, or
// neither would serve after a restart.
func TestDeploysThatRace(t *testing.T) {
	w := newWorld(t)
	w.handle("drive", drive)
	n, _ := w.run(w.hardwareConfig())
	listener := func(name string, debounce time.Duration) functions.Function {
		f := function(name, "drive")
		f.Triggers = []functions.Trigger{{Name: "b", Order: functions.OrderSubject, GPIO: &functions.GPIOTrigger{Line: "door", Edge: functions.EdgeRising, Debounce: debounce}}}
		return f
	}
	w.st.set(func(_ []store.Guard, ops []store.Op) error {
		if slices.ContainsFunc(ops, func(op store.Op) bool { return strings.Contains(op.Key, "/versions/") }) {
			time.Sleep(200 * time.Millisecond) // time for the other one
		}
		return nil
	}, nil)
	errs := make(chan error, 2)
	for name, debounce := range map[string]time.Duration{"bell": time.Millisecond, "chime": time.Second} {
		go func() {
			_, err := n.Deploy(t.Context(), image(t, listener(name, debounce)), api.DeployOptions{}, func(api.Progress) {})
			errs <- err
		}()
	}
	one, two := <-errs, <-errs
	w.st.set(nil, nil)
	if (one == nil) == (two == nil) {
		t.Fatalf("want one refused: %v; %v", one, two)
	}
	wantError(t, errors.Join(one, two), api.ErrRefused, "debounced for")
}

func TestDevicesThatAFunctionCannotHave(t *testing.T) {
	w := newWorld(t)
	w.handle("drive", drive)
	n, _ := w.run(w.hardwareConfig())
	deploy(t, n, driving("lamp"))
	listener := driving("bell")
	listener.Grants = functions.Grants{}
	listener.Triggers = []functions.Trigger{{Name: "b", Order: functions.OrderSubject, GPIO: &functions.GPIOTrigger{Line: "door", Edge: functions.EdgeRising, Debounce: time.Millisecond}}}
	deploy(t, n, listener)
	gpio := func(line string, debounce time.Duration) functions.Trigger {
		return functions.Trigger{Name: line, Order: functions.OrderSubject, GPIO: &functions.GPIOTrigger{Line: line, Edge: functions.EdgeBoth, Debounce: debounce}}
	}
	sensor := func(device string, every time.Duration, change map[string]float64) functions.Trigger {
		return functions.Trigger{Name: "s", Order: functions.OrderSubject, Sensor: &functions.SensorTrigger{Device: device, Every: every, Change: change, Events: []functions.SensorEvent{functions.SensorReading}}}
	}
	for _, tt := range []struct {
		name string
		edit func(f *functions.Function)
		want []string // fields, each with a part of its message
	}{
		{"line that is none", func(f *functions.Function) { f.Triggers = append(f.Triggers[:0], gpio("window", 0)) }, []string{`triggers[0].gpio.line: this node has no line "window"`}},
		{"sensor for a line", func(f *functions.Function) { f.Triggers = append(f.Triggers[:0], gpio("greenhouse", 0)) }, []string{`triggers[0].gpio.line: "greenhouse" is no line but a sensor`}},
		{"output for an input", func(f *functions.Function) { f.Triggers = append(f.Triggers[:0], gpio("relay", 0)) }, []string{`triggers[0].gpio.line: "relay" is an output`}},
		{"other debounce", func(f *functions.Function) { f.Triggers = append(f.Triggers[:0], gpio("door", time.Second)) }, []string{`triggers[0].gpio.debounce: 1s, but function "bell" has "door" debounced for 1ms`}},
		{"sensor that is none", func(f *functions.Function) { f.Triggers = append(f.Triggers[:0], sensor("attic", time.Second, nil)) }, []string{`triggers[0].sensor.device: this node has no sensor "attic"`}},
		{"too often", func(f *functions.Function) {
			f.Triggers = append(f.Triggers[:0], sensor("greenhouse", 10*time.Millisecond, nil))
		}, []string{`triggers[0].sensor.every: 10ms is faster than "greenhouse", a bme280, converts`}},
		{"quantity that is none", func(f *functions.Function) {
			f.Triggers = append(f.Triggers[:0], sensor("greenhouse", time.Second, map[string]float64{"wind": 1}))
		}, []string{`triggers[0].sensor.change.wind: "greenhouse", a bme280, does not measure "wind"`}},
		{"grants of nothing", func(f *functions.Function) {
			f.Grants = functions.Grants{Lines: []functions.LineGrant{{Line: "lift"}, {Line: "door", Priority: 1}}, Sensors: []string{"attic", "relay"}, Buses: []string{"i2c-9"}}
		}, []string{
			`grants.lines[0]: this node has no line "lift"`, `grants.lines[1].priority: "door" is an input`,
			`grants.sensors[0]: this node has no sensor "attic"`, `grants.sensors[1]: "relay" is no sensor but a line`, `grants.buses[0]: device is not known`,
		}},
		{"held", func(f *functions.Function) { f.Grants.Lines = []functions.LineGrant{{Line: "door"}, {Line: "relay"}} }, []string{`grants.lines[1]: line is taken: line "relay", held by function "lamp"`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := function("new", "drive")
			tt.edit(&f)
			_, err := n.Deploy(t.Context(), image(t, f), api.DeployOptions{}, func(api.Progress) {})
			wantError(t, err, api.ErrRefused)
			var got []string
			for i, fault := range api.Faults(err) {
				line := fmt.Sprintf("%s: %s", fault.Field, fault.Message)
				if i < len(tt.want) {
					line = line[:min(len(line), len(tt.want[i]))]
				}
				got = append(got, line)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

// Edges and readings become events of their functions.
func TestDevicesTrigger(t *testing.T) {
	w := newWorld(t)
	got := make(chan functions.Event, 100)
	w.handle("tell", func(_ context.Context, in pool.Invocation) (functions.Result, error) {
		got <- in.Event
		return functions.Result{}, nil
	})
	n, _ := w.run(w.hardwareConfig())
	f := function("bell", "tell")
	f.Triggers = []functions.Trigger{
		{Name: "edges", Order: functions.OrderSubject, GPIO: &functions.GPIOTrigger{Line: "door", Edge: functions.EdgeRising}},
		{Name: "climate", Order: functions.OrderSubject, Sensor: &functions.SensorTrigger{
			Device: "greenhouse", Every: 50 * time.Millisecond, Change: map[string]float64{"temperature": 1},
			Events: []functions.SensorEvent{functions.SensorReading, functions.SensorFault},
		}},
	}
	deploy(t, n, f)
	next := func() string {
		t.Helper()
		select {
		case e := <-got:
			return fmt.Sprintf("%s %s %s", e.Type, e.Source, e.Subject)
		case <-time.After(10 * time.Second):
			t.Fatal("no event")
			return ""
		}
	}
	want := func(text string) {
		t.Helper()
		if got := next(); got != text {
			t.Errorf("got %s, want %s", got, text)
		}
	}
	want("edgefn.sensor.reading sensor://gate greenhouse")
	eventually(t, "the line is listened to", func() bool {
		d, err := n.Describe(t.Context(), "bell")
		return err == nil && d.Sources[0].State == "connected"
	})
	for _, what := range []string{"on", "off", "on"} {
		if err := n.Simulate(t.Context(), "door", what); err != nil {
			t.Fatal(err)
		}
	}
	want("edgefn.gpio.edge gpio://gate door")
	want("edgefn.gpio.edge gpio://gate door")
	if err := n.Simulate(t.Context(), "greenhouse", "fault"); err != nil {
		t.Fatal(err)
	}
	want("edgefn.sensor.fault sensor://gate greenhouse")
	if d := device(t, n, "greenhouse"); d.State != "fault" || d.Error == "" || !cmp.Equal(d.Listeners, []string{"bell"}) {
		t.Errorf("greenhouse: %+v", d)
	}
	wantError(t, n.Simulate(t.Context(), "window", "on"), api.ErrNotFound)
	wantError(t, n.Simulate(t.Context(), "door", "ajar"), api.ErrInvalid)
}

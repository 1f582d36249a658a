package drivers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// devices of every kind.
var specs = []Spec{
	{Name: "door", Where: "c.yaml:1", Line: "GPIO17", Pull: PullUp, ActiveLow: true},
	{Name: "relay", Where: "c.yaml:2", Line: "GPIO18", Direction: Out, Safe: Low},
	{Name: "valve", Where: "c.yaml:3", Line: "GPIO19", Direction: Out, Safe: High, Initial: Low, ActiveLow: true},
	{Name: "greenhouse", Where: "c.yaml:4", Sensor: "bme280", Bus: "i2c-1"},
	{Name: "soil", Where: "c.yaml:5", Sensor: "ds18b20", ID: "28-000000000001"},
	{Name: "adc", Where: "c.yaml:6", Sensor: "mcp3008", Bus: "spi0.0"},
}

// opened are devices that are open until the test ends. It must end within the
// bubble.
func opened(t *testing.T) (*Devices, *machine) {
	t.Helper()
	m := newMachine()
	d, err := New(Config{Specs: specs, Driver: m})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d, m
}

func TestNewTouchesNothing(t *testing.T) {
	m := newMachine()
	if _, err := New(Config{Specs: specs, Driver: m}); err != nil {
		t.Fatal(err)
	}
	if m.opens != 0 {
		t.Errorf("%d devices opened", m.opens)
	}
}

func TestOpenTellsAllFaultsAndHoldsNothing(t *testing.T) {
	m := newMachine()
	m.places = map[string]string{"GPIO17": "", "GPIO18": "gpiochip:x/1", "GPIO19": "gpiochip:x/1"}
	m.missing["i2c-1"] = true
	d, err := New(Config{Specs: specs, Driver: m})
	if err != nil {
		t.Fatal(err)
	}
	err = d.Open(t.Context())
	want := []string{
		`c.yaml:1: device "door": device is not known: no line is called "GPIO17"`,
		`c.yaml:3: device "valve": GPIO19 is gpiochip:x/1, and that has a name already: "relay"`,
		`c.yaml:4: device "greenhouse": device is not known: no bus i2c-1`,
	}
	for _, w := range want {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("%q is not in\n%v", w, err)
		}
	}
	if !errors.Is(err, ErrUnknown) {
		t.Errorf("%v does not wrap ErrUnknown", err)
	}
	for line, taken := range m.taken {
		if taken {
			t.Errorf("%s is held", line)
		}
	}
	if !m.sensors["soil"].closed || !m.closed {
		t.Error("sensors or the driver are left open")
	}
}

func TestOpenNamesWhoHasALine(t *testing.T) {
	m := newMachine()
	m.busy["GPIO18"] = "lcd"
	d, err := New(Config{Specs: specs, Driver: m})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Open(t.Context()); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), `c.yaml:2: device "relay": line is in use: line GPIO18 is used by "lcd"`) {
		t.Errorf("got %v", err)
	}
	if got := m.outputs["valve"].told(); got != "LH" {
		t.Errorf("the other output was told %s, want its initial level and then safe", got)
	}
}

func TestNothingWorksBeforeOpenAndAfterClose(t *testing.T) {
	d, err := New(Config{Specs: specs, Driver: newMachine()})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Hold("f", []Lease{{Line: "relay"}}); err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		ctx := t.Context()
		_, readLine := d.ReadLine(ctx, "door")
		_, readSensor := d.ReadSensor(ctx, "soil")
		for name, err := range map[string]error{
			"set": d.Set(ctx, "f", "relay", true), "pulse": d.Pulse(ctx, "f", "relay", time.Second), "read line": readLine, "read sensor": readSensor,
			"edges":   d.Edges(ctx, "door", "f", EdgeOptions{Rising: true}, func(Edge) {}),
			"samples": d.Samples(ctx, "soil", time.Minute, func(Sample) {}),
		} {
			if !errors.Is(err, ErrClosed) {
				t.Errorf("%s: %v, want ErrClosed", name, err)
			}
		}
	}
	check()
	if err := d.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	check()
	if err := d.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if err := d.Open(t.Context()); err == nil {
		t.Error("opened twice")
	}
}

func TestRunEndsSafe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := opened(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- d.Run(ctx) }()
		if err := d.Hold("f", []Lease{{Line: "relay"}, {Line: "valve"}}); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(d.Set(ctx, "f", "relay", true), d.Set(ctx, "f", "valve", true)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for name, x := range m.sensors {
			if x.count() != 1 {
				t.Errorf("%s was read %d times at the start, want once", name, x.count())
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		if got := m.outputs["relay"].told(); got != "LHL" || !m.outputs["relay"].closed {
			t.Errorf("relay was told %s, want LHL", got)
		}
		if got := m.outputs["valve"].told(); got != "LLH" { // active low: on is low, where it was
			t.Errorf("valve was told %s, want LLH", got)
		}
	})
}

func TestLeases(t *testing.T) {
	d, m := opened(t)
	ctx := t.Context()
	relay := m.outputs["relay"]
	if err := d.Hold("a", []Lease{{Line: "relay"}, {Line: "door"}}); err != nil {
		t.Fatal(err)
	}
	err := d.CanHold("b", []Lease{{Line: "valve"}, {Line: "relay", Priority: 3}})
	if !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), `function "a"`) {
		t.Errorf("got %v, want ErrHeld by a", err)
	}
	if err := d.Hold("b", []Lease{{Line: "valve"}, {Line: "relay"}}); !errors.Is(err, ErrHeld) {
		t.Errorf("got %v, want ErrHeld", err)
	}
	if err := d.Set(ctx, "b", "valve", true); !errors.Is(err, ErrNotHeld) {
		t.Errorf("a refused hold holds: %v", err)
	}
	if err := d.Hold("b", []Lease{{Line: "nosuch"}}); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "there are") {
		t.Errorf("got %v, want ErrUnknown with those that there are", err)
	}
	if err := d.Set(ctx, "a", "door", true); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "is an input") {
		t.Errorf("an input takes a command: %v", err)
	}

	// A new version with the same line keeps its command; one without it loses it.
	if err := d.Set(ctx, "a", "relay", true); err != nil {
		t.Fatal(err)
	}
	if err := d.Hold("a", []Lease{{Line: "relay", Priority: 8}}); err != nil {
		t.Fatal(err)
	}
	if got := relay.told(); got != "LH" {
		t.Errorf("relay was told %s, want LH", got)
	}
	if err := d.Hold("b", []Lease{{Line: "relay", Priority: 2}}); err != nil {
		t.Fatal(err)
	}
	if err := d.Set(ctx, "b", "relay", false); err != nil {
		t.Fatal(err)
	}
	if err := d.Set(ctx, "a", "relay", true); err != nil { // does not count: b's is higher
		t.Fatal(err)
	}
	if got := relay.told(); got != "LHLL" {
		t.Errorf("relay was told %s, want LHLL", got)
	}
	want := []Holder{{"b", 2, new(false)}, {"a", 8, new(true)}}
	if diff := cmp.Diff(want, d.List()[1].Holders); diff != "" {
		t.Errorf("holders (-want +got):\n%s", diff)
	}
	if err := d.Relinquish(ctx, "b", "relay"); err != nil {
		t.Fatal(err)
	}
	if got := relay.told(); got != "LHLLH" {
		t.Errorf("relay was told %s, want LHLLH: a's command counts again", got)
	}
	d.Release("a")
	if got := relay.told(); got != "LHLLHL" {
		t.Errorf("relay was told %s, want LHLLHL: nobody commands it", got)
	}
	if err := d.Set(ctx, "a", "relay", true); err != nil {
		t.Errorf("a holder whose command was taken away cannot command: %v", err)
	}
	d.Drop("a")
	if got := relay.told(); got != "LHLLHLHL" {
		t.Errorf("relay was told %s, want LHLLHLHL", got)
	}
	if err := d.Set(ctx, "a", "relay", true); !errors.Is(err, ErrNotHeld) {
		t.Errorf("got %v, want ErrNotHeld", err)
	}
}

func TestDropPutsALineToSafeThatWasNeverCommanded(t *testing.T) {
	d, m := opened(t)
	if err := d.Hold("f", []Lease{{Line: "valve"}}); err != nil {
		t.Fatal(err)
	}
	if got := m.outputs["valve"].told(); got != "L" {
		t.Errorf("told %s, want its initial level only", got)
	}
	d.Drop("f")
	if got := m.outputs["valve"].told(); got != "LH" {
		t.Errorf("told %s, want safe", got)
	}
}

func TestPulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := opened(t)
		relay := m.outputs["relay"]
		if err := d.Hold("f", []Lease{{Line: "relay"}}); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		order := make(chan string, 3)
		do := func(name string, f func() error) {
			go func() {
				if err := f(); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				order <- name + " " + time.Since(begun).String()
			}()
			synctest.Wait()
		}
		do("first", func() error { return d.Pulse(t.Context(), "f", "relay", 2*time.Second) })
		do("second", func() error { return d.Pulse(t.Context(), "f", "relay", time.Second) })
		do("on", func() error { return d.Set(t.Context(), "f", "relay", true) })
		if got := relay.told(); got != "LH" {
			t.Errorf("told %s, want LH: the others wait", got)
		}
		for _, want := range []string{"first 2s", "second 3s", "on 3s"} {
			if got := <-order; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		if got := relay.told(); got != "LHLHLH" {
			t.Errorf("told %s, want LHLHLH", got)
		}
	})
}

// What ends a pulse, ends it at once.
func TestPulseEnds(t *testing.T) {
	tests := []struct {
		name string
		end  func(d *Devices, cancel func())
		want error
	}{
		{"its caller goes", func(_ *Devices, cancel func()) { cancel() }, context.Canceled},
		{"its function is removed", func(d *Devices, _ func()) { d.Drop("f") }, ErrNotHeld},
		{"its function fails", func(d *Devices, _ func()) { d.Release("f") }, ErrNotHeld},
		{"the node stops", func(d *Devices, _ func()) { _ = d.Close() }, ErrClosed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, m := opened(t)
				if err := d.Hold("f", []Lease{{Line: "relay"}}); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				done := make(chan error, 2)
				begun := time.Now()
				go func() { done <- d.Pulse(ctx, "f", "relay", time.Minute) }()
				synctest.Wait()
				go func() { done <- d.Set(ctx, "f", "relay", true) }()
				synctest.Wait()
				tt.end(d, cancel)
				synctest.Wait()
				if got := m.outputs["relay"].told(); got != "LHL" {
					t.Errorf("told %s, want LHL", got)
				}
				for range 2 {
					if err := <-done; !errors.Is(err, tt.want) {
						t.Errorf("got %v, want %v", err, tt.want)
					}
				}
				if took := time.Since(begun); took > 0 {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

// The pulse of one holder does not hold a higher one up.
func TestPulseGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := opened(t)
		if err := errors.Join(d.Hold("low", []Lease{{"relay", 9}}), d.Hold("high", []Lease{{"relay", 1}})); err != nil {
			t.Fatal(err)
		}
		go func() { _ = d.Pulse(t.Context(), "low", "relay", time.Minute) }()
		synctest.Wait()
		if err := d.Set(t.Context(), "high", "relay", false); err != nil {
			t.Fatal(err)
		}
		if got := m.outputs["relay"].told(); got != "LHL" {
			t.Errorf("told %s, want LHL", got)
		}
		time.Sleep(2 * time.Minute)
	})
}

func TestOutputThatFails(t *testing.T) {
	d, m := opened(t)
	if err := d.Hold("f", []Lease{{Line: "relay"}}); err != nil {
		t.Fatal(err)
	}
	relay := m.outputs["relay"]
	relay.err = fmt.Errorf("%w: unplugged", ErrFault)
	if err := d.Set(t.Context(), "f", "relay", true); !errors.Is(err, ErrFault) {
		t.Errorf("got %v, want ErrFault", err)
	}
	if i := d.List()[1]; i.State != StateFault || !strings.Contains(i.Error, "unplugged") {
		t.Errorf("shown as %+v", i)
	}
	if _, err := d.ReadLine(t.Context(), "relay"); !errors.Is(err, ErrFault) {
		t.Errorf("read: %v, want ErrFault", err)
	}
	relay.err = nil
	if err := d.Set(t.Context(), "f", "relay", true); err != nil {
		t.Errorf("plugged in again: %v", err)
	}
	if on, err := d.ReadLine(t.Context(), "relay"); !on || err != nil {
		t.Errorf("read: %v %v", on, err)
	}
	if i := d.List()[1]; i.State != StateOK || i.Value != "on" {
		t.Errorf("shown as %+v", i)
	}
}

// A command that failed does not take place later, but the end of a pulse does.
func TestCommandThatFailedIsNotStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := opened(t)
		relay := m.outputs["relay"]
		fail := func(err error) { relay.mu.Lock(); relay.err = err; relay.mu.Unlock() }
		hold := func(priority int) { // has the commands that there are count again
			t.Helper()
			if err := d.Hold("f", []Lease{{"relay", priority}}); err != nil {
				t.Fatal(err)
			}
		}
		hold(1)
		unplugged := fmt.Errorf("%w: unplugged", ErrFault)
		fail(unplugged)
		if err := d.Set(t.Context(), "f", "relay", true); !errors.Is(err, ErrFault) {
			t.Errorf("got %v, want ErrFault", err)
		}
		fail(nil)
		hold(2)
		if got := relay.told(); got != "L" {
			t.Errorf("told %s after a set that failed, want L", got)
		}
		done := make(chan error)
		go func() { done <- d.Pulse(t.Context(), "f", "relay", time.Second) }()
		synctest.Wait()
		fail(unplugged)
		if err := <-done; !errors.Is(err, ErrFault) {
			t.Errorf("got %v, want ErrFault", err)
		}
		fail(nil)
		hold(3)
		if got := relay.told(); got != "LHL" {
			t.Errorf("told %s after a pulse whose end failed, want LHL", got)
		}
	})
}

func TestBus(t *testing.T) {
	d, m := opened(t)
	m.missing["i2c-7"] = true
	tests := []struct {
		bus  string
		path string
		err  error
	}{
		{"i2c-1", "/dev/i2c-1", nil}, // a sensor's, too: the kernel keeps them apart
		{"spi0.1", "/dev/spi0.1", nil},
		{"spi0.0", "", ErrBusy},
		{"i2c-7", "", ErrUnknown},
		{"../etc/passwd", "", ErrUnknown},
	}
	for _, tt := range tests {
		path, err := d.Bus(tt.bus)
		if path != tt.path || !errors.Is(err, tt.err) {
			t.Errorf("%s: got %q, %v; want %q, %v", tt.bus, path, err, tt.path, tt.err)
		}
	}
}

func TestListAndDiscover(t *testing.T) {
	d, m := opened(t)
	m.places["GPIO17"], m.finds = "gpiochip:x/17", 0
	found, err := d.Discover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range found {
		names = append(names, f.Device)
	}
	if m.finds > 3 { // each goes through every line of every chip
		t.Errorf("lines were looked up %d times, want once each", m.finds)
	}
	if diff := cmp.Diff([]string{"door", "", "greenhouse", "soil"}, names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if _, err := d.ReadSensor(t.Context(), "greenhouse"); err != nil {
		t.Fatal(err)
	}
	var shown []string
	for _, i := range d.List() {
		shown = append(shown, strings.Join([]string{i.Name, i.Kind, i.What, i.Where, i.State, i.Value}, "|"))
	}
	want := []string{
		"door|line|in|GPIO17|ok|on", // active low, and low
		"relay|line|out|GPIO18|ok|off",
		"valve|line|out|GPIO19|ok|on",
		"greenhouse|sensor|bme280|i2c-1 0x76|ok|temperature 1 °C, humidity 1 %rH, pressure 30000 Pa",
		"soil|sensor|ds18b20|28-000000000001|ok|",
		"adc|sensor|mcp3008|spi0.0|ok|",
	}
	if diff := cmp.Diff(want, shown); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
}

func TestSafe(t *testing.T) {
	m := newMachine()
	m.busy["GPIO18"] = "edgefn relay"
	var log bytes.Buffer
	err := Safe(t.Context(), specs, m, slog.New(slog.NewTextHandler(&log, nil)))
	if !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), `c.yaml:2: device "relay"`) {
		t.Errorf("got %v, want that the relay is in use", err)
	}
	if v := m.outputs["valve"]; v.told() != "H" || !v.closed {
		t.Errorf("valve was told %s, closed %v; want H and let go", v.told(), v.closed)
	}
	if m.opens != 2 || !strings.Contains(log.String(), "device=valve") {
		t.Errorf("%d devices opened, log %s; want the outputs alone", m.opens, &log)
	}
}

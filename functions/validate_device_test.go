package functions_test

import (
	"fmt"
	"maps"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/functions"
)

// withDevices is a function with nothing wrong that has a trigger of each kind:
// mqtt, gpio, sensor.
func withDevices() functions.Function {
	f := valid()
	f.Triggers = append(f.Triggers,
		functions.Trigger{
			Name: "gpio-1", Order: functions.OrderSubject,
			GPIO: &functions.GPIOTrigger{Line: "door", Edge: functions.EdgeRising, Debounce: 10 * time.Millisecond},
		},
		functions.Trigger{
			Name: "sensor-2", Order: functions.OrderSubject,
			Sensor: &functions.SensorTrigger{
				Device: "greenhouse", Every: 10 * time.Second, Change: map[string]float64{"temperature": 0.5},
				Events: []functions.SensorEvent{functions.SensorReading},
			},
		},
	)
	f.Grants.Lines = []functions.LineGrant{{Line: "relay"}, {Line: "pump", Priority: 3}}
	f.Grants.Sensors, f.Grants.Buses = []string{"greenhouse"}, []string{"i2c-1"}
	return f
}

func TestValidateDevices(t *testing.T) {
	gpio := func(change func(*functions.GPIOTrigger)) func(*functions.Function) {
		return func(f *functions.Function) { change(f.Triggers[1].GPIO) }
	}
	sensor := func(change func(*functions.SensorTrigger)) func(*functions.Function) {
		return func(f *functions.Function) { change(f.Triggers[2].Sensor) }
	}
	many := func(form string) []string {
		out := make([]string, functions.MaxList+1)
		for i := range out {
			out[i] = fmt.Sprintf(form, i)
		}
		return out
	}
	tests := []struct {
		name   string
		change func(f *functions.Function)
		want   []string // fields at fault
	}{
		{"as it is", func(*functions.Function) {}, nil},
		{"no order", func(f *functions.Function) {
			f.Triggers[1].Order, f.Triggers[2].Order = functions.OrderNone, functions.OrderNone
		}, nil},
		{"unknown order", func(f *functions.Function) { f.Triggers[1].Order = "line" }, []string{"triggers[1].order"}},
		{"two sources", func(f *functions.Function) { f.Triggers[1].Sensor = f.Triggers[2].Sensor }, []string{"triggers[1]"}},
		{"no source", func(f *functions.Function) { f.Triggers[1].GPIO = nil }, []string{"triggers[1]"}},
		{"id", func(f *functions.Function) { f.Triggers[1].ID, f.Triggers[2].ID = "/line_seq", "no pointer" }, []string{"triggers[1].id", "triggers[2].id"}},

		{"longest name of a line", gpio(func(g *functions.GPIOTrigger) { g.Line = strings.Repeat("a", 63) }), nil},
		{"name of a line too long", gpio(func(g *functions.GPIOTrigger) { g.Line = strings.Repeat("a", 64) }), []string{"triggers[1].gpio.line"}},
		{"no line", gpio(func(g *functions.GPIOTrigger) { g.Line = "" }), []string{"triggers[1].gpio.line"}},
		{"a chip's line", gpio(func(g *functions.GPIOTrigger) { g.Line = "gpiochip:pinctrl-bcm2711/17" }), []string{"triggers[1].gpio.line"}},
		{"no edge", gpio(func(g *functions.GPIOTrigger) { g.Edge = "" }), []string{"triggers[1].gpio.edge"}},
		{"unknown edge", gpio(func(g *functions.GPIOTrigger) { g.Edge = "level" }), []string{"triggers[1].gpio.edge"}},
		{"longest debounce", gpio(func(g *functions.GPIOTrigger) { g.Debounce = functions.MaxDebounce }), nil},
		{"debounce too long", gpio(func(g *functions.GPIOTrigger) { g.Debounce = functions.MaxDebounce + 1 }), []string{"triggers[1].gpio.debounce"}},
		{"negative debounce", gpio(func(g *functions.GPIOTrigger) { g.Debounce = -1 }), []string{"triggers[1].gpio.debounce"}},
		{"both edges of a line apart", func(f *functions.Function) {
			falling := *f.Triggers[1].GPIO
			falling.Edge = functions.EdgeFalling
			f.Triggers = append(f.Triggers, functions.Trigger{Name: "falling", Order: functions.OrderSubject, GPIO: &falling})
		}, nil},
		{"two debounces of a line", func(f *functions.Function) {
			falling := *f.Triggers[1].GPIO
			falling.Edge, falling.Debounce = functions.EdgeFalling, 0
			f.Triggers = append(f.Triggers, functions.Trigger{Name: "falling", Order: functions.OrderSubject, GPIO: &falling})
		}, []string{"triggers[3].gpio.debounce"}},

		{"no device", sensor(func(s *functions.SensorTrigger) { s.Device = "" }), []string{"triggers[2].sensor.device"}},
		{"device in capitals", sensor(func(s *functions.SensorTrigger) { s.Device = "Greenhouse" }), []string{"triggers[2].sensor.device"}},
		{"no every", sensor(func(s *functions.SensorTrigger) { s.Every = 0 }), []string{"triggers[2].sensor.every"}},
		{"shortest every", sensor(func(s *functions.SensorTrigger) { s.Every = functions.MinEvery }), nil},
		{"every too short", sensor(func(s *functions.SensorTrigger) { s.Every = functions.MinEvery - 1 }), []string{"triggers[2].sensor.every"}},
		{"every too long", sensor(func(s *functions.SensorTrigger) { s.Every = functions.MaxEvery + 1 }), []string{"triggers[2].sensor.every"}},
		{"each reading", sensor(func(s *functions.SensorTrigger) { s.Change = nil }), nil},
		{"quantities by number", sensor(func(s *functions.SensorTrigger) { s.Change = map[string]float64{"voltage0": 0.01, "voltage7": 1e-9} }), nil},
		{"changes", sensor(func(s *functions.SensorTrigger) {
			s.Change = map[string]float64{"a": 0, "b": -1, "c": math.NaN(), "d": math.Inf(1), "E": 1, "f_C": 1, "g": 1}
		}), []string{
			"triggers[2].sensor.change.E", "triggers[2].sensor.change.a", "triggers[2].sensor.change.b", "triggers[2].sensor.change.c",
			"triggers[2].sensor.change.d", "triggers[2].sensor.change.f_C",
		}},
		{"too many changes", sensor(func(s *functions.SensorTrigger) {
			for _, q := range many("q%d") {
				s.Change[q] = 1
			}
		}), []string{"triggers[2].sensor.change"}},
		{"no events", sensor(func(s *functions.SensorTrigger) { s.Events = nil }), []string{"triggers[2].sensor.events"}},
		{"all events", sensor(func(s *functions.SensorTrigger) {
			s.Events = []functions.SensorEvent{functions.SensorFault, functions.SensorRecovered, functions.SensorReading}
		}), nil},
		{"events", sensor(func(s *functions.SensorTrigger) {
			s.Events = []functions.SensorEvent{"Fault", "", functions.SensorFault, functions.SensorFault}
		}), []string{"triggers[2].sensor.events[0]", "triggers[2].sensor.events[1]", "triggers[2].sensor.events[3]"}},

		{"lines", func(f *functions.Function) {
			f.Grants.Lines = []functions.LineGrant{
				{Line: "a", Priority: 1},
				{Line: "b", Priority: functions.MaxPriority},
				{Line: "c", Priority: functions.MaxPriority + 1},
				{Line: "d", Priority: -1},
				{Line: "a"},
				{Line: ""},
				{Line: "../x"},
			}
		}, []string{"grants.lines[2].priority", "grants.lines[3].priority", "grants.lines[4]", "grants.lines[5]", "grants.lines[6]"}},
		{"sensors", func(f *functions.Function) { f.Grants.Sensors = []string{"a", "", "A", "a", "b-1_2"} }, []string{"grants.sensors[1]", "grants.sensors[2]", "grants.sensors[3]"}},
		{"buses", func(f *functions.Function) {
			f.Grants.Buses = []string{"i2c-1", "spi0.0", "i2c-1", "/dev/i2c-1", "../i2c-1", ""}
		}, []string{"grants.buses[2]", "grants.buses[3]", "grants.buses[4]", "grants.buses[5]"}},
		{"too many", func(f *functions.Function) {
			f.Grants.Sensors, f.Grants.Buses, f.Grants.Lines = many("s%d"), many("i2c-%d"), nil
			for _, name := range many("l%d") {
				f.Grants.Lines = append(f.Grants.Lines, functions.LineGrant{Line: name})
			}
		}, []string{"grants.lines", "grants.sensors", "grants.buses"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := withDevices()
			tt.change(&f)
			got := f.Validate()
			if diff := cmp.Diff(tt.want, fields(got)); diff != "" {
				t.Errorf("fields at fault (-want +got):\n%s%v", diff, got)
			}
			for _, fault := range got {
				if fault.Message == "" {
					t.Errorf("%s: no message", fault.Field)
				}
			}
		})
	}
}

func TestTriggerKind(t *testing.T) {
	f := withDevices()
	for i, want := range []string{"mqtt", "gpio", "sensor"} {
		if got := f.Triggers[i].Kind(); got != want {
			t.Errorf("kind of triggers[%d] is %q, want %q", i, got, want)
		}
	}
	if got := (&functions.Trigger{}).Kind(); got != "" {
		t.Errorf("kind of no trigger is %q", got)
	}
}

func TestGrantsOfDevices(t *testing.T) {
	f := withDevices()
	lines, sensors := map[string]bool{}, map[string]bool{}
	for _, name := range []string{"relay", "pump", "greenhouse", "door", "Relay", ""} {
		lines[name], sensors[name] = f.MayUseLine(name), f.MayReadSensor(name)
	}
	granted := func(_ string, may bool) bool { return !may }
	maps.DeleteFunc(lines, granted)
	maps.DeleteFunc(sensors, granted)
	if diff := cmp.Diff(map[string]bool{"relay": true, "pump": true}, lines); diff != "" {
		t.Errorf("lines that it may use (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]bool{"greenhouse": true}, sensors); diff != "" {
		t.Errorf("sensors that it may read (-want +got):\n%s", diff)
	}
}

// FuzzValidDevice: what names a device is safe in a path and a key.
func FuzzValidDevice(f *testing.F) {
	for _, s := range []string{"door", "a-b_c", "", "-a", "a/b", "a\n", "Å", strings.Repeat("x", 64)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if functions.ValidDevice(s) && (len(s) == 0 || len(s) > 63 || strings.ContainsAny(s, "/.\x00\n ,:=")) {
			t.Errorf("%q names a device", s)
		}
	})
}

package sensor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/edgefn/edgefn/drivers"
	"github.com/edgefn/edgefn/drivers/sim"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/triggers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	temperature = drivers.Quantity{Name: "temperature", Unit: "C"}
	humidity    = drivers.Quantity{Name: "humidity", Unit: "rH"}
)

func TestEvent(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	since := at.Add(-time.Minute)
	values := map[drivers.Quantity]float64{temperature: 25.08, humidity: 41.2}
	tests := []struct {
		name, id, typ, data string
		time                time.Time
		sample              drivers.Sample
	}{
		{
			"a reading", "greenhouse-1767323045000000600-reading", "edgefn.sensor.reading", `{"humidity_rH":41.2,"temperature_C":25.08}`, at,
			drivers.Sample{Reading: drivers.Reading{Time: at, Values: values}},
		},
		{
			"a fault", "greenhouse-1767322985000000600-fault", "edgefn.sensor.fault", `{"error":"nothing answers","since":"2026-01-02T03:03:05.0000006Z"}`, since,
			drivers.Sample{Kind: drivers.Fault, Err: errors.New("nothing answers"), Since: since},
		},
		{
			"a recovery", "greenhouse-1767323045000000600-recovered", "edgefn.sensor.recovered", `{"humidity_rH":41.2,"missed":3,"since":"2026-01-02T03:03:05.0000006Z","temperature_C":25.08}`, at,
			drivers.Sample{Kind: drivers.Recovered, Reading: drivers.Reading{Time: at, Values: values}, Since: since, Missed: 3},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Event("pi", "greenhouse", tt.sample)
			want := functions.Event{ID: tt.id, Type: tt.typ, Source: "sensor://pi", Subject: "greenhouse", Time: tt.time, DataContentType: "application/json", Data: []byte(tt.data)}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s\n%s", diff, got.Data)
			}
		})
	}
}

func TestFilter(t *testing.T) {
	read := func(celsius float64) drivers.Sample {
		return drivers.Sample{Reading: drivers.Reading{Values: map[drivers.Quantity]float64{temperature: celsius, humidity: 40}}}
	}
	recovered := func(celsius float64) drivers.Sample { s := read(celsius); s.Kind = drivers.Recovered; return s }
	fault := drivers.Sample{Kind: drivers.Fault}
	reading, faults, recoveries := functions.SensorReading, functions.SensorFault, functions.SensorRecovered
	type step struct {
		sample drivers.Sample
		want   string // reading, fault, recovered; empty: nothing
	}
	tests := []struct {
		name   string
		change map[string]float64
		events []functions.SensorEvent
		steps  []step
	}{
		{"every reading", nil, []functions.SensorEvent{reading}, []step{{read(20), "reading"}, {read(20), "reading"}, {fault, ""}}},
		{"half a degree", map[string]float64{"temperature": 0.5}, []functions.SensorEvent{reading}, []step{
			{read(20), "reading"}, {read(20.3), ""}, {read(20.49), ""}, {read(20.5), "reading"}, {read(20.1), ""}, {read(20), "reading"},
		}},
		{"it creeps", map[string]float64{"temperature": 0.5}, []functions.SensorEvent{reading}, []step{
			{read(20), "reading"}, {read(20.2), ""}, {read(20.4), ""}, {read(20.6), "reading"}, {read(20.8), ""},
		}},
		{"decimal steps count", map[string]float64{"temperature": 0.1}, []functions.SensorEvent{reading}, []step{
			{read(20.0), "reading"}, {read(20.1), "reading"}, {read(20.2), "reading"}, {read(20.3), "reading"}, {read(20.2), "reading"}, {read(20.2), ""},
		}},
		{"either quantity", map[string]float64{"temperature": 5, "humidity": 1}, []functions.SensorEvent{reading}, []step{{read(20), "reading"}, {read(24), ""}, {read(25), "reading"}}},
		{"faults alone", nil, []functions.SensorEvent{faults}, []step{{read(20), ""}, {fault, "fault"}, {recovered(20), ""}}},
		{"a recovery takes the reading's place", map[string]float64{"temperature": 0.5}, []functions.SensorEvent{reading, recoveries}, []step{
			{read(20), "reading"}, {fault, ""}, {recovered(30), "recovered"}, {read(30.1), ""}, {read(30.5), "reading"},
		}},
		{"who wants no recoveries gets a reading", map[string]float64{"temperature": 0.5}, []functions.SensorEvent{reading}, []step{
			{read(20), "reading"}, {recovered(20.1), ""}, {recovered(21), "reading"},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := filter{trigger: functions.SensorTrigger{Change: tt.change, Events: tt.events}}
			for i, s := range tt.steps {
				out, ok := f.pass(s.sample)
				got := ""
				if ok {
					got = [...]string{"reading", "fault", "recovered"}[out.Kind]
				}
				if got != s.want {
					t.Errorf("step %d: got %q, want %q", i, got, s.want)
				}
			}
		})
	}
}

type sink struct{ all []string }

func (s *sink) Deliver(_ context.Context, d triggers.Delivery) error {
	s.all = append(s.all, d.Event.Type[len("edgefn.sensor."):])
	d.Settle(nil)
	return nil
}

// greenhouse opens a simulated sensor of that name. The caller closes it.
func greenhouse(t *testing.T) (*sim.Driver, *drivers.Devices) {
	t.Helper()
	m := sim.New()
	d, err := drivers.New(drivers.Config{Driver: m, Specs: []drivers.Spec{{Name: "greenhouse", Sensor: "bme280", Bus: "i2c-1"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m, d
}

func TestSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, d := greenhouse(t)
		defer func() { _ = d.Close() }()
		var to sink
		s, err := New(Config{
			Sink: &to, Node: "pi", Devices: d,
			Binding: triggers.Binding{Function: "fan", Trigger: functions.Trigger{Name: "warm", Sensor: &functions.SensorTrigger{
				Device: "greenhouse", Every: 10 * time.Second, Change: map[string]float64{"temperature": 0.5},
				Events: []functions.SensorEvent{functions.SensorReading, functions.SensorFault, functions.SensorRecovered},
			}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		check := func(state string, want ...string) {
			t.Helper()
			synctest.Wait()
			if diff := cmp.Diff(want, to.all); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got, _ := s.Status(); got != state {
				t.Errorf("status %s, want %s", got, state)
			}
		}
		check(triggers.StateConnected, "reading")
		time.Sleep(time.Minute)
		check(triggers.StateConnected, "reading")
		if err := m.SetSensor("greenhouse", "temperature", 31); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		check(triggers.StateConnected, "reading", "reading")
		if err := m.Fail("greenhouse", fmt.Errorf("%w: unplugged", drivers.ErrFault)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		check(triggers.StateOffline, "reading", "reading", "fault")
		if err := m.Fail("greenhouse", nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		check(triggers.StateConnected, "reading", "reading", "fault", "recovered")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		check(triggers.StateStopped, "reading", "reading", "fault", "recovered")
	})
}

func TestSourceOfASensorThatIsNotThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, err := drivers.New(drivers.Config{Driver: sim.New()})
		if err != nil {
			t.Fatal(err)
		}
		s, err := New(Config{
			Sink: &sink{}, Node: "pi", Devices: d,
			Binding: triggers.Binding{Function: "fan", Trigger: functions.Trigger{Sensor: &functions.SensorTrigger{Device: "nosuch", Every: time.Second}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(30 * time.Second)
		if state, err := s.Status(); state != triggers.StateRefused || !errors.Is(err, drivers.ErrUnknown) {
			t.Errorf("status %s %v, want refused", state, err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// late keeps what it takes until it is told to settle it.
type late struct{ all []triggers.Delivery }

func (l *late) Deliver(_ context.Context, d triggers.Delivery) error {
	l.all = append(l.all, d)
	return nil
}

// While a function works on a reading the next ones give way to the newest, and
// faults and recoveries do not.
func TestSourceOfASlowFunction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, d := greenhouse(t)
		defer func() { _ = d.Close() }()
		var to late
		s, err := New(Config{
			Sink: &to, Node: "pi", Devices: d,
			Binding: triggers.Binding{Function: "fan", Trigger: functions.Trigger{Name: "slow", Sensor: &functions.SensorTrigger{
				Device: "greenhouse", Every: time.Second, Events: []functions.SensorEvent{functions.SensorReading, functions.SensorFault, functions.SensorRecovered},
			}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		pass := func(celsius float64, seconds int) {
			t.Helper()
			if err := m.SetSensor("greenhouse", "temperature", celsius); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(seconds) * time.Second)
			synctest.Wait()
		}
		pass(20, 1)
		pass(21, 5)
		pass(22, 5)
		if err := m.Fail("greenhouse", drivers.ErrFault); err != nil {
			t.Fatal(err)
		}
		pass(23, 5)
		if err := m.Fail("greenhouse", nil); err != nil {
			t.Fatal(err)
		}
		pass(24, 20)
		var got []string
		for i := 0; i < len(to.all); i++ {
			e := to.all[i].Event
			var values struct {
				Temperature float64 `json:"temperature_C"`
			}
			if err := json.Unmarshal(e.Data, &values); err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprint(e.Type[len("edgefn.sensor."):], " ", values.Temperature))
			if i < 4 {
				to.all[i].Settle(nil)
				synctest.Wait()
			}
		}
		if diff := cmp.Diff([]string{"reading 20", "reading 22", "fault 0", "recovered 24", "reading 24"}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		to.all[4].Settle(nil)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

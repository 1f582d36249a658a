package gpio_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/edgefn/edgefn/drivers"
	"github.com/edgefn/edgefn/drivers/sim"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/triggers"
	"github.com/edgefn/edgefn/triggers/gpio"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sink settles what it takes, while it is open.
type sink struct {
	all  []triggers.Delivery
	shut chan struct{} // nil: open
}

func (s *sink) Deliver(ctx context.Context, d triggers.Delivery) error {
	if s.shut != nil {
		select {
		case <-s.shut:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.all = append(s.all, d)
	d.Settle(nil)
	return nil
}

func binding(g functions.GPIOTrigger) triggers.Binding {
	return triggers.Binding{Function: "bell", Trigger: functions.Trigger{Name: "button", GPIO: &g}}
}

// machine is a simulated one that is open until the test ends.
func machine(t *testing.T) (*drivers.Devices, *sim.Driver) {
	t.Helper()
	s := sim.New()
	d, err := drivers.New(drivers.Config{Driver: s, Specs: []drivers.Spec{{Name: "door", Line: "GPIO17", ActiveLow: true}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d, s
}

func TestEvent(t *testing.T) {
	opened := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	at := opened.Add(time.Minute)
	e := drivers.Edge{On: true, Opened: opened, Seq: 17, Lost: 2, Coalesced: 3, Kernel: 123456789, Time: at}
	blind := drivers.Edge{High: true, Opened: opened, Seq: 18, Blind: true}
	overrun := blind
	overrun.Lost = 4
	tests := []struct {
		name, id, data string
		edge           drivers.Edge
	}{
		{"seen", "door-1767323045000000006-17", `{"on":true,"edge":"rising","level":0,"line_seq":17,"lost":2,"coalesced":3,"time_ns":123456789,"opened":"2026-01-02T03:04:05.000000006Z"}`, e},
		{"blind", "door-1767323045000000006-18", `{"on":false,"edge":"falling","level":1,"line_seq":18,"lost":null,"coalesced":0,"time_ns":0,"opened":"2026-01-02T03:04:05.000000006Z"}`, blind},
		{"blind, and lost here", "door-1767323045000000006-18", `{"on":false,"edge":"falling","level":1,"line_seq":18,"lost":4,"coalesced":0,"time_ns":0,"opened":"2026-01-02T03:04:05.000000006Z"}`, overrun},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := gpio.Event("pi", "door", tt.edge)
			want := functions.Event{
				ID: tt.id, Type: "edgefn.gpio.edge", Source: "gpio://pi", Subject: "door", Time: tt.edge.Time,
				DataContentType: "application/json", Data: []byte(tt.data),
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s\n%s", diff, got.Data)
			}
		})
	}
}

func TestSource(t *testing.T) {
	tests := []struct {
		edge functions.EdgeKind
		want []string
	}{
		{functions.EdgeRising, []string{"true 1", "true 2"}},
		{functions.EdgeFalling, []string{"false 1"}},
		{functions.EdgeBoth, []string{"true 1", "false 2", "true 3"}},
	}
	for _, tt := range tests {
		t.Run(string(tt.edge), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, m := machine(t)
				var to sink
				s, err := gpio.New(gpio.Config{Binding: binding(functions.GPIOTrigger{Line: "door", Edge: tt.edge}), Sink: &to, Node: "pi", Devices: d})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- s.Run(ctx) }()
				synctest.Wait()
				if state, err := s.Status(); state != triggers.StateConnected || err != nil {
					t.Errorf("status %s %v", state, err)
				}
				for _, on := range []bool{true, false, true} {
					if err := m.SetLine("door", on); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait()
				var got []string
				for _, d := range to.all {
					var on bool
					var seq int
					if _, err := fmt.Sscanf(string(d.Event.Data), `{"on":%t,`, &on); err != nil {
						t.Fatal(err)
					}
					if _, err := fmt.Sscanf(d.Event.ID[len(d.Event.ID)-2:], "-%d", &seq); err != nil {
						t.Fatal(err)
					}
					got = append(got, fmt.Sprintf("%v %d", on, seq))
					if d.Function != "bell" || d.Trigger != "button" {
						t.Errorf("delivered to %s of %s", d.Trigger, d.Function)
					}
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
				if state, _ := s.Status(); state != triggers.StateStopped {
					t.Errorf("status %s", state)
				}
				if err := s.Run(t.Context()); err == nil {
					t.Error("ran twice")
				}
			})
		})
	}
}

func TestSourceWhileTheFunctionIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := machine(t)
		to := &sink{shut: make(chan struct{})}
		s, err := gpio.New(gpio.Config{Binding: binding(functions.GPIOTrigger{Line: "door", Edge: functions.EdgeBoth, Coalesce: true}), Sink: to, Node: "pi", Devices: d})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		for i := range 5 {
			if err := m.SetLine("door", i%2 == 0); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		close(to.shut)
		synctest.Wait()
		if len(to.all) != 2 || string(to.all[1].Event.Data[:11]) != `{"on":true,` {
			t.Errorf("%d events, want the first and the last", len(to.all))
		}
		cancel()
		<-done
	})
}

// late keeps what it takes until it is told to settle it.
type late struct{ all []triggers.Delivery }

func (l *late) Deliver(_ context.Context, d triggers.Delivery) error {
	l.all = append(l.all, d)
	return nil
}

// Edges become one while the one before them is handled, although the function
// has room for more.
func TestSourceCoalesces(t *testing.T) {
	for _, tt := range []struct {
		coalesce bool
		want     []string // number and coalesced
	}{
		{false, []string{"1 0", "2 0", "3 0", "4 0", "5 0"}},
		{true, []string{"1 0", "5 3"}},
	} {
		t.Run(fmt.Sprint(tt.coalesce), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, m := machine(t)
				to := &late{}
				s, err := gpio.New(gpio.Config{Binding: binding(functions.GPIOTrigger{Line: "door", Edge: functions.EdgeBoth, Coalesce: tt.coalesce}), Sink: to, Node: "pi", Devices: d})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- s.Run(ctx) }()
				synctest.Wait()
				for i := range 5 {
					if err := m.SetLine("door", i%2 == 0); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
				}
				var got []string
				for i := 0; i < len(to.all); i++ {
					var e struct {
						Seq       int `json:"line_seq"`
						Coalesced int
					}
					if err := json.Unmarshal(to.all[i].Event.Data, &e); err != nil {
						t.Fatal(err)
					}
					got = append(got, fmt.Sprintf("%d %d", e.Seq, e.Coalesced))
					to.all[i].Settle(nil)
					synctest.Wait()
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// shaky are devices that refuse at first.
type shaky struct {
	errs  []error
	calls []time.Time
}

func (s *shaky) Edges(ctx context.Context, _, _ string, o drivers.EdgeOptions, _ func(drivers.Edge)) error {
	s.calls = append(s.calls, time.Now())
	if n := len(s.calls); n <= len(s.errs) {
		return s.errs[n-1]
	}
	o.Begun()
	<-ctx.Done()
	return nil
}

func TestSourceTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := &shaky{errs: []error{drivers.ErrBusy, drivers.ErrFault, drivers.ErrShared, errors.New("more"), drivers.ErrUnknown}}
		s, err := gpio.New(gpio.Config{Binding: binding(functions.GPIOTrigger{Line: "door", Edge: functions.EdgeBoth}), Sink: &sink{}, Node: "pi", Devices: dev})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		for i, want := range []string{triggers.StateOffline, triggers.StateOffline, triggers.StateRefused, triggers.StateOffline, triggers.StateRefused, triggers.StateConnected} {
			synctest.Wait()
			if state, _ := s.Status(); state != want {
				t.Errorf("try %d: %s, want %s", i, state, want)
			}
			if i < 5 {
				time.Sleep(500 * time.Millisecond << i)
			}
		}
		cancel()
		<-done
	})
}

// leaky lose an edge before each that they give.
type leaky struct{}

func (leaky) Edges(ctx context.Context, _, _ string, o drivers.EdgeOptions, f func(drivers.Edge)) error {
	o.Begun()
	for seq := uint64(2); ctx.Err() == nil; seq += 2 {
		f(drivers.Edge{Seq: seq, Lost: 1})
		time.Sleep(time.Second)
	}
	return nil
}

func TestLossDoesNotFloodTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s, err := gpio.New(gpio.Config{
			Binding: binding(functions.GPIOTrigger{Line: "door", Edge: functions.EdgeBoth}), Sink: &sink{}, Node: "pi", Devices: leaky{},
			Logger: slog.New(slog.NewTextHandler(&log, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
		if got := strings.Count(log.String(), "edges lost"); got != 2 || !strings.Contains(log.String(), "lost=60 ") {
			t.Errorf("logged %d times, want at once and after a minute:\n%s", got, &log)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	for name, cfg := range map[string]gpio.Config{
		"another trigger": {Binding: triggers.Binding{Trigger: functions.Trigger{MQTT: &functions.MQTTTrigger{}}}, Sink: &sink{}, Node: "pi", Devices: &shaky{}},
		"no devices":      {Binding: binding(functions.GPIOTrigger{}), Sink: &sink{}, Node: "pi"},
		"no node":         {Binding: binding(functions.GPIOTrigger{}), Sink: &sink{}, Devices: &shaky{}},
	} {
		if _, err := gpio.New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

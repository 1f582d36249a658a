package broker_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/triggers"
	"github.com/edgefn/edgefn/triggers/mqtt/broker"
)

func TestPublish(t *testing.T) {
	sk := holding()
	s := start(t, broker.Config{Sink: sk})
	s.Bind([]triggers.Binding{bind("next", "out/#", 1)})
	online := dial(t, s.Addr(), options{id: "online"})
	online.subscribe("out/+", 0)
	offline := dial(t, s.Addr(), options{id: "offline", keep: true})
	offline.subscribe("other", 1)
	offline.goodbye()

	result := make(chan error, 1)
	go func() {
		result <- s.Publish(t.Context(), functions.Publish{Topic: "out/fan", Data: []byte("on"), QoS: 1, Retain: true})
	}()
	d := sk.wait(t, 1)[0]
	if m := online.wantPublish(); m.payload != "on" || m.retain {
		t.Errorf("subscriber got %+v", m)
	}
	if d.Function != "next" || string(d.Event.Data) != "on" || d.Event.Source != "mqtt://local" {
		t.Errorf("function got %+v", d)
	}
	d.Settle(nil)
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	late := dial(t, s.Addr(), options{id: "late"})
	late.subscribe("out/fan", 1)
	if m := late.wantPublish(); m.payload != "on" || !m.retain {
		t.Errorf("retained: got %+v", m)
	}

	// For a persistent session it is on disk when Publish returns.
	if err := s.Publish(t.Context(), functions.Publish{Topic: "other", Data: []byte("1"), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "a/#", "a\x00"} {
		if err := s.Publish(t.Context(), functions.Publish{Topic: bad, QoS: 1}); err == nil {
			t.Errorf("published to %q", bad)
		}
	}
	if err := s.Publish(t.Context(), functions.Publish{Topic: "x", QoS: 3}); err == nil {
		t.Error("published with QoS 3")
	}
	old := s
	s = s.again(t)
	offline = dial(t, s.Addr(), options{id: "offline", keep: true})
	if m := offline.wantPublish(); m.payload != "1" {
		t.Errorf("got %+v", m)
	}
	if err := old.Publish(t.Context(), functions.Publish{Topic: "x", QoS: 1}); !errors.Is(err, broker.ErrNotRunning) {
		t.Errorf("publish on an ended broker: %v", err)
	}
}

// A chain waits for its end.
func TestPublishWaitsForSettlement(t *testing.T) {
	sk := holding()
	s := start(t, broker.Config{Sink: sk})
	s.Bind([]triggers.Binding{bind("next", "out", 1)})
	result := make(chan error, 1)
	go func() { result <- s.Publish(t.Context(), functions.Publish{Topic: "out", Data: []byte("1"), QoS: 1}) }()
	d := sk.wait(t, 1)[0]
	select {
	case err := <-result:
		t.Fatalf("Publish returned (%v) with its event in work", err)
	case <-time.After(moment / 2):
	}
	if n := s.Stats().Pending; n != 0 {
		t.Errorf("%d events on disk", n)
	}
	d.Settle(nil)
	if err := <-result; err != nil {
		t.Error(err)
	}
}

// loop is the node with functions that publish what they get, to where they got
// it from: each event is settled when its own output is published.
type loop struct {
	publish func(ctx context.Context, topic string, data []byte) error
	max     int

	mu      sync.Mutex
	errs    []error
	seen    int
	settled int
}

func (l *loop) Deliver(ctx context.Context, d triggers.Delivery) error {
	l.mu.Lock()
	l.seen++
	n := l.seen
	l.mu.Unlock()
	go func() {
		var err error
		if n < l.max {
			err = l.publish(ctx, d.Event.Subject, d.Event.Data)
		}
		d.Settle(err)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.settled++
		if err != nil {
			l.errs = append(l.errs, err)
		}
	}()
	return nil
}

// A function that triggers itself does not wait for itself for ever.
func TestSelfTriggerDoesNotDeadlock(t *testing.T) {
	t.Parallel()
	l := &loop{max: 5}
	// One event at a time, as the node does for one subject.
	var turn sync.Mutex
	sk := newSink(func(ctx context.Context, d triggers.Delivery) error {
		turn.Lock()
		settle := d.Settle
		d.Settle = func(err error) { turn.Unlock(); settle(err) }
		return l.Deliver(ctx, d)
	})
	s := start(t, broker.Config{Sink: sk})
	l.publish = func(ctx context.Context, topic string, data []byte) error {
		return s.Publish(ctx, functions.Publish{Topic: topic, Data: data, QoS: 1})
	}
	s.Bind([]triggers.Binding{bind("echo", "loop", 1)})
	c := dial(t, s.Addr(), options{id: "c"})
	c.publish(publish{topic: "loop", payload: "x", qos: 1, pid: 1})
	c.wantAck(pPuback, 1)
	eventually(t, "all five are settled", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.settled == 5 })
	if len(l.errs) > 0 {
		t.Error(l.errs)
	}
	eventually(t, "nothing is left on disk", func() bool { return s.Stats().Pending == 0 })
}

// An output whose function has not settled it when the node goes down.
func TestOutputSurvivesRestart(t *testing.T) {
	t.Parallel()
	sk := holding()
	s := start(t, broker.Config{Sink: sk})
	bound := []triggers.Binding{bind("next", "out", 1)}
	s.Bind(bound)
	for i := range 3 {
		if err := s.Publish(t.Context(), functions.Publish{Topic: "out", Data: []byte(numbered(i)), QoS: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Stats().Pending; n != 3 {
		t.Errorf("%d events on disk, want 3", n)
	}
	first := sk.wait(t, 3)
	s = s.again(t)
	sk.never(t, 3) // not before its function is bound
	s.Bind(bound)
	second := sk.wait(t, 6)[3:]
	if diff := cmp.Diff(data(first), data(second)); diff != "" {
		t.Error(diff)
	}
	for i := range second {
		if first[i].Event.ID != second[i].Event.ID {
			t.Errorf("event %d has another id", i)
		}
		second[i].Settle(nil)
	}
	eventually(t, "nothing is left on disk", func() bool { return s.Stats().Pending == 0 })
	s = s.again(t)
	s.Bind(bound)
	sk.never(t, 6)
}

func TestPublishGivesUp(t *testing.T) {
	sk := newSink(func(ctx context.Context, _ triggers.Delivery) error {
		<-ctx.Done()
		return ctx.Err()
	})
	s := start(t, broker.Config{Sink: sk})
	s.Bind([]triggers.Binding{bind("next", "out", 1)})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Publish(ctx, functions.Publish{Topic: "out", QoS: 1}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want a timeout", err)
	}
}

func TestBindDeliversRetained(t *testing.T) {
	sk := newSink(nil)
	s := start(t, broker.Config{Sink: sk})
	for i := range 3 {
		if err := s.Publish(t.Context(), functions.Publish{Topic: fmt.Sprint("r/", i), Data: []byte(numbered(i)), QoS: 1, Retain: true}); err != nil {
			t.Fatal(err)
		}
	}
	bound := []triggers.Binding{bind("f", "r/+", 1)}
	s.Bind(bound)
	ds := sk.wait(t, 3)
	for _, d := range ds {
		if d.Event.Extensions["mqttretain"] != "true" {
			t.Errorf("%s has mqttretain %q", d.Event.Subject, d.Event.Extensions["mqttretain"])
		}
	}
	got := data(ds)
	slices.Sort(got)
	if diff := cmp.Diff([]string{numbered(0), numbered(1), numbered(2)}, got); diff != "" {
		t.Error(diff)
	}
	s.Bind(bound) // the same again: a redeploy
	sk.never(t, 3)
	c := dial(t, s.Addr(), options{id: "c"})
	c.publish(publish{topic: "r/9", payload: "live", qos: 1, pid: 1, retain: true})
	c.wantAck(pPuback, 1)
	if d := sk.wait(t, 4)[3]; d.Event.Extensions["mqttretain"] != "false" {
		t.Error("a live message has mqttretain true") // [MQTT-3.3.1-9]
	}
	s = s.again(t)
	s.Bind(bound) // a restart is no new binding
	sk.never(t, 4)
	s.Bind(append(bound, bind("g", "r/0", 0)))
	if d := sk.wait(t, 5)[4]; d.Function != "g" || d.Event.Extensions["mqttqos"] != "0" {
		t.Errorf("new binding got %+v", d)
	}
	s.Bind(nil)
	s.Bind(bound) // removed and added: new
	sk.wait(t, 8)
}

func TestBindPassesOverOthers(t *testing.T) {
	sk := newSink(nil)
	s := start(t, broker.Config{Sink: sk})
	other := bind("f", "x", 1)
	other.Trigger.MQTT.Broker = "plant"
	s.Bind([]triggers.Binding{other, {Function: "g"}})
	if err := s.Publish(t.Context(), functions.Publish{Topic: "x", QoS: 1}); err != nil {
		t.Fatal(err)
	}
	sk.never(t, 0)
}

// Bind that comes while Run begins is not undone by it.
func TestBindWhileRunBegins(t *testing.T) {
	for i := range 40 {
		sk := newSink(nil)
		s := start(t, broker.Config{Sink: sk})
		for range i { // now here, now there in Run's beginning
			runtime.Gosched()
		}
		s.Bind([]triggers.Binding{bind("f", "x", 1)})
		c := dial(t, s.Addr(), options{id: "c"}) // it runs by now
		c.publish(publish{topic: "x", qos: 1, pid: 1})
		c.wantAck(pPuback, 1)
		if n := len(sk.deliveries()); n != 1 {
			t.Fatalf("%d events, want 1", n)
		}
		s.stop()
	}
}

// An output does not overtake those that wait on disk since an earlier run.
func TestOutputsKeepTheirOrderBehindABacklog(t *testing.T) {
	t.Parallel()
	sk := holding()
	s := start(t, broker.Config{Sink: sk})
	bound := []triggers.Binding{bind("next", "out", 1)}
	s.Bind(bound)
	for i := range 3 {
		if err := s.Publish(t.Context(), functions.Publish{Topic: "out", Data: []byte(numbered(i)), QoS: 1}); err != nil {
			t.Fatal(err)
		}
	}
	sk.wait(t, 3)
	s = s.again(t)
	for i := 3; i < 6; i++ { // before its function is bound, and after
		if i == 4 {
			s.Bind(bound)
		}
		if err := s.Publish(t.Context(), functions.Publish{Topic: "out", Data: []byte(numbered(i)), QoS: byte(i % 2)}); err != nil {
			t.Fatal(err)
		}
	}
	var want []string
	for i := range 6 {
		if i != 3 { // nothing listened yet
			want = append(want, numbered(i))
		}
	}
	got := sk.wait(t, 8)[3:]
	if diff := cmp.Diff(want, data(got)); diff != "" {
		t.Error(diff)
	}
	for _, d := range got {
		d.Settle(nil)
	}
	eventually(t, "nothing is left on disk", func() bool { return s.Stats().Pending == 0 })
}

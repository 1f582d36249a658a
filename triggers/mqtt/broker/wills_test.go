package broker_test

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edgefn/edgefn/triggers"
	"github.com/edgefn/edgefn/triggers/mqtt/broker"
)

// TestWillOutlivesTheNode ends the node while clients are connected, or away with
// a will that waits.
func TestWillOutlivesTheNode(t *testing.T) {
	t.Parallel()
	var now atomic.Int64
	now.Store(1_800_000_000)
	s := start(t, broker.Config{Clock: func() time.Time { return time.Unix(now.Load(), 0) }})
	const qos1 = 1 << 3
	day := []byte{17, 0, 1, 0x51, 0x80}                                        // session expiry
	delay := func(seconds byte) []byte { return []byte{24, 0, 0, 0, seconds} } // will delay
	watcher := dial(t, s.Addr(), options{id: "watcher", keep: true})
	watcher.subscribe("will", 1)

	dial(t, s.Addr(), options{id: "left", version: 5, keep: true, props: day, will: "left", willFlags: qos1, willProps: delay(60)}).close()
	dial(t, s.Addr(), options{id: "back", version: 5, keep: true, props: day, will: "back", willFlags: qos1})
	dial(t, s.Addr(), options{id: "gone", will: "gone", willFlags: qos1})
	dial(t, s.Addr(), options{id: "late", version: 5, keep: true, props: day, will: "late", willFlags: qos1, willProps: delay(30)})
	dial(t, s.Addr(), options{id: "polite", will: "polite", willFlags: qos1}).goodbye()
	eventually(t, "two are away", func() bool { return s.Stats().Clients == 4 })
	watcher.goodbye()

	s = s.again(t)
	dial(t, s.Addr(), options{id: "back", version: 5, keep: true, props: day, will: "of the next", willFlags: qos1})
	for _, step := range []struct {
		seconds int64
		want    []string
	}{
		{4, nil}, {1, []string{"gone"}}, {24, nil}, {1, []string{"late"}}, {29, nil}, {1, []string{"left"}}, {1000, nil},
	} {
		now.Add(step.seconds)
		watcher = dial(t, s.Addr(), options{id: "watcher", keep: true})
		var got []string
		for range step.want {
			m := watcher.wantPublish()
			got = append(got, m.payload)
			watcher.ack(pPuback, m.pid)
		}
		time.Sleep(1200 * time.Millisecond) // a sweep
		watcher.nothing()
		watcher.goodbye()
		if !slices.Equal(got, step.want) {
			t.Errorf("after %d more seconds: %v, want %v", step.seconds, got, step.want)
		}
	}
	s = s.again(t)
	now.Add(6)
	watcher = dial(t, s.Addr(), options{id: "watcher", keep: true})
	if m := watcher.wantPublish(); m.payload != "of the next" {
		t.Errorf("got %s", m.payload)
	}
	s = s.again(t)
	now.Add(1000)
	watcher = dial(t, s.Addr(), options{id: "watcher", keep: true})
	if m := watcher.wantPublish(); m.payload != "of the next" || !m.dup {
		t.Errorf("got %+v", m) // not acknowledged, and the same
	}
	time.Sleep(1200 * time.Millisecond)
	watcher.nothing()
}

// TestWillThatAFunctionHasNotSettled hands a will over again after a restart,
// although its client is back with another one.
func TestWillThatAFunctionHasNotSettled(t *testing.T) {
	sk := holding()
	s := start(t, broker.Config{Sink: sk})
	triggered := []triggers.Binding{bind("f", "will", 1)}
	s.Bind(triggered)
	dial(t, s.Addr(), options{id: "a", will: "first"}).close()
	sk.wait(t, 1)
	dial(t, s.Addr(), options{id: "a", will: "second"})
	next := newSink(nil)
	s.cfg.Sink = next
	s = s.again(t)
	s.Bind(triggered)
	a := dial(t, s.Addr(), options{id: "a"})
	if d := next.wait(t, 1)[0]; string(d.Event.Data) != "first" {
		t.Errorf("got %q", d.Event.Data)
	}
	a.goodbye()
	next.never(t, 1)
}

package node_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/functions/wire"
	"github.com/edgefn/edgefn/node"
	"github.com/edgefn/edgefn/node/api"
)

// keepCommitted lets the outbox delete nothing, so that a node ends with the
// commands in it.
func (w *world) keepCommitted() {
	w.st.set(func(_ []store.Guard, ops []store.Op) error {
		for _, op := range ops {
			if op.Delete && strings.HasPrefix(op.Key, "/edgefn/outbox/") {
				return errors.New("no")
			}
		}
		return nil
	}, nil)
}

// driving is a function that may drive the relay, and is told how by its event:
// words of on, off, release, pulse and fail.
func driving(name string) functions.Function {
	f := function(name, "drive")
	f.Grants.Lines = []functions.LineGrant{{Line: "relay"}}
	return f
}

func drive(ctx context.Context, in pool.Invocation) (functions.Result, error) {
	for word := range strings.FieldsSeq(string(in.Event.Data)) {
		c := wire.Call{Device: "relay"}
		kind := wire.KindSetLine
		switch word {
		case "on":
			c.On = true
		case "release":
			kind = wire.KindReleaseLine
		case "pulse":
			kind, c.MS = wire.KindPulseLine, 50
		case "hold":
			kind, c.MS = wire.KindPulseLine, 30_000
		case "state":
			kind, c = wire.KindPut, wire.Call{Key: "k", Value: []byte("v")}
		case "fail":
			return functions.Result{}, functions.Failf(functions.FailRaised, "told to")
		}
		if _, err := in.Host.Call(ctx, kind, c); err != nil {
			return functions.Result{}, functions.Failf(functions.FailRaised, "%v", err)
		}
	}
	return functions.Result{}, nil
}

func wantRelay(t *testing.T, n *node.Node, want string) {
	t.Helper()
	eventually(t, "relay is "+want, func() bool { return device(t, n, "relay").Value == want })
}

func TestLinesAreDrivenWithoutATransaction(t *testing.T) {
	w := newWorld(t)
	w.handle("drive", drive)
	n, _ := w.run(w.hardwareConfig())
	deploy(t, n, driving("lamp"))
	w.st.set(func([]store.Guard, []store.Op) error {
		return errors.New("no transaction is made where none is needed")
	}, nil)
	wantSettled(t, send(t, n, "lamp", "lamp/a", "", "on"))
	if got := device(t, n, "relay").Value; got != "on" { // not a moment later
		t.Errorf("relay is %s when its event is settled", got)
	}
	wantSettled(t, send(t, n, "lamp", "lamp/a", "", "off on pulse"))
	if got := device(t, n, "relay").Value; got != "off" {
		t.Errorf("relay is %s after the pulse", got)
	}
	w.st.set(nil, nil)
	// With state they go together, and the lines follow.
	wantSettled(t, send(t, n, "lamp", "lamp/a", "", "state on"))
	wantRelay(t, n, "on")
	wantSettled(t, send(t, n, "lamp", "lamp/a", "", "release"))
	wantRelay(t, n, "off")
}

// An event with an id of its own pulses once, also when it comes again.
func TestPulseOfARepeatedEvent(t *testing.T) {
	w := newWorld(t)
	w.handle("drive", drive)
	n, stop := w.run(w.hardwareConfig())
	deploy(t, n, driving("lamp"))
	first := send(t, n, "lamp", "lamp/a", "press-1", "pulse")
	wantSettled(t, first)
	wantRelay(t, n, "on")
	wantRelay(t, n, "off")
	pulsed := device(t, n, "relay").Time
	wantSettled(t, send(t, n, "lamp", "lamp/a", "press-1", "pulse"))
	stop()
	n, _ = w.run(w.hardwareConfig())
	eventually(t, "it serves", func() bool { d, err := n.Describe(t.Context(), "lamp"); return err == nil && d.State == "serving" })
	since := device(t, n, "relay").Time
	wantSettled(t, send(t, n, "lamp", "lamp/a", "press-1", "pulse"))
	time.Sleep(20 * time.Millisecond)
	if got := device(t, n, "relay"); !got.Time.Equal(since) || got.Time.Before(pulsed) {
		t.Errorf("the relay moved at %v: %+v", got.Time, got)
	}
}

func TestFailingFunctionLosesItsCommands(t *testing.T) {
	w := newWorld(t)
	w.handle("drive", drive)
	n, _ := w.run(w.hardwareConfig())
	f := driving("lamp")
	f.Retry.Attempts = 2
	deploy(t, n, f)
	wantSettled(t, send(t, n, "lamp", "lamp/a", "", "on"))
	wantSettled(t, send(t, n, "lamp", "lamp/a", "", "off fail")) // two attempts
	if got := device(t, n, "relay").Value; got != "on" {
		t.Errorf("relay is %s: what a failed attempt commands must not take place, nor end what was before", got)
	}
	wantSettled(t, send(t, n, "lamp", "lamp/a", "", "on")) // a success between
	wantSettled(t, send(t, n, "lamp", "lamp/a", "", "fail"))
	if got := device(t, n, "relay").Value; got != "on" {
		t.Errorf("relay is %s after two failures in a row", got)
	}
	wantSettled(t, send(t, n, "lamp", "lamp/a", "", "fail"))
	wantRelay(t, n, "off")
	wantSettled(t, send(t, n, "lamp", "lamp/a", "", "on"))
	wantRelay(t, n, "on")
}

// Events that people invoke or run again count as any.
func TestInvokedFunctionThatFailsLosesItsCommands(t *testing.T) {
	w := newWorld(t)
	w.handle("drive", drive)
	n, _ := w.run(w.hardwareConfig())
	f := driving("lamp")
	f.Retry.Attempts = 1
	deploy(t, n, f)
	invoke := func(text string) {
		t.Helper()
		if _, err := n.Invoke(t.Context(), "lamp", api.InvokeRequest{Data: []byte(text)}); err != nil {
			t.Fatal(err)
		}
	}
	wantSettled(t, send(t, n, "lamp", "lamp/a", "", "fail")) // one
	invoke("fail")
	invoke("on") // a success between
	wantRelay(t, n, "on")
	invoke("fail")
	invoke("fail")
	if got := device(t, n, "relay").Value; got != "on" {
		t.Errorf("relay is %s after two failures in a row", got)
	}
	if out, err := n.DeadRetry(t.Context(), "lamp", ""); err != nil || out.Failed != 1 {
		t.Fatalf("dead letter: %+v, %v", out, err)
	}
	wantRelay(t, n, "off")
}

// A pulse that is taken away from a function that fails is not made up for when
// its event is tried again.
func TestPulseThatIsTakenAwayIsNotRepeated(t *testing.T) {
	w := newWorld(t)
	w.handle("drive", drive)
	n, _ := w.run(w.hardwareConfig())
	f := driving("lamp")
	f.Scale.Max = 2
	deploy(t, n, f)
	pulsed := send(t, n, "lamp", "lamp/a", "", "hold")
	wantRelay(t, n, "on")
	wantSettled(t, send(t, n, "lamp", "lamp/b", "", "fail")) // three attempts
	wantRelay(t, n, "off")
	wantSettled(t, pulsed)
	if got := device(t, n, "relay").Value; got != "off" {
		t.Errorf("relay is %s: the pulse was made again", got)
	}
	letters, err := n.DeadList(t.Context(), "lamp")
	if err != nil || len(letters) != 1 {
		t.Errorf("%d dead letters, %v; want the one that failed", len(letters), err)
	}
}

// What a function commanded before it failed again and again does not follow
// after its line went to safe.
func TestCommandsThatWaitWhenTheirFunctionFails(t *testing.T) {
	w := newWorld(t)
	w.handle("drive", drive)
	n, _ := w.run(w.hardwareConfig())
	deploy(t, n, driving("lamp"))
	wantSettled(t, send(t, n, "lamp", "lamp/a", "", "state hold on")) // on waits for the pulse
	wantRelay(t, n, "on")
	wantSettled(t, send(t, n, "lamp", "lamp/b", "", "fail")) // three attempts
	wantRelay(t, n, "off")
	eventually(t, "nothing waits", func() bool {
		left, err := w.st.Count(t.Context(), "/edgefn/outbox/")
		return err == nil && left == 0
	})
	if got := device(t, n, "relay").Value; got != "off" {
		t.Errorf("relay is %s: a command from before the failures followed", got)
	}
	wantSettled(t, send(t, n, "lamp", "lamp/a", "", "state on"))
	wantRelay(t, n, "on")
}

// What a function committed before it was removed is not done by the next one of
// its name.
func TestCommandsThatWaitWhenTheirFunctionIsRemoved(t *testing.T) {
	w := newWorld(t)
	w.handle("drive", drive)
	n, _ := w.run(w.hardwareConfig())
	deploy(t, n, driving("lamp"))
	simulate := func(what string) {
		t.Helper()
		if err := n.Simulate(t.Context(), "relay", what); err != nil {
			t.Fatal(err)
		}
	}
	simulate("fault")
	wantSettled(t, send(t, n, "lamp", "lamp/a", "", "state on"))
	eventually(t, "the relay does not obey", func() bool { return device(t, n, "relay").State == "fault" })
	if err := n.Remove(t.Context(), "lamp", api.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	deploy(t, n, driving("lamp"))
	simulate("ok")
	eventually(t, "nothing waits", func() bool {
		left, err := w.st.Count(t.Context(), "/edgefn/outbox/")
		return err == nil && left == 0
	})
	if got := device(t, n, "relay").Value; got == "on" {
		t.Error("the relay is on: the removed function's command took place")
	}
}

// A set that was committed with state takes place although the node ended before.
func TestCommittedSetTakesPlaceAfterARestart(t *testing.T) {
	w := newWorld(t)
	w.handle("drive", drive)
	n, stop := w.run(w.hardwareConfig())
	deploy(t, n, driving("lamp"))
	w.keepCommitted()
	wantSettled(t, send(t, n, "lamp", "lamp/a", "", "state on"))
	wantRelay(t, n, "on")
	stop()
	w.st.set(nil, nil)
	n, _ = w.run(w.hardwareConfig())
	wantRelay(t, n, "on")
}

// A command of a line that the config names no more does not wait for ever.
func TestCommittedSetOfALineThatIsNoMore(t *testing.T) {
	w := newWorld(t)
	w.handle("drive", drive)
	n, stop := w.run(w.hardwareConfig())
	deploy(t, n, driving("lamp"))
	w.keepCommitted()
	wantSettled(t, send(t, n, "lamp", "lamp/a", "", "state on"))
	stop()
	w.st.set(nil, nil)
	cfg := w.hardwareConfig()
	cfg.Devices = cfg.Devices[:1]
	_, _ = w.run(cfg)
	eventually(t, "the command is gone", func() bool {
		left, err := w.st.Count(t.Context(), "/edgefn/outbox/")
		return err == nil && left == 0
	})
}

package node_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node"
	"github.com/edgefn/edgefn/node/api"
)

// twoTriggers is a function with the triggers in and far.
func twoTriggers(code string) functions.Function {
	f := function("fan", code)
	f.Triggers = append(f.Triggers, functions.Trigger{Name: "far", Order: functions.OrderNone, MQTT: &functions.MQTTTrigger{Topic: "x", Broker: "plant"}})
	return f
}

// pausedOf is the state of the function fan, and which of its triggers are
// paused.
func pausedOf(t *testing.T, n *node.Node) string {
	t.Helper()
	d, err := n.Describe(t.Context(), "fan")
	if err != nil {
		t.Fatal(err)
	}
	out := []string{d.State}
	for _, s := range d.Sources {
		if s.Paused {
			out = append(out, s.Trigger)
		}
	}
	return strings.Join(out, " ")
}

func TestPauseIsKept(t *testing.T) {
	w := newWorld(t)
	w.handle("one", answer("one"))
	w.handle("two", answer("two"))
	n, stop := w.run(w.config())
	deploy(t, n, twoTriggers("one"))
	want := func(text string) {
		t.Helper()
		if got := pausedOf(t, n); got != text {
			t.Errorf("got %q, want %q", got, text)
		}
	}
	pause := func(trigger string, want api.Paused) {
		t.Helper()
		got, err := n.Pause(t.Context(), "fan", trigger)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("pause (-want +got):\n%s%v", diff, err)
		}
	}
	resume := func(trigger string, want api.Paused) {
		t.Helper()
		got, err := n.Resume(t.Context(), "fan", trigger)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("resume (-want +got):\n%s%v", diff, err)
		}
	}
	pause("far", api.Paused{Function: "fan", Triggers: []string{"far"}})
	want("serving far")
	pause("far", api.Paused{Function: "fan", Triggers: []string{"far"}})
	// Over a restart, a new version and back.
	stop()
	n, stop = w.run(w.config())
	eventually(t, "it serves", func() bool { return pausedOf(t, n) == "serving far" })
	out := deploy(t, n, twoTriggers("two"))
	if s := strings.Join(out.Warnings, "\n"); !strings.Contains(s, "events of far wait") || !strings.Contains(s, "edgefn resume fan") {
		t.Errorf("warnings: %q", out.Warnings)
	}
	want("serving far")
	pause("", api.Paused{Function: "fan", Paused: true})
	want("paused in far")
	back, err := n.Rollback(t.Context(), "fan", "", func(api.Progress) {})
	if err != nil || !strings.Contains(strings.Join(back.Warnings, "\n"), "the function is paused") {
		t.Errorf("rollback: %+v, %v", back, err)
	}
	if again := deploy(t, n, twoTriggers("one")); !again.Unchanged || !strings.Contains(strings.Join(again.Warnings, "\n"), "the function is paused") {
		t.Errorf("the same again: %+v", again)
	}
	want("paused in far")
	if got := invoke(t, n, "fan"); got != "one" {
		t.Errorf("a person's own call answers %q", got)
	}
	stop()
	n, _ = w.run(w.config())
	want("paused in far")
	resume("in", api.Paused{Function: "fan", Triggers: []string{"far"}})
	eventually(t, "one trigger is paused", func() bool { return pausedOf(t, n) == "serving far" })
	pause("in", api.Paused{Function: "fan", Triggers: []string{"far", "in"}})
	want("paused in far")
	resume("", api.Paused{Function: "fan"})
	want("serving")
	resume("", api.Paused{Function: "fan"})
	e, _, err := w.st.Get(t.Context(), "/edgefn/functions/fan", store.Read{})
	if err != nil || strings.Contains(string(e.Value), "paused") {
		t.Errorf("record: %s, %v", e.Value, err)
	}
}

func TestPauseOfWhatIsNotThere(t *testing.T) {
	w := newWorld(t)
	w.handle("one", answer("one"))
	n, _ := w.run(w.config())
	deploy(t, n, twoTriggers("one"))
	for _, set := range []func(trigger string) error{
		func(trigger string) error { _, err := n.Pause(t.Context(), "fan", trigger); return err },
		func(trigger string) error { _, err := n.Resume(t.Context(), "fan", trigger); return err },
	} {
		err := set("out")
		wantError(t, err, api.ErrNotFound, `function "fan" has no trigger "out"`)
		if !strings.Contains(api.Hint(err), "in, far") {
			t.Errorf("hint: %q", api.Hint(err))
		}
	}
	_, err := n.Pause(t.Context(), "none", "")
	wantError(t, err, api.ErrNotFound, `no function "none"`)
	f := function("bare", "one")
	f.Triggers = nil
	deploy(t, n, f)
	_, err = n.Pause(t.Context(), "bare", "in")
	if wantError(t, err, api.ErrNotFound); !strings.Contains(api.Hint(err), "it has none") {
		t.Errorf("hint: %q", api.Hint(err))
	}
	if got, err := n.Pause(t.Context(), "bare", ""); err != nil || !got.Paused {
		t.Errorf("got %+v, %v", got, err)
	}
}

// A pause that another node writes takes place here, also while a version of the
// function is being deployed, and the deploy is not disturbed by it.
func TestPauseOfAnotherWriter(t *testing.T) {
	w := newWorld(t)
	w.handle("one", answer("one"))
	w.handle("two", answer("two"))
	n, _ := w.run(w.config())
	one := deploy(t, n, twoTriggers("one")).Version
	other := otherWriter{t, w.st}
	other.activates(one, "paused_triggers", []string{"in"})
	eventually(t, "it is paused", func() bool { return pausedOf(t, n) == "serving in" })
	out, err := n.Deploy(t.Context(), image(t, twoTriggers("two")), api.DeployOptions{}, func(p api.Progress) {
		if p.Step == "activate" {
			other.activates(one, "paused", true)
		}
	})
	if err != nil || !strings.Contains(strings.Join(out.Warnings, "\n"), "the function is paused") {
		t.Errorf("deploy: %+v, %v", out, err)
	}
	if got := pausedOf(t, n); got != "paused in far" {
		t.Errorf("after the deploy: %s", got)
	}
	if got := invoke(t, n, "fan"); got != "two" {
		t.Errorf("it answers %q", got)
	}
}

package node_test

import (
	"testing"
	"time"
)

// The events of a paused trigger wait, over a restart, and run once they may.
func TestEventsOfAPausedTriggerWait(t *testing.T) {
	w := newWorld(t)
	w.handle("count", count)
	n, stop := w.run(w.config())
	deploy(t, n, twoTriggers("count"))
	if _, err := n.Pause(t.Context(), "fan", "in"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		wantSettled(t, send(t, n, "fan", "fan/a", "", "")) // since it is kept
	}
	stop()
	n, _ = w.run(w.config())
	eventually(t, "it serves", func() bool { return pausedOf(t, n) == "serving in" })
	time.Sleep(50 * time.Millisecond)
	if _, err := n.StateGet(t.Context(), "fan", "n"); err == nil {
		t.Errorf("events of a paused trigger have run: n is %s", stateOf(t, n, "fan", "n"))
	}
	if _, err := n.Resume(t.Context(), "fan", ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "they have run", func() bool {
		v, err := n.StateGet(t.Context(), "fan", "n")
		return err == nil && string(v) == "3"
	})
}

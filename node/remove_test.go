package node_test

import (
	"context"
	"testing"
	"time"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/node/api"
)

func TestRemoveCountsAndKeepsState(t *testing.T) {
	w := newWorld(t)
	w.handle("code", count)
	n, _ := w.run(w.config())
	deploy(t, n, function("fan", "code"))
	wantSettled(t, send(t, n, "fan", "fan/a", "", ""))
	k, err := n.Kept(t.Context(), "fan")
	if err != nil || k.Versions != 1 || k.Triggers != 1 || k.StateKeys != 1 || k.StateBytes != 2 || k.Invocations != 1 || k.LogBytes != 0 {
		t.Errorf("kept: %+v, %v", k, err)
	}
	if err := n.Remove(t.Context(), "fan", api.RemoveOptions{KeepState: true}); err != nil {
		t.Fatal(err)
	}
	deploy(t, n, function("fan", "code"))
	if got := stateOf(t, n, "fan", "n"); got != "1" {
		t.Errorf("n: got %s, want the 1 that was kept", got)
	}
	if err := n.Remove(t.Context(), "fan", api.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if c, err := w.st.Count(t.Context(), "/edgefn/state/fan/"); c != 0 || err != nil {
		t.Errorf("%d keys of state are left, %v", c, err)
	}
}

// Who waits for an invocation of a function that is removed gets its outcome.
func TestRemoveDrainsInvocations(t *testing.T) {
	w := newWorld(t)
	begun, end := make(chan struct{}), make(chan struct{})
	w.handle("code", func(ctx context.Context, in pool.Invocation) (functions.Result, error) {
		close(begun)
		select {
		case <-end:
		case <-ctx.Done():
			return functions.Result{}, ctx.Err()
		}
		return functions.Result{Data: []byte("done")}, nil
	})
	n, _ := w.run(w.config())
	deploy(t, n, function("fan", "code"))
	type answer struct {
		out api.Invoked
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		out, err := n.Invoke(context.WithoutCancel(t.Context()), "fan", api.InvokeRequest{})
		answers <- answer{out, err}
	}()
	<-begun
	removed := make(chan error, 1)
	go func() { removed <- n.Remove(context.WithoutCancel(t.Context()), "fan", api.RemoveOptions{}) }()
	eventually(t, "the function is gone", func() bool {
		_, err := n.Describe(t.Context(), "fan")
		return err != nil
	})
	time.AfterFunc(10*time.Millisecond, func() { close(end) })
	if a := <-answers; a.err != nil || string(a.out.Data) != "done" {
		t.Errorf("the invocation: %+v, %v", a.out, a.err)
	}
	if err := <-removed; err != nil {
		t.Errorf("the removal: %v", err)
	}
}

package node_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/functions/wire"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/triggers"
)

// echo answers with its event's data.
func echo(_ context.Context, in pool.Invocation) (functions.Result, error) {
	return functions.Result{Data: in.Event.Data}, nil
}

// count adds one to the key "n".
func count(ctx context.Context, in pool.Invocation) (functions.Result, error) {
	r, err := in.Host.Call(ctx, wire.KindGet, wire.Call{Key: "n"})
	if err != nil {
		return functions.Result{}, functions.Failf(functions.FailRaised, "%v", err)
	}
	n, _ := strconv.Atoi(string(r.Value))
	_, err = in.Host.Call(ctx, wire.KindPut, wire.Call{Key: "n", Value: []byte(strconv.Itoa(n + 1))})
	if err != nil {
		return functions.Result{}, functions.Failf(functions.FailRaised, "%v", err)
	}
	return functions.Result{}, nil
}

func stateOf(t *testing.T, b api.Backend, fn, key string) string {
	t.Helper()
	v, err := b.StateGet(t.Context(), fn, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(v)
}

func TestOutputIsPublishedThenSettled(t *testing.T) {
	w := newWorld(t)
	w.handle("echo", echo)
	n, _ := w.run(w.config())
	f := function("fan", "echo")
	f.Output = &functions.MQTTOutput{Topic: "out", QoS: 1, Retain: true, Broker: functions.LocalBroker}
	deploy(t, n, f)
	w.st.set(func([]store.Guard, []store.Op) error {
		return errors.New("no transaction is made where none is needed")
	}, nil)
	wantSettled(t, send(t, n, "fan", "fan/a", "", "28"))
	want := []functions.Publish{{Broker: "local", Topic: "out", Data: []byte("28"), QoS: 1, Retain: true}}
	if diff := cmp.Diff(want, w.local.messages); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
	w.st.set(nil, nil)
}

func TestStateAndMessagesTakePlaceTogether(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	fail := true
	w.handle("code", func(ctx context.Context, in pool.Invocation) (functions.Result, error) {
		if _, err := count(ctx, in); err != nil {
			return functions.Result{}, err
		}
		if _, err := in.Host.Call(ctx, wire.KindPublish, wire.Call{Topic: "alarm/1", Data: []byte("hot"), Broker: "plant"}); err != nil {
			return functions.Result{}, functions.Failf(functions.FailRaised, "%v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		if fail {
			fail = false
			return functions.Result{}, functions.Failf(functions.FailRaised, "after its effects")
		}
		return functions.Result{Data: []byte("out")}, nil
	})
	n, _ := w.run(w.config())
	f := function("fan", "code")
	f.Grants.Publish = []string{"alarm/#"}
	f.Output = &functions.MQTTOutput{Topic: "out", Broker: functions.LocalBroker}
	deploy(t, n, f)
	wantSettled(t, send(t, n, "fan", "fan/a", "", ""))
	w.wantNoRetries()
	if got := stateOf(t, n, "fan", "n"); got != "1" {
		t.Errorf("n: got %s, want 1: the failed attempt must leave nothing", got)
	}
	eventually(t, "messages are sent", func() bool { return len(w.plant.texts()) == 1 && len(w.local.texts()) == 1 })
	if got := w.plant.texts()[0] + ", " + w.local.texts()[0]; got != "alarm/1 hot, out out" {
		t.Errorf("messages: got %s", got)
	}
	eventually(t, "the outbox is empty", func() bool {
		c, err := w.st.Count(t.Context(), "/edgefn/outbox/")
		return err == nil && c == 0
	})
}

func TestSubjectsInOrderAndInParallel(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	got := map[string][]string{}
	running := map[string]int{}
	both := make(chan struct{})
	var once sync.Once
	w.handle("code", func(ctx context.Context, in pool.Invocation) (functions.Result, error) {
		mu.Lock()
		running[in.Event.Subject]++
		if running[in.Event.Subject] > 1 {
			t.Errorf("two events of %s at a time", in.Event.Subject)
		}
		if running["fan/a"] > 0 && running["fan/b"] > 0 {
			once.Do(func() { close(both) })
		}
		got[in.Event.Subject] = append(got[in.Event.Subject], string(in.Event.Data))
		first := len(got[in.Event.Subject]) == 1
		mu.Unlock()
		if first { // subjects wait for each other once: they run in parallel
			select {
			case <-both:
			case <-ctx.Done():
			}
		}
		mu.Lock()
		defer mu.Unlock()
		running[in.Event.Subject]--
		if in.Attempt == 1 && len(got[in.Event.Subject])%3 == 0 {
			got[in.Event.Subject] = got[in.Event.Subject][:len(got[in.Event.Subject])-1]
			return functions.Result{}, functions.Failf(functions.FailRaised, "now and then")
		}
		return functions.Result{}, nil
	})
	n, _ := w.run(w.config())
	deploy(t, n, function("fan", "code"))
	var settled []<-chan error
	for i := range 20 {
		for _, s := range []string{"fan/a", "fan/b"} {
			settled = append(settled, send(t, n, "fan", s, "", fmt.Sprintf("%02d", i)))
		}
	}
	for _, c := range settled {
		wantSettled(t, c)
	}
	w.wantNoRetries()
	mu.Lock()
	defer mu.Unlock()
	for s, events := range got {
		if len(events) != 20 || !slices.IsSorted(events) {
			t.Errorf("%s: got %v", s, events)
		}
	}
}

func TestFailuresEndAsDeadLettersAndAreRunAgain(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	var attempts []int
	broken := true
	w.handle("code", func(ctx context.Context, in pool.Invocation) (functions.Result, error) {
		mu.Lock()
		defer mu.Unlock()
		attempts = append(attempts, in.Attempt)
		if broken {
			return functions.Result{}, &functions.Failure{Kind: functions.FailRaised, Message: "ValueError: no", Detail: "Traceback: here"}
		}
		return count(ctx, in)
	})
	n, stop := w.run(w.config())
	deploy(t, n, function("fan", "code"))
	wantSettled(t, send(t, n, "fan", "fan/a", "", "hello"))
	w.wantNoRetries()
	if diff := cmp.Diff([]int{1, 2, 3}, attempts); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
	letters, err := n.DeadList(t.Context(), "fan")
	if err != nil || len(letters) != 1 {
		t.Fatalf("letters: %+v, %v", letters, err)
	}
	l := letters[0]
	if l.Attempts != 3 || l.Failure.Message != "ValueError: no" || l.Trigger != "in" || l.Event.Subject != "fan/a" || l.Event.Data != nil || l.Bytes != 5 {
		t.Errorf("letter: %+v", l)
	}
	// It survives a restart.
	stop()
	n, _ = w.run(w.config())
	eventually(t, "function serves", func() bool { fs, _ := n.Functions(t.Context()); return fs[0].State == "serving" })
	if got, err := n.DeadShow(t.Context(), "fan", l.ID); err != nil || string(got.Event.Data) != "hello" || got.Failure.Detail != "Traceback: here" {
		t.Errorf("show: %+v, %v", got, err)
	}
	out, err := n.DeadRetry(t.Context(), "fan", l.ID)
	if err != nil || out != (api.DeadOutcome{Failed: 1}) {
		t.Errorf("retry: %+v, %v", out, err)
	}
	if got, err := n.DeadShow(t.Context(), "fan", l.ID); err != nil || got.Attempts != 4 {
		t.Errorf("after a retry in vain: %+v, %v", got, err)
	}
	mu.Lock()
	broken = false
	mu.Unlock()
	out, err = n.DeadRetry(t.Context(), "fan", "")
	if err != nil || out != (api.DeadOutcome{Handled: 1}) {
		t.Errorf("retry: %+v, %v", out, err)
	}
	if letters, err := n.DeadList(t.Context(), "fan"); err != nil || len(letters) != 0 {
		t.Errorf("letters: %+v, %v", letters, err)
	}
	if fs, err := n.Functions(t.Context()); err != nil || fs[0].Dead != 0 {
		t.Errorf("functions: %+v, %v", fs, err)
	}
	if got := stateOf(t, n, "fan", "n"); got != "1" {
		t.Errorf("n: got %s, want 1", got)
	}
	_, err = n.DeadShow(t.Context(), "fan", "none")
	wantError(t, err, api.ErrNotFound, `no dead letter "none"`)
}

func TestLargePayloadIsDeadLetteredCut(t *testing.T) {
	w := newWorld(t)
	w.handle("echo", echo)
	cfg := w.config()
	n, _ := w.run(cfg)
	deploy(t, n, function("fan", "echo"))
	data := strings.Repeat("x", cfg.MaxPayload()+1)
	wantSettled(t, send(t, n, "fan", "fan/a", "", data))
	wantSettled(t, send(t, n, "fan", "fan/a", "", data[1:])) // just at the limit
	letters, err := n.DeadList(t.Context(), "fan")
	if err != nil || len(letters) != 1 {
		t.Fatalf("letters: %+v, %v", letters, err)
	}
	l := letters[0]
	if l.Failure.Kind != functions.FailPayload || !l.Cut || l.Bytes != len(data) || l.Attempts != 0 {
		t.Errorf("letter: %+v", l)
	}
	if l, err := n.DeadShow(t.Context(), "fan", l.ID); err != nil || len(l.Event.Data) != 4<<10 {
		t.Errorf("show: %d bytes, %v", len(l.Event.Data), err)
	}
	_, err = n.DeadRetry(t.Context(), "fan", l.ID)
	wantError(t, err, api.ErrRefused, "only the first 4096 were kept")
	if out, err := n.DeadDelete(t.Context(), "fan", ""); err != nil || out.Deleted != 1 {
		t.Errorf("delete: %+v, %v", out, err)
	}
}

func TestFullDeadLetterQueue(t *testing.T) {
	w := newWorld(t)
	w.handle("fail", func(context.Context, pool.Invocation) (functions.Result, error) {
		return functions.Result{}, functions.Failf(functions.FailRaised, "no")
	})
	n, _ := w.run(w.config())
	f := function("drop", "fail")
	f.Retry.Attempts, f.Dead.Count, f.Dead.Full = 1, 2, functions.FullDropOldest
	deploy(t, n, f)
	for _, s := range []string{"1", "2", "3"} {
		wantSettled(t, send(t, n, "drop", "drop/a", "", s))
	}
	letters, err := n.DeadList(t.Context(), "drop")
	if err != nil || len(letters) != 2 {
		t.Fatalf("letters: %+v, %v", letters, err)
	}
	if l, err := n.DeadShow(t.Context(), "drop", letters[0].ID); err != nil || string(l.Event.Data) != "2" {
		t.Errorf("oldest: %s, %v", l.Event.Data, err)
	}

	f = function("stop", "fail")
	f.Retry.Attempts, f.Dead.Count, f.Scale.Queue, f.Scale.Max = 1, 1, 1, 1
	deploy(t, n, f)
	wantSettled(t, send(t, n, "stop", "stop/a", "", "1"))
	second, third := send(t, n, "stop", "stop/a", "", "2"), send(t, n, "stop", "stop/a", "", "3")
	eventually(t, "the queue is said to be full", func() bool {
		fs, _ := n.Functions(t.Context())
		return fs[1].State == "failing" && strings.Contains(fs[1].Error, "dead-letter queue is full")
	})
	// That is back-pressure: nothing more is taken.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err = n.Deliver(ctx, triggers.Delivery{Function: "stop", Trigger: "in", Settle: func(error) { t.Error("settled") }})
	wantError(t, err, context.DeadlineExceeded)
	select {
	case err := <-second:
		t.Fatalf("settled with %v though it is kept nowhere", err)
	default:
	}
	if _, err := n.DeadDelete(t.Context(), "stop", ""); err != nil {
		t.Fatal(err)
	}
	wantSettled(t, second)
	if _, err := n.DeadDelete(t.Context(), "stop", ""); err != nil {
		t.Fatal(err)
	}
	wantSettled(t, third)
}

func TestEventWithAnIDTakesEffectOnce(t *testing.T) {
	w := newWorld(t)
	w.handle("count", count)
	w.handle("echo", echo)
	n, stop := w.run(w.config())
	deploy(t, n, function("fan", "count"))
	f := function("once", "echo")
	f.Dedupe, f.Output = true, &functions.MQTTOutput{Topic: "out", Broker: functions.LocalBroker}
	deploy(t, n, f)
	for range 2 {
		for range 2 {
			wantSettled(t, send(t, n, "fan", "fan/a", "7", ""))
			wantSettled(t, send(t, n, "once", "once/a", "7", "x"))
		}
		if got := stateOf(t, n, "fan", "n"); got != "1" {
			t.Errorf("n: got %s, want 1", got)
		}
		stop()
		n, stop = w.run(w.config())
	}
	// The same id under another topic is another event.
	wantSettled(t, send(t, n, "fan", "fan/b", "7", ""))
	if got := stateOf(t, n, "fan", "n"); got != "2" {
		t.Errorf("n: got %s, want 2", got)
	}
	r := api.InvokeRequest{ID: "mine"}
	for i := range 2 {
		out, err := n.Invoke(t.Context(), "fan", r)
		if err != nil || out.Repeat != (i == 1) {
			t.Errorf("invoke %d: %+v, %v", i, out, err)
		}
	}
}

func TestConcurrentWritersOfOneKeyLoseNothing(t *testing.T) {
	w := newWorld(t)
	w.handle("count", count)
	n, _ := w.run(w.config())
	f := function("fan", "count")
	f.Triggers[0].Order = functions.OrderNone
	deploy(t, n, f)
	var settled []<-chan error
	for range 60 {
		settled = append(settled, send(t, n, "fan", "fan/a", "", ""))
	}
	for _, c := range settled {
		wantSettled(t, c)
	}
	if got := stateOf(t, n, "fan", "n"); got != "60" {
		t.Errorf("n: got %s, want 60", got)
	}
	if letters, err := n.DeadList(t.Context(), "fan"); err != nil || len(letters) != 0 {
		t.Errorf("dead letters: %+v, %v", letters, err)
	}
}

// TestLostAnswers has the store lose the answers of commits that took place,
// and refuse others: each event still counts once.
func TestLostAnswers(t *testing.T) {
	w := newWorld(t)
	w.handle("count", count)
	n, _ := w.run(w.config())
	deploy(t, n, function("fan", "count"))
	var mu sync.Mutex
	i := 0
	mine := func(ops []store.Op) bool {
		return slices.ContainsFunc(ops, func(o store.Op) bool { return o.Key == "/edgefn/state/fan/n" })
	}
	turn := func(ops []store.Op, at int, err error) error {
		mu.Lock()
		defer mu.Unlock()
		if !mine(ops) {
			return nil
		}
		if i++; i%at == 0 {
			return err
		}
		return nil
	}
	w.st.set(
		func(_ []store.Guard, ops []store.Op) error { return turn(ops, 5, fmt.Errorf("put: %w", store.ErrFull)) },
		func(ops []store.Op) error { return turn(ops, 3, errors.New("the answer was lost")) },
	)
	for k := range 12 {
		id := ""
		if k%2 == 0 {
			id = strconv.Itoa(k)
		}
		wantSettled(t, send(t, n, "fan", "fan/a", id, ""))
	}
	w.st.set(nil, nil)
	if got := stateOf(t, n, "fan", "n"); got != "12" {
		t.Errorf("n: got %s, want 12", got)
	}
}

func TestInvokeReachesTheOtherFunctionOnce(t *testing.T) {
	w := newWorld(t)
	w.handle("caller", func(ctx context.Context, in pool.Invocation) (functions.Result, error) {
		r, err := in.Host.Call(ctx, wire.KindInvoke, wire.Call{Function: "other", Data: []byte("x"), Subject: "s"})
		if err != nil {
			return functions.Result{}, functions.Failf(functions.FailRaised, "%v", err)
		}
		return functions.Result{Data: []byte(r.ID)}, nil
	})
	events := make(chan functions.Event, 1)
	w.handle("other", func(ctx context.Context, in pool.Invocation) (functions.Result, error) {
		events <- in.Event
		return count(ctx, in)
	})
	n, _ := w.run(w.config())
	f := function("caller", "caller")
	f.Grants.Invoke = []string{"other"}
	deploy(t, n, f)
	out, err := n.Invoke(t.Context(), "caller", api.InvokeRequest{})
	if err != nil || out.Failure == nil || !strings.Contains(out.Failure.Message, `invoke "other": there is no such function`) {
		t.Fatalf("invoke of none: %+v, %v", out, err)
	}
	deploy(t, n, function("other", "other"))
	if out, err = n.Invoke(t.Context(), "caller", api.InvokeRequest{}); err != nil || out.Failure != nil {
		t.Fatalf("invoke: %+v, %v", out, err)
	}
	e := <-events
	want := functions.Event{ID: string(out.Data), Type: functions.TypeInvoke, Source: "edgefn://caller", Subject: "s", Data: []byte("x")}
	if diff := cmp.Diff(want, e); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
	eventually(t, "it is settled", func() bool {
		c, err := w.st.Count(t.Context(), "/edgefn/outbox/")
		return err == nil && c == 0
	})
	if got := stateOf(t, n, "other", "n"); got != "1" {
		t.Errorf("n: got %s, want 1", got)
	}
}

// TestBrokerAway: what a broker outside does not take is kept, over a restart,
// and sent in order once it is back.
func TestBrokerAway(t *testing.T) {
	w := newWorld(t)
	w.handle("echo", echo)
	n, stop := w.run(w.config())
	f := function("fan", "echo")
	f.Output = &functions.MQTTOutput{Topic: "out", QoS: 1, Broker: "plant"}
	deploy(t, n, f)
	w.plant.fail(errors.New("no connection"))
	want := []string{}
	for i := range 5 {
		wantSettled(t, send(t, n, "fan", "fan/a", "", strconv.Itoa(i)))
		want = append(want, fmt.Sprintf("out %d", i))
	}
	stop()
	n, _ = w.run(w.config())
	w.plant.fail(nil)
	eventually(t, "messages are sent", func() bool { return len(w.plant.texts()) >= 5 })
	wantSettled(t, send(t, n, "fan", "fan/a", "", "5"))
	want = append(want, "out 5")
	eventually(t, "the last is sent", func() bool { return len(w.plant.texts()) >= 6 })
	if diff := cmp.Diff(want, w.plant.texts()); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
}

func TestStopLetsRunningEventsEnd(t *testing.T) {
	w := newWorld(t)
	started, goOn := make(chan struct{}), make(chan struct{})
	w.handle("code", func(context.Context, pool.Invocation) (functions.Result, error) {
		close(started)
		<-goOn
		return functions.Result{}, nil
	})
	n, stop := w.run(w.config())
	f := function("fan", "code")
	f.Scale.Max, f.Scale.Queue = 1, 1
	deploy(t, n, f)
	running := send(t, n, "fan", "fan/a", "", "")
	<-started
	waiting := send(t, n, "fan", "fan/a", "", "") // and with it the function is full
	blocked := make(chan error, 1)
	go func() {
		blocked <- n.Deliver(t.Context(), triggers.Delivery{Function: "fan", Trigger: "in", Settle: func(error) {}})
	}()
	go stop()
	wantStopped := func(c <-chan error) {
		t.Helper()
		select {
		case err := <-c:
			if !errors.Is(err, triggers.ErrStopped) {
				t.Errorf("got %v, want %v", err, triggers.ErrStopped)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("nothing came")
		}
	}
	wantStopped(waiting)
	wantStopped(blocked)
	select {
	case err := <-running:
		t.Fatalf("the running event was settled with %v before it ended", err)
	default:
	}
	close(goOn)
	wantSettled(t, running)
	stop()
	if err := n.Deliver(t.Context(), triggers.Delivery{Function: "fan", Trigger: "in"}); !errors.Is(err, triggers.ErrStopped) {
		t.Errorf("after the stop: %v", err)
	}
}

// Who invokes a function gets its answer although the node stops meanwhile.
func TestStopLetsInvokesEnd(t *testing.T) {
	w := newWorld(t)
	started, goOn := make(chan struct{}), make(chan struct{})
	w.handle("code", func(ctx context.Context, _ pool.Invocation) (functions.Result, error) {
		close(started)
		select {
		case <-goOn:
			return functions.Result{Data: []byte("answer")}, nil
		case <-ctx.Done():
			return functions.Result{}, ctx.Err()
		}
	})
	cfg := w.config()
	n, stop := w.run(cfg)
	deploy(t, n, function("fan", "code"))
	c, err := api.Dial("unix://" + cfg.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answer := make(chan error, 1)
	go func() {
		got, err := c.Invoke(t.Context(), "fan", api.InvokeRequest{})
		if err == nil && string(got.Data) != "answer" {
			err = fmt.Errorf("got %+v", got)
		}
		answer <- err
	}()
	<-started
	go stop()
	eventually(t, "the node stops", func() bool {
		st, err := n.Status(t.Context())
		return err == nil && !st.Ready
	})
	select {
	case err := <-answer:
		t.Fatalf("it was answered before it ended: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(goOn)
	if err := <-answer; err != nil {
		t.Errorf("invoke: %v", err)
	}
	stop()
}

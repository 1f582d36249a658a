package settle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/cluster/store/memstore"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/functions/wire"
	"github.com/edgefn/edgefn/node/settle/dead"
	"github.com/edgefn/edgefn/node/settle/retry"
	"github.com/edgefn/edgefn/triggers"
)

// testNode is one run of a node with one function, "fan", whose handler is code.
type testNode struct {
	*Settler
	svc  *Service
	stop func() // ends the run in good order
}

type code func(ctx context.Context, in pool.Invocation) (functions.Result, error)

func (c code) Invoke(ctx context.Context, in pool.Invocation) (pool.Outcome, error) {
	if !in.Expires.IsZero() && !time.Now().Before(in.Expires) {
		return pool.Outcome{}, pool.ErrExpired
	}
	if in.Begun != nil {
		in.Begun()
	}
	res, err := c(ctx, in)
	return pool.Outcome{Result: res, Usage: functions.Usage{Wall: time.Millisecond}}, err
}

// messages takes what functions publish.
type messages struct{ place }

func (messages) Publish(context.Context, functions.Publish) error      { return nil }
func (messages) PublishAlone(context.Context, functions.Publish) error { return nil }
func (messages) Function(string) *functions.Function                   { return nil }
func (messages) Note(string, string, string)                           {}

// startNode runs a node on a store. Its clock is the bubble's.
func startNode(t testing.TB, st store.Store, fn *functions.Function, c code) *testNode {
	t.Helper()
	s := New(Config{Node: "gate", Store: st, Around: messages{}, MaxPayload: 1000, State: StateLimits{Keys: 1e6, Bytes: 1 << 30}})
	if err := s.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	n := &testNode{Settler: s, svc: s.Service(fn, func() {}, func(string, string, string) {})}
	n.svc.Activate(NewVersion(fn, "sha256:1", c))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	wg.Go(func() { n.svc.Run(ctx) })
	n.stop = sync.OnceFunc(func() {
		n.svc.Stop()
		cancel()
		wg.Wait()
	})
	return n
}

func fan() *functions.Function {
	f := testFunction()
	f.Triggers = []functions.Trigger{{
		Name: "in", Order: functions.OrderSubject, MQTT: &functions.MQTTTrigger{Topic: "fan/#", QoS: 1, Broker: "local"},
	}}
	f.Retry = functions.Retry{Attempts: 5, First: 10 * time.Second, Max: time.Minute}
	return f
}

// deliver hands an event over. The returned channel has what its sender is told.
func (n *testNode) deliver(t testing.TB, subject, id string) <-chan error {
	t.Helper()
	told := make(chan error, 1)
	err := n.svc.Deliver(t.Context(), triggers.Delivery{
		Function: "fan", Trigger: "in",
		Event:  functions.Event{ID: id, Type: functions.TypeMQTT, Source: "mqtt://local", Subject: subject, Data: []byte(id)},
		Settle: func(err error) { told <- err },
	})
	if err != nil {
		t.Fatal(err)
	}
	return told
}

// said is what a sender has been told by now.
func said(c <-chan error) string {
	synctest.Wait()
	select {
	case err := <-c:
		if err != nil {
			return err.Error()
		}
		return "settled"
	default:
		return "nothing"
	}
}

func count(t testing.TB, st store.Store, prefix string) int {
	t.Helper()
	n, err := st.Count(t.Context(), prefix)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func letters(t testing.TB, n *testNode) (out []dead.Letter) {
	t.Helper()
	if err := n.Dead.Each(t.Context(), "fan", func(l dead.Letter) error { out = append(out, l); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

// A sender is told when its event has failed for the first time: it is stored
// then, and tried again from there.
func TestSenderIsToldAfterTheFirstFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := memstore.New(memstore.Config{})
		var mu sync.Mutex
		var attempts []int
		n := startNode(t, st, fan(), func(_ context.Context, in pool.Invocation) (functions.Result, error) {
			mu.Lock()
			defer mu.Unlock()
			attempts = append(attempts, in.Attempt)
			if string(in.Event.Data) != "1" {
				t.Errorf("attempt %d has data %q", in.Attempt, in.Event.Data)
			}
			if in.Attempt < 3 {
				return functions.Result{}, functions.Failf(functions.FailRaised, "no")
			}
			return functions.Result{}, nil
		})
		defer n.stop()
		if got := said(n.deliver(t, "fan/a", "1")); got != "settled" {
			t.Errorf("the sender was told %s", got)
		}
		if got := count(t, st, retry.Prefix); got != 1 {
			t.Errorf("%d events are stored, want 1", got)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if diff := cmp.Diff([]int{1, 2, 3}, attempts); diff != "" {
			t.Errorf("attempts (-want +got):\n%s", diff)
		}
		if events, headers := count(t, st, retry.Prefix), count(t, st, retry.HeaderPrefix); events+headers != 0 || n.budget.Used() != 0 {
			t.Errorf("%d events and %d headers are left, %d bytes of the budget", events, headers, n.budget.Used())
		}
	})
}

// A sender whose event takes long is told after `hold`; one whose event is quick
// costs the store nothing.
func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &crashStore{Store: memstore.New(memstore.Config{})}
		n := startNode(t, st, fan(), func(_ context.Context, in pool.Invocation) (functions.Result, error) {
			d, err := time.ParseDuration(string(in.Event.Data))
			time.Sleep(d)
			return functions.Result{}, err
		})
		defer n.stop()
		quick := n.deliver(t, "fan/a", "900ms")
		time.Sleep(900 * time.Millisecond)
		if got := said(quick); got != "settled" || st.commits != 0 {
			t.Errorf("the sender of a quick event was told %s, %d commits were made", got, st.commits)
		}
		slow, behind, other := n.deliver(t, "fan/a", "3s"), n.deliver(t, "fan/a", "1ms"), n.deliver(t, "fan/b", "2ms")
		time.Sleep(900 * time.Millisecond)
		if got := said(slow); got != "nothing" {
			t.Errorf("before hold was over the sender was told %s", got)
		}
		if got := said(other); got != "settled" {
			t.Errorf("the sender of another subject was told %s", got)
		}
		time.Sleep(200 * time.Millisecond)
		if a, b := said(slow), said(behind); a != "settled" || b != "settled" {
			t.Errorf("after hold the senders were told %s and, behind it, %s", a, b)
		}
		if got := count(t, st, retry.Prefix); got != 2 {
			t.Errorf("%d events are stored, want 2", got)
		}
		time.Sleep(time.Minute)
		if got := count(t, st, retry.Prefix); got != 0 || n.budget.Used() != 0 {
			t.Errorf("%d events are left, %d bytes of the budget", got, n.budget.Used())
		}
	})
}

// What comes behind an event that is tried again waits behind it, also over a
// restart, and other subjects go on.
func TestOrderBehindARetryOverARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := memstore.New(memstore.Config{})
		var ran []string
		broken := true
		c := func(_ context.Context, in pool.Invocation) (functions.Result, error) {
			id := string(in.Event.Data)
			ran = append(ran, fmt.Sprintf("%s.%d", id, in.Attempt))
			if id == "a1" && broken {
				return functions.Result{}, functions.Failf(functions.FailRaised, "no")
			}
			return functions.Result{}, nil
		}
		n := startNode(t, st, fan(), c)
		for _, id := range []string{"a1", "a2", "b1", "a3"} {
			if got := said(n.deliver(t, "fan/"+id[:1], id)); got != "settled" {
				t.Errorf("the sender of %s was told %s", id, got)
			}
		}
		if diff := cmp.Diff([]string{"a1.1", "b1.1"}, ran); diff != "" {
			t.Errorf("before the restart (-want +got):\n%s", diff)
		}
		n.stop()
		ran, broken = nil, false
		n = startNode(t, st, fan(), c)
		defer n.stop()
		synctest.Wait()
		a4 := n.deliver(t, "fan/a", "a4")
		if got := said(a4); got != "settled" {
			t.Errorf("the sender of a4 was told %s", got)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if diff := cmp.Diff([]string{"a1.2", "a2.1", "a3.1", "a4.1"}, ran); diff != "" {
			t.Errorf("after the restart (-want +got):\n%s", diff)
		}
		if got := count(t, st, retry.Prefix); got != 0 || n.budget.Used() != 0 {
			t.Errorf("%d events are left, %d bytes of the budget", got, n.budget.Used())
		}
	})
}

// An event that ends the node each time that it runs ends as a dead letter.
func TestPoisonEndsAsADeadLetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memstore.New(memstore.Config{})
		for run := 1; ; run++ {
			if run > 10 {
				t.Fatal("ten runs of the node ended with the event")
			}
			st := &crashStore{Store: mem}
			died := make(chan struct{})
			var once sync.Once
			n := startNode(t, st, fan(), func(ctx context.Context, _ pool.Invocation) (functions.Result, error) {
				once.Do(func() { st.crash(); close(died) })
				<-ctx.Done()
				return functions.Result{}, ctx.Err()
			})
			if count(t, mem, retry.Prefix) == 0 && run < 4 { // its sender knows no better
				go func() {
					_ = n.svc.Deliver(context.Background(), triggers.Delivery{
						Function: "fan", Trigger: "in", Repeat: run > 1, Settle: func(error) {},
						Event: functions.Event{ID: "1", Type: functions.TypeMQTT, Source: "mqtt://local", Subject: "fan/a"},
					})
				}()
			}
			select {
			case <-died:
				n.stop()
				continue
			case <-time.After(time.Hour):
			}
			if l := letters(t, n); len(l) != 1 || l[0].Failure.Kind != functions.FailLost || l[0].Attempts != 5 {
				t.Errorf("letters: %+v", l)
			}
			n.stop()
			return
		}
	})
}

// While the store is full or away the sender waits, and is told once it is back.
func TestRetryWaitsForTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &crashStore{Store: memstore.New(memstore.Config{})}
		n := startNode(t, st, fan(), func(_ context.Context, in pool.Invocation) (functions.Result, error) {
			if in.Attempt == 1 {
				return functions.Result{}, functions.Failf(functions.FailRaised, "no")
			}
			time.Sleep(time.Hour)
			return functions.Result{}, nil
		})
		defer n.stop()
		st.crash()
		told := n.deliver(t, "fan/a", "1")
		time.Sleep(time.Minute)
		if got := said(told); got != "nothing" {
			t.Errorf("the sender was told %s", got)
		}
		st.restart()
		time.Sleep(10 * time.Second)
		if got := said(told); got != "settled" {
			t.Errorf("the sender was told %s", got)
		}
		time.Sleep(2 * time.Hour)
		if got := count(t, st, retry.Prefix); got != 0 {
			t.Errorf("%d events are left", got)
		}
	})
}

// Events of a paused trigger are stored and run in their order once it is resumed.
func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := memstore.New(memstore.Config{})
		var ran []string
		c := func(_ context.Context, in pool.Invocation) (functions.Result, error) {
			ran = append(ran, string(in.Event.Data))
			return functions.Result{}, nil
		}
		n := startNode(t, st, fan(), c)
		n.svc.SetPaused(false, []string{"in"})
		for _, id := range []string{"1", "2", "3"} {
			if got := said(n.deliver(t, "fan/a", id)); got != "settled" {
				t.Errorf("the sender of %s was told %s", id, got)
			}
		}
		time.Sleep(time.Hour)
		n.stop()
		n = startNode(t, st, fan(), c)
		defer n.stop()
		if n.svc.SetPaused(true, nil); len(ran) > 0 {
			t.Errorf("paused, these ran: %v", ran)
		}
		n.svc.SetPaused(false, nil)
		synctest.Wait()
		if diff := cmp.Diff([]string{"1", "2", "3"}, ran); diff != "" {
			t.Errorf("resumed (-want +got):\n%s", diff)
		}
		if got := count(t, st, retry.Prefix); got != 0 {
			t.Errorf("%d events are left", got)
		}
	})
}

// crashStore refuses everything between a crash and the restart.
type crashStore struct {
	store.Store
	mu      sync.Mutex
	dead    bool
	commits int
	// lose has the answer to a commit that took effect be lost. nil: none is.
	lose func() bool
}

func (s *crashStore) crash() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dead = true
}

func (s *crashStore) restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dead = false
}

func (s *crashStore) Commit(ctx context.Context, g []store.Guard, ops []store.Op) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		return 0, errors.New("no power")
	}
	s.commits++
	revision, err := s.Store.Commit(ctx, g, ops)
	if err == nil && s.lose != nil && s.lose() {
		return 0, errors.New("the answer was lost")
	}
	return revision, err
}

// TestSettled: whatever events do and whenever the node ends, an event whose
// sender was told has taken effect once or is a dead letter, and the events of a
// subject take effect in their order.
func TestSettled(t *testing.T) {
	type behaviour struct {
		Fails int           // attempts that fail
		Kills int           // attempts that end the node
		Takes time.Duration // the handler
	}
	type schedule struct {
		order   []string // ids of events, SUBJECT/NUMBER
		events  map[string]behaviour
		losses  []bool // of answers of the store
		crashes []int  // seconds after a start
	}
	run := func(t *testing.T, s schedule) (faults []string) {
		var trace []string
		began := time.Now()
		note := func(format string, args ...any) {
			trace = append(trace, fmt.Sprintf("%8.3f ", time.Since(began).Seconds())+fmt.Sprintf(format, args...))
		}
		defer func() {
			if len(faults) > 0 {
				faults = append(faults, strings.Join(trace, "\n"))
			}
		}()
		fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
		order, events, losses, crashAfter := s.order, s.events, s.losses, s.crashes
		mem := memstore.New(memstore.Config{})
		told := map[string]bool{}
		failed := map[string]int{}
		killed := map[string]int{}
		var mu sync.Mutex
		var n *testNode
		for runs := 0; ; runs++ {
			if runs > 100 {
				return []string{"the node ended a hundred times"}
			}
			st := &crashStore{Store: mem, lose: func() bool {
				if len(losses) == 0 {
					return false
				}
				l := losses[0]
				losses = losses[1:]
				return l
			}}
			died := make(chan struct{})
			die := sync.OnceFunc(func() { st.crash(); close(died) })
			n = startNode(t, st, fan(), func(ctx context.Context, in pool.Invocation) (functions.Result, error) {
				id := string(in.Event.Data)
				b := events[id]
				mu.Lock()
				note("run %d: %s attempt %d", runs, id, in.Attempt)
				mu.Unlock()
				select {
				case <-time.After(b.Takes):
				case <-ctx.Done():
					return functions.Result{}, ctx.Err()
				}
				mu.Lock()
				defer mu.Unlock()
				if killed[id] < b.Kills {
					killed[id]++
					die()
					return functions.Result{}, context.Canceled
				}
				if failed[id] < b.Fails {
					failed[id]++
					return functions.Result{}, functions.Failf(functions.FailRaised, "no")
				}
				_, err := in.Host.Call(ctx, wire.KindPut, wire.Call{Key: id + "@" + strconv.FormatInt(time.Now().UnixNano(), 10)})
				return functions.Result{}, err
			})
			sctx, cancel := context.WithCancel(context.Background())
			var sending sync.WaitGroup
			for _, subject := range []string{"a", "b"} {
				sending.Go(func() { // a device: in order, and again what it was not told of
					for _, id := range order {
						mu.Lock()
						skip := told[id] || !strings.HasPrefix(id, subject)
						mu.Unlock()
						if skip {
							continue
						}
						err := n.svc.Deliver(sctx, triggers.Delivery{
							Function: "fan", Trigger: "in", OwnID: true, Repeat: runs > 0,
							Event: functions.Event{ID: id, Type: functions.TypeMQTT, Source: "mqtt://local", Subject: "fan/" + subject, Data: []byte(id)},
							Settle: func(err error) {
								mu.Lock()
								defer mu.Unlock()
								select {
								case <-died: // nobody hears it any more
								default:
									told[id] = told[id] || err == nil
									note("run %d: %s told %v", runs, id, err)
								}
							},
						})
						if err != nil {
							return
						}
					}
				})
			}
			crash := (<-chan time.Time)(nil)
			if len(crashAfter) > 0 {
				crash = time.After(time.Duration(crashAfter[0]) * time.Second)
				crashAfter = crashAfter[1:]
			}
			over := false
			select {
			case <-died:
			case <-crash:
				die()
			case <-time.After(24 * time.Hour):
				over = true
			}
			mu.Lock()
			note("run %d: ends", runs)
			mu.Unlock()
			cancel()
			sending.Wait()
			if over {
				break
			}
			n.stop()
		}
		defer n.stop()
		buried := map[string]int{}
		for _, l := range letters(t, n) {
			buried[string(l.Event.Data)]++
		}
		applied := map[string]int{}
		at := map[string]string{}
		es, _, err := mem.List(t.Context(), StateKey("fan", ""), store.Read{})
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(es, func(a, b store.Entry) int { return int(a.Version - b.Version) })
		for i, e := range es {
			note("%s", e.Key)
			id, _, _ := strings.Cut(strings.TrimPrefix(e.Key, StateKey("fan", "")), "@")
			applied[id]++
			if _, again := at[id]; !again {
				at[id] = fmt.Sprintf("%04d", i)
			}
		}
		last := map[string]string{}
		for _, id := range order {
			if !told[id] {
				fault("%s: its sender was never told", id)
			}
			if applied[id] > 1 || applied[id]+buried[id] == 0 {
				fault("%s (%+v) took effect %d times and is %d dead letters", id, events[id], applied[id], buried[id])
			}
			if applied[id] == 0 || buried[id] > 0 {
				continue
			}
			if subject := id[:1]; last[subject] > at[id] {
				fault("%s took effect before the one ahead of it", id)
			} else {
				last[subject] = at[id]
			}
		}
		if left := count(t, mem, retry.Prefix) + count(t, mem, retry.HeaderPrefix); left != 0 {
			fault("%d keys are left of events to be tried again", left)
		}
		return faults
	}
	rapid.Check(t, func(rt *rapid.T) {
		s := schedule{events: map[string]behaviour{}}
		for i := range rapid.IntRange(1, 12).Draw(rt, "events") {
			id := fmt.Sprintf("%s/%02d", rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "subject"), i)
			s.order = append(s.order, id)
			s.events[id] = behaviour{
				rapid.SampledFrom([]int{0, 0, 0, 1, 2, 9}).Draw(rt, "fails"),
				rapid.SampledFrom([]int{0, 0, 0, 0, 1, 9}).Draw(rt, "kills"),
				rapid.SampledFrom([]time.Duration{0, time.Second / 2, 3 * time.Second}).Draw(rt, "takes"),
			}
		}
		s.losses = rapid.SliceOfN(rapid.Bool(), 0, 60).Draw(rt, "lost answers")
		s.crashes = rapid.SliceOfN(rapid.IntRange(0, 40), 0, 3).Draw(rt, "crashes")
		var faults []string
		synctest.Test(t, func(t *testing.T) { faults = run(t, s) })
		for _, f := range faults {
			rt.Error(f)
		}
	})
}

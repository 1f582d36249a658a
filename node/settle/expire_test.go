package settle

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/cluster/store/memstore"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/node/settle/retry"
	"github.com/edgefn/edgefn/triggers"
)

// deliverFor is deliver for an event that expires after a time.
func (n *testNode) deliverFor(t testing.TB, subject, id string, d time.Duration) <-chan error {
	t.Helper()
	told := make(chan error, 1)
	err := n.svc.Deliver(t.Context(), triggers.Delivery{
		Function: "fan", Trigger: "in",
		Event: functions.Event{
			ID: id, Type: functions.TypeMQTT, Source: "mqtt://local", Subject: subject, Data: []byte(id), Expires: time.Now().Add(d),
		},
		Settle: func(err error) { told <- err },
	})
	if err != nil {
		t.Fatal(err)
	}
	return told
}

// clockIsSet brings the bubble's clock to a year in which clocks are set.
func clockIsSet() { time.Sleep(time.Until(time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC))) }

// ran keeps the ids of the events that ran.
type ran struct {
	mu  sync.Mutex
	ids []string
}

func (r *ran) add(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids = append(r.ids, id)
}

func (r *ran) all() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.ids, " ")
}

// An event that waits behind another one until its time is over does not run. Its
// sender is told, and it is no dead letter.
func TestExpiredBehindAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := memstore.New(memstore.Config{})
		var r ran
		n := startNode(t, st, fan(), func(_ context.Context, in pool.Invocation) (functions.Result, error) {
			r.add(in.Event.ID)
			if in.Event.ID == "slow" {
				time.Sleep(500 * time.Millisecond)
			}
			return functions.Result{}, nil
		})
		defer n.stop()
		slow := n.deliver(t, "a", "slow")
		synctest.Wait()
		late, inTime, other := n.deliverFor(t, "a", "late", 400*time.Millisecond), n.deliverFor(t, "a", "in-time", time.Second), n.deliverFor(t, "b", "other", time.Millisecond)
		time.Sleep(time.Second)
		for name, c := range map[string]<-chan error{"slow": slow, "late": late, "in-time": inTime, "other": other} {
			if got := said(c); got != "settled" {
				t.Errorf("sender of %s is told %s", name, got)
			}
		}
		if got := r.all(); got != "slow other in-time" {
			t.Errorf("what ran: %s", got)
		}
		if u := n.Usage.Of("fan"); u.Expired != 1 || u.Invocations != 3 || u.Failures != 0 {
			t.Errorf("usage %+v, want 1 expired of 4", u)
		}
		if l := letters(t, n); len(l) != 0 {
			t.Errorf("dead letters %+v", l)
		}
	})
}

// An event that has failed is not tried again once its time is over, and leaves
// the retry queue then and not when it would have been its turn.
func TestExpiredBetweenAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := memstore.New(memstore.Config{})
		f := fan()
		f.Retry = functions.Retry{Attempts: 5, First: time.Hour, Max: time.Hour}
		var r ran
		n := startNode(t, st, f, func(_ context.Context, in pool.Invocation) (functions.Result, error) {
			r.add(in.Event.ID)
			return functions.Result{}, &functions.Failure{Kind: functions.FailRaised, Message: "it broke", RetryAfter: time.Hour}
		})
		defer n.stop()
		if got := said(n.deliverFor(t, "a", "1", 10*time.Second)); got != "settled" {
			t.Fatalf("sender is told %s after the first failure, for it is stored", got)
		}
		time.Sleep(9 * time.Second)
		synctest.Wait()
		if got := count(t, st, retry.Prefix); got != 1 {
			t.Errorf("%d events are stored, want 1", got)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if events, headers := count(t, st, retry.Prefix), count(t, st, retry.HeaderPrefix); events+headers != 0 {
			t.Errorf("%d events and %d headers are stored, want none", events, headers)
		}
		if u := n.Usage.Of("fan"); u.Expired != 1 || r.all() != "1" || len(letters(t, n)) != 0 {
			t.Errorf("%d expired, %q ran, dead letters %v", u.Expired, r.all(), letters(t, n))
		}
	})
}

// What is left of an event's time is known after a restart.
func TestExpiryOverARestart(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  bool          // the clock
		off  time.Duration // how long the node is off
		want string        // what runs afterwards
	}{
		{"soon", true, 10 * time.Second, "1"},
		{"too late", true, time.Minute, ""},
		{"a clock that is not set knows of no time that the node was off", false, time.Minute, "1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if tt.set {
					clockIsSet()
				}
				st := memstore.New(memstore.Config{})
				first := startNode(t, st, fan(), func(context.Context, pool.Invocation) (functions.Result, error) {
					return functions.Result{}, &functions.Failure{Kind: functions.FailRaised, Message: "it broke", RetryAfter: 15 * time.Second}
				})
				told := first.deliverFor(t, "a", "1", 30*time.Second)
				if got := said(told); got != "settled" {
					t.Fatalf("sender is told %s", got)
				}
				time.Sleep(5 * time.Second)
				first.stop()
				time.Sleep(tt.off)

				var r ran
				var left time.Duration
				second := startNode(t, st, fan(), func(_ context.Context, in pool.Invocation) (functions.Result, error) {
					left = time.Until(in.Expires)
					r.add(in.Event.ID)
					return functions.Result{}, nil
				})
				defer second.stop()
				time.Sleep(time.Minute)
				synctest.Wait()
				if got := r.all(); got != tt.want {
					t.Errorf("what ran: %q, want %q", got, tt.want)
				}
				if most := 30 * time.Second; left > most {
					t.Errorf("it had %v left, which is more than %v", left, most)
				}
				if got := count(t, st, retry.Prefix); got != 0 {
					t.Errorf("%d events are stored, want none", got)
				}
				if u, want := second.Usage.Of("fan"), int64(1-len(tt.want)); u.Expired != want {
					t.Errorf("%d expired, want %d", u.Expired, want)
				}
			})
		})
	}
}

// A dead letter that somebody tries again runs, though its time is over.
func TestDeadLettersDoNotExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := memstore.New(memstore.Config{})
		var r ran
		n := startNode(t, st, fan(), func(_ context.Context, in pool.Invocation) (functions.Result, error) {
			r.add(in.Event.ID)
			return functions.Result{}, functions.Failf(functions.FailRejected, "no")
		})
		defer n.stop()
		if got := said(n.deliverFor(t, "a", "1", time.Second)); got != "settled" {
			t.Errorf("sender is told %s", got)
		}
		time.Sleep(time.Minute)
		ls := letters(t, n)
		if len(ls) != 1 || ls[0].Event.Expires.IsZero() {
			t.Fatalf("dead letters %+v, want one that says when it expired", ls)
		}
		_, err := n.svc.RunNow(t.Context(), Request{Trigger: "in", Attempt: 2, Event: ls[0].Event})
		if got := r.all(); got != "1 1" {
			t.Errorf("what ran: %s (%v)", got, err)
		}
	})
}

func TestLapsesAreToldNowAndThen(t *testing.T) {
	var l lapses
	at := time.Unix(0, 0)
	var got []int
	for _, s := range []int{0, 1, 9, 10, 11, 30, 30} {
		if others, ok := l.tell(at.Add(time.Duration(s) * time.Second)); ok {
			got = append(got, others)
		}
	}
	if diff := cmp.Diff([]int{0, 2, 1}, got); diff != "" {
		t.Errorf("others that each line tells of (-want +got):\n%s", diff)
	}
}

package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/cluster/store/memstore"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/settle/dead"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// sink is where an outbox of these tests sends to.
type sink struct {
	mu   sync.Mutex
	got  []string
	away map[string]bool // by broker

	// nil: nothing takes place
	call  func(ctx context.Context, function string, e functions.Event, repeat bool, settled func(error)) error
	drive func(ctx context.Context, function string, e functions.Effect) error
	note  func(function, level, text string)
}

func (s *sink) Call(ctx context.Context, function string, e functions.Event, repeat bool, settled func(error)) error {
	return s.call(ctx, function, e, repeat, settled)
}

func (s *sink) Drive(ctx context.Context, function string, e functions.Effect) error {
	return s.drive(ctx, function, e)
}

func (s *sink) PublishAlone(ctx context.Context, m functions.Publish) error { return s.Publish(ctx, m) }

func (s *sink) Function(name string) *functions.Function {
	f := functions.Defaults()
	f.Name = name
	return &f
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func (s *sink) Note(function, level, text string) {
	if s.note != nil {
		s.note(function, level, text)
	}
}

func (s *sink) Publish(_ context.Context, m functions.Publish) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away[m.Broker] {
		return errors.New("away")
	}
	s.got = append(s.got, m.Broker+" "+m.Topic)
	return nil
}

func (s *sink) set(broker string, away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away[broker] = away
}

func (s *sink) sent() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.got...)
}

// newTestOutbox runs an outbox in a bubble until the test ends.
func newTestOutbox(t *testing.T, st store.Store, limit int64, s Sink) (o *Outbox, stop func()) {
	t.Helper()
	b := durable.NewBudget(limit)
	o = New(st, b, dead.New(st, b, discard()), s, discard())
	if err := o.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { o.Run(ctx); close(done) }()
	return o, func() { cancel(); <-done }
}

func messages(broker string, topics ...string) []functions.Publish {
	var out []functions.Publish
	for _, topic := range topics {
		out = append(out, functions.Publish{Broker: broker, Topic: topic})
	}
	return out
}

func TestOutboxKeepsOrderPerBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, s := memstore.New(memstore.Config{}), &sink{away: map[string]bool{"plant": true}}
		o, stop := newTestOutbox(t, st, 1<<20, s)
		for i := range 40 {
			if err := o.Publish(t.Context(), "fan", append(messages("plant", fmt.Sprint(i)), messages("local", fmt.Sprint(i))...)); err != nil {
				t.Fatal(err)
			}
		}
		// A broker that is away does not hold the other one up.
		if got := s.sent(); len(got) != 40 || got[0] != "local 0" || got[39] != "local 39" {
			t.Errorf("sent: %v", got)
		}
		stop()
		s.set("plant", false)
		s.got = nil
		o, stop = newTestOutbox(t, st, 1<<20, s) // the relay starts again with the node
		defer stop()
		if err := o.Publish(t.Context(), "fan", messages("plant", "last")); err != nil {
			t.Fatal(err)
		}
		o.wake <- struct{}{}
		synctest.Wait()
		var want []string
		for i := range 40 {
			want = append(want, fmt.Sprintf("plant %d", i))
		}
		if diff := cmp.Diff(append(want, "plant last"), s.sent()); diff != "" {
			t.Errorf("sent (-want +got):\n%s", diff)
		}
		time.Sleep(2 * sentWait)
		synctest.Wait()
		if n, err := st.Count(t.Context(), Prefix); err != nil || n != 0 || o.budget.Used() != 0 {
			t.Errorf("%d left, %v; %d bytes of the budget", n, err, o.budget.Used())
		}
	})
}

func TestFullOutbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{away: map[string]bool{"plant": true, "local": true}}
		o, stop := newTestOutbox(t, memstore.New(memstore.Config{}), 334, s)
		defer stop()
		fill := make(chan error, 1)
		n := 0
		go func() {
			for {
				if err := o.Publish(t.Context(), "fan", messages("plant", "t")); err != nil {
					fill <- err
					return
				}
				if n++; n == 50 {
					fill <- nil
					return
				}
			}
		}()
		synctest.Wait()
		time.Sleep(time.Hour)
		held := n
		if held == 0 || held >= 50 {
			t.Fatalf("%d messages were taken while the broker was away", held)
		}
		// To wait for the broker inside the node, or for a function, could be to
		// wait for oneself.
		var full *FullError
		if err := o.Publish(t.Context(), "fan", messages("local", "t")); !errors.As(err, &full) {
			t.Errorf("got %v, want %T", err, full)
		}
		if _, err := o.Pack(t.Context(), "fan", Batch{Invokes: []functions.Invoke{{Function: "other"}}}); !errors.As(err, &full) {
			t.Errorf("got %v, want %T", err, full)
		}
		s.set("plant", false)
		if err := <-fill; err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := s.sent(); len(got) != 50 {
			t.Errorf("%d messages were sent, want 50", len(got))
		}
	})
}

// TestOutboxClockSetBack: messages keep their order although the clock of a
// gateway jumped back over a restart.
func TestOutboxClockSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, s := memstore.New(memstore.Config{}), &sink{away: map[string]bool{"plant": true}}
		value, err := durable.Encode(outboxRecord{Topic: "first"})
		if err != nil {
			t.Fatal(err)
		}
		key := fmt.Sprintf("%s%016x-%d", outQueueKey{"fan", destBroker + "plant"}.prefix(), time.Now().Add(time.Hour).UnixNano(), len(value))
		if _, err := st.Commit(t.Context(), nil, []store.Op{{Key: key, Value: value}}); err != nil {
			t.Fatal(err)
		}
		o, stop := newTestOutbox(t, st, 1<<20, s)
		defer stop()
		if err := o.Publish(t.Context(), "fan", messages("plant", "second")); err != nil {
			t.Fatal(err)
		}
		s.set("plant", false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if diff := cmp.Diff([]string{"plant first", "plant second"}, s.sent()); diff != "" {
			t.Errorf("sent (-want +got):\n%s", diff)
		}
	})
}

// What went out leaves the store with the next transaction of its function, or
// soon by itself, and is not sent again meanwhile.
func TestSentMessagesLeaveWithTheNextTransaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, s := memstore.New(memstore.Config{}), &sink{}
		counted := &commits{Store: st}
		o, stop := newTestOutbox(t, counted, 1<<20, s)
		defer stop()
		for i := range 10 { // an event with a result each 300 ms
			p, err := o.pack("fan", Batch{Messages: messages("plant", fmt.Sprint(i))})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := counted.Commit(t.Context(), nil, p.Ops()); err != nil {
				t.Fatal(err)
			}
			p.Posted()
			time.Sleep(300 * time.Millisecond)
		}
		if counted.n.Load() > 10 {
			t.Errorf("%d commits for 10 events", counted.n.Load())
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := s.sent(); len(got) != 10 {
			t.Errorf("sent: %v", got)
		}
		seen := map[string]bool{}
		for _, m := range s.sent() {
			if seen[m] {
				t.Errorf("%s was sent twice", m)
			}
			seen[m] = true
		}
		time.Sleep(time.Minute)
		before := counted.n.Load()
		time.Sleep(time.Hour)
		if counted.n.Load() != before {
			t.Error("an idle outbox writes")
		}
	})
}

// commits counts the transactions of a store.
type commits struct {
	store.Store
	n atomic.Int64
}

func (c *commits) Commit(ctx context.Context, g []store.Guard, ops []store.Op) (int64, error) {
	c.n.Add(1)
	return c.Store.Commit(ctx, g, ops)
}

// fussy is a broker that hangs up on some messages.
type fussy struct {
	*sink
	dead   *dead.Letters
	hangUp string // on messages of this topic
	refuse string
	tries  map[string]int
}

func (f *fussy) Publish(ctx context.Context, m functions.Publish) error {
	f.mu.Lock()
	f.tries[m.Topic]++
	f.mu.Unlock()
	switch m.Topic {
	case f.hangUp:
		return fmt.Errorf("broker %q: %w", m.Broker, ErrHungUp)
	case f.refuse:
		return fmt.Errorf("%w: not authorized", ErrRefused)
	}
	return f.sink.Publish(ctx, m)
}

func (f *fussy) PublishAlone(ctx context.Context, m functions.Publish) error {
	f.mu.Lock()
	f.tries["alone "+m.Topic]++
	f.mu.Unlock()
	return f.Publish(ctx, m)
}

// What a broker will never take becomes a dead letter and holds nothing up.
func TestRefusedMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := memstore.New(memstore.Config{})
		b := durable.NewBudget(0)
		f := &fussy{sink: &sink{}, hangUp: "bad", refuse: "forbidden", tries: map[string]int{}}
		f.dead = dead.New(st, b, discard())
		o := New(st, b, f.dead, f, discard())
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { o.Run(ctx) })
		defer wg.Wait()
		defer cancel()
		for _, topic := range []string{"1", "bad", "2", "forbidden", "3"} {
			if err := o.Publish(t.Context(), "fan", messages("plant", topic)); err != nil {
				t.Fatal(err)
			}
		}
		if err := o.Publish(t.Context(), "other", messages("plant", "other")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := f.sent(); !slices.Contains(got, "plant other") {
			t.Errorf("the message of another function was not sent: %v", got)
		}
		if ds, err := o.Depths(t.Context()); err != nil || len(ds) != 1 || ds[0].Waiting != 4 || ds[0].To != "mqtt.plant" || !errors.Is(ds[0].Err, ErrHungUp) || ds[0].Oldest.IsZero() {
			t.Errorf("waiting: %+v, %v", ds, err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		want := []string{"plant 1", "plant other", "plant 2", "plant 3"}
		if diff := cmp.Diff(want, f.sent()); diff != "" {
			t.Errorf("sent (-want +got):\n%s", diff)
		}
		if f.tries["alone bad"] != maxHangUps || f.tries["alone forbidden"] != 0 {
			t.Errorf("tries: %v", f.tries)
		}
		var got []string
		err := f.dead.Each(t.Context(), "fan", func(l dead.Letter) error {
			got = append(got, fmt.Sprintf("%s to %s: %s", l.Event.Subject, l.Out.Broker, l.Failure.Kind))
			if l.Event.Subject == "bad" {
				f.mu.Lock()
				f.hangUp = ""
				f.mu.Unlock()
				return o.Requeue(t.Context(), "fan", l)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"bad to plant: send", "forbidden to plant: send"}, got); diff != "" {
			t.Errorf("letters (-want +got):\n%s", diff)
		}
		synctest.Wait()
		if got := f.sent(); got[len(got)-1] != "plant bad" {
			t.Errorf("sent after the retry: %v", got)
		}
		if n, err := st.Count(t.Context(), dead.Prefix); n != 1 || err != nil {
			t.Errorf("%d letters are left, %v", n, err)
		}
	})
}

// Nothing of a function that was removed is sent any more.
func TestDroppedFunction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, s := memstore.New(memstore.Config{}), &sink{away: map[string]bool{"plant": true}}
		o, stop := newTestOutbox(t, st, 1<<20, s)
		defer stop()
		if err := o.Publish(t.Context(), "fan", messages("plant", "1", "2")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		o.Drop(t.Context(), "fan", time.Second)
		if _, err := st.Commit(t.Context(), nil, []store.Op{{Key: Prefix + "fan/", Delete: true, Prefix: true}}); err != nil {
			t.Fatal(err)
		}
		s.set("plant", false)
		time.Sleep(time.Minute)
		if err := o.Publish(t.Context(), "fan", messages("plant", "of the next of its name")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if diff := cmp.Diff([]string{"plant of the next of its name"}, s.sent()); diff != "" {
			t.Errorf("sent (-want +got):\n%s", diff)
		}
		if o.budget.Used() != 0 {
			t.Errorf("%d bytes of the budget are not given back", o.budget.Used())
		}
	})
}

func TestOutboxCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := memstore.New(memstore.Config{})
		s := &sink{}
		o, stop := newTestOutbox(t, st, 1<<20, s)
		defer stop()
		var mu sync.Mutex
		tries := map[string]int{}
		s.call = func(_ context.Context, function string, e functions.Event, _ bool, settled func(error)) error {
			mu.Lock()
			defer mu.Unlock()
			tries[function+" "+e.ID]++
			switch {
			case function == "removed":
				return ErrGone
			case tries[function+" "+e.ID] == 1 && e.ID == "refused":
				return errors.New("no room")
			case tries[function+" "+e.ID] == 1 && e.ID == "let go":
				go settled(errors.New("stopping"))
			default:
				go settled(nil)
			}
			return nil
		}
		var calls []functions.Invoke
		for _, id := range []string{"fine", "refused", "let go"} {
			calls = append(calls, functions.Invoke{Function: "other", Event: functions.Event{ID: id}})
		}
		calls = append(calls, functions.Invoke{Function: "removed", Event: functions.Event{ID: "x"}})
		p, err := o.pack("fan", Batch{Invokes: calls})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.Commit(t.Context(), nil, p.ops); err != nil {
			t.Fatal(err)
		}
		p.Posted()
		time.Sleep(time.Minute)
		synctest.Wait()
		want := map[string]int{"other fine": 1, "other refused": 2, "other let go": 2, "removed x": 1}
		if diff := cmp.Diff(want, tries); diff != "" {
			t.Errorf("tries (-want +got):\n%s", diff)
		}
		if n, err := st.Count(t.Context(), Prefix); err != nil || n != 0 {
			t.Errorf("%d left, %v", n, err)
		}
	})
}

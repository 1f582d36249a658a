package outbox

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/cluster/store/memstore"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/settle/dead"
)

// whole is a sink that keeps what it gets as it is.
type whole struct {
	sink
	mu       sync.Mutex
	err      error // of each message; nil: it is taken
	messages []functions.Publish
	notes    []string
}

func (s *whole) Publish(_ context.Context, m functions.Publish) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.messages = append(s.messages, m)
	}
	return s.err
}

func (s *whole) PublishAlone(ctx context.Context, m functions.Publish) error {
	return s.Publish(ctx, m)
}

func (s *whole) Note(_, _, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notes = append(s.notes, text)
}

func (s *whole) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *whole) got() []functions.Publish {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.messages)
}

func asking(d time.Duration) functions.Publish {
	m := functions.Publish{Broker: "plant", Topic: "ask", Data: []byte("x"), QoS: 1, Properties: functions.Properties{
		ContentType: "text/plain", ResponseTopic: "answer", Correlation: []byte{0, 0xff}, User: []functions.UserProperty{{Name: "a", Value: "b"}, {Name: "a"}},
	}}
	if d != 0 {
		m.Expires = time.Now().Add(d)
	}
	return m
}

// Properties are stored with their message, over a restart too, and so is what is
// left of its time.
func TestPropertiesWait(t *testing.T) {
	for _, tt := range []struct {
		name     string
		restart  bool
		set      bool // the clock
		wait     time.Duration
		lives    time.Duration // 0: it does not expire
		left     time.Duration // when it is sent
		notTaken bool          // it has expired
	}{
		{name: "for ever", wait: time.Hour},
		{name: "for a while", wait: time.Minute, lives: time.Hour, left: 59 * time.Minute},
		{name: "for too long", wait: time.Hour, lives: time.Minute, notTaken: true},
		{name: "for ever over a restart", restart: true, wait: time.Hour},
		{name: "for a while over a restart", restart: true, set: true, wait: time.Minute, lives: time.Hour, left: 59 * time.Minute},
		{name: "for too long over a restart", restart: true, set: true, wait: time.Hour, lives: time.Minute, notTaken: true},
		{name: "over a restart with a clock that is not set", restart: true, wait: time.Minute, lives: time.Hour, left: time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if tt.set {
					time.Sleep(time.Until(time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)))
				}
				st, s := memstore.New(memstore.Config{}), &whole{}
				o, stop := newTestOutbox(t, st, 1<<20, s)
				time.Sleep(10 * time.Minute)
				s.set(context.DeadlineExceeded) // as of a broker that is away
				want := asking(tt.lives)
				if err := o.Publish(t.Context(), "fan", []functions.Publish{want}); err != nil {
					t.Fatal(err)
				}
				if tt.restart {
					stop()
				}
				time.Sleep(tt.wait)
				if tt.restart {
					_, stop = newTestOutbox(t, st, 1<<20, s)
				}
				now := time.Now()
				s.set(nil)
				time.Sleep(time.Minute)
				synctest.Wait()
				stop()
				got := s.got()
				if tt.notTaken {
					if len(got) != 0 || len(s.notes) != 1 || !strings.Contains(s.notes[0], `a message to broker "plant", topic "ask", has expired`) {
						t.Errorf("sent %+v, noted %q; want nothing, and a note of it", got, s.notes)
					}
				} else {
					if len(got) != 1 {
						t.Fatalf("sent %+v, want one message", got)
					}
					left := got[0].Expires.Sub(now)
					if got[0].Expires.IsZero() {
						left = 0
					}
					if left != tt.left {
						t.Errorf("%v was left of its time, want %v", left, tt.left)
					}
					got[0].Expires, want.Expires = time.Time{}, time.Time{}
					if diff := cmp.Diff(want, got[0]); diff != "" {
						t.Errorf("(-want +got):\n%s", diff)
					}
				}
				if n, err := st.Count(t.Context(), Prefix); err != nil || n != 0 {
					t.Errorf("%d are stored, %v; want none", n, err)
				}
			})
		})
	}
}

// A message that is a dead letter keeps its properties, and what was left of its
// time counts again from when it is sent again.
func TestPropertiesOfADeadLetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, s := memstore.New(memstore.Config{}), &whole{err: ErrRefused}
		o, stop := newTestOutbox(t, st, 1<<20, s)
		defer stop()
		want := asking(time.Minute)
		if err := o.Publish(t.Context(), "fan", []functions.Publish{want}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Hour)
		var letters []dead.Letter
		if err := o.dead.Each(t.Context(), "fan", func(l dead.Letter) error { letters = append(letters, l); return nil }); err != nil || len(letters) != 1 {
			t.Fatalf("dead letters %+v, %v; want one", letters, err)
		}
		s.set(nil)
		if err := o.Requeue(t.Context(), "fan", letters[0]); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		got := s.got()
		if len(got) != 1 {
			t.Fatalf("sent %+v, want one message", got)
		}
		if left := time.Until(got[0].Expires); left > time.Minute || left < 50*time.Second {
			t.Errorf("%v is left of its time, want about a minute", left)
		}
		got[0].Expires, want.Expires = time.Time{}, time.Time{}
		if diff := cmp.Diff(want, got[0]); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

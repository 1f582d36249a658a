package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/cluster/store/memstore"
	"github.com/edgefn/edgefn/functions"
)

// lines is hardware that an outbox of these tests drives.
type lines struct {
	mu    sync.Mutex
	got   []string
	notes []string
	err   error
	// during is called while a command takes place.
	during func(e functions.Effect)
}

func (l *lines) drive(_ context.Context, function string, e functions.Effect) error {
	if l.during != nil {
		l.during(e)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	l.got = append(l.got, fmt.Sprintf("%s %+v", function, e))
	return nil
}

func (l *lines) note(_, _, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.notes = append(l.notes, text)
}

func (l *lines) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	got := l.got
	l.got = nil
	return got
}

// lineOutbox runs an outbox that drives l.
func lineOutbox(t *testing.T, st store.Store, l *lines) (o *Outbox, stop func()) {
	t.Helper()
	return newTestOutbox(t, st, 1<<20, &sink{drive: l.drive, note: l.note})
}

// commit puts commands into an outbox as an invocation does.
func commit(t *testing.T, o *Outbox, st store.Store, commands ...functions.Effect) {
	t.Helper()
	p, err := o.pack("fan", Batch{Commands: commands})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Commit(t.Context(), nil, p.ops); err != nil {
		t.Fatal(err)
	}
	p.Posted()
}

var (
	on    = functions.SetLine{Line: "relay", On: true}
	off   = functions.SetLine{Line: "relay"}
	pulse = functions.PulseLine{Line: "relay", For: time.Second}
	free  = functions.ReleaseLine{Line: "relay"}
)

func TestCommandsOfALineInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looked := make(chan struct{})
		st, l := memstore.New(memstore.Config{}), &lines{during: func(functions.Effect) { <-looked }}
		o, stop := lineOutbox(t, st, l)
		defer stop()
		commands := []functions.Effect{on, pulse, off, pulse, pulse, on, free}
		commit(t, o, st, commands...)
		if !o.Driving("fan", []functions.Effect{off}) {
			t.Error("a command that waits is not seen")
		}
		if o.Driving("fan", []functions.Effect{functions.SetLine{Line: "lamp"}}) {
			t.Error("another line waits too")
		}
		close(looked)
		time.Sleep(time.Minute)
		var want []string
		for _, c := range commands {
			want = append(want, fmt.Sprintf("fan %+v", c))
		}
		if diff := cmp.Diff(want, l.take()); diff != "" {
			t.Errorf("commands (-want +got):\n%s", diff)
		}
		if n, err := st.Count(t.Context(), Prefix); n != 0 || err != nil || o.budget.Used() != 0 {
			t.Errorf("%d left, %v, %d bytes of the budget", n, err, o.budget.Used())
		}
	})
}

// A set takes place again after a crash in its midst, a pulse never.
func TestCommandsAcrossACrash(t *testing.T) {
	for _, tt := range []struct {
		name     string
		commands []functions.Effect
		crash    functions.Effect // the power goes while this one takes place
		then     []functions.Effect
		notes    int
	}{
		{"set", []functions.Effect{on, off}, on, []functions.Effect{on, off}, 0},
		{"pulse", []functions.Effect{pulse, off}, pulse, []functions.Effect{off}, 0},
		{"pulse behind a set", []functions.Effect{on, pulse, off}, on, []functions.Effect{on, off}, 1},
		{"set behind a pulse", []functions.Effect{on, pulse, off}, off, []functions.Effect{off}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st, l := &crashStore{Store: memstore.New(memstore.Config{})}, &lines{}
				l.during = func(e functions.Effect) {
					if e == tt.crash {
						st.crash() // nothing of this run reaches the store any more
					}
				}
				o, stop := lineOutbox(t, st, l)
				commit(t, o, st, tt.commands...)
				time.Sleep(time.Minute)
				stop()
				l.take()
				st.restart()
				l.during = nil
				o, stop = lineOutbox(t, st, l)
				defer stop()
				o.wake <- struct{}{}
				time.Sleep(time.Minute)
				var want []string
				for _, c := range tt.then {
					want = append(want, fmt.Sprintf("fan %+v", c))
				}
				if diff := cmp.Diff(want, l.take()); diff != "" {
					t.Errorf("after the crash (-want +got):\n%s", diff)
				}
				if len(l.notes) != tt.notes {
					t.Errorf("the function's log says %q", l.notes)
				}
			})
		})
	}
}

// crashStore refuses everything between a crash and the restart.
type crashStore struct {
	store.Store
	mu   sync.Mutex
	dead bool
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
	return s.Store.Commit(ctx, g, ops)
}

func TestCommandsThatCannotTakePlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, l := memstore.New(memstore.Config{}), &lines{err: errors.New("line is broken")}
		o, stop := lineOutbox(t, st, l)
		defer stop()
		commit(t, o, st, pulse, on)
		time.Sleep(time.Minute)
		l.mu.Lock()
		if !slices.Contains(l.notes, `a pulse of line "relay" did not take place: line is broken`) {
			t.Errorf("the function's log says %q", l.notes)
		}
		l.err = nil
		l.mu.Unlock()
		time.Sleep(time.Hour)
		if got := l.take(); len(got) != 1 {
			t.Errorf("after the repair: %q, want the set alone", got)
		}
		// A function that lost the line leaves nothing that waits for ever.
		l.mu.Lock()
		l.err = fmt.Errorf("%w: not held", ErrGone)
		l.mu.Unlock()
		commit(t, o, st, on)
		time.Sleep(time.Minute)
		if n, err := st.Count(t.Context(), Prefix); n != 0 || err != nil {
			t.Errorf("%d commands wait, %v", n, err)
		}
	})
}

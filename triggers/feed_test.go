package triggers_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/triggers"
)

// sink takes what deliver says.
type sink struct {
	deliver func(ctx context.Context, d triggers.Delivery) error
}

func (s sink) Deliver(ctx context.Context, d triggers.Delivery) error { return s.deliver(ctx, d) }

func TestFeedTriesUntilTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		f := &triggers.Feed{Logger: slog.New(slog.DiscardHandler), Sink: sink{func(_ context.Context, d triggers.Delivery) error {
			if tries++; tries < 4 {
				return errors.New("not now")
			}
			d.Settle(nil)
			return nil
		}}}
		begun := time.Now()
		if !f.Deliver(t.Context(), functions.Event{ID: "1"}) {
			t.Error("not delivered")
		}
		if took := time.Since(begun); tries != 4 || took != 700*time.Millisecond {
			t.Errorf("%d tries in %s", tries, took)
		}
		f.Drain(time.Hour)
		if took := time.Since(begun); took != 700*time.Millisecond {
			t.Errorf("drained after %s, though all is settled", took)
		}
	})
}

func TestFeedDrains(t *testing.T) {
	tests := []struct {
		name   string
		settle func(d triggers.Delivery)
		took   time.Duration
		lost   string
	}{
		{"settled at once", func(d triggers.Delivery) { d.Settle(nil) }, 0, ""},
		{"settled later", func(d triggers.Delivery) { time.AfterFunc(3*time.Second, func() { d.Settle(nil) }) }, 3 * time.Second, ""},
		{"given back", func(d triggers.Delivery) { d.Settle(triggers.ErrStopped) }, 0, "events=1"},
		{"never", func(triggers.Delivery) {}, 10 * time.Second, "events=1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				f := &triggers.Feed{
					Logger: slog.New(slog.NewTextHandler(&log, nil)),
					Sink:   sink{func(_ context.Context, d triggers.Delivery) error { tt.settle(d); return nil }},
				}
				f.Deliver(t.Context(), functions.Event{ID: "1"})
				begun := time.Now()
				f.Drain(10 * time.Second)
				if took := time.Since(begun); took != tt.took {
					t.Errorf("drained after %s, want %s", took, tt.took)
				}
				if got := log.String(); (tt.lost == "") != (got == "") || !strings.Contains(got, tt.lost) {
					t.Errorf("logged %q, want %q in it", got, tt.lost)
				}
			})
		})
	}
}

func TestFeedGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond)
		defer cancel()
		var log bytes.Buffer
		f := &triggers.Feed{
			Logger: slog.New(slog.NewTextHandler(&log, nil)),
			Sink:   sink{func(context.Context, triggers.Delivery) error { return triggers.ErrStopped }},
		}
		if f.Deliver(ctx, functions.Event{ID: "1"}) {
			t.Error("delivered")
		}
		f.Drain(time.Second)
		if !strings.Contains(log.String(), "they are lost") {
			t.Errorf("an event that was not taken is lost without a word: %s", &log)
		}
	})
}

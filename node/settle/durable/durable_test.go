package durable_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/node/settle/durable"
)

func TestBackoffGrowsToItsMax(t *testing.T) {
	b := durable.Backoff{First: 100 * time.Millisecond, Max: time.Second}
	const ms = time.Millisecond
	for n, mean := range map[int]time.Duration{1: 100 * ms, 2: 200 * ms, 4: 800 * ms, 5: time.Second, 50: time.Second} {
		for range 100 {
			if got := b.Wait(n); got < mean/2 || got > mean*3/2 {
				t.Fatalf("Wait(%d) = %v, want half to one and a half times %v", n, got, mean)
			}
		}
	}
	if got := durable.Jitter(0); got != 0 {
		t.Errorf("Jitter(0) = %v", got)
	}
}

func TestPersist(t *testing.T) {
	away := errors.New("no quorum")
	for _, tt := range []struct {
		name  string
		errs  []error // of the tries, then nil
		want  error
		tries int
	}{
		{"at once", nil, nil, 1},
		{"away, full, then there", []error{away, store.ErrFull, store.ErrUnavailable}, nil, 4},
		{"an answer", []error{away, store.ErrTooLarge}, store.ErrTooLarge, 2},
		{"closed", []error{store.ErrClosed}, store.ErrClosed, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tries := 0
				err := durable.Persist(t.Context(), slog.New(slog.DiscardHandler), "test", func(context.Context) error {
					if tries++; tries <= len(tt.errs) {
						return tt.errs[tries-1]
					}
					return nil
				})
				if !errors.Is(err, tt.want) || tries != tt.tries {
					t.Errorf("%v after %d tries, want %v after %d", err, tries, tt.want, tt.tries)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := durable.Persist(ctx, slog.New(slog.DiscardHandler), "test", func(context.Context) error { return away })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("at the end of ctx: %v", err)
		}
	})
}

func TestSizedKey(t *testing.T) {
	key := durable.SizedKey("/edgefn/dead/fan/", "01A", 42)
	if id, n, ok := durable.SplitSized(key, "/edgefn/dead/fan/"); !ok || id != "01A" || n != 42 {
		t.Errorf("%s: %q, %d, %v", key, id, n, ok)
	}
	for _, bad := range []string{"/p/x", "/p/x-", "/p/x-y"} {
		if _, _, ok := durable.SplitSized(bad, "/p/"); ok {
			t.Errorf("%s is no key of this kind", bad)
		}
	}
}

package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
)

// Keys of log lines.
const (
	logFunction   = "function"
	logVersion    = "version"
	logTrigger    = "trigger"
	logInvocation = "invocation"
	logBroker     = "broker"
	logErr        = "err"
)

// patience is a schedule of waits that doubles from first to max. The wait
// after the nth failure is drawn evenly from half to one and a half times
// min(first * 2^(n-1), max).
type patience struct{ first, max time.Duration }

var (
	storePatience   = patience{100 * time.Millisecond, 5 * time.Second}  // the store is full or not there
	sandboxPatience = patience{200 * time.Millisecond, 10 * time.Second} // the sandbox went away
	checkPatience   = patience{time.Second, time.Minute}                 // a version does not start
	sendPatience    = patience{200 * time.Millisecond, 5 * time.Second}  // a broker does not take messages
	deadPatience    = patience{500 * time.Millisecond, 10 * time.Second} // the dead-letter queue is full
	rerunPatience   = patience{2 * time.Millisecond, 250 * time.Millisecond}
)

// wait is how long to wait after the nth failure, n from 1.
func (p patience) wait(n int) time.Duration {
	d := p.first
	for range n - 1 {
		if d *= 2; d >= p.max {
			d = p.max
			break
		}
	}
	return jitter(d)
}

// jitter draws evenly from half to one and a half times d.
func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d/2 + rand.N(d) //nolint:gosec // spreads load, keeps no secret
}

// sleep waits, or returns ctx's error.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// lasting reports whether an error of the store is an answer, and not one that
// may be gone in a moment.
func lasting(err error) bool {
	for _, e := range []error{store.ErrConflict, store.ErrTooLarge, store.ErrInvalid, store.ErrClosed, store.ErrLeaseGone, store.ErrCompacted} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// persist calls f, each time with a bound of its own, until it succeeds, its
// error is lasting or ctx is done. f must bear being called again after it may
// have taken effect.
func persist(ctx context.Context, log *slog.Logger, what string, f func(ctx context.Context) error) error {
	for n := 1; ; n++ {
		err := func() error {
			ctx, cancel := context.WithTimeout(ctx, storeTime)
			defer cancel()
			return f(ctx)
		}()
		switch {
		case err == nil:
			if n > 1 {
				log.Info("store answers again", "to", what)
			}
			return nil
		case lasting(err):
			return err
		case ctx.Err() != nil:
			return fmt.Errorf("%s: %w", what, context.Cause(ctx))
		}
		if n == 1 {
			log.Warn("store does not take it, trying again", "to", what, logErr, err)
		}
		if err := sleep(ctx, storePatience.wait(n)); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

// budget bounds what the node's own queues take in the store, in bytes.
type budget struct {
	used  atomic.Int64
	limit int64
}

// queueShare of the store's quota is for the node's own queues; the rest stays
// free for state.
const queueShare = 0.6

// defaultQuota stands for a quota that the store does not know.
const defaultQuota = 256 << 20

func newBudget(quota int64) *budget {
	if quota <= 0 {
		quota = defaultQuota
	}
	return &budget{limit: int64(float64(quota) * queueShare)}
}

// take takes n bytes if they are there.
func (b *budget) take(n int64) bool {
	if b.used.Add(n) <= b.limit {
		return true
	}
	b.used.Add(-n)
	return false
}

// force takes n bytes that are in the store already.
func (b *budget) force(n int64) { b.used.Add(n) }

func (b *budget) give(n int64) { b.used.Add(-n) }

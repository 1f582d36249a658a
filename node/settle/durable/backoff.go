package durable

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff is a schedule of waits that doubles from First to Max. The wait after
// the nth failure is drawn evenly from half to one and a half times
// min(First * 2^(n-1), Max).
type Backoff struct{ First, Max time.Duration }

// Wait is how long to wait after the nth failure, n from 1.
func (b Backoff) Wait(n int) time.Duration {
	d := b.First
	for range n - 1 {
		if d *= 2; d >= b.Max {
			d = b.Max
			break
		}
	}
	return Jitter(d)
}

// Jitter draws evenly from half to one and a half times d.
func Jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d/2 + rand.N(d) //nolint:gosec // spreads load, keeps no secret
}

// Sleep waits, or returns ctx's cause.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

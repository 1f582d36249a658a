package mqtt

import (
	"math/rand/v2"
	"time"
)

// Backoff says when to connect again.
type Backoff struct {
	First  time.Duration // before the first new attempt; 0: 500 ms
	Max    time.Duration // longest wait; 0: 1 minute
	Stable time.Duration // a connection that lasted this long was a good one; 0: 20 s
}

func (b Backoff) withDefaults() Backoff {
	if b.First <= 0 {
		b.First = 500 * time.Millisecond
	}
	if b.Max <= 0 {
		b.Max = time.Minute
	}
	if b.Stable <= 0 {
		b.Stable = 20 * time.Second
	}
	b.Max = max(b.Max, b.First)
	return b
}

// wait returns how long to wait after the given number of failures in a row:
//
//	wait(n, r) = d/2 + r*d/2, d = min(First * 2^(n-1), Max)
//
// r is random, 0 <= r < 1, so that the clients of a broker that comes back do
// not all come at once. There is always another attempt.
func (b Backoff) wait(failures int, r float64) time.Duration {
	d := b.First
	for i := 1; i < failures && d < b.Max; i++ {
		d *= 2
	}
	d = min(d, b.Max)
	return d/2 + time.Duration(r*float64(d/2))
}

// jittered is wait with a random r.
func (b Backoff) jittered(failures int) time.Duration {
	return b.wait(failures, rand.Float64()) //nolint:gosec // G404: jitter is no secret
}

// failures counts a connection that ended: one that was good ends the row. A
// connection that never lasts counts on, so two clients that take each other's
// session away do it ever more slowly.
func (b Backoff) failures(before int, lasted time.Duration) int {
	if lasted >= b.Stable {
		return 1
	}
	return before + 1
}

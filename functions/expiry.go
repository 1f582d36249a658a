package functions

import "time"

// Expiry is the time at which something expires, in the form in which it is
// stored. A time in memory is held against the time that passes, which no setting
// of the clock changes; what is stored has to be held against a clock that may
// have been set since, or that is not set yet. The zero value never expires.
type Expiry struct {
	AtNS int64         `cbor:"at_ns,omitempty"` // by the clock of then, in Unix nanoseconds
	Left time.Duration `cbor:"left,omitempty"`  // what was left then
}

// StoreExpiry returns the stored form of a time, now being the time of storing.
func StoreExpiry(at, now time.Time) Expiry {
	if at.IsZero() {
		return Expiry{}
	}
	left := max(at.Sub(now), 0)
	return Expiry{AtNS: now.Add(left).UnixNano(), Left: left}
}

// clockSet is before any time of a clock that was set. A machine without a clock
// of its own begins in 1970, or where it was when it was last on.
var clockSet = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// Restore returns the time in memory, zero if it never expires:
//
//	now + min(max(AtNS - now, 0), Left)
//
// Where the clock was plainly not set then, nobody knows how long the node was off,
// and that time does not count: now + Left. So it is where the clock is not set now,
// since it is then before AtNS by more than Left. A clock that is not set neither
// drops what has time left nor gives it more than it had.
func (x Expiry) Restore(now time.Time) time.Time {
	if x == (Expiry{}) {
		return time.Time{}
	}
	if at := time.Unix(0, x.AtNS); !at.Add(-x.Left).Before(clockSet) {
		return now.Add(min(max(at.Sub(now), 0), x.Left))
	}
	return now.Add(x.Left)
}

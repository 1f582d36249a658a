package broker

import (
	"sync"
	"time"
)

// seldom lets a few lines of a kind through to the log in a minute, so that who
// is refused for ever does not fill it.
type seldom struct {
	mu     sync.Mutex
	until  time.Time // end of the minute
	said   int
	hidden int // in this minute and those before, not told yet
}

// seldomMost is how many lines a minute may have.
const seldomMost = 10

// say reports whether a line may be logged, and how many were not before it.
func (s *seldom) say(now time.Time) (ok bool, hidden int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.After(s.until) || s.until.Sub(now) > time.Minute { // or the clock was set back
		s.until, s.said = now.Add(time.Minute), 0
	}
	if s.said >= seldomMost {
		s.hidden++
		return false, 0
	}
	s.said++
	hidden, s.hidden = s.hidden, 0
	return true, hidden
}

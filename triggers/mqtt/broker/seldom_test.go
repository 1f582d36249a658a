package broker

import (
	"testing"
	"time"
)

func TestSeldom(t *testing.T) {
	var s seldom
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	count := func(n int) (said, hidden int) {
		for range n {
			if ok, h := s.say(now); ok {
				said++
				hidden += h
			}
		}
		return said, hidden
	}
	for _, step := range []struct {
		later           time.Duration
		n, said, hidden int
	}{
		{0, 3, 3, 0},
		{time.Second, 100, 7, 0},
		{59 * time.Second, 5, 0, 0},
		{time.Second, 1, 1, 98},
		{time.Second, 100, 9, 0},
		{-time.Hour, 2, 2, 91},
	} {
		now = now.Add(step.later)
		if said, hidden := count(step.n); said != step.said || hidden != step.hidden {
			t.Errorf("after %v: said %d and told of %d hidden, want %d and %d", step.later, said, hidden, step.said, step.hidden)
		}
	}
}

package mqtt

import (
	"testing"
	"time"
)

// One who changes with every message costs ever fewer writes; one who changes
// now and then is saved at once.
func TestSavePlan(t *testing.T) {
	start := time.Unix(1000, 0)
	for _, c := range []struct {
		name  string
		what  saving
		every time.Duration // between two changes
		over  time.Duration
		min   int
		max   int
	}{
		{"retained, each second for an hour", savingSure, time.Second, time.Hour, 38, 42},
		{"unknown, each second for an hour", savingDoubtful, time.Second, time.Hour, 15, 17},
		{"retained, every five minutes", savingSure, 5 * time.Minute, 5 * time.Hour, 60, 60},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, saves := newSavePlan(), 0
			late := time.Duration(0)
			for now, due := start, start; now.Sub(start) < c.over; {
				wait := p.wait(c.what, now)
				now = now.Add(wait)
				late = max(late, now.Sub(due))
				if wait > 0 && p.wait(c.what, now) > time.Millisecond {
					t.Fatalf("after waiting %s there is %s to wait", wait, p.wait(c.what, now))
				}
				p.saved(c.what, now)
				saves++
				due = now.Add(c.every)
				now = due
			}
			if saves < c.min || saves > c.max {
				t.Errorf("%d saves, want %d to %d", saves, c.min, c.max)
			}
			if c.every > saveEvery && late > 0 {
				t.Errorf("saved %s late", late)
			}
		})
	}
}

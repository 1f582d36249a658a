package pool

import "time"

// peakWindow is how long a burst is remembered: spares are kept for a burst of
// the size seen in this window or the one before it.
const peakWindow = 10 * time.Second

// demand is what the decision of how many instances to run depends on.
type demand struct {
	min, max int
	waiting  int // events with no instance
	spares   int
	starting int
	taken    int  // slots in use: spares, starting, busy and dying ones
	peak     int  // most events at once lately
	idle     bool // no event for the function's idle time
	again    int  // busy instances that will take another event
}

// plan says how many instances to start and how many spares to let go:
//
//	wanted = waiting + keep;  keep = min if idle, else max(min, 1, peak)
//	start  = wanted - spares - starting - again, within max - taken
//	stop   = spares - keep, when idle
//
// A spare for each event of a burst means that the next burst of that size
// waits for no start.
func plan(d demand) (start, stop int) {
	keep := d.min
	if !d.idle {
		keep = max(d.min, 1, d.peak)
	}
	start = min(d.waiting+keep-d.spares-d.starting-d.again, d.max-d.taken)
	if start > 0 {
		return start, 0
	}
	if d.idle && d.waiting == 0 {
		return 0, max(0, d.spares-keep)
	}
	return 0, 0
}

// peaks remembers the most events at once in this window and the last.
type peaks struct {
	began      time.Time
	this, last int
}

func (p *peaks) see(now time.Time, n int) {
	p.roll(now)
	p.this = max(p.this, n)
}

func (p *peaks) roll(now time.Time) {
	switch age := now.Sub(p.began); {
	case age >= 2*peakWindow:
		p.began, p.this, p.last = now, 0, 0
	case age >= peakWindow:
		p.began, p.this, p.last = now, 0, p.this
	}
}

func (p *peaks) max() int { return max(p.this, p.last) }

// startWait is how long to wait before the next start after n that failed in a
// row: 0, then 100 ms doubling to 30 s.
func startWait(failed int) time.Duration {
	if failed == 0 {
		return 0
	}
	return min(100*time.Millisecond<<min(failed-1, 20), 30*time.Second)
}

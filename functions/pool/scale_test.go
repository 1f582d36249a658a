package pool

import (
	"testing"
	"time"
)

func TestPlan(t *testing.T) {
	tests := []struct {
		name        string
		d           demand
		start, stop int
	}{
		{"one spare from the beginning", demand{max: 8}, 1, 0},
		{"the spare is there", demand{max: 8, spares: 1, taken: 1}, 0, 0},
		{"a spare per waiting event and per event of the last burst", demand{max: 8, waiting: 2, peak: 3}, 5, 0},
		{"never over max", demand{max: 2, waiting: 5, taken: 1}, 1, 0},
		{"all slots taken", demand{max: 2, waiting: 5, taken: 2}, 0, 0},
		{"those that start count", demand{max: 8, waiting: 1, starting: 2, taken: 2, peak: 1}, 0, 0},
		{"busy ones that serve again count", demand{max: 8, taken: 1, peak: 1, again: 1}, 0, 0},
		{"idle: none is kept", demand{max: 8, spares: 3, taken: 3, peak: 3, idle: true}, 0, 3},
		{"idle: min is kept", demand{min: 2, max: 8, spares: 3, taken: 3, idle: true}, 0, 1},
		{"idle: min is made", demand{min: 2, max: 8, idle: true}, 2, 0},
		{"idle, nothing to do", demand{max: 8, idle: true}, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if start, stop := plan(tt.d); start != tt.start || stop != tt.stop {
				t.Errorf("start %d, stop %d, want %d and %d", start, stop, tt.start, tt.stop)
			}
		})
	}
}

func TestPeaks(t *testing.T) {
	var p peaks
	now := time.Unix(1000, 0)
	p.see(now, 5)
	p.see(now.Add(time.Second), 2)
	if got := p.max(); got != 5 {
		t.Errorf("peak is %d, want 5", got)
	}
	p.see(now.Add(peakWindow+time.Second), 1)
	if got := p.max(); got != 5 {
		t.Errorf("peak of the last window is %d, want 5", got)
	}
	p.see(now.Add(3*peakWindow), 1)
	if got := p.max(); got != 1 {
		t.Errorf("peak is %d, want 1: the burst is forgotten", got)
	}
}

func TestStartWait(t *testing.T) {
	for n, want := range map[int]time.Duration{0: 0, 1: 100 * time.Millisecond, 2: 200 * time.Millisecond, 50: 30 * time.Second} {
		if got := startWait(n); got != want {
			t.Errorf("after %d failed starts: %v, want %v", n, got, want)
		}
	}
}

package dead

import (
	"testing"
	"time"
)

func TestAgedByAWrongClock(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	const day, age = 24 * time.Hour, 30 * 24 * time.Hour
	for _, tt := range []struct {
		name    string
		written time.Time
		seen    time.Duration // ago
		want    bool
	}{
		{"young", now.Add(-day), 2 * day, false},
		{"old", now.Add(-31 * day), 2 * day, true},
		{"old, at a start", now.Add(-31 * day), time.Minute, false},
		{"written in 1970, at a start with the right clock", time.Unix(60, 0), time.Minute, false},
		{"written in 1970, a week later", time.Unix(60, 0), 7 * day, false},
		{"written in 1970, a month later", time.Unix(60, 0), 31 * day, true},
		{"the clock is ten years ahead", now.AddDate(-10, 0, 0), time.Hour, false},
	} {
		if got := aged(tt.written, now.Add(-tt.seen), now, age); got != tt.want {
			t.Errorf("%s: got %v", tt.name, got)
		}
	}
}

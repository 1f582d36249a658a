package functions_test

import (
	"testing"
	"time"

	"github.com/edgefn/edgefn/functions"
)

func TestExpiryOverARestart(t *testing.T) {
	set := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	unset := time.Unix(40, 0)
	for _, tt := range []struct {
		name     string
		stored   time.Time // by the clock of then
		left     time.Duration
		restored time.Time
		want     time.Duration // what is left
	}{
		{"at once", set, time.Minute, set, time.Minute},
		{"some time later", set, time.Minute, set.Add(20 * time.Second), 40 * time.Second},
		{"too late", set, time.Minute, set.Add(time.Hour), 0},
		{"it had expired", set, -time.Second, set, 0},
		{"the clock was set back", set, time.Minute, set.Add(-time.Hour), time.Minute},
		{"stored by a clock that was not set", unset, time.Minute, set, time.Minute},
		{"restored by a clock that is not set", set, time.Minute, unset, time.Minute},
		{"neither was set", unset, time.Minute, unset.Add(time.Second), time.Minute},
		{"expired, and the clock was not set", unset, 0, set, 0},
		{"as long as MQTT has", set, functions.MaxExpiry * time.Second, set.Add(time.Hour), functions.MaxExpiry*time.Second - time.Hour},
	} {
		x := functions.StoreExpiry(tt.stored.Add(tt.left), tt.stored)
		if got := x.Restore(tt.restored).Sub(tt.restored); got != tt.want {
			t.Errorf("%s: %v is left, want %v", tt.name, got, tt.want)
		}
	}
	if got := functions.StoreExpiry(time.Time{}, set).Restore(set); !got.IsZero() {
		t.Errorf("what never expires expires at %v", got)
	}
}

package main

import (
	"os/exec"
	"testing"
	"time"
)

// TestSkewedClock builds a small program with the overlay and moves its clock.
func TestSkewedClock(t *testing.T) {
	dir := t.TempDir()
	bin, err := buildSkewed(t.Context(), ".", dir, "./testdata/clock")
	if err != nil {
		t.Fatal(err)
	}
	for _, by := range []time.Duration{0, -50 * 365 * 24 * time.Hour, time.Hour} {
		path := dir + "/skew"
		if err := setSkew(path, by); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(bin)
		cmd.Env = append(cmd.Environ(), skewVariable+"="+path)
		before := time.Now()
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		got, err := time.Parse(time.RFC3339Nano, string(out))
		if err != nil {
			t.Fatal(err)
		}
		if off := got.Sub(before.Add(by)); off < -time.Second || off > time.Minute {
			t.Errorf("a clock that is to be %s off shows %s at %s", by, got, before)
		}
	}
}

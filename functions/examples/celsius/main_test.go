package main

import "testing"

func TestCelsius(t *testing.T) {
	for f, want := range map[float64]string{32: "0.0", 212: "100.0", -40: "-40.0", 70: "21.1"} {
		if got := celsius(f); got != want {
			t.Errorf("%v F is %s C, want %s", f, got, want)
		}
	}
}

package gpiosim

import "testing"

func TestRunning(t *testing.T) {
	for stat, want := range map[string]bool{
		"200 (irq/25-edgefn) S 2 0 0 0 -1": false,
		"200 (irq/25-edgefn) R 2 0 0 0 -1": true,
		"200 (irq/25-a) R b) D 2 0 0 0 -1":   false,
		"":                                 false,
	} {
		if got := running([]byte(stat)); got != want {
			t.Errorf("%q: running %v, want %v", stat, got, want)
		}
	}
}

package gpiosim

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHistory(t *testing.T) {
	h := &History{lines: map[int][]Driven{}}
	h.read(strings.NewReader(`
          edgefn-1234    [001] .....   123.456789: gpio_value: 535 set 1
 a name with-dash-99     [000] d..1.   124.000001: gpio_value: 535 set 0
          edgefn-1234    [001] .....   125.000000: gpio_value: 536 set 1
CPU:1 [LOST 3 EVENTS]
          edgefn-1234    [001] .....   126.000000: gpio_direction: 536 out (0)
`))
	want := []Driven{{123.456789, true, "edgefn-1234"}, {124.000001, false, "a name with-dash-99"}}
	if diff := cmp.Diff(want, h.Of(535)); diff != "" {
		t.Error(diff)
	}
	if got := len(h.Of(536)); got != 1 {
		t.Errorf("%d entries of the other line, want 1", got)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	h := &History{lines: map[int][]Driven{}}
	h.read(strings.NewReader(strings.Repeat("x-1 [000] ..... 1.0: gpio_value: 1 set 1\n", kept+5)))
	if got := len(h.Of(1)); got != kept {
		t.Errorf("%d entries, want %d", got, kept)
	}
}

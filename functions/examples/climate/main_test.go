package main

import (
	"fmt"
	"slices"
	"testing"

	"github.com/edgefn/edgefn-go"
)

func TestHandle(t *testing.T) {
	tests := []struct {
		event, data string
		want        []string
	}{
		{"reading", `{"temperature_C":25.1,"humidity_rH":41,"pressure_Pa":98000}`, []string{`greenhouse/climate {"temperature_C":25.1,"humidity_rH":41}`}},
		{"fault", `{"error":"no answer at 0x76","since":"2026-02-03T04:05:06Z"}`, []string{"alarms/greenhouse no answer at 0x76"}},
		{"recovered", `{"temperature_C":-3,"humidity_rH":90,"missed":12}`, []string{"alarms/greenhouse ", `greenhouse/climate {"temperature_C":-3,"humidity_rH":90}`}},
	}
	for _, tt := range tests {
		var node edgefn.Fake
		_, err := handle(node.Context(t.Context(), edgefn.Invocation{}), edgefn.Event{Type: "edgefn.sensor." + tt.event, Data: []byte(tt.data)})
		if err != nil {
			t.Errorf("%s: %v", tt.event, err)
		}
		var got []string
		for _, m := range node.Published {
			if !m.Retain {
				t.Errorf("%s: message to %s is not retained", tt.event, m.Topic)
			}
			got = append(got, fmt.Sprintf("%s %s", m.Topic, m.Data))
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: published %q, want %q", tt.event, got, tt.want)
		}
	}
}

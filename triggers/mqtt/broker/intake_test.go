package broker

import "testing"

func TestDemand(t *testing.T) {
	const mib = 1 << 20
	for name, tc := range map[string]struct {
		demand
		want bool
	}{
		"empty":                               {demand{size: 2000, qos: 1, free: 64 * mib}, true},
		"a large one":                         {demand{size: 4 * mib, qos: 1, free: 64 * mib}, true},
		"behind others of its client":         {demand{size: mib, qos: 1, client: share{5, 7 * mib}, free: 57 * mib}, true},
		"more than a client may have":         {demand{size: mib, qos: 1, client: share{5, 7*mib + 1}, free: 57 * mib}, false},
		"a trigger with as much as is left":   {demand{size: mib, qos: 1, client: share{1, 10}, function: 31 * mib, free: 32 * mib}, true},
		"a trigger with more than is left":    {demand{size: mib, qos: 1, client: share{1, 10}, function: 32 * mib, free: 32 * mib}, false},
		"another trigger then":                {demand{size: mib, qos: 1, client: share{1, 10}, function: 0, free: 32 * mib}, true},
		"QoS 0 has half of that":              {demand{size: mib, qos: 0, client: share{1, 10}, function: 15 * mib, free: 32 * mib}, true},
		"QoS 0 leaves the other half":         {demand{size: mib, qos: 0, client: share{1, 10}, function: 16 * mib, free: 32 * mib}, false},
		"all is full":                         {demand{size: 2000, qos: 1, client: share{1, 10}, free: 1000}, false},
		"all is full, but for the first":      {demand{size: 2000, qos: 1, free: -1000}, true},
		"all is full twice over":              {demand{size: 2000, qos: 1, free: -totalBytes}, false},
		"all is full, and the first is large": {demand{size: 65 << 10, qos: 1, free: -1000}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tc.fits(); got != tc.want {
				t.Errorf("%+v: %v", tc.demand, got)
			}
		})
	}
}

// TestIntakeIsGivenBack leaves nothing behind.
func TestIntakeIsGivenBack(t *testing.T) {
	in := newIntake(1 << 20)
	x := target{function: "x"}
	if !in.take("a", []target{x}, 1000, 1) {
		t.Fatal("there is room")
	}
	in.handed(x, 1000)
	in.mu.Lock()
	in.add("b", 2<<20)
	in.mu.Unlock()
	if in.fits("a", nil, 1000, 1) {
		t.Error("there is more than the limit already")
	}
	in.settled(x, 1000)
	in.give("a", 1000)
	in.give("b", 2<<20)
	if in.held != 0 || len(in.clients) != 0 || len(in.functions) != 0 {
		t.Errorf("left: %d bytes, %v, %v", in.held, in.clients, in.functions)
	}
}

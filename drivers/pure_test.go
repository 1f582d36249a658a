package drivers

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestArbitrate(t *testing.T) {
	on, off := new(true), new(false)
	tests := []struct {
		name    string
		holders []holder
		on, ok  bool
	}{
		{"nobody", nil, false, false},
		{"a holder that commands nothing", []holder{{"a", 0, nil}}, false, false},
		{"one", []holder{{"a", 0, on}}, true, true},
		{"the lower number counts", []holder{{"a", 8, on}, {"b", 3, off}}, false, true},
		{"whatever the order", []holder{{"b", 3, off}, {"a", 8, on}}, false, true},
		{"who commands nothing is passed over", []holder{{"b", 3, nil}, {"a", 8, on}}, true, true},
		{"16 is the last", []holder{{"c", 16, on}, {"b", 15, off}, {"a", 1, nil}}, false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if on, ok := arbitrate(tt.holders); on != tt.on || ok != tt.ok {
				t.Errorf("got %v %v, want %v %v", on, ok, tt.on, tt.ok)
			}
		})
	}
}

func TestAdmit(t *testing.T) {
	tests := []struct {
		name     string
		function string
		priority int
		holders  []holder
		want     string // part of the error; empty: admitted
	}{
		{"nobody holds it", "a", 0, nil, ""},
		{"its own hold", "a", 0, []holder{{"a", 0, nil}}, ""},
		{"its own with another priority", "a", 4, []holder{{"a", 0, nil}}, ""},
		{"held alone", "b", 0, []holder{{"a", 0, nil}}, `held by function "a"`},
		{"held alone, and asks to share", "b", 3, []holder{{"a", 0, nil}}, `held by function "a", which states no priority`},
		{"shared, and asks to be alone", "b", 0, []holder{{"a", 3, nil}}, `held by function "a" with priority 3`},
		{"shared with another priority", "b", 4, []holder{{"a", 3, nil}}, ""},
		{"shared with the same priority", "b", 3, []holder{{"a", 3, nil}}, `held by function "a" with the same priority 3`},
		{"one of several is in the way", "c", 3, []holder{{"a", 1, nil}, {"b", 3, nil}}, `function "b"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := admit("relay", tt.function, tt.priority, tt.holders)
			if tt.want == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want ErrHeld with %q", err, tt.want)
			}
		})
	}
}

func TestTally(t *testing.T) {
	type got struct{ seq, lost uint64 }
	tests := []struct {
		name    string
		numbers []uint32
		blind   bool
		want    []got
	}{
		{"all are seen", []uint32{1, 2, 3}, false, []got{{1, 0}, {2, 0}, {3, 0}}},
		{"one is lost", []uint32{1, 3}, false, []got{{1, 0}, {3, 1}}},
		{"the first are lost", []uint32{5, 6}, false, []got{{5, 4}, {6, 0}}},
		{"the number wraps", []uint32{math.MaxUint32, 0, 1}, false, []got{{math.MaxUint32, math.MaxUint32 - 1}, {1 << 32, 0}, {1<<32 + 1, 0}}},
		{"and one is lost at that", []uint32{math.MaxUint32, 1}, false, []got{{math.MaxUint32, math.MaxUint32 - 1}, {1<<32 + 1, 1}}},
		{"blind", []uint32{0, 0, 0}, true, []got{{1, 0}, {2, 0}, {3, 0}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var c tally
			var all []got
			for _, n := range tt.numbers {
				seq, lost := c.next(RawEdge{Rising: true, Seq: n}, false, tt.blind)
				all = append(all, got{seq, lost})
			}
			if diff := cmp.Diff(tt.want, all, cmp.AllowUnexported(got{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Where both directions are watched, a level that does not take its turn tells
// of an edge that the kernel has not numbered.
func TestTallyOfBothDirections(t *testing.T) {
	type got struct{ seq, lost uint64 }
	up := func(n uint32) RawEdge { return RawEdge{Rising: true, Seq: n} }
	down := func(n uint32) RawEdge { return RawEdge{Seq: n} }
	tests := []struct {
		name  string
		edges []RawEdge
		blind bool
		want  []got
	}{
		{"they take turns", []RawEdge{up(1), down(2), up(3)}, false, []got{{1, 0}, {2, 0}, {3, 0}}},
		{"one without a number", []RawEdge{up(1), up(2), down(3)}, false, []got{{1, 0}, {3, 1}, {4, 0}}},
		{"two of them", []RawEdge{down(1), down(2), down(3)}, false, []got{{1, 0}, {3, 1}, {5, 1}}},
		{"a gap of one", []RawEdge{up(1), up(3)}, false, []got{{1, 0}, {3, 1}}},
		{"a gap of one and one without a number", []RawEdge{up(1), down(3)}, false, []got{{1, 0}, {4, 2}}},
		{"a gap of two", []RawEdge{up(1), down(4)}, false, []got{{1, 0}, {4, 2}}},
		{"blind", []RawEdge{up(0), up(0), down(0)}, true, []got{{1, 0}, {3, 1}, {4, 0}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var c tally
			var all []got
			for _, e := range tt.edges {
				seq, lost := c.next(e, true, tt.blind)
				all = append(all, got{seq, lost})
			}
			if diff := cmp.Diff(tt.want, all, cmp.AllowUnexported(got{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestEdgeQueueDropsTheOldestAndSaysSo(t *testing.T) {
	q := edgeQueue{want: EdgeOptions{Rising: true, Falling: true}}
	for i := range maxEdges + 10 {
		q.add(Edge{Seq: uint64(i + 1), On: i%2 == 0})
	}
	e, ok := q.take()
	if !ok || e.Seq != 11 || e.Lost != 10 {
		t.Errorf("got edge %d with %d lost, want 11 with 10", e.Seq, e.Lost)
	}
	if e, _ = q.take(); e.Seq != 12 || e.Lost != 0 {
		t.Errorf("got edge %d with %d lost, want 12 with none", e.Seq, e.Lost)
	}
	if q.dropped != 10 {
		t.Errorf("dropped %d, want 10", q.dropped)
	}
}

// Whatever comes, in whatever order it is taken: nothing is unaccounted for.
func TestEdgesAreAccountedFor(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := edgeQueue{want: EdgeOptions{
			Rising: true, Falling: rapid.Bool().Draw(t, "falling"), Coalesce: rapid.Bool().Draw(t, "coalesce"),
		}}
		var wanted, gaps, accounted, last uint64
		check := func(e Edge) {
			accounted += 1 + e.Lost + e.Coalesced
			if e.Seq <= last {
				t.Fatalf("edge %d after %d", e.Seq, last)
			}
			last = e.Seq
		}
		var c tally
		number := uint32(0)
		for range rapid.IntRange(0, 4000).Draw(t, "edges") {
			gap := rapid.SampledFrom([]uint32{0, 0, 0, 0, 3}).Draw(t, "gap")
			number += 1 + gap
			gaps += uint64(gap)
			e := Edge{On: rapid.Bool().Draw(t, "on")}
			e.Seq, e.Lost = c.next(RawEdge{Rising: e.On, Seq: number}, false, false)
			if e.On || q.want.Falling {
				wanted++
			}
			q.add(e)
			if rapid.IntRange(0, 9).Draw(t, "take") == 0 {
				if e, ok := q.take(); ok {
					check(e)
				}
			}
		}
		for e, ok := q.take(); ok; e, ok = q.take() {
			check(e)
		}
		if accounted+q.lost != wanted+gaps {
			t.Fatalf("accounted for %d and %d to come, want %d", accounted, q.lost, wanted+gaps)
		}
	})
}

func TestTickAfter(t *testing.T) {
	epoch := time.Unix(1000, 0)
	tests := []struct{ now, every, want time.Duration }{
		{0, 10 * time.Second, 10 * time.Second},
		{time.Second, 10 * time.Second, 10 * time.Second},
		{10 * time.Second, 10 * time.Second, 20 * time.Second},
		{35 * time.Second, 10 * time.Second, 40 * time.Second},
		{35 * time.Second, 7 * time.Second, 42 * time.Second},
	}
	for _, tt := range tests {
		if got := tickAfter(epoch, epoch.Add(tt.now), tt.every).Sub(epoch); got != tt.want {
			t.Errorf("after %s, every %s: got %s, want %s", tt.now, tt.every, got, tt.want)
		}
	}
}

func TestHealth(t *testing.T) {
	// Each step is a reading so long after the step before.
	type step struct {
		after time.Duration
		ok    bool
		news  bool
		wait  time.Duration // in force afterwards; 0: not looked at
	}
	tests := []struct {
		name  string
		every time.Duration
		steps []step
	}{
		{"works", 10 * time.Second, []step{{0, true, false, 0}, {time.Second, true, false, 0}}},
		{"fails for long", 10 * time.Second, []step{
			{0, true, false, 0},
			{10 * time.Second, false, true, 10 * time.Second},
			{10 * time.Second, false, false, 20 * time.Second},
			{20 * time.Second, false, false, 40 * time.Second},
			{40 * time.Second, false, false, time.Minute},
			{time.Minute, false, false, time.Minute},
			{time.Minute, true, true, 0},
		}},
		{"never worked", time.Second, []step{{0, false, true, time.Second}, {time.Second, false, false, 2 * time.Second}}},
		{"read rarely", time.Hour, []step{{0, false, true, time.Minute}}},
		{"read often", 50 * time.Millisecond, []step{{0, false, true, time.Second}}},
		{"flaps: the back-off goes on", 10 * time.Second, []step{
			{0, false, true, 10 * time.Second},
			{10 * time.Second, true, true, 0},
			{10 * time.Second, false, true, 20 * time.Second},
			{20 * time.Second, true, true, 0},
			{10 * time.Second, false, true, 40 * time.Second},
		}},
		{"fails again after long: it begins anew", 10 * time.Second, []step{
			{0, false, true, 10 * time.Second},
			{10 * time.Second, false, false, 20 * time.Second},
			{20 * time.Second, true, true, 0},
			{30 * time.Second, true, false, 0},
			{30 * time.Second, false, true, 10 * time.Second},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var h health
			now := time.Unix(1000, 0)
			failed := 0
			for i, s := range tt.steps {
				now = now.Add(s.after)
				if !s.ok {
					failed++
					if news := h.failure(now, tt.every); news != s.news || h.wait != s.wait {
						t.Errorf("step %d: news %v, wait %s; want %v, %s", i, news, h.wait, s.news, s.wait)
					}
					if want := now.Add(h.wait); !h.wake(now.Add(time.Millisecond)).Equal(want) {
						t.Errorf("step %d: wakes at %s, want %s", i, h.wake(now), want)
					}
					continue
				}
				_, missed, news := h.success(now)
				if news != s.news || (news && missed != failed) {
					t.Errorf("step %d: news %v, missed %d; want %v, %d", i, news, missed, s.news, failed)
				}
				failed = 0
				if next := now.Add(time.Second); !h.wake(next).Equal(next) {
					t.Errorf("step %d: a sensor that works waits", i)
				}
			}
		})
	}
}

func TestPut(t *testing.T) {
	read := func(n int64) Sample { return Sample{Reading: Reading{Time: time.Unix(n, 0)}} }
	var w []Sample
	w = put(w, read(1))
	w = put(w, read(2))
	w = put(w, Sample{Kind: Fault})
	w = put(w, Sample{Kind: Recovered})
	w = put(w, read(3))
	w = put(w, read(4))
	kinds := fmt.Sprint(len(w), w[0].Reading.Time.Unix(), w[1].Kind, w[2].Kind, w[3].Reading.Time.Unix())
	if want := fmt.Sprint(4, 2, Fault, Recovered, 4); kinds != want {
		t.Errorf("got %s, want %s", kinds, want)
	}
	for range 10 * maxSamples {
		w = put(put(w, Sample{Kind: Fault}), Sample{Kind: Recovered})
	}
	if len(w) != maxSamples {
		t.Errorf("%d wait, want %d", len(w), maxSamples)
	}
}

func TestTypesAreWhole(t *testing.T) {
	for _, typ := range Types {
		if typ.MinEvery <= 0 || len(typ.Quantities) == 0 || len(typ.buses) == 0 {
			t.Errorf("%s: something is missing", typ.Name)
		}
		if slices.Contains(typ.buses, I2C) && len(typ.addresses) == 0 {
			t.Errorf("%s: on I2C without an address", typ.Name)
		}
		for _, q := range typ.Quantities {
			if s, ok := typ.ranges[base(q.Name)]; !ok || s.source == "" || s.low >= s.high {
				t.Errorf("%s: %s has no range with a source", typ.Name, q.Name)
			}
		}
	}
}

func TestCheck(t *testing.T) {
	temperature, humidity, pressure := Quantity{"temperature", "C"}, Quantity{"humidity", "rH"}, Quantity{"pressure", "Pa"}
	good := map[Quantity]float64{temperature: 25, humidity: 40, pressure: 101325}
	with := func(q Quantity, v float64) map[Quantity]float64 {
		m := maps.Clone(good)
		m[q] = v
		return m
	}
	tests := []struct {
		name   string
		spec   Spec
		values map[Quantity]float64
		want   string
	}{
		{"good", Spec{Sensor: "bme280"}, good, ""},
		{"at the edges", Spec{Sensor: "bme280"}, map[Quantity]float64{temperature: -40, humidity: 100, pressure: 30000}, ""},
		{"too hot", Spec{Sensor: "bme280"}, with(temperature, 180), "temperature of 180 C is nonsense: a bme280 measures -40 to 85"},
		{"no number", Spec{Sensor: "bme280"}, with(humidity, math.NaN()), "humidity"},
		{"infinite", Spec{Sensor: "bme280"}, with(pressure, math.Inf(1)), "pressure"},
		{"one is missing", Spec{Sensor: "bme280"}, map[Quantity]float64{temperature: 25, humidity: 40}, "no pressure"},
		{"ds18b20", Spec{Sensor: "ds18b20"}, map[Quantity]float64{temperature: 85}, ""},
		{"one channel", Spec{Sensor: "ads1115", Channel: new(2)}, map[Quantity]float64{{"voltage", "V"}: 3.3}, ""},
		{"all channels but one", Spec{Sensor: "ads1115"}, map[Quantity]float64{{"voltage0", "V"}: 1, {"voltage1", "V"}: 1, {"voltage2", "V"}: 1}, "no voltage3"},
		{"below ground", Spec{Sensor: "mcp3008", Channel: new(0)}, map[Quantity]float64{{"voltage", "V"}: -1}, "nonsense"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			typ, ok := TypeOf(tt.spec)
			if !ok {
				t.Fatal("type is not known")
			}
			err := typ.Check(tt.values)
			if tt.want == "" && err != nil {
				t.Errorf("refused: %v", err)
			}
			if tt.want != "" && (!errors.Is(err, ErrFault) || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want ErrFault with %q", err, tt.want)
			}
		})
	}
}

func TestNear(t *testing.T) {
	lines := []string{"GPIO1", "GPIO17", "GPIO27", "RELAY1", "RELAY2", "ID_SDA", "SPI_CE0_N"}
	tests := []struct {
		name string
		want []string
	}{
		{"GPIO71", []string{"GPIO1", "GPIO17", "GPIO27"}},
		{"relay", []string{"RELAY1", "RELAY2"}},
		{"RELAY3", []string{"RELAY1", "RELAY2"}},
		{"SDA", []string{"ID_SDA"}},
		{"nothing-like-it", []string{"GPIO1", "GPIO17", "GPIO27"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Near(tt.name, lines, 3)
			if tt.name == "nothing-like-it" {
				if len(got) != 3 {
					t.Errorf("got %v, want any three", got)
				}
				return
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if got := Near("x", nil, 3); len(got) != 0 {
		t.Errorf("near nothing: %v", got)
	}
}

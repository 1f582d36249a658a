package deploy

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/cluster/store/memstore"
	"github.com/edgefn/edgefn/functions"
)

// put writes a record as it is in a store.
func put(t *testing.T, st store.Store, key, text string) {
	t.Helper()
	if _, err := st.Commit(t.Context(), nil, []store.Op{{Key: key, Value: []byte(text)}}); err != nil {
		t.Fatal(err)
	}
}

// Versions are ordered by when the store got them, whatever their clocks said,
// also those of a store that knows nothing of pauses.
func TestVersionsAreOrderedByTheStore(t *testing.T) {
	st := memstore.New(memstore.Config{})
	defer st.Close()
	d := New(Config{Store: st})
	for i, year := range []int{2039, 1970, 2026} {
		put(t, st, fmt.Sprintf("%sfan/v%d", keyVersions, i), fmt.Sprintf(`{"version":"v%d","deployed":"%d-01-01T00:00:00Z","function":{"name":"fan"}}`, i, year))
	}
	put(t, st, keyFunctions+"fan", `{"version":"v1","deployed":"2039-01-01T00:00:00Z"}`)
	put(t, st, keyVersions+"fan2/v9", `{"version":"v9"}`) // of another function, whose record is not there
	check := func(want desired, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, v := range want.versions {
			got = append(got, v.Version)
		}
		if diff := cmp.Diff([]string{"v2", "v1", "v0"}, got); diff != "" {
			t.Errorf("versions (-want +got):\n%s", diff)
		}
		if v, known := want.find("v1"); !known || v.Function.Name != "fan" || want.Version != "v1" || want.revision <= v.revision || want.at <= want.revision || want.Paused || !want.there() {
			t.Errorf("got %+v", want)
		}
	}
	check(d.read(t.Context(), "fan"))
	all, at, err := d.readAll(t.Context())
	if err != nil || len(all) != 1 || at != all["fan"].at {
		t.Fatalf("%d functions at %d, %v", len(all), at, err)
	}
	check(*all["fan"], nil)
	if none, err := d.read(t.Context(), "none"); err != nil || none.there() || none.at != at {
		t.Errorf("a function that is not there: %+v, %v", none, err)
	}
}

// A record is written over the one that was read, and over no other.
func TestWriteIsGuarded(t *testing.T) {
	st := memstore.New(memstore.Config{})
	defer st.Close()
	d := New(Config{Store: st})
	fan := functions.Function{Name: "fan"}
	write := func(read *desired, version string) error {
		_, err := d.write(t.Context(), "fan", read, versionRecord{Version: version, Deployed: time.Now(), Function: fan}, true)
		return err
	}
	stale, err := d.read(t.Context(), "fan")
	if err != nil {
		t.Fatal(err)
	}
	for i := range keepVersions + 2 {
		read, err := d.read(t.Context(), "fan")
		if err != nil {
			t.Fatal(err)
		}
		read.PausedTriggers = []string{"in"}
		if err := write(&read, fmt.Sprintf("v%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := write(&stale, "late"); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a write over what was not read: %v", err)
	}
	got, err := d.read(t.Context(), "fan")
	if err != nil || len(got.versions) != keepVersions || got.Version != "v6" || !slices.Equal(got.PausedTriggers, []string{"in"}) {
		t.Errorf("got %+v, %v", got, err)
	}
	// Back to a version that is kept: it keeps its place.
	if _, err := d.write(t.Context(), "fan", &got, versionRecord{Version: "v4", Function: fan}, false); err != nil {
		t.Fatal(err)
	}
	if got, err = d.read(t.Context(), "fan"); err != nil || got.Version != "v4" || got.versions[2].Version != "v4" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestPauseWithAndWithout(t *testing.T) {
	all := []string{"b", "a"}
	for _, tt := range []struct {
		name string
		got  pause
		want pause
	}{
		{"whole", (&pause{}).with(""), pause{Paused: true}},
		{"whole takes in single ones", (&pause{PausedTriggers: []string{"a"}}).with(""), pause{Paused: true}},
		{"one", (&pause{PausedTriggers: []string{"b"}}).with("a"), pause{PausedTriggers: []string{"a", "b"}}},
		{"one again", (&pause{PausedTriggers: []string{"a"}}).with("a"), pause{PausedTriggers: []string{"a"}}},
		{"one of the whole", (&pause{Paused: true}).with("a"), pause{Paused: true}},
		{"resume all", (&pause{Paused: true, PausedTriggers: []string{"a"}}).without("", all), pause{}},
		{"resume one", (&pause{PausedTriggers: []string{"a", "b"}}).without("a", all), pause{PausedTriggers: []string{"b"}}},
		{"resume one of the whole", (&pause{Paused: true}).without("b", all), pause{PausedTriggers: []string{"a"}}},
	} {
		if !tt.got.samePause(&tt.want) {
			t.Errorf("%s: got %+v, want %+v", tt.name, tt.got, tt.want)
		}
	}
}

// What is in the store may be another program's.
func FuzzRecords(f *testing.F) {
	f.Add([]byte(`{"version":"v1","deployed":"2026-01-01T00:00:00Z","paused_triggers":["in"]}`), []byte(`{"version":"v1","function":{"name":"fan"}}`))
	f.Add([]byte(`null`), []byte(`[]`))
	f.Fuzz(func(t *testing.T, record, version []byte) {
		var w desired
		if w.addVersion(store.Entry{Key: "v", Value: version, Version: 1}) != nil || w.setRecord(store.Entry{Key: "f", Value: record, Version: 2}, 3) != nil {
			return
		}
		text, err := json.Marshal(w.functionRecord)
		if err != nil {
			t.Fatalf("a record that was read cannot be written: %v", err)
		}
		again := desired{}
		if err := again.setRecord(store.Entry{Value: text, Version: 2}, 3); err != nil || again.Version != w.Version || !again.samePause(&w.pause) {
			t.Errorf("%s is %+v and then %+v, %v", record, w, again, err)
		}
	})
}

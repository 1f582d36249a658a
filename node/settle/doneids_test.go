package settle

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/cluster/store/memstore"
)

func TestPruneOfEventIDs(t *testing.T) {
	began := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	spans := []span{{1, began, 5}, {2, began, maxDone}, {3, began, 7}, {4, began, 8}}
	keep, drop := prune(spans)
	if diff := cmp.Diff([]span{spans[2], spans[3]}, keep); diff != "" {
		t.Errorf("keep (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]span{spans[0], spans[1]}, drop); diff != "" {
		t.Errorf("drop (-want +got):\n%s", diff)
	}
	rapid.Check(t, func(t *rapid.T) {
		var spans []span
		for i, n := range rapid.SliceOf(rapid.IntRange(0, maxPerSpan)).Draw(t, "ids") {
			spans = append(spans, span{store.LeaseID(i + 1), began, n})
		}
		keep, drop := prune(spans)
		sum := 0
		for _, s := range keep {
			sum += s.IDs
		}
		if sum+maxPerSpan > maxDone || len(keep) >= maxSpans || len(keep)+len(drop) != len(spans) {
			t.Fatalf("%d ids are kept in %d spans of %d", sum, len(keep), len(spans))
		}
	})
}

func TestDoneIDsGetANewLease(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(memstore.Config{})
	d := newDoneIDs(st, discard(), "gate")
	if err := d.load(ctx); err != nil {
		t.Fatal(err)
	}
	first, err := d.lease(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := d.lease(ctx); err != nil || again != first {
		t.Errorf("second lease: %v, %v, want the first", again, err)
	}
	if err := st.Revoke(ctx, first); err != nil {
		t.Fatal(err)
	}
	x := &executor{st: st, done: d, fences: newFences(st, discard(), "gate"), log: discard()}
	if err := x.write(ctx, writing{done: donePrefix + "fan/1", id: "1"}); err != nil {
		t.Fatal(err)
	}
	if known, err := d.known(ctx, donePrefix+"fan/1"); err != nil || !known {
		t.Errorf("known: %v, %v", known, err)
	}
	// Another run finds the lease in use.
	second, err := d.lease(ctx)
	if err != nil {
		t.Fatal(err)
	}
	d = newDoneIDs(st, discard(), "gate")
	if err := d.load(ctx); err != nil {
		t.Fatal(err)
	}
	if got, err := d.lease(ctx); err != nil || got != second || d.spans[0].IDs != 1 {
		t.Errorf("after a restart: %v, %v, %+v", got, err, d.spans)
	}
}

// An id is remembered although the clock jumped by years: from 1970, where a
// gateway boots, to today, and back.
func TestDoneIDsOutliveTheClock(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(memstore.Config{})
	d := newDoneIDs(st, discard(), "gate")
	if err := d.load(ctx); err != nil {
		t.Fatal(err)
	}
	x := &executor{st: st, done: d, fences: newFences(st, discard(), "gate"), log: discard()}
	if err := x.write(ctx, writing{done: donePrefix + "fan/1", id: "1"}); err != nil {
		t.Fatal(err)
	}
	for _, year := range []int{1970, 2126, 2026} {
		d.spans[len(d.spans)-1].Since = time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC) // as if it had begun then
		if _, err := d.lease(ctx); err != nil {
			t.Fatal(err)
		}
		if known, err := d.known(ctx, donePrefix+"fan/1"); err != nil || !known {
			t.Errorf("clock of %d: known %v, %v", year, known, err)
		}
	}
}

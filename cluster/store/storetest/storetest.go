// Package storetest is the suite that every store.Store passes.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/cluster/store"
)

// patience is how long the suite waits for what a store does by itself, such as
// ending a lease.
const patience = 20 * time.Second

// compactor is what a store has beside its contract for the suite's sake.
type compactor interface {
	// Compact forgets what was before revision.
	Compact(ctx context.Context, revision int64) error
}

// Run runs the suite. open makes a store for one test, which closes it; the
// keys under "t/" are absent in it. The store's leases are of at most a few
// seconds where one of a second is asked for.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	t.Helper()
	for _, c := range []struct {
		name string
		run  func(*testing.T, store.Store)
	}{
		{"get and list at a revision", testRead},
		{"paging", testPaging},
		{"keys of any bytes", testKeys},
		{"guard of a key", testGuardKey},
		{"guard of a range", testGuardRange},
		{"guard of a large range", testGuardLarge},
		{"guard of a range against racing deletes", testGuardRace},
		{"commit is atomic", testAtomic},
		{"commit with no ops", testNoOps},
		{"malformed requests", testInvalid},
		{"bounds", testBounds},
		{"deletes", testDelete},
		{"watch", testWatch},
		{"watch from now", testWatchNow},
		{"watch with a slow function", testWatchSlow},
		{"watch ends", testWatchEnds},
		{"compaction", testCompaction},
		{"lease ends", testLeaseEnds},
		{"lease renewed", testLeaseRenewed},
		{"lease revoked", testLeaseRevoked},
		{"size", testSize},
		{"counter with 16 writers", testCounter},
		{"update", testUpdate},
		{"health", testHealth},
		{"copy", testSnapshot},
		{"close", testClose},
		{"context", testContext},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			defer func() {
				if err := s.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}()
			c.run(t, s)
		})
	}
}

func put(key, value string) store.Op { return store.Op{Key: key, Value: []byte(value)} }

func del(key string) store.Op { return store.Op{Key: key, Delete: true} }

func commit(t *testing.T, s store.Store, guards []store.Guard, ops ...store.Op) int64 {
	t.Helper()
	rev, err := s.Commit(t.Context(), guards, ops)
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	return rev
}

func refuse(t *testing.T, s store.Store, want error, guards []store.Guard, ops ...store.Op) {
	t.Helper()
	rev, err := s.Commit(t.Context(), guards, ops)
	if !errors.Is(err, want) || rev != 0 {
		t.Fatalf("commit: got revision %d, error %v; want %v", rev, err, want)
	}
}

func get(t *testing.T, s store.Store, key string) store.Entry {
	t.Helper()
	e, _, err := s.Get(t.Context(), key, store.Read{})
	if err != nil {
		t.Fatalf("get %q: %v", key, err)
	}
	return e
}

func value(t *testing.T, s store.Store, key, want string) {
	t.Helper()
	if e := get(t, s, key); string(e.Value) != want || e.Version == 0 {
		t.Fatalf("%q is %q at version %d, want %q", key, e.Value, e.Version, want)
	}
}

func absent(t *testing.T, s store.Store, key string) {
	t.Helper()
	if diff := cmp.Diff(store.Entry{Key: key}, get(t, s, key)); diff != "" {
		t.Fatalf("%q is there (-want +got):\n%s", key, diff)
	}
}

func list(t *testing.T, s store.Store, prefix string, r store.Read) ([]store.Entry, int64) {
	t.Helper()
	es, rev, err := s.List(t.Context(), prefix, r)
	if err != nil {
		t.Fatalf("list %q: %v", prefix, err)
	}
	return es, rev
}

func keys(es []store.Entry) []string {
	var ks []string
	for _, e := range es {
		ks = append(ks, e.Key)
	}
	return ks
}

func equal(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

// until polls for what a store does by itself.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func testRead(t *testing.T, s store.Store) {
	absent(t, s, "t/a")
	r1 := commit(t, s, nil, put("t/a", "1"), put("t/b", "1"), put("u", "1"))
	r2 := commit(t, s, nil, put("t/a", "2"), del("t/b"), put("t/c", ""))
	if r2 != r1+1 {
		t.Errorf("revisions %d and %d do not follow each other", r1, r2)
	}
	e, rev, err := s.Get(t.Context(), "t/a", store.Read{})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "entry", store.Entry{Key: "t/a", Value: []byte("2"), Version: r2}, e)
	equal(t, "revision of the read", r2, rev)
	e, rev, err = s.Get(t.Context(), "t/a", store.Read{Revision: r1})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "entry at the first revision", store.Entry{Key: "t/a", Value: []byte("1"), Version: r1}, e)
	equal(t, "revision of the read at the first revision", r1, rev)
	e, _, err = s.Get(t.Context(), "t/a", store.Read{KeysOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Value) != 0 || e.Version != r2 {
		t.Errorf("keys only: got %+v", e)
	}
	es, rev := list(t, s, "t/", store.Read{Revision: r1})
	equal(t, "list at the first revision", []store.Entry{
		{Key: "t/a", Value: []byte("1"), Version: r1},
		{Key: "t/b", Value: []byte("1"), Version: r1},
	}, es)
	equal(t, "revision of that list", r1, rev)
	es, rev = list(t, s, "t/", store.Read{})
	equal(t, "list", []string{"t/a", "t/c"}, keys(es))
	equal(t, "revision of the list", r2, rev)
	if len(es[1].Value) != 0 || es[1].Version != r2 {
		t.Errorf("an empty value: got %+v", es[1])
	}
	n, err := s.Count(t.Context(), "t/")
	if err != nil || n != 2 {
		t.Errorf("count: %d, %v; want 2", n, err)
	}
	all, _ := list(t, s, "", store.Read{KeysOnly: true})
	n, err = s.Count(t.Context(), "")
	if err != nil || n != len(all) || n < 3 {
		t.Errorf("count of everything: %d, %v; listed %d", n, err, len(all))
	}
}

func testPaging(t *testing.T, s store.Store) {
	var ops []store.Op
	var want []string
	for i := range 25 {
		k := fmt.Sprintf("t/%02d", i)
		ops = append(ops, put(k, "x"))
		want = append(want, k)
	}
	at := commit(t, s, nil, ops...)
	commit(t, s, nil, del("t/07"), put("t/071", "new"))
	var got []string
	r := store.Read{Revision: at, Limit: 10}
	for pages := 0; ; pages++ {
		es, _ := list(t, s, "t/", r)
		got = append(got, keys(es)...)
		if len(es) < r.Limit {
			equal(t, "pages", 2, pages)
			break
		}
		r.After = es[len(es)-1].Key
	}
	equal(t, "all pages", want, got)
	for _, c := range []struct {
		after string
		want  int
	}{{"a", 25}, {"t", 25}, {"t/", 25}, {"t/23", 1}, {"t/231", 1}, {"t/24", 0}, {"t0", 0}, {"z", 0}} {
		es, _ := list(t, s, "t/", store.Read{After: c.after})
		equal(t, "entries after "+c.after, c.want, len(es))
	}
}

func testKeys(t *testing.T, s store.Store) {
	ks := []string{"t/", "t/\x00", "t/\x00\x00", "t/a b", "t/ü", "t/\xff", "t/\xff\xff"}
	var ops []store.Op
	for i, k := range ks {
		ops = append(ops, put(k, fmt.Sprint(i)))
	}
	commit(t, s, nil, ops...)
	es, rev := list(t, s, "t/", store.Read{})
	equal(t, "keys in byte order", ks, keys(es))
	for i, k := range ks {
		value(t, s, k, fmt.Sprint(i))
	}
	es, _ = list(t, s, "t/\xff", store.Read{})
	equal(t, "keys under the last byte", []string{"t/\xff", "t/\xff\xff"}, keys(es))
	commit(t, s, []store.Guard{{Key: "t/\xff", Prefix: true, Version: rev, Count: 2}}, store.Op{Key: "t/\xff", Delete: true, Prefix: true})
	es, _ = list(t, s, "t/", store.Read{After: "t/\x00"})
	equal(t, "keys after a zero byte", []string{"t/\x00\x00", "t/a b", "t/ü"}, keys(es))
}

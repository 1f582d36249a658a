package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/edgefn/edgefn/cluster/store"
)

func testGuardKey(t *testing.T, s store.Store) {
	none := []store.Guard{{Key: "t/a"}}
	r1 := commit(t, s, none, put("t/a", "1"))
	refuse(t, s, store.ErrConflict, none, put("t/a", "2"))
	seen := []store.Guard{{Key: "t/a", Version: r1}}
	r2 := commit(t, s, seen, put("t/a", "2"))
	refuse(t, s, store.ErrConflict, seen, put("t/b", "1"))
	refuse(t, s, store.ErrConflict, []store.Guard{{Key: "t/a", Version: r2 + 1}}, put("t/b", "1"))
	// Deleted and made anew with the same value, it is another one.
	commit(t, s, nil, del("t/a"))
	refuse(t, s, store.ErrConflict, []store.Guard{{Key: "t/a", Version: r2}}, put("t/b", "1"))
	commit(t, s, none, put("t/a", "2"))
	refuse(t, s, store.ErrConflict, []store.Guard{{Key: "t/a", Version: r2}}, put("t/b", "1"))
	// One that does not hold among ones that do.
	refuse(t, s, store.ErrConflict, []store.Guard{{Key: "t/x"}, {Key: "t/a"}, {Key: "t/y"}}, put("t/b", "1"))
	absent(t, s, "t/b")
}

// guardRange is the guard of a range as its reader makes it.
func guardRange(t *testing.T, s store.Store, prefix string) store.Guard {
	t.Helper()
	es, rev := list(t, s, prefix, store.Read{})
	return store.Guard{Key: prefix, Prefix: true, Version: rev, Count: len(es)}
}

func testGuardRange(t *testing.T, s store.Store) {
	for _, start := range []int{0, 1, 3} {
		for _, c := range []struct {
			name   string
			change []store.Op
			holds  bool
			least  int // keys that it needs at the start
		}{
			{"nothing", nil, true, 0},
			{"another range", []store.Op{put("t0", "x"), put("t/q", "x"), del("t/qq")}, true, 0},
			{"created", []store.Op{put("t/r/new", "x")}, false, 0},
			{"created, the prefix itself", []store.Op{put("t/r/", "x")}, false, 0},
			{"changed", []store.Op{put("t/r/0", "y")}, false, 1},
			{"put with the same value", []store.Op{put("t/r/0", "x")}, false, 1},
			{"deleted", []store.Op{del("t/r/0")}, false, 1},
			{"all deleted", []store.Op{{Key: "t/r/", Delete: true, Prefix: true}}, false, 1},
			{"one deleted, one created", []store.Op{del("t/r/0"), put("t/r/new", "x")}, false, 1},
		} {
			if start < c.least {
				continue
			}
			t.Run(fmt.Sprintf("%d keys, %s", start, c.name), func(t *testing.T) {
				ops := []store.Op{{Key: "t/", Delete: true, Prefix: true}}
				commit(t, s, nil, ops...)
				for i := range start {
					commit(t, s, nil, put(fmt.Sprintf("t/r/%d", i), "x"))
				}
				g := guardRange(t, s, "t/r/")
				if c.change != nil {
					commit(t, s, nil, c.change...)
				}
				if c.holds {
					commit(t, s, []store.Guard{g}, put("t/r/own", "1"))
					value(t, s, "t/r/own", "1")
					return
				}
				refuse(t, s, store.ErrConflict, []store.Guard{g}, put("t/out", "1"))
				absent(t, s, "t/out")
			})
		}
	}
	t.Run("everything", func(t *testing.T) {
		g := guardRange(t, s, "")
		commit(t, s, []store.Guard{g}, put("t/z", "1"))
		refuse(t, s, store.ErrConflict, []store.Guard{g}, put("t/z", "2"))
	})
	t.Run("deleted and made anew", func(t *testing.T) {
		commit(t, s, nil, put("t/s/a", "1"))
		g := guardRange(t, s, "t/s/")
		commit(t, s, nil, del("t/s/a"))
		commit(t, s, nil, put("t/s/a", "1"))
		refuse(t, s, store.ErrConflict, []store.Guard{g}, put("t/out", "1"))
	})
}

func testGuardLarge(t *testing.T, s store.Store) {
	const n = 2000
	for i := 0; i < n; i += 1000 {
		var ops []store.Op
		for j := range 1000 {
			ops = append(ops, put(fmt.Sprintf("t/%04d", i+j), "x"))
		}
		commit(t, s, nil, ops...)
	}
	g := guardRange(t, s, "t/")
	equal(t, "keys", n, g.Count)
	commit(t, s, []store.Guard{g}, put("u", "1"))
	commit(t, s, nil, del("t/1234"))
	refuse(t, s, store.ErrConflict, []store.Guard{g}, put("u", "2"))
	value(t, s, "u", "1")
}

// testGuardRace lets commits that remove the last but one key of a range run
// against each other: each is guarded by there being two, so one is left.
func testGuardRace(t *testing.T, s store.Store) {
	for round := range 10 {
		commit(t, s, nil, put("t/0", "x"), put("t/1", "x"))
		g := guardRange(t, s, "t/")
		var wg sync.WaitGroup
		errs := make([]error, 2)
		for i := range 2 {
			wg.Go(func() {
				_, errs[i] = s.Commit(t.Context(), []store.Guard{g}, []store.Op{del(fmt.Sprintf("t/%d", i))})
			})
		}
		wg.Wait()
		es, _ := list(t, s, "t/", store.Read{})
		won := 0
		for _, err := range errs {
			switch {
			case err == nil:
				won++
			case !errors.Is(err, store.ErrConflict):
				t.Fatal(err)
			}
		}
		if won != 1 || len(es) != 1 {
			t.Fatalf("round %d: %d of 2 commits took place (%v), %d keys left", round, won, errs, len(es))
		}
	}
}

func testAtomic(t *testing.T, s store.Store) {
	commit(t, s, nil, put("t/old", "1"))
	refuse(t, s, store.ErrConflict, []store.Guard{{Key: "t/old"}}, put("t/a", "1"), put("t/b", "1"), del("t/old"))
	absent(t, s, "t/a")
	absent(t, s, "t/b")
	rev := commit(t, s, nil, put("t/a", "1"), put("t/b", "2"), del("t/old"))
	for _, k := range []string{"t/a", "t/b"} {
		equal(t, "version of "+k, rev, get(t, s, k).Version)
	}
	absent(t, s, "t/old")
	// One op that cannot be done, and none is.
	refuse(t, s, store.ErrLeaseGone, nil, put("t/c", "1"), store.Op{Key: "t/d", Value: []byte("1"), Lease: 4711})
	absent(t, s, "t/c")
}

func testNoOps(t *testing.T, s store.Store) {
	rev := commit(t, s, nil, put("t/a", "1"))
	equal(t, "revision of a check", rev, commit(t, s, []store.Guard{{Key: "t/a", Version: rev}}))
	equal(t, "revision of nothing", rev, commit(t, s, nil))
	refuse(t, s, store.ErrConflict, []store.Guard{{Key: "t/a"}})
	equal(t, "revision after a delete of nothing", rev, commit(t, s, nil, del("t/none")))
}

func testInvalid(t *testing.T, s store.Store) {
	under := func(k string) store.Op { return store.Op{Key: k, Delete: true, Prefix: true} }
	for _, c := range []struct {
		name string
		g    []store.Guard
		ops  []store.Op
	}{
		{"two puts of a key", nil, []store.Op{put("t/a", "1"), put("t/b", "1"), put("t/a", "2")}},
		{"put and delete of a key", nil, []store.Op{put("t/a", "1"), del("t/a")}},
		{"two deletes of a key", nil, []store.Op{del("t/a"), del("t/a")}},
		{"put within a deleted range", nil, []store.Op{put("t/a/b", "1"), under("t/a")}},
		{"put of a deleted range's prefix", nil, []store.Op{put("t/a", "1"), under("t/a")}},
		{"deleted range within another", nil, []store.Op{under("t/a/b"), put("t/b", "1"), under("t/a")}},
		{"one range deleted twice", nil, []store.Op{under("t/a"), under("t/a")}},
		{"everything deleted and a put", nil, []store.Op{put("t/a", "1"), under("")}},
		{"empty key", nil, []store.Op{put("", "1")}},
		{"delete of an empty key", nil, []store.Op{del("")}},
		{"put of a prefix", nil, []store.Op{{Key: "t/a", Prefix: true}}},
		{"delete with a value", nil, []store.Op{{Key: "t/a", Delete: true, Value: []byte("1")}}},
		{"guard of an empty key", []store.Guard{{}}, []store.Op{put("t/a", "1")}},
		{"guard with a negative version", []store.Guard{{Key: "t/a", Version: -1}}, []store.Op{put("t/a", "1")}},
		{"guard with a negative count", []store.Guard{{Key: "t/a", Prefix: true, Count: -1}}, []store.Op{put("t/a", "1")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			refuse(t, s, store.ErrInvalid, c.g, c.ops...)
			absent(t, s, "t/a")
		})
	}
	// Neighbours that touch no common key.
	commit(t, s, nil, put("t/a", "1"), under("t/a/"), put("t/a0", "1"), under("t/a1"), under("t/b"))
	value(t, s, "t/a0", "1")
	_, rev := list(t, s, "t/", store.Read{})
	for _, err := range []error{
		func() error { _, _, err := s.Get(t.Context(), "", store.Read{}); return err }(),
		func() error { _, _, err := s.Get(t.Context(), "t/a", store.Read{Revision: rev + 100}); return err }(),
		func() error { _, _, err := s.List(t.Context(), "t/", store.Read{Revision: -1}); return err }(),
		func() error { _, _, err := s.List(t.Context(), "t/", store.Read{Limit: -1}); return err }(),
		func() error { _, err := s.Grant(t.Context(), 0); return err }(),
		s.Watch(t.Context(), "t/", -1, func([]store.Event) error { return nil }),
	} {
		if !errors.Is(err, store.ErrInvalid) {
			t.Errorf("got %v, want %v", err, store.ErrInvalid)
		}
	}
}

func testBounds(t *testing.T, s store.Store) {
	big := bytes.Repeat([]byte("v"), 512<<10)
	commit(t, s, nil, store.Op{Key: "t/big", Value: big})
	if e := get(t, s, "t/big"); !bytes.Equal(e.Value, big) {
		t.Fatalf("a value of %d bytes came back as one of %d", len(big), len(e.Value))
	}
	var ops []store.Op
	var guards []store.Guard
	for i := range store.MaxOps {
		k := fmt.Sprintf("t/many/%04d", i)
		ops = append(ops, put(k, "x"))
		guards = append(guards, store.Guard{Key: k})
	}
	rev := commit(t, s, guards, ops...)
	g := guardRange(t, s, "t/many/")
	equal(t, "keys of one commit", store.MaxOps, g.Count)
	equal(t, "its revision", rev, g.Version)
	refuse(t, s, store.ErrTooLarge, nil, append(ops, put("t/more", "x"))...)
	absent(t, s, "t/more")

	guards = nil
	for i := range store.MaxGuards {
		guards = append(guards, store.Guard{Key: fmt.Sprintf("t/none/%04d", i)})
	}
	commit(t, s, guards, put("t/guarded", "x"))
	refuse(t, s, store.ErrTooLarge, append(guards, store.Guard{Key: "t/none/more"}), put("t/more", "x"))
	refuse(t, s, store.ErrTooLarge, []store.Guard{{Key: "t/many/", Prefix: true, Count: store.MaxGuards}}, put("t/more", "x"))

	ops = nil
	for i, left := 0, store.MaxBytes; left > 0; i++ {
		o := store.Op{Key: fmt.Sprintf("t/bytes/%d", i)}
		left -= len(o.Key)
		o.Value = big[:min(len(big), left)]
		left -= len(o.Value)
		ops = append(ops, o)
	}
	commit(t, s, nil, ops...)
	ops[0].Key += "x"
	refuse(t, s, store.ErrTooLarge, nil, ops...)
	absent(t, s, ops[0].Key)
}

func testDelete(t *testing.T, s store.Store) {
	commit(t, s, nil, put("t/a", "1"), put("t/b/1", "1"), put("t/b/2", "1"), put("t/b0", "1"))
	commit(t, s, nil, store.Op{Key: "t/b/", Delete: true, Prefix: true}, del("t/a"), del("t/none"), put("t/c", "1"))
	es, _ := list(t, s, "t/", store.Read{})
	equal(t, "keys left", []string{"t/b0", "t/c"}, keys(es))
	commit(t, s, nil, store.Op{Key: "", Delete: true, Prefix: true})
	es, _ = list(t, s, "", store.Read{})
	equal(t, "keys left", []string(nil), keys(es))
}

// increment adds one to a counter, as a step of store.Update.
func increment(s store.Store, key string) func(context.Context) ([]store.Guard, []store.Op, error) {
	return func(ctx context.Context) ([]store.Guard, []store.Op, error) {
		e, _, err := s.Get(ctx, key, store.Read{})
		if err != nil {
			return nil, nil, err
		}
		n := 0
		if e.Version != 0 {
			if n, err = strconv.Atoi(string(e.Value)); err != nil {
				return nil, nil, err
			}
		}
		return []store.Guard{{Key: key, Version: e.Version}}, []store.Op{put(key, strconv.Itoa(n+1))}, nil
	}
}

func testCounter(t *testing.T, s store.Store) {
	const writers, each = 16, 10
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				if _, err := store.Update(t.Context(), s, increment(s, "t/n")); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	value(t, s, "t/n", strconv.Itoa(writers*each))
}

func testUpdate(t *testing.T, s store.Store) {
	tries := 0
	step := increment(s, "t/n")
	rev, err := store.Update(t.Context(), s, func(ctx context.Context) ([]store.Guard, []store.Op, error) {
		g, ops, err := step(ctx)
		if tries++; tries <= 2 {
			commit(t, s, nil, put("t/n", strconv.Itoa(10*tries))) // another writer is first
		}
		return g, ops, err
	})
	if err != nil || tries != 3 {
		t.Fatalf("update: %v after %d tries, want 3", err, tries)
	}
	value(t, s, "t/n", "21")
	equal(t, "revision", get(t, s, "t/n").Version, rev)

	own := errors.New("own")
	if _, err := store.Update(t.Context(), s, func(context.Context) ([]store.Guard, []store.Op, error) { return nil, nil, own }); !errors.Is(err, own) {
		t.Errorf("got %v, want the function's own error", err)
	}
	if rev, err := store.Update(t.Context(), s, func(context.Context) ([]store.Guard, []store.Op, error) { return nil, nil, nil }); rev != 0 || err != nil {
		t.Errorf("an update of nothing: %d, %v", rev, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	tries = 0
	_, err = store.Update(ctx, s, func(context.Context) ([]store.Guard, []store.Op, error) {
		if tries++; tries == 3 {
			cancel()
		}
		return []store.Guard{{Key: "t/n"}}, []store.Op{put("t/n", "0")}, nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("an update without end: %v", err)
	}
}

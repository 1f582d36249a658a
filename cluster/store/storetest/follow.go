package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
)

// watched collects what a watch saw.
type watched struct {
	mu     sync.Mutex
	events []string
	calls  int
}

func (w *watched) add(es []store.Event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls++
	for _, e := range es {
		if e.Deleted {
			w.events = append(w.events, fmt.Sprintf("%d -%s", e.Version, e.Key))
		} else {
			w.events = append(w.events, fmt.Sprintf("%d %s=%s", e.Version, e.Key, e.Value))
		}
	}
	return nil
}

func (w *watched) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.events, "\n")
}

// follow watches the keys under "t/" in the background until the returned function is called, which
// gives the watch's error.
func follow(t *testing.T, s store.Store, revision int64, f func([]store.Event) error) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(cancel)
	done := make(chan error, 1)
	go func() { done <- s.Watch(ctx, "t/", revision, f) }()
	return func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(patience):
			return errors.New("watch does not end")
		}
	}
}

func testWatch(t *testing.T, s store.Store) {
	commit(t, s, nil, put("t/before", "1"))
	r := commit(t, s, nil, put("t/a", "1"), put("u", "1"))
	commit(t, s, nil, put("t/a", "2"), put("t/b", "1"))
	var w, late watched
	stop := follow(t, s, r, w.add)
	commit(t, s, nil, put("u", "2"))
	commit(t, s, nil, del("t/a"), put("t/c", "1"))
	commit(t, s, nil, store.Op{Key: "t/", Delete: true, Prefix: true})
	want := fmt.Sprintf("%[1]d t/a=1\n%[2]d t/a=2\n%[2]d t/b=1\n%[3]d -t/a\n%[3]d t/c=1\n%[4]d -t/b\n%[4]d -t/before\n%[4]d -t/c", r, r+1, r+3, r+4)
	until(t, "all events", func() bool { return len(w.text()) >= len(want) })
	equal(t, "events", want, w.text())
	// From a revision that is still to come.
	stopLate := follow(t, s, r+6, late.add)
	commit(t, s, nil, put("t/x", "1"))
	commit(t, s, nil, put("t/y", "1"))
	want = fmt.Sprintf("%d t/y=1", r+6)
	until(t, "the later event", func() bool { return late.text() != "" })
	equal(t, "later events", want, late.text())
	for _, stop := range []func() error{stop, stopLate} {
		if err := stop(); err != nil {
			t.Errorf("a watch whose context ended: %v", err)
		}
	}
}

func testWatchNow(t *testing.T, s store.Store) {
	commit(t, s, nil, put("t/before", "1"))
	var w watched
	stop := follow(t, s, 0, w.add)
	n := 0
	until(t, "an event", func() bool {
		n++
		commit(t, s, nil, put("t/n", fmt.Sprint(n)))
		return w.text() != ""
	})
	if strings.Contains(w.text(), "before") {
		t.Errorf("it saw what was before: %s", w.text())
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// testWatchSlow holds a watch's function up for many commits: it misses none,
// sees each once, in order, and sees no commit in parts.
func testWatchSlow(t *testing.T, s store.Store) {
	const n = 200
	_, rev := list(t, s, "t/", store.Read{})
	hold := make(chan struct{})
	var got []int64
	parts := false
	enough := errors.New("enough")
	done := make(chan error, 1)
	go func() {
		done <- s.Watch(t.Context(), "t/", rev+1, func(es []store.Event) error {
			<-hold
			parts = parts || len(es)%2 != 0
			for i := 0; i+1 < len(es); i += 2 {
				parts = parts || es[i].Version != es[i+1].Version
				got = append(got, es[i].Version)
			}
			if len(got) >= n {
				return enough
			}
			return nil
		})
	}()
	var want []int64
	for i := range n {
		want = append(want, commit(t, s, nil, put("t/a", fmt.Sprint(i)), put("t/b", fmt.Sprint(i))))
	}
	close(hold)
	select {
	case err := <-done:
		if !errors.Is(err, enough) {
			t.Fatalf("got %v, want the function's own error", err)
		}
	case <-time.After(patience):
		t.Fatal("the watch did not see everything")
	}
	equal(t, "revisions seen", want, got)
	if parts {
		t.Error("a commit came in parts")
	}
}

func testWatchEnds(t *testing.T, s store.Store) {
	rev := commit(t, s, nil, put("t/a", "1"))
	own := errors.New("own")
	if err := s.Watch(t.Context(), "t/", rev, func([]store.Event) error { return own }); !errors.Is(err, own) {
		t.Errorf("got %v, want the function's own error", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := s.Watch(ctx, "t/", rev, func([]store.Event) error { cancel(); return nil })
	if err != nil {
		t.Errorf("a watch whose context ended: %v", err)
	}
	if err := s.Watch(ctx, "t/", rev, func([]store.Event) error { return own }); err != nil {
		t.Errorf("a watch whose context had ended: %v", err)
	}
}

func testCompaction(t *testing.T, s store.Store) {
	c, ok := s.(compactor)
	if !ok {
		t.Fatalf("%T has no Compact(ctx, revision), which this suite needs", s)
	}
	r1 := commit(t, s, nil, put("t/a", "1"), put("t/gone", "1"))
	r2 := commit(t, s, nil, put("t/a", "2"))
	r3 := commit(t, s, nil, put("t/a", "3"), del("t/gone"))
	if err := c.Compact(t.Context(), r2); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Get(t.Context(), "t/a", store.Read{Revision: r1}); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("get of a compacted revision: %v", err)
	}
	if _, _, err := s.List(t.Context(), "t/", store.Read{Revision: r1}); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("list of a compacted revision: %v", err)
	}
	if err := s.Watch(t.Context(), "t/", r1, func([]store.Event) error { return errors.New("an event") }); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("watch of a compacted revision: %v", err)
	}
	es, _ := list(t, s, "t/", store.Read{Revision: r2})
	equal(t, "the oldest revision kept", []store.Entry{
		{Key: "t/a", Value: []byte("2"), Version: r2},
		{Key: "t/gone", Value: []byte("1"), Version: r1},
	}, es)
	value(t, s, "t/a", "3")
	// A guard knows versions, whatever is compacted.
	if err := c.Compact(t.Context(), r3); err != nil {
		t.Fatal(err)
	}
	commit(t, s, []store.Guard{{Key: "t/a", Version: r3}, {Key: "t/gone"}}, put("t/b", "1"))
}

func grant(t *testing.T, s store.Store, ttl time.Duration) store.LeaseID {
	t.Helper()
	id, err := s.Grant(t.Context(), ttl)
	if err != nil || id == 0 {
		t.Fatalf("grant: %d, %v", id, err)
	}
	return id
}

func testLeaseEnds(t *testing.T, s store.Store) {
	_, rev := list(t, s, "t/", store.Read{})
	var w watched
	stop := follow(t, s, rev+1, w.add)
	start := time.Now()
	id := grant(t, s, time.Second)
	r := commit(t, s, nil,
		store.Op{Key: "t/a", Value: []byte("1"), Lease: id},
		store.Op{Key: "t/b", Value: []byte("1"), Lease: id},
		store.Op{Key: "t/freed", Value: []byte("1"), Lease: id}, put("t/stays", "1"))
	commit(t, s, nil, put("t/freed", "2")) // put without the lease, it is no longer the lease's
	g := guardRange(t, s, "t/")
	until(t, "the lease's end", func() bool { return get(t, s, "t/a").Version == 0 })
	if d := time.Since(start); d < time.Second {
		t.Errorf("a lease of a second ended after %s", d)
	}
	absent(t, s, "t/b")
	value(t, s, "t/freed", "2")
	value(t, s, "t/stays", "1")
	refuse(t, s, store.ErrConflict, []store.Guard{g}, put("t/out", "1"))
	refuse(t, s, store.ErrLeaseGone, nil, store.Op{Key: "t/c", Value: []byte("1"), Lease: id})
	if err := s.Renew(t.Context(), id); !errors.Is(err, store.ErrLeaseGone) {
		t.Errorf("renewed a lease that has ended: %v", err)
	}
	if err := s.Revoke(t.Context(), id); err != nil {
		t.Errorf("revoke a lease that has ended: %v", err)
	}
	until(t, "the watch's sight of it", func() bool { return strings.Contains(w.text(), "-t/b") })
	want := fmt.Sprintf("%d -t/a\n%d -t/b", r+2, r+2)
	if !strings.HasSuffix(w.text(), want) {
		t.Errorf("a watch saw\n%s\nwant at its end\n%s", w.text(), want)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// testLeaseRenewed keeps one of two leases alive until the other has ended.
func testLeaseRenewed(t *testing.T, s store.Store) {
	kept, other := grant(t, s, time.Second), grant(t, s, time.Second)
	commit(t, s, nil,
		store.Op{Key: "t/kept", Value: []byte("1"), Lease: kept},
		store.Op{Key: "t/other", Value: []byte("1"), Lease: other})
	until(t, "the other lease's end", func() bool {
		if err := s.Renew(t.Context(), kept); err != nil {
			t.Fatal(err)
		}
		return get(t, s, "t/other").Version == 0
	})
	value(t, s, "t/kept", "1")
	until(t, "its own end", func() bool { return get(t, s, "t/kept").Version == 0 })
}

func testLeaseRevoked(t *testing.T, s store.Store) {
	id := grant(t, s, time.Hour)
	commit(t, s, nil, store.Op{Key: "t/a", Value: []byte("1"), Lease: id}, put("t/b", "1"))
	for range 2 {
		if err := s.Revoke(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	absent(t, s, "t/a")
	value(t, s, "t/b", "1")
	if err := s.Renew(t.Context(), id); !errors.Is(err, store.ErrLeaseGone) {
		t.Errorf("renewed a revoked lease: %v", err)
	}
	refuse(t, s, store.ErrLeaseGone, nil, store.Op{Key: "t/c", Value: []byte("1"), Lease: id})
}

func testSize(t *testing.T, s store.Store) {
	before, quota, err := s.Size(t.Context())
	if err != nil || before < 0 || quota <= before {
		t.Fatalf("size: %d of %d, %v", before, quota, err)
	}
	const n = 4 << 20
	for i := range 8 {
		commit(t, s, nil, store.Op{Key: fmt.Sprintf("t/%d", i), Value: make([]byte, n/8)})
	}
	until(t, "growth by what was written", func() bool {
		after, _, err := s.Size(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return after-before >= n*9/10
	})
}

// testHealth: a store that serves is ok and stays so, and one that is closed is not.
func testHealth(t *testing.T, s store.Store) {
	commit(t, s, nil, put("t/a", "1"))
	first := s.Health()
	if first.State != store.StateOK || first.Reason != "" || first.Since.IsZero() || first.Since.After(time.Now()) {
		t.Errorf("health: %+v", first)
	}
	equal(t, "health a moment later", first, s.Health())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if h := s.Health(); h.State != store.StateDown || h.Reason == "" || h.Since.Before(first.Since) {
		t.Errorf("health after close: %+v", h)
	}
}

// testSnapshot: a store that can be copied says up to which revision, and ends
// with the error of its writer, or its own.
func testSnapshot(t *testing.T, s store.Store) {
	c, ok := s.(store.Snapshotter)
	if !ok {
		return // what goes with its process has nothing to keep
	}
	rev := commit(t, s, nil, put("t/a", "1"))
	var b bytes.Buffer
	got, err := c.Snapshot(t.Context(), &b)
	if err != nil || got < rev || b.Len() == 0 {
		t.Errorf("copy of %d bytes up to revision %d, %v; want %d", b.Len(), got, err, rev)
	}
	own := errors.New("own")
	if _, err := c.Snapshot(t.Context(), failing{own}); !errors.Is(err, own) {
		t.Errorf("the writer failed: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(own)
	if _, err := c.Snapshot(ctx, &b); !errors.Is(err, own) {
		t.Errorf("the context was done: %v", err)
	}
	commit(t, s, nil, put("t/a", "2"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Snapshot(t.Context(), &b); !errors.Is(err, store.ErrClosed) {
		t.Errorf("after close: %v", err)
	}
}

// failing is a writer that fails.
type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func testClose(t *testing.T, s store.Store) {
	rev := commit(t, s, nil, put("t/a", "1"))
	id := grant(t, s, time.Hour)
	seen, watch := make(chan struct{}), make(chan error, 1)
	go func() {
		watch <- s.Watch(t.Context(), "t/", rev, func([]store.Event) error { close(seen); return nil })
	}()
	<-seen
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	for what, err := range map[string]error{
		"watch in progress": <-watch,
		"get":               func() error { _, _, err := s.Get(ctx, "t/a", store.Read{}); return err }(),
		"list":              func() error { _, _, err := s.List(ctx, "t/", store.Read{}); return err }(),
		"count":             func() error { _, err := s.Count(ctx, "t/"); return err }(),
		"commit":            func() error { _, err := s.Commit(ctx, nil, []store.Op{put("t/a", "2")}); return err }(),
		"watch":             s.Watch(ctx, "t/", 0, func([]store.Event) error { return nil }),
		"grant":             func() error { _, err := s.Grant(ctx, time.Hour); return err }(),
		"renew":             s.Renew(ctx, id),
		"revoke":            s.Revoke(ctx, id),
		"size":              func() error { _, _, err := s.Size(ctx); return err }(),
	} {
		if !errors.Is(err, store.ErrClosed) {
			t.Errorf("%s after close: %v, want %v", what, err, store.ErrClosed)
		}
	}
}

func testContext(t *testing.T, s store.Store) {
	cause := errors.New("cause")
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	late, cancelLate := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancelLate()
	for _, c := range []struct {
		ctx  context.Context
		want error
	}{{ended, cause}, {late, context.DeadlineExceeded}} {
		for what, err := range map[string]error{
			"get":    func() error { _, _, err := s.Get(c.ctx, "t/a", store.Read{}); return err }(),
			"list":   func() error { _, _, err := s.List(c.ctx, "t/", store.Read{}); return err }(),
			"count":  func() error { _, err := s.Count(c.ctx, "t/"); return err }(),
			"commit": func() error { _, err := s.Commit(c.ctx, nil, []store.Op{put("t/a", "2")}); return err }(),
			"grant":  func() error { _, err := s.Grant(c.ctx, time.Hour); return err }(),
			"renew":  s.Renew(c.ctx, 1),
			"revoke": s.Revoke(c.ctx, 1),
			"size":   func() error { _, _, err := s.Size(c.ctx); return err }(),
		} {
			if !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", what, err, c.want)
			}
		}
	}
	absent(t, s, "t/a")
}

package etcd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/cluster/store/etcd"
)

// snapshotted copies a store while others commit to it: of each commit all or
// nothing is in the copy, and all up to its revision.
func snapshotted(t *testing.T, s *etcd.Store) (copied []byte, revision int64) {
	t.Helper()
	if err := put(t.Context(), s, "before", strings.Repeat("v", 1<<20)); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var during atomic.Int64
	ended := make(chan error, 1)
	go func() {
		for i := 0; ctx.Err() == nil; i++ {
			k := fmt.Sprintf("k/%06d", i)
			_, err := s.Commit(t.Context(), nil, []store.Op{{Key: k, Value: []byte("1")}, {Key: k + "/too", Value: []byte("1")}})
			if err != nil {
				ended <- err
				return
			}
			during.Add(1)
		}
		ended <- nil
	}()
	for during.Load() < 20 {
		time.Sleep(time.Millisecond)
	}
	var b bytes.Buffer
	revision, err := s.Snapshot(t.Context(), slowly{&b, &during})
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("a commit meanwhile: %v", err)
	}
	return b.Bytes(), revision
}

// slowly waits at its first write until a commit has passed.
type slowly struct {
	b       *bytes.Buffer
	commits *atomic.Int64
}

func (w slowly) Write(p []byte) (int, error) {
	if w.b.Len() == 0 {
		for n, until := w.commits.Load(), time.Now().Add(10*time.Second); w.commits.Load() == n; time.Sleep(time.Millisecond) {
			if time.Now().After(until) {
				return 0, errors.New("the copy blocks commits")
			}
		}
	}
	return w.b.Write(p)
}

func checkCopy(t *testing.T, s *etcd.Store, revision int64) {
	t.Helper()
	es, now, err := s.List(t.Context(), "k/", store.Read{})
	if err != nil {
		t.Fatal(err)
	}
	if now < revision || len(es) < 40 {
		t.Errorf("%d keys at revision %d of a copy of %d", len(es), now, revision)
	}
	last := int64(0)
	for i := 0; i+1 < len(es); i += 2 {
		if es[i+1].Key != es[i].Key+"/too" || es[i+1].Version != es[i].Version || last != 0 && es[i].Version != last+1 {
			t.Fatalf("%+v and %+v after %d", es[i], es[i+1], last)
		}
		last = es[i].Version
	}
	if last < revision {
		t.Errorf("the last commit in the copy is %d, want %d at least", last, revision)
	}
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	s := open(t, etcd.Config{Dir: t.TempDir()})
	lease, err := s.Grant(t.Context(), 3*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(t.Context(), nil, []store.Op{{Key: "leased", Value: []byte("1"), Lease: lease}}); err != nil {
		t.Fatal(err)
	}
	copied, revision := snapshotted(t, s)
	dir := filepath.Join(t.TempDir(), "store")
	if err := etcd.Restore(t.Context(), dir, bytes.NewReader(copied), etcd.Restoring{}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second) // of which the lease knows nothing
	for range 2 {
		r := open(t, etcd.Config{Dir: dir})
		checkCopy(t, r, revision)
		if e, _, err := r.Get(t.Context(), "leased", store.Read{}); err != nil || e.Version == 0 {
			t.Errorf("a key with a lease: %+v, %v", e, err)
		}
		rev, err := r.Commit(t.Context(), nil, []store.Op{{Key: "new", Value: []byte("1")}})
		if err != nil || rev <= revision {
			t.Errorf("a commit: %d, %v", rev, err)
		}
		closeStore(t, r)
	}
	r := open(t, etcd.Config{Dir: dir})
	deadline := time.Now().Add(20 * time.Second)
	for e := (store.Entry{Version: 1}); e.Version != 0; time.Sleep(50 * time.Millisecond) {
		if e, _, err = r.Get(t.Context(), "leased", store.Read{}); err != nil || time.Now().After(deadline) {
			t.Fatalf("the lease does not end: %v", err)
		}
	}
}

// TestSnapshotOutside: a copy of an etcd outside is restored into an embedded one.
func TestSnapshotOutside(t *testing.T) {
	t.Parallel()
	s := connect(t, etcd.Remote{Endpoints: []string{serve(t, "http", nil)}})
	copied, revision := snapshotted(t, s)
	dir := filepath.Join(t.TempDir(), "store")
	if err := etcd.Restore(t.Context(), dir, bytes.NewReader(copied), etcd.Restoring{}); err != nil {
		t.Fatal(err)
	}
	checkCopy(t, open(t, etcd.Config{Dir: dir}), revision)
	if n := s.Written(); n != 0 {
		t.Errorf("an etcd outside has written %d bytes", n)
	}
}

// TestRestoreRefuses: a copy that is not whole is refused, and whatever is refused
// changes nothing.
func TestRestoreRefuses(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	s := open(t, etcd.Config{Dir: dir})
	if err := put(t.Context(), s, "old", "1"); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := s.Snapshot(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	copied := b.Bytes()
	aside := etcd.Restoring{MoveAside: true}
	if err := etcd.Restore(t.Context(), dir, bytes.NewReader(copied), aside); !errors.Is(err, etcd.ErrInUse) {
		t.Errorf("of a store in use: %v", err)
	}
	closeStore(t, s)
	turned := slices.Clone(copied)
	turned[len(turned)/2] ^= 1
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name string
		ctx  context.Context
		copy []byte
		o    etcd.Restoring
		want error
	}{
		{"there is one", t.Context(), copied, etcd.Restoring{}, etcd.ErrExists},
		{"empty", t.Context(), nil, aside, etcd.ErrCopy},
		{"cut short", t.Context(), copied[:len(copied)/2], aside, etcd.ErrCopy},
		{"no checksum", t.Context(), copied[:len(copied)-32], aside, etcd.ErrCopy},
		{"cut by a page", t.Context(), slices.Concat(copied[:len(copied)-32-4096], copied[len(copied)-32:]), aside, etcd.ErrCopy},
		{"a bit turned", t.Context(), turned, aside, etcd.ErrCopy},
		{"something else", t.Context(), bytes.Repeat([]byte("edgefn!\n"), 1000), aside, etcd.ErrCopy},
		{"given up", ended, copied, aside, context.Canceled},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := etcd.Restore(c.ctx, dir, bytes.NewReader(c.copy), c.o)
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), dir) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			r := open(t, etcd.Config{Dir: dir})
			if e, _, err := r.Get(t.Context(), "old", store.Read{}); err != nil || e.Version == 0 {
				t.Errorf("the old store: %+v, %v", e, err)
			}
			closeStore(t, r)
			if left, err := filepath.Glob(dir + ".*"); err != nil || len(left) != 0 {
				t.Errorf("it leaves %v, %v", left, err)
			}
		})
	}
}

// TestRestoreAside: what is there is moved aside, each time to another name, and
// a restore that was interrupted amid that is finished by the next start.
func TestRestoreAside(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	var b bytes.Buffer
	for i := range 3 {
		s := open(t, etcd.Config{Dir: dir})
		if err := put(t.Context(), s, fmt.Sprint(i), "1"); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if _, err := s.Snapshot(t.Context(), &b); err != nil {
				t.Fatal(err)
			}
		}
		closeStore(t, s)
		if i == 0 {
			continue
		}
		if err := etcd.Restore(t.Context(), dir, bytes.NewReader(b.Bytes()), etcd.Restoring{MoveAside: true}); err != nil {
			t.Fatal(err)
		}
		old := open(t, etcd.Config{Dir: fmt.Sprintf("%s.old-%d", dir, i)})
		if e, _, err := old.Get(t.Context(), fmt.Sprint(i), store.Read{}); err != nil || e.Version == 0 {
			t.Errorf("the one moved aside: %+v, %v", e, err)
		}
		closeStore(t, old)
	}
	for _, there := range []bool{true, false} { // interrupted before the first and the second rename
		if err := os.Rename(dir, dir+".restored"); err != nil {
			t.Fatal(err)
		}
		if there {
			s := open(t, etcd.Config{Dir: filepath.Join(filepath.Dir(dir), "other")})
			closeStore(t, s)
			if err := os.Rename(filepath.Join(filepath.Dir(dir), "other"), dir); err != nil {
				t.Fatal(err)
			}
		}
		s := open(t, etcd.Config{Dir: dir})
		if e, _, err := s.Get(t.Context(), "0", store.Read{}); err != nil || e.Version == 0 {
			t.Errorf("after an interruption, with a store there %v: %+v, %v", there, e, err)
		}
		closeStore(t, s)
	}
	if _, err := os.Stat(dir + ".old-3"); err != nil {
		t.Error(err)
	}
}

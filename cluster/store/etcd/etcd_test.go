package etcd_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/cluster/store/etcd"
	"github.com/edgefn/edgefn/cluster/store/storetest"
)

func TestMain(m *testing.M) {
	if mode := os.Getenv(childMode); mode != "" {
		os.Exit(child(mode, os.Getenv(childDir)))
	}
	goleak.VerifyTestMain(m)
}

func open(t *testing.T, cfg etcd.Config) *etcd.Store {
	t.Helper()
	s, err := etcd.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

func closeStore(t *testing.T, s *etcd.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func put(ctx context.Context, s store.Store, key, value string) error {
	_, err := s.Commit(ctx, nil, []store.Op{{Key: key, Value: []byte(value)}})
	return err
}

func TestConformance(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, etcd.Config{Dir: t.TempDir()}) })
}

// TestReopen: what was committed is there after a restart, at its revision,
// wherever the socket lies; and a commit goes on from there.
func TestReopen(t *testing.T) {
	dir := t.TempDir()
	var rev int64
	for i := range 3 {
		begin := time.Now()
		s := open(t, etcd.Config{Dir: dir, RunDir: shortDir(t)})
		t.Logf("opened in %s", time.Since(begin))
		for j := range i {
			e, _, err := s.Get(t.Context(), fmt.Sprintf("k%d", j), store.Read{})
			if err != nil || string(e.Value) != "v" {
				t.Fatalf("restart %d, key %d: %+v, %v", i, j, e, err)
			}
		}
		r, err := s.Commit(t.Context(), nil, []store.Op{{Key: fmt.Sprintf("k%d", i), Value: []byte("v")}})
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 && r != rev+1 {
			t.Errorf("restart %d: revision %d does not follow %d", i, r, rev)
		}
		rev = r
		closeStore(t, s)
	}
}

// BenchmarkCommit is the commit of an invocation: five ops, three guards.
func BenchmarkCommit(b *testing.B) {
	s, err := etcd.Open(b.Context(), etcd.Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for i := 0; b.Loop(); i++ {
		var ops []store.Op
		var guards []store.Guard
		for j := range 5 {
			ops = append(ops, store.Op{Key: fmt.Sprintf("%d/%d", j, i), Value: make([]byte, 100)})
		}
		for _, o := range ops[:3] {
			guards = append(guards, store.Guard{Key: o.Key})
		}
		if _, err := s.Commit(b.Context(), guards, ops); err != nil {
			b.Fatal(err)
		}
	}
}

// shortDir is a directory whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "st") //nolint:usetesting // t.TempDir's path is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

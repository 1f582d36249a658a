package etcd_test

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/cluster/store/etcd"
)

// fillUp puts values until the store is full and returns how many fitted.
func fillUp(t *testing.T, s *etcd.Store) int {
	t.Helper()
	for n := range 1000 {
		err := put(t.Context(), s, fmt.Sprintf("fill/%d", n), strings.Repeat("v", 128<<10))
		switch {
		case errors.Is(err, store.ErrFull):
			return n
		case err != nil:
			t.Fatal(err)
		}
	}
	t.Fatal("a store of 8 MiB took 125 MiB")
	return 0
}

// TestFull: a full store refuses puts and leases, lets deletes pass, and takes
// puts again once there is room; again and again, also when it was restarted
// full.
func TestFull(t *testing.T) {
	t.Parallel()
	const quota = 8 << 20
	dir := t.TempDir()
	s := open(t, etcd.Config{Dir: dir, Quota: quota})
	for round := range 3 {
		n := fillUp(t, s)
		t.Logf("round %d: %d values of 128 KiB, file of %d KiB", round, n, s.FileSize()>>10)
		if n < 40 {
			t.Errorf("round %d: full after %d values of 128 KiB in 8 MiB", round, n)
		}
		used, _, err := s.Size(t.Context())
		if err != nil || used > etcd.Limit(quota) || s.FileSize() > etcd.Limit(quota) {
			t.Errorf("round %d: %d bytes used, file of %d, %v", round, used, s.FileSize(), err)
		}
		if e, _, err := s.Get(t.Context(), fmt.Sprintf("fill/%d", n), store.Read{}); err != nil || e.Version != 0 {
			t.Errorf("round %d: the refused put took place: version %d, %v", round, e.Version, err)
		}
		if round == 1 {
			closeStore(t, s)
			s = open(t, etcd.Config{Dir: dir, Quota: quota})
			if err := put(t.Context(), s, "fill/again", strings.Repeat("v", 256<<10)); !errors.Is(err, store.ErrFull) {
				t.Errorf("restarted full: %v", err)
			}
		}
		if _, err := s.Commit(t.Context(), nil, []store.Op{{Key: "fill/", Delete: true, Prefix: true}}); err != nil {
			t.Fatalf("round %d: delete: %v", round, err)
		}
		deadline := time.Now().Add(20 * time.Second)
		for {
			err := put(t.Context(), s, "small", "1")
			if err == nil {
				break
			}
			if !errors.Is(err, store.ErrFull) || time.Now().After(deadline) {
				t.Fatalf("round %d: after the delete: %v", round, err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// TestHistoryMakesRoom: a key that is written over and over fills no store.
func TestHistoryMakesRoom(t *testing.T) {
	t.Parallel()
	const quota = 8 << 20
	s := open(t, etcd.Config{Dir: t.TempDir(), Quota: quota})
	for i := range 200 { // 50 MiB
		if err := put(t.Context(), s, "a", strings.Repeat("v", 256<<10)); err != nil {
			t.Fatalf("put %d: %v, file of %d", i, err, s.FileSize())
		}
	}
	if n := s.FileSize(); n > etcd.Limit(quota) {
		t.Errorf("file of %d bytes", n)
	}
}

// TestAlarm: etcd's own alarm goes as soon as there is room, without an operator.
func TestAlarm(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, etcd.Config{Dir: dir})
	if err := s.RaiseAlarm(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := put(t.Context(), s, "a", "1"); err == nil {
		t.Fatal("the alarm has no effect")
	}
	if err := put(t.Context(), s, "a", "2"); err != nil {
		t.Errorf("after the alarm was met: %v", err)
	}
	if err := s.RaiseAlarm(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := put(t.Context(), s, "a", "3"); err != nil {
		t.Errorf("after maintenance: %v", err)
	}
	if err := s.RaiseAlarm(t.Context()); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	s = open(t, etcd.Config{Dir: dir})
	if err := put(t.Context(), s, "a", "4"); err != nil {
		t.Errorf("after a restart: %v", err)
	}
}

// TestMaintainShrinks: the file gives back what was deleted.
func TestMaintainShrinks(t *testing.T) {
	t.Parallel()
	s := open(t, etcd.Config{Dir: t.TempDir(), Quota: 8 << 20})
	fillUp(t, s)
	before := s.FileSize()
	if _, err := s.Commit(t.Context(), nil, []store.Op{{Key: "fill/", Delete: true, Prefix: true}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := s.FileSize(); after > before/4 {
		t.Errorf("file of %d bytes, %d before", after, before)
	}
}

// TestLogInMemory: of large commits only the last ones stay in memory. It is not
// parallel, since it looks at the heap of the process.
func TestLogInMemory(t *testing.T) {
	const commits, each = 400, 128 << 10
	s := open(t, etcd.Config{Dir: t.TempDir()})
	before := heap()
	for range commits {
		if err := put(t.Context(), s, "large", strings.Repeat("v", each)); err != nil {
			t.Fatal(err)
		}
	}
	const most = 32 << 20 // of 50: etcd drops what is over at every hundredth commit
	if grown := heap() - before; grown > most {
		t.Errorf("%d commits of %d KiB take %d MiB of memory, at most %d MiB expected", commits, each>>10, grown>>20, most>>20)
	}
}

// heap is the bytes that are in use after a collection.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

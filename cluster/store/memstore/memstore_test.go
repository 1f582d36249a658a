package memstore_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/cluster/store/memstore"
	"github.com/edgefn/edgefn/cluster/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return memstore.New(memstore.Config{}) })
}

// TestLeaseToTheInstant: a lease lasts its time and no longer.
func TestLeaseToTheInstant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(memstore.Config{})
		defer s.Close()
		id, err := s.Grant(t.Context(), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Commit(t.Context(), nil, []store.Op{{Key: "a", Value: []byte("1"), Lease: id}}); err != nil {
			t.Fatal(err)
		}
		there := func() bool {
			synctest.Wait()
			e, _, err := s.Get(t.Context(), "a", store.Read{})
			if err != nil {
				t.Fatal(err)
			}
			return e.Version != 0
		}
		time.Sleep(59 * time.Second)
		if err := s.Renew(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute - time.Nanosecond)
		if !there() {
			t.Error("it ended early")
		}
		time.Sleep(time.Nanosecond)
		if there() {
			t.Error("it ended late")
		}
		if err := s.Renew(t.Context(), id); !errors.Is(err, store.ErrLeaseGone) {
			t.Errorf("renew: %v", err)
		}
	})
}

func TestQuota(t *testing.T) {
	s := memstore.New(memstore.Config{Quota: 1000})
	defer s.Close()
	put := func(key string, n int) error {
		_, err := s.Commit(t.Context(), nil, []store.Op{{Key: key, Value: make([]byte, n)}})
		return err
	}
	for range 10 { // history makes room
		if err := put("a", 400); err != nil {
			t.Fatal(err)
		}
	}
	if err := put("b", 700); !errors.Is(err, store.ErrFull) {
		t.Fatalf("over the quota: %v", err)
	}
	if _, err := s.Commit(t.Context(), nil, []store.Op{{Key: "a", Delete: true}}); err != nil {
		t.Fatalf("delete from a full store: %v", err)
	}
	if err := put("b", 700); err != nil {
		t.Fatalf("after the delete: %v", err)
	}
}

// TestHistoryIsBounded: revisions beyond the bound are compacted.
func TestHistoryIsBounded(t *testing.T) {
	s := memstore.New(memstore.Config{History: 3})
	defer s.Close()
	var revs []int64
	for range 10 {
		rev, err := s.Commit(t.Context(), nil, []store.Op{{Key: "a", Value: []byte("x")}})
		if err != nil {
			t.Fatal(err)
		}
		revs = append(revs, rev)
	}
	if _, _, err := s.Get(t.Context(), "a", store.Read{Revision: revs[6]}); err != nil {
		t.Error(err)
	}
	if _, _, err := s.Get(t.Context(), "a", store.Read{Revision: revs[5]}); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("got %v, want %v", err, store.ErrCompacted)
	}
}

// TestSetHealth: a store that is told to be down fails its calls with what waits
// are for, and its watches see later what they missed; one that is told to be
// degraded refuses puts.
func TestSetHealth(t *testing.T) {
	s := memstore.New(memstore.Config{})
	defer s.Close()
	seen, ended := make(chan string, 10), make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		ended <- s.Watch(ctx, "", 2, func(es []store.Event) error { seen <- es[0].Key; return nil })
	}()
	commit := func(key string, del bool) error {
		o := store.Op{Key: key, Delete: del}
		if !del {
			o.Value = []byte("1")
		}
		_, err := s.Commit(t.Context(), nil, []store.Op{o})
		return err
	}
	if err := commit("a", false); err != nil || <-seen != "a" {
		t.Fatal(err)
	}
	s.SetHealth(store.StateDown, "why")
	if h := s.Health(); h.State != store.StateDown || h.Reason != "why" {
		t.Errorf("health %+v", h)
	}
	if err := commit("b", false); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("commit: %v", err)
	}
	if _, _, err := s.Get(t.Context(), "a", store.Read{}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("get: %v", err)
	}
	s.SetHealth(store.StateDegraded, "disk")
	if err := commit("c", false); !errors.Is(err, store.ErrFull) {
		t.Errorf("put: %v", err)
	}
	if err := commit("a", true); err != nil || <-seen != "a" {
		t.Errorf("delete: %v", err)
	}
	s.SetHealth(store.StateOK, "")
	if err := commit("d", false); err != nil || <-seen != "d" {
		t.Errorf("put: %v", err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

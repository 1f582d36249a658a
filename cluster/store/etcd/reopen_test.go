package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/cluster/store/etcd"
)

// TestRunFails: runs of etcd fail amid commits. Calls end with ErrUnavailable, a
// new run serves soon, what was acknowledged is there, a watch sees each commit
// once, and nothing is left behind.
func TestRunFails(t *testing.T) {
	dir := t.TempDir()
	s := open(t, etcd.Config{Dir: dir})
	before := descriptors(t)
	var mu sync.Mutex
	var acknowledged, watched []string
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- s.Watch(ctx, "k/", 2, func(es []store.Event) error {
			mu.Lock()
			defer mu.Unlock()
			watched = append(watched, es[0].Key)
			return nil
		})
	}()
	why := errors.New("why")
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				k := fmt.Sprintf("k/%d/%d", g, i)
				err := put(t.Context(), s, k, "1")
				switch {
				case err == nil:
					mu.Lock()
					acknowledged = append(acknowledged, k)
					mu.Unlock()
				case !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, why):
					t.Errorf("commit: %v", err)
					return
				default:
					time.Sleep(10 * time.Millisecond)
				}
			}
		})
	}
	const fails = 3
	for n := range fails {
		if err := passes(t.Context(), s, "ready"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(200 * time.Millisecond)
		s.Fail(why)
		if h := s.Health(); h.State != store.StateDown {
			t.Errorf("after failure %d: %+v", n, h)
		}
	}
	if err := passes(t.Context(), s, "ready"); err != nil {
		t.Fatal(err)
	}
	written := s.Written()
	stop()
	wg.Wait()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if s.Runs() != fails+1 || s.Left() != 0 {
		t.Errorf("%d runs, %d of them did not end", s.Runs(), s.Left())
	}
	if h := s.Health(); h.State != store.StateOK {
		t.Errorf("at the end: %+v", h)
	}
	if written < int64(len(acknowledged)*100) {
		t.Errorf("%d bytes written for %d commits", written, len(acknowledged))
	}
	for _, k := range acknowledged {
		e, _, err := s.Get(t.Context(), k, store.Read{})
		if err != nil || e.Version == 0 {
			t.Fatalf("%s was acknowledged: %+v, %v", k, e, err)
		}
	}
	slices.Sort(watched)
	if n := len(slices.Compact(watched)); n != len(watched) || n < len(acknowledged)/2 {
		t.Errorf("%d events, %d of them of different commits, %d were acknowledged", len(watched), n, len(acknowledged))
	}
	if after := descriptors(t); after > before+2 {
		t.Errorf("%d descriptors, %d before", after, before)
	}
	closeStore(t, s)
	s = open(t, etcd.Config{Dir: dir})
	for _, k := range acknowledged {
		e, _, err := s.Get(t.Context(), k, store.Read{})
		if err != nil || e.Version == 0 {
			t.Fatalf("%s was acknowledged, and after a restart: %+v, %v", k, e, err)
		}
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

package etcd_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/cluster/store/etcd"
)

func TestAssess(t *testing.T) {
	const mib = 1 << 20
	fine := etcd.Room(100*mib, 16*mib, 32*mib, 6*mib)
	for _, c := range []struct {
		name    string
		f       etcd.Facts
		state   string
		reasons []string
	}{
		{"fine", etcd.Facts{Seen: true, Has: fine}, store.StateOK, nil},
		{"disk not looked at", etcd.Facts{}, store.StateOK, nil},
		{"nearly full", etcd.Facts{Seen: true, Dir: "/d", Has: etcd.Room(12*mib, 16*mib, 32*mib, 6*mib)}, store.StateDegraded, []string{"12 MiB left at /d", "reserve of 16 MiB", "free some"}},
		{"reserve given back", etcd.Facts{Seen: true, Dir: "/d", Has: etcd.Room(20*mib, 0, 32*mib, 6*mib)}, store.StateDegraded, []string{"20 MiB left", "reserve of 0 MiB"}},
		{"full", etcd.Facts{Seen: true, Dir: "/d", Has: etcd.Room(mib, 0, 32*mib, 6*mib)}, store.StateDegraded, []string{"1 MiB left at /d", "nothing can be written"}},
		{"quota", etcd.Facts{Seen: true, Has: fine, Full: true, Used: 250 * mib, Quota: 256 * mib}, store.StateDegraded, []string{"250 of 256 MiB", "raise the quota"}},
		{"slow", etcd.Facts{Seen: true, Has: fine, Slow: 2500 * time.Millisecond}, store.StateDegraded, []string{"2.5 s", "slow"}},
		{"no answer", etcd.Facts{Seen: true, Has: fine, Oldest: 12 * time.Second}, store.StateDown, []string{"12 s"}},
		{"waits a little", etcd.Facts{Seen: true, Has: fine, Oldest: 9 * time.Second}, store.StateOK, nil},
		{"outside is silent", etcd.Facts{Silent: 3 * time.Second}, store.StateDown, []string{"3 s", "network"}},
		{"starts anew", etcd.Facts{Seen: true, Has: fine, Waits: errors.New("why"), Slow: time.Second}, store.StateDown, []string{"why", "by itself"}},
		{"failed", etcd.Facts{Ended: errors.New("why"), Waits: errors.New("else")}, store.StateDown, []string{"why"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			state, reason := etcd.Assess(c.f)
			if state != c.state || (reason == "") != (state == store.StateOK) {
				t.Errorf("got %s for %q, want %s", state, reason, c.state)
			}
			for _, r := range c.reasons {
				if !strings.Contains(reason, r) {
					t.Errorf("no %q in %q", r, reason)
				}
			}
		})
	}
}

// TestHealth: it is told at once, Since stays while the state does, and a closed
// store is down.
func TestHealth(t *testing.T) {
	t.Parallel()
	s := open(t, etcd.Config{Dir: t.TempDir(), Quota: 8 << 20})
	h := s.Health()
	if h.State != store.StateOK || time.Since(h.Since) > time.Minute {
		t.Errorf("at the start: %+v", h)
	}
	if again := s.Health(); again != h {
		t.Errorf("%+v and then %+v", h, again)
	}
	s.Slow(3 * time.Second)
	if slow := s.Health(); slow.State != store.StateDegraded || !strings.Contains(slow.Reason, "3.0 s") || slow.Since.Before(h.Since) {
		t.Errorf("after a slow commit: %+v", slow)
	}
	s.Slow(0)
	fillUp(t, s)
	if full := s.Health(); full.State != store.StateDegraded || !strings.Contains(full.Reason, "quota") {
		t.Errorf("full: %+v", full)
	}
	closeStore(t, s)
	if h := s.Health(); h.State != store.StateDown {
		t.Errorf("closed: %+v", h)
	}
}

// TestWritten: it counts at least what is committed, twice, since log and database
// both hold it, and not much more than the pages around it.
func TestWritten(t *testing.T) {
	t.Parallel()
	s := open(t, etcd.Config{Dir: t.TempDir()})
	const n, size = 60, 100 << 10 // more than one file of the log
	before := s.Written()
	for i := range n {
		if err := put(t.Context(), s, fmt.Sprint(i), strings.Repeat("v", size)); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		if got := s.Written() - before; got >= 2*n*size && got <= 3*n*size {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes written for %d: %s", s.Written()-before, n*size, s.Meter())
		}
		time.Sleep(50 * time.Millisecond) // the batch
	}
	last := s.Written()
	if err := s.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := s.Written(); now < last {
		t.Errorf("it falls from %d to %d", last, now)
	}
}

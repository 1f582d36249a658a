package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/edgefn/edgefn/cluster/store"
)

const (
	// slowCommit is a commit that says of its disk that it is slow, and
	// slowFor how long it is remembered.
	slowCommit = time.Second
	slowFor    = 30 * time.Second
	// noAnswer is how long a call waits before the store counts as one that
	// does not answer.
	noAnswer = 10 * time.Second
)

// pace is what the last slow commit took and, of an etcd outside, since when it
// does not answer.
type pace struct {
	mu   sync.Mutex
	slow time.Duration
	at   time.Time
	mute time.Time
}

// heard is told how a call of an etcd outside has ended.
func (p *pace) heard(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch code := status.Code(err); {
	case code != codes.Unavailable && !errors.Is(err, context.DeadlineExceeded) && code != codes.DeadlineExceeded:
		p.mute = time.Time{}
	case p.mute.IsZero():
		p.mute = time.Now()
	}
}

// silent is for how long an etcd outside has not answered, at least.
func (p *pace) silent() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mute.IsZero() {
		return 0
	}
	return max(time.Since(p.mute), time.Nanosecond)
}

func (p *pace) took(d time.Duration) {
	if d < slowCommit {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.slow, p.at = d, time.Now()
}

// last is what the last slow commit took, if that was of late.
func (p *pace) last() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.at) > slowFor {
		return 0
	}
	return p.slow
}

// state is what was last seen of the disk, and the health that was last told.
type state struct {
	mu     sync.Mutex
	has    room
	seen   bool
	health store.Health
}

func (s *state) disk(has room, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.has, s.seen = has, err == nil
}

// facts are what the health of a store is told from.
type facts struct {
	Ended  error         // why it takes no calls any more
	Waits  error         // why there is no run now
	Oldest time.Duration // how long the oldest call waits
	Silent time.Duration // for how long an etcd outside has not answered, 0: it has
	Slow   time.Duration // what the last slow commit took, 0: none of late
	Seen   bool          // has is known
	Has    room
	Dir    string
	Full   bool // at the quota
	Used   int64
	Quota  int64
}

// assess tells the health from the facts, the gravest first.
func assess(f facts) (state, reason string) {
	switch {
	case f.Ended != nil:
		return store.StateDown, f.Ended.Error()
	case f.Waits != nil:
		return store.StateDown, fmt.Sprintf("the store does not run and is started again by itself: %v", f.Waits)
	case f.Oldest >= noAnswer:
		return store.StateDown, fmt.Sprintf("the store has not answered for %d s: is its disk, or the network to it, failing?", f.Oldest/time.Second)
	case f.Silent > 0:
		return store.StateDown, fmt.Sprintf("etcd has not answered for %d s: does it run, and does the network reach it?", f.Silent/time.Second)
	case f.Seen && !f.Has.deletes():
		return store.StateDegraded, fmt.Sprintf("the disk is full: %d MiB left at %s, its reserve is used up and nothing can be written: free some", f.Has.free>>20, f.Dir)
	case f.Seen && !f.Has.puts():
		return store.StateDegraded, fmt.Sprintf("the disk is nearly full: %d MiB left at %s beside a reserve of %d MiB, %d MiB together are needed: only deletes pass, free some",
			f.Has.free>>20, f.Dir, f.Has.held>>20, f.Has.need>>20)
	case f.Full:
		return store.StateDegraded, fmt.Sprintf("the store is at its quota: %d of %d MiB are in use: delete something or raise the quota", f.Used>>20, f.Quota>>20)
	case f.Slow > 0:
		return store.StateDegraded, fmt.Sprintf("the disk is slow: a commit took %.1f s of late: is the disk worn out, or busy with something else?", f.Slow.Seconds())
	}
	return store.StateOK, ""
}

// Health implements store.Store.
func (s *Store) Health() store.Health {
	f := facts{Slow: s.pace.last(), Silent: s.pace.silent()}
	s.mu.Lock()
	f.Ended, f.Waits = s.err, s.waits
	v := s.now
	for _, c := range s.calls {
		if !c.begun.IsZero() {
			f.Oldest = max(f.Oldest, time.Since(c.begun))
		}
	}
	s.mu.Unlock()
	if f.Oldest >= slowCommit {
		f.Slow = max(f.Slow, f.Oldest)
	}
	if s.embedded != nil {
		f.Dir = s.embedded.cfg.Dir
	}
	if v != nil && v.etcd != nil && (v.tight.Load() || v.alarmed.Load()) {
		f.Full, f.Used, f.Quota = true, v.used(), v.quota
	}
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	f.Has, f.Seen = s.state.has, s.state.seen
	told, reason := assess(f)
	h := &s.state.health
	if h.State != told {
		h.State, h.Since = told, time.Now()
	}
	h.Reason = reason
	return *h
}

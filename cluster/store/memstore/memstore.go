// Package memstore is a store in memory, for tests: it keeps the contract of
// store.Store, checked by the same suite as the real one, and nothing on disk.
// Its leases follow package time, so in a testing/synctest bubble they end when
// the bubble's clock says so.
package memstore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
)

var _ store.Store = (*Store)(nil)

// Config bounds a Store. Its zero value is ready for use.
type Config struct {
	Quota   int64 // bytes of keys and values, history among them; 0: 256 MiB
	History int   // revisions kept for reads and watches; 0: 100000
}

// Store is a store in memory. It starts no goroutine.
type Store struct {
	quota   int64
	history int64

	mu        sync.Mutex
	closed    bool
	health    store.Health
	revision  int64               // of the newest commit; the first is 2, as in etcd
	compacted int64               // the oldest revision that can be read
	keys      map[string][]change // changes of a key, oldest first
	log       []commit            // one per revision after compacted
	used      int64
	leases    map[store.LeaseID]*lease
	lastLease store.LeaseID
	changed   chan struct{} // closed and replaced at each commit and at Close

	watches sync.WaitGroup // added to under mu, while not closed
}

// change is what one revision did to a key.
type change struct {
	revision int64
	value    []byte
	lease    store.LeaseID
	deleted  bool
}

// commit is what one revision did.
type commit struct {
	revision int64
	events   []store.Event
}

type lease struct {
	ttl   time.Duration
	end   time.Time
	timer *time.Timer
	keys  map[string]struct{}
}

// New returns an empty store.
func New(cfg Config) *Store {
	if cfg.Quota == 0 {
		cfg.Quota = 256 << 20
	}
	if cfg.History == 0 {
		cfg.History = 100000
	}
	return &Store{
		quota:     cfg.Quota,
		history:   int64(cfg.History),
		revision:  1,
		compacted: 1,
		keys:      make(map[string][]change),
		leases:    make(map[store.LeaseID]*lease),
		changed:   make(chan struct{}),
		health:    store.Health{State: store.StateOK, Since: time.Now()},
	}
}

// enter takes the lock; the caller unlocks. On an error the lock is not held.
func (s *Store) enter(ctx context.Context, what string) error {
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	s.mu.Lock()
	switch {
	case s.closed:
		s.mu.Unlock()
		return fmt.Errorf("%s: %w", what, store.ErrClosed)
	case s.health.State == store.StateDown:
		s.mu.Unlock()
		return fmt.Errorf("%s: %w: %s", what, store.ErrUnavailable, s.health.Reason)
	}
	return nil
}

// Health implements store.Store: ok, unless SetHealth has said otherwise, and
// down once it is closed.
func (s *Store) Health() store.Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.health
}

// SetHealth makes the store say that it is in a state for a reason. While that
// is StateDown, calls fail with ErrUnavailable, and watches see nothing; while
// it is StateDegraded, commits that put fail with ErrFull.
func (s *Store) SetHealth(state, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.health.State != state {
		s.health.Since = time.Now()
	}
	s.health.State, s.health.Reason = state, reason
	s.wake()
}

// at settles which revision a read is of.
func (s *Store) at(r store.Read) (int64, error) {
	switch {
	case r.Revision < 0 || r.Limit < 0:
		return 0, fmt.Errorf("%w: negative revision or limit", store.ErrInvalid)
	case r.Revision == 0:
		return s.revision, nil
	case r.Revision > s.revision:
		return 0, fmt.Errorf("%w: revision %d is still to come, the newest is %d", store.ErrInvalid, r.Revision, s.revision)
	case r.Revision < s.compacted:
		return 0, fmt.Errorf("%w: revision %d, the oldest kept is %d", store.ErrCompacted, r.Revision, s.compacted)
	}
	return r.Revision, nil
}

// entry is key as it was at a revision.
func (s *Store) entry(key string, revision int64, keysOnly bool) (store.Entry, bool) {
	e := store.Entry{Key: key}
	cs := s.keys[key]
	for i := len(cs) - 1; i >= 0; i-- {
		if cs[i].revision > revision {
			continue
		}
		if cs[i].deleted {
			return e, false
		}
		e.Version = cs[i].revision
		if !keysOnly {
			e.Value = slices.Clone(cs[i].value)
		}
		return e, true
	}
	return e, false
}

// under lists the keys under a prefix that exist at a revision, in order.
func (s *Store) under(prefix string, revision int64) []string {
	var ks []string
	for k := range s.keys {
		if strings.HasPrefix(k, prefix) {
			if _, ok := s.entry(k, revision, true); ok {
				ks = append(ks, k)
			}
		}
	}
	slices.Sort(ks)
	return ks
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string, r store.Read) (store.Entry, int64, error) {
	what := fmt.Sprintf("read key %q", key)
	if err := s.enter(ctx, what); err != nil {
		return store.Entry{}, 0, err
	}
	defer s.mu.Unlock()
	if key == "" {
		return store.Entry{}, 0, fmt.Errorf("%s: %w: empty key", what, store.ErrInvalid)
	}
	revision, err := s.at(r)
	if err != nil {
		return store.Entry{}, 0, fmt.Errorf("%s: %w", what, err)
	}
	e, _ := s.entry(key, revision, r.KeysOnly)
	return e, revision, nil
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix string, r store.Read) ([]store.Entry, int64, error) {
	what := fmt.Sprintf("list keys under %q", prefix)
	if err := s.enter(ctx, what); err != nil {
		return nil, 0, err
	}
	defer s.mu.Unlock()
	revision, err := s.at(r)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", what, err)
	}
	var es []store.Entry
	for _, k := range s.under(prefix, revision) {
		if r.After != "" && k <= r.After {
			continue
		}
		if r.Limit > 0 && len(es) == r.Limit {
			break
		}
		e, _ := s.entry(k, revision, r.KeysOnly)
		es = append(es, e)
	}
	return es, revision, nil
}

// Count implements store.Store.
func (s *Store) Count(ctx context.Context, prefix string) (int, error) {
	if err := s.enter(ctx, fmt.Sprintf("count keys under %q", prefix)); err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	return len(s.under(prefix, s.revision)), nil
}

// Commit implements store.Store.
func (s *Store) Commit(ctx context.Context, guards []store.Guard, ops []store.Op) (int64, error) {
	const what = "commit"
	if err := store.Check(guards, ops); err != nil {
		return 0, fmt.Errorf("%s: %w", what, err)
	}
	if err := s.enter(ctx, what); err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	for _, g := range guards {
		if !s.holds(g) {
			return 0, fmt.Errorf("%s: guard of %q: %w", what, g.Key, store.ErrConflict)
		}
	}
	if len(ops) == 0 {
		return s.revision, nil
	}
	grow := int64(0)
	for _, o := range ops {
		if o.Lease != 0 && !s.alive(o.Lease) {
			return 0, fmt.Errorf("%s: put %q: %w", what, o.Key, store.ErrLeaseGone)
		}
		if !o.Delete {
			grow += int64(len(o.Key) + len(o.Value))
		}
	}
	if grow > 0 && s.health.State == store.StateDegraded {
		return 0, fmt.Errorf("%s: %w: %s", what, store.ErrFull, s.health.Reason)
	}
	if grow > 0 && s.used+grow > s.quota {
		s.compact(s.revision)
		if s.used+grow > s.quota {
			return 0, fmt.Errorf("%s: %w: %d of %d bytes used", what, store.ErrFull, s.used, s.quota)
		}
	}
	s.apply(ops)
	return s.revision, nil
}

func (s *Store) holds(g store.Guard) bool {
	if !g.Prefix {
		e, _ := s.entry(g.Key, s.revision, true)
		return e.Version == g.Version
	}
	ks := s.under(g.Key, s.revision)
	if len(ks) != g.Count {
		return false
	}
	return !slices.ContainsFunc(ks, func(k string) bool {
		e, _ := s.entry(k, s.revision, true)
		return e.Version > g.Version
	})
}

// apply makes a revision of ops. One that changes nothing makes none.
func (s *Store) apply(ops []store.Op) {
	next := commit{revision: s.revision + 1}
	remove := func(key string) {
		if _, ok := s.entry(key, s.revision, true); ok {
			next.events = append(next.events, store.Event{Entry: store.Entry{Key: key, Version: next.revision}, Deleted: true})
			s.set(key, change{revision: next.revision, deleted: true})
		}
	}
	for _, o := range ops {
		switch {
		case o.Prefix:
			for _, k := range s.under(o.Key, s.revision) {
				remove(k)
			}
		case o.Delete:
			remove(o.Key)
		default:
			v := append([]byte{}, o.Value...)
			next.events = append(next.events, store.Event{Entry: store.Entry{Key: o.Key, Value: v, Version: next.revision}})
			s.set(o.Key, change{revision: next.revision, value: v, lease: o.Lease})
		}
	}
	if len(next.events) == 0 {
		return
	}
	s.revision = next.revision
	s.log = append(s.log, next)
	if s.revision-s.compacted > s.history {
		s.compact(s.revision - s.history)
	}
	s.wake()
}

// set records a change of key and moves the key to the change's lease.
func (s *Store) set(key string, c change) {
	cs := s.keys[key]
	if len(cs) > 0 {
		if l := s.leases[cs[len(cs)-1].lease]; l != nil {
			delete(l.keys, key)
		}
	}
	if l := s.leases[c.lease]; l != nil {
		l.keys[key] = struct{}{}
	}
	s.keys[key] = append(cs, c)
	s.used += int64(len(key) + len(c.value))
}

func (s *Store) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, prefix string, revision int64, f func([]store.Event) error) error {
	what := fmt.Sprintf("watch keys under %q", prefix)
	if revision < 0 {
		return fmt.Errorf("%s: %w: negative revision", what, store.ErrInvalid)
	}
	if ctx.Err() != nil {
		return nil // the end of ctx is how a watch ends well
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return fmt.Errorf("%s: %w", what, store.ErrClosed)
	}
	s.watches.Add(1)
	defer s.watches.Done()
	s.mu.Unlock()
	for {
		if ctx.Err() != nil {
			return nil
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return fmt.Errorf("%s: %w", what, store.ErrClosed)
		}
		if revision == 0 {
			revision = s.revision + 1
		}
		if revision < s.compacted {
			s.mu.Unlock()
			return fmt.Errorf("%s from revision %d: %w", what, revision, store.ErrCompacted)
		}
		var events [][]store.Event
		if s.health.State != store.StateDown {
			events = s.since(prefix, revision)
			revision = max(revision, s.revision+1)
		}
		changed := s.changed
		s.mu.Unlock()
		for _, es := range events {
			if ctx.Err() != nil {
				return nil
			}
			if err := f(es); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// since collects the changes under prefix from revision on, one slice a commit.
func (s *Store) since(prefix string, revision int64) [][]store.Event {
	var all [][]store.Event
	for _, c := range s.log {
		if c.revision < revision {
			continue
		}
		var es []store.Event
		for _, e := range c.events {
			if strings.HasPrefix(e.Key, prefix) {
				e.Value = slices.Clone(e.Value)
				es = append(es, e)
			}
		}
		if es != nil {
			all = append(all, es)
		}
	}
	return all
}

// Compact forgets what was before revision: reads and watches of older ones
// fail with ErrCompacted.
func (s *Store) Compact(ctx context.Context, revision int64) error {
	what := fmt.Sprintf("compact to revision %d", revision)
	if err := s.enter(ctx, what); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if revision < 1 || revision > s.revision {
		return fmt.Errorf("%s: %w: the newest is %d", what, store.ErrInvalid, s.revision)
	}
	s.compact(revision)
	return nil
}

func (s *Store) compact(revision int64) {
	if revision <= s.compacted {
		return
	}
	s.compacted = revision
	s.log = slices.DeleteFunc(s.log, func(c commit) bool { return c.revision < revision })
	s.used = 0
	for k, cs := range s.keys {
		first := 0 // the change that was in force at revision
		for i, c := range cs {
			if c.revision <= revision {
				first = i
			}
		}
		cs = slices.Delete(cs, 0, first)
		if len(cs) == 1 && cs[0].deleted && cs[0].revision <= revision {
			delete(s.keys, k)
			continue
		}
		s.keys[k] = cs
		for _, c := range cs {
			s.used += int64(len(k) + len(c.value))
		}
	}
}

// Size implements store.Store.
func (s *Store) Size(ctx context.Context) (used, quota int64, err error) {
	if err := s.enter(ctx, "read the size"); err != nil {
		return 0, 0, err
	}
	defer s.mu.Unlock()
	return s.used, s.quota, nil
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		s.health = store.Health{State: store.StateDown, Reason: store.ErrClosed.Error(), Since: time.Now()}
		for _, l := range s.leases {
			l.timer.Stop()
		}
		s.wake()
	}
	s.mu.Unlock()
	s.watches.Wait()
	return nil
}

package memstore

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
)

// Grant implements store.Store.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (store.LeaseID, error) {
	what := fmt.Sprintf("take a lease of %s", ttl)
	if err := s.enter(ctx, what); err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	if ttl <= 0 {
		return 0, fmt.Errorf("%s: %w: it must last", what, store.ErrInvalid)
	}
	s.lastLease++
	id := s.lastLease
	s.leases[id] = &lease{
		ttl:   ttl,
		end:   time.Now().Add(ttl),
		timer: time.AfterFunc(ttl, func() { s.expire(id) }),
		keys:  make(map[string]struct{}),
	}
	return id, nil
}

// alive reports whether a lease has time left. One whose timer is late has not.
func (s *Store) alive(id store.LeaseID) bool {
	l := s.leases[id]
	return l != nil && time.Now().Before(l.end)
}

// expire runs on the lease's timer.
func (s *Store) expire(id store.LeaseID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.leases[id]; l == nil || s.closed || time.Now().Before(l.end) {
		return // revoked, or renewed as the timer fired
	}
	s.end(id)
}

// end removes a lease and, in one revision, its keys.
func (s *Store) end(id store.LeaseID) {
	l := s.leases[id]
	l.timer.Stop()
	var ops []store.Op
	for _, k := range slices.Sorted(maps.Keys(l.keys)) {
		ops = append(ops, store.Op{Key: k, Delete: true})
	}
	s.apply(ops)
	delete(s.leases, id)
}

// Renew implements store.Store.
func (s *Store) Renew(ctx context.Context, id store.LeaseID) error {
	what := fmt.Sprintf("renew lease %x", int64(id))
	if err := s.enter(ctx, what); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if !s.alive(id) {
		return fmt.Errorf("%s: %w", what, store.ErrLeaseGone)
	}
	l := s.leases[id]
	l.end = time.Now().Add(l.ttl)
	l.timer.Reset(l.ttl)
	return nil
}

// Revoke implements store.Store.
func (s *Store) Revoke(ctx context.Context, id store.LeaseID) error {
	if err := s.enter(ctx, fmt.Sprintf("revoke lease %x", int64(id))); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if s.leases[id] != nil {
		s.end(id)
	}
	return nil
}

package settle

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// recountEvery is how often a state that seems full is counted again at most.
const recountEvery = 5 * time.Second

// StateLimits bounds the state of each function.
type StateLimits struct {
	Keys  int
	Bytes int64
}

// quota bounds the state of each function. It keeps count itself: while
// less than half is used, a write of a key that was not read counts as a new
// one; above that the size of what it replaces is looked up. When a bound is
// reached the state is counted anew, so that counting too much does no harm.
type quota struct {
	st    store.Store
	log   *slog.Logger
	limit StateLimits

	mu     sync.Mutex
	spaces map[string]*stateSpace // by function
}

// stateSpace is how large the state of a function is, at most.
type stateSpace struct {
	keys    int
	bytes   int64
	counted time.Time // zero: never
	exact   bool      // look up what is replaced
}

func newQuota(st store.Store, log *slog.Logger, limit StateLimits) *quota {
	return &quota{st: st, log: log, limit: limit, spaces: map[string]*stateSpace{}}
}

// growth is by how much writes enlarge a space.
type growth struct {
	keys  int
	bytes int64
}

// admit makes room for what a transaction writes. undo gives it back, if it is
// not committed. A state that is full is a *functions.Failure.
func (q *quota) admit(ctx context.Context, tx *transaction) (undo func(), err error) {
	if len(tx.writes) == 0 {
		return func() {}, nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	all := map[string]growth{}
	for key := range tx.writes {
		owner, _, _ := strings.Cut(strings.TrimPrefix(key, statePrefix), "/")
		if _, ok := all[owner]; ok {
			continue
		}
		g, err := q.admitSpace(ctx, owner, tx)
		if err != nil {
			q.give(all)
			return nil, err
		}
		all[owner] = g
	}
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.give(all)
	}, nil
}

// give gives back; the caller holds mu.
func (q *quota) give(all map[string]growth) {
	for owner, g := range all {
		if s := q.spaces[owner]; s != nil {
			s.keys -= g.keys
			s.bytes -= g.bytes
		}
	}
}

func (q *quota) admitSpace(ctx context.Context, owner string, tx *transaction) (growth, error) {
	s := q.spaces[owner]
	if s == nil {
		s = &stateSpace{}
		q.spaces[owner] = s
	}
	if s.counted.IsZero() {
		if err := q.recount(ctx, owner, s); err != nil {
			return growth{}, err
		}
	}
	for {
		g, err := q.growth(ctx, owner, s, tx)
		if err != nil {
			return growth{}, err
		}
		keys, bytes := s.keys+g.keys, s.bytes+g.bytes
		// What makes a full state smaller is always right.
		if (keys <= q.limit.Keys || g.keys <= 0) && (bytes <= q.limit.Bytes || g.bytes <= 0) {
			if s.exact || (keys <= q.limit.Keys/2 && bytes <= q.limit.Bytes/2) {
				s.keys, s.bytes = keys, bytes
				return g, nil
			}
		} else if s.exact && time.Since(s.counted) < recountEvery {
			return growth{}, functions.Failf(functions.FailEffect,
				"the state of function %q is full: it would have %d keys (at most %d) and %d bytes (at most %d): delete some, or raise state.keys or state.bytes in the node's config",
				owner, keys, q.limit.Keys, bytes, q.limit.Bytes)
		}
		if err := q.recount(ctx, owner, s); err != nil {
			return growth{}, err
		}
		s.exact = true
	}
}

// growth is what the writes to one space add.
func (q *quota) growth(ctx context.Context, owner string, s *stateSpace, tx *transaction) (growth, error) {
	var g growth
	prefix := statePrefix + owner + "/"
	for key, w := range tx.writes {
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		old, known := tx.sizes[key]
		if !known && s.exact {
			err := durable.Persist(ctx, q.log, "look up the size of a key", func(ctx context.Context) error {
				e, _, err := q.st.Get(ctx, key, store.Read{})
				old = -1
				if e.Version != 0 {
					old = len(e.Value)
				}
				return err
			})
			if err != nil {
				return g, err
			}
			tx.sizes[key], known = old, true
		}
		if known && old >= 0 {
			g.keys--
			g.bytes -= int64(len(key)-len(prefix)) + int64(old)
		}
		if !w.deleted {
			g.keys++
			g.bytes += int64(len(key)-len(prefix)) + int64(len(w.value))
		}
	}
	return g, nil
}

// recount reads the size of a space from the store.
func (q *quota) recount(ctx context.Context, owner string, s *stateSpace) error {
	prefix := statePrefix + owner + "/"
	keys, bytes := 0, int64(0)
	err := durable.EachEntry(ctx, q.st, prefix, store.Read{Limit: 100}, func(e store.Entry) error {
		keys++
		bytes += int64(len(e.Key)-len(prefix)) + int64(len(e.Value))
		return nil
	})
	if err != nil {
		return err
	}
	s.keys, s.bytes, s.counted = keys, bytes, time.Now()
	s.exact = keys > q.limit.Keys/2 || bytes > q.limit.Bytes/2
	return nil
}

// forget drops the count of a function that was removed.
func (q *quota) forget(function string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.spaces, function)
}

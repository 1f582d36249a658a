package settle

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// fence is a key that one transaction at a time writes, with its last known
// version as a guard. By its value one can tell whether a transaction whose
// answer was lost has taken effect, and a late one cannot take effect after
// another one behind the same fence.
type fence struct {
	key     string
	version int64
	known   bool // version is what the store has
}

// fencePrefix: NODE/NUMBER.
const fencePrefix = durable.Root + "marks/"

// fences keeps the fences of a node: as many as transactions were ever under
// way at once, each a key of a few bytes.
type fences struct {
	st     store.Store
	log    *slog.Logger
	prefix string

	mu   sync.Mutex
	free []*fence
	made int
}

func newFences(st store.Store, log *slog.Logger, node string) *fences {
	return &fences{st: st, log: log, prefix: fencePrefix + node + "/"}
}

// take returns a fence that is the caller's until put.
func (s *fences) take(ctx context.Context) (*fence, error) {
	m := s.pick()
	if m.known {
		return m, nil
	}
	err := durable.Persist(ctx, s.log, "read a commit fence", func(ctx context.Context) error {
		e, _, err := s.st.Get(ctx, m.key, store.Read{})
		m.version = e.Version
		return err
	})
	if err != nil {
		s.put(m)
		return nil, err
	}
	m.known = true
	return m, nil
}

func (s *fences) pick() *fence {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.free); n > 0 {
		m := s.free[n-1]
		s.free = s.free[:n-1]
		return m
	}
	s.made++
	return &fence{key: fmt.Sprintf("%s%d", s.prefix, s.made)}
}

func (s *fences) put(m *fence) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = append(s.free, m)
}

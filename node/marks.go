package node

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/edgefn/edgefn/cluster/store"
)

// mark is a key that one transaction at a time writes, with its last known
// version as a guard. By its value one can tell whether a transaction whose
// answer was lost has taken effect, and a late one cannot take effect after
// another of the same mark.
type mark struct {
	key     string
	version int64
	known   bool // version is what the store has
}

// marks keeps the marks of a node: as many as transactions were ever under way
// at once, each a key of a few bytes.
type marks struct {
	st     store.Store
	log    *slog.Logger
	prefix string

	mu   sync.Mutex
	free []*mark
	made int
}

func newMarks(st store.Store, log *slog.Logger, node string) *marks {
	return &marks{st: st, log: log, prefix: keyMarks + node + "/"}
}

// take returns a mark that is the caller's until put.
func (s *marks) take(ctx context.Context) (*mark, error) {
	m := s.pick()
	if m.known {
		return m, nil
	}
	err := persist(ctx, s.log, "read a mark", func(ctx context.Context) error {
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

func (s *marks) pick() *mark {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.free); n > 0 {
		m := s.free[n-1]
		s.free = s.free[:n-1]
		return m
	}
	s.made++
	return &mark{key: fmt.Sprintf("%s%d", s.prefix, s.made)}
}

func (s *marks) put(m *mark) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = append(s.free, m)
}

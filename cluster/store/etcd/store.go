package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	clientv3 "go.etcd.io/etcd/client/v3"
)

var (
	_ store.Store       = (*Store)(nil)
	_ store.Snapshotter = (*Store)(nil)
	_ store.Meter       = (*Store)(nil)
)

// Errors beside those of package store.
var (
	// ErrInUse: another process, or this one, has the directory open.
	ErrInUse = errors.New("in use")
	// ErrFailed: the embedded etcd has stopped for good: its files are damaged,
	// or it could not be ended after failures. Done says when, Err why.
	ErrFailed = errors.New("the embedded etcd has stopped")
	// ErrDamaged: a file of the store does not hold what it should; it comes in
	// a *DamageError.
	ErrDamaged = errors.New("damaged")
)

// Store is a store by etcd.
type Store struct {
	embedded *embedded // nil when etcd is outside
	log      *slog.Logger
	done     chan struct{}
	pace     pace
	state    state

	mu      sync.Mutex
	err     error // why no call is taken any more: ErrClosed or ErrFailed, wrapped
	now     *server
	waits   error         // why there is no run now
	changed chan struct{} // closed and replaced when now or err changes
	calls   map[uint64]call
	serial  uint64
	inside  sync.WaitGroup // calls; added to under mu while err is nil
	close   func()         // ends the client and server; nil once taken
}

// call is a call in progress.
type call struct {
	cancel context.CancelCauseFunc
	run    *server
	begun  time.Time // zero for one that may take long
}

// Kinds of calls.
const (
	shortCall = false // one that tells something when it takes long
	longCall  = true
)

func newStore(log *slog.Logger) *Store {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Store{
		log:     log.With(keyComponent, "store"),
		done:    make(chan struct{}),
		changed: make(chan struct{}),
		calls:   make(map[uint64]call),
	}
}

// Done is closed when the store takes no more calls: it was closed or failed.
func (s *Store) Done() <-chan struct{} { return s.done }

// Err says why Done is closed: ErrClosed, or ErrFailed with the reason. It is
// nil before.
func (s *Store) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// begin takes part in the store's life: the context that it returns ends with
// ctx, with the store, and with the run of etcd that serves the call. The
// caller calls end when it is through.
func (s *Store) begin(ctx context.Context, long bool) (_ context.Context, v *server, end func(), err error) {
	if err := context.Cause(ctx); err != nil {
		return nil, nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return nil, nil, nil, s.err
	case s.now == nil:
		return nil, nil, nil, unavailable(s.waits)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	s.serial++
	n := s.serial
	c := call{cancel: cancel, run: s.now}
	if !long {
		c.begun = time.Now()
	}
	s.calls[n] = c
	s.inside.Add(1)
	return ctx, s.now, func() {
		cancel(nil)
		s.mu.Lock()
		delete(s.calls, n)
		s.mu.Unlock()
		s.inside.Done()
	}, nil
}

// stop refuses further calls and ends those in progress. The first reason stays.
func (s *Store) stop(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.err = reason
	for _, c := range s.calls {
		c.cancel(reason)
	}
	close(s.done)
	s.wake()
}

// fail ends the store for good.
func (s *Store) fail(why error) { s.stop(fmt.Errorf("%w: %w", ErrFailed, why)) }

// Close implements store.Store.
func (s *Store) Close() error {
	s.stop(store.ErrClosed)
	s.inside.Wait()
	s.mu.Lock()
	release := s.close
	s.close = nil
	s.mu.Unlock()
	if release != nil {
		release()
	}
	return nil
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string, r store.Read) (store.Entry, int64, error) {
	es, revision, err := s.read(ctx, key, r)
	if err != nil {
		return store.Entry{}, 0, fmt.Errorf("read key %q: %w", key, err)
	}
	if len(es) == 0 {
		return store.Entry{Key: key}, revision, nil
	}
	return es[0], revision, nil
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix string, r store.Read) ([]store.Entry, int64, error) {
	from, end := span(prefix)
	if r.After != "" {
		from = max(from, r.After+"\x00")
	}
	es, revision, err := s.read(ctx, from, r, clientv3.WithRange(end), clientv3.WithLimit(int64(r.Limit)))
	if err != nil {
		return nil, 0, fmt.Errorf("list keys under %q: %w", prefix, err)
	}
	return es, revision, nil
}

// span is the range of the keys under a prefix, in etcd's terms: an end of one
// zero byte is the end of all keys.
func span(prefix string) (from, end string) {
	if prefix == "" {
		return "\x00", "\x00"
	}
	return prefix, clientv3.GetPrefixRangeEnd(prefix)
}

func (s *Store) read(ctx context.Context, key string, r store.Read, opts ...clientv3.OpOption) ([]store.Entry, int64, error) {
	ctx, v, end, err := s.begin(ctx, shortCall)
	if err != nil {
		return nil, 0, err
	}
	defer end()
	switch {
	case key == "":
		return nil, 0, fmt.Errorf("%w: empty key", store.ErrInvalid)
	case r.Revision < 0 || r.Limit < 0:
		return nil, 0, fmt.Errorf("%w: negative revision or limit", store.ErrInvalid)
	}
	opts = append(opts, clientv3.WithRev(r.Revision))
	if r.KeysOnly {
		opts = append(opts, clientv3.WithKeysOnly())
	}
	resp, err := ask(ctx, v, func() (*clientv3.GetResponse, error) { return v.client.Get(ctx, key, opts...) })
	if err != nil {
		return nil, 0, translate(ctx, err)
	}
	var es []store.Entry
	for _, kv := range resp.Kvs {
		es = append(es, store.Entry{Key: string(kv.Key), Value: kv.Value, Version: kv.ModRevision})
	}
	revision := resp.Header.Revision
	if r.Revision != 0 {
		revision = r.Revision
	}
	return es, revision, nil
}

// Count implements store.Store.
func (s *Store) Count(ctx context.Context, prefix string) (int, error) {
	what := fmt.Sprintf("count keys under %q", prefix)
	ctx, v, end, err := s.begin(ctx, shortCall)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", what, err)
	}
	defer end()
	resp, err := ask(ctx, v, func() (*clientv3.GetResponse, error) {
		return v.client.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	})
	if err != nil {
		return 0, fmt.Errorf("%s: %w", what, translate(ctx, err))
	}
	return int(resp.Count), nil
}

// Size implements store.Store.
func (s *Store) Size(ctx context.Context) (used, quota int64, err error) {
	const what = "read the store's size"
	ctx, v, end, err := s.begin(ctx, shortCall)
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w", what, err)
	}
	defer end()
	if s.embedded != nil {
		return v.used(), v.quota, nil
	}
	st, err := v.client.Status(ctx, v.client.Endpoints()[0])
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w", what, translate(ctx, err))
	}
	return st.DbSizeInUse, st.DbSizeQuota, nil
}

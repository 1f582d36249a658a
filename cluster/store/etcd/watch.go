package etcd

import (
	"context"
	"errors"
	"fmt"

	"github.com/edgefn/edgefn/cluster/store"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// watchQueue bounds the answers of etcd that wait for the function of a watch.
// etcd's client itself would queue without end; when this queue is full the
// watch is dropped and taken up again, from the server's history, once the
// function has seen what was queued.
const watchQueue = 16

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, prefix string, revision int64, f func([]store.Event) error) error {
	what := fmt.Sprintf("watch keys under %q", prefix)
	if ended(ctx) {
		return nil // the end of ctx is how a watch ends well
	}
	if revision < 0 {
		return fmt.Errorf("%s: %w: negative revision", what, store.ErrInvalid)
	}
	for {
		next, err := s.watchOnce(ctx, prefix, revision, f)
		var own *ownError
		switch {
		case errors.As(err, &own):
			return own.err
		case ended(ctx):
			return nil
		case errors.Is(err, store.ErrUnavailable):
			s.back(ctx) // and then on from there
		case err != nil && next > 0:
			return fmt.Errorf("%s from revision %d: %w", what, next, err)
		case err != nil:
			return fmt.Errorf("%s: %w", what, err)
		}
		revision = next
	}
}

func ended(ctx context.Context) bool { return ctx.Err() != nil }

// watchOnce watches for as long as one run of etcd lasts and returns the
// revision to go on from, 0 where it is not known yet.
func (s *Store) watchOnce(ctx context.Context, prefix string, revision int64, f func([]store.Event) error) (next int64, err error) {
	ctx, v, end, err := s.begin(ctx, longCall)
	if err != nil {
		return revision, err
	}
	defer end()
	if revision == 0 {
		resp, err := ask(ctx, v, func() (*clientv3.GetResponse, error) { return v.client.Get(ctx, "\x00", clientv3.WithCountOnly()) })
		if err != nil {
			return 0, translate(ctx, err)
		}
		revision = resp.Header.Revision + 1
	}
	for {
		next, err := v.follow(ctx, prefix, revision, f)
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return next, err
		}
		revision = next
	}
}

// ownError is an error of the caller's function, to be returned as it is.
type ownError struct{ err error }

func (e *ownError) Error() string { return e.err.Error() }

// errWatchEnded: etcd closed a watch and did not say why.
var errWatchEnded = errors.New("etcd ended the watch")

// follow watches from a revision on and returns the one to go on from: with no
// error when its queue was full, so that following again makes sense.
func (v *server) follow(ctx context.Context, prefix string, revision int64, f func([]store.Event) error) (next int64, err error) {
	watching, cancel := context.WithCancel(ctx)
	queue := make(chan clientv3.WatchResponse, watchQueue)
	full := false // read once queue is closed
	from, end := span(prefix)
	changes := v.client.Watch(watching, from, clientv3.WithRange(end), clientv3.WithRev(revision))
	go func() {
		defer close(queue)
		for r := range changes {
			if full {
				continue // until etcd's client has seen the cancel
			}
			select {
			case queue <- r:
			default:
				full = true
				cancel()
			}
		}
	}()
	defer func() { // until the goroutine has ended
		for range queue {
		}
	}()
	defer cancel()
	for r := range queue {
		switch {
		case ctx.Err() != nil:
			return revision, context.Cause(ctx)
		case r.CompactRevision != 0:
			return revision, store.ErrCompacted
		case r.Err() != nil:
			return revision, translate(ctx, r.Err())
		case len(r.Events) == 0:
			continue
		}
		es := make([]store.Event, len(r.Events))
		for i, e := range r.Events {
			es[i] = store.Event{
				Entry:   store.Entry{Key: string(e.Kv.Key), Value: e.Kv.Value, Version: e.Kv.ModRevision},
				Deleted: e.Type == mvccpb.DELETE,
			}
		}
		if err := f(es); err != nil {
			return revision, &ownError{err}
		}
		revision = es[len(es)-1].Version + 1
	}
	if full || ctx.Err() != nil {
		return revision, context.Cause(ctx)
	}
	return revision, errWatchEnded
}

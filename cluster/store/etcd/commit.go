package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// putOverhead is what etcd adds to a key and value, at most: its own estimate.
const putOverhead = 256

// Commit implements store.Store.
func (s *Store) Commit(ctx context.Context, guards []store.Guard, ops []store.Op) (int64, error) {
	revision, err := s.commit(ctx, guards, ops)
	if err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	return revision, nil
}

func (s *Store) commit(ctx context.Context, guards []store.Guard, ops []store.Op) (int64, error) {
	if err := store.Check(guards, ops); err != nil {
		return 0, err
	}
	ctx, v, end, err := s.begin(ctx, shortCall)
	if err != nil {
		return 0, err
	}
	defer end()
	then, cost := writes(ops)
	if len(ops) > 0 && s.embedded != nil {
		if err := s.admit(ctx, v, cost); err != nil {
			return 0, err
		}
	}
	cmps, err := v.compares(ctx, guards)
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	resp, err := ask(ctx, v, func() (*clientv3.TxnResponse, error) {
		return v.client.Txn(ctx).If(cmps...).Then(then...).Commit()
	})
	if err == nil && len(ops) > 0 {
		s.pace.took(time.Since(begun))
	}
	switch {
	case errors.Is(err, rpctypes.ErrNoSpace) && s.embedded != nil:
		// A standing alarm, or a write that met etcd's own limit in a race and
		// was applied nevertheless: so not ErrFull, which would promise that
		// nothing was changed.
		v.alarmed.Store(true)
		return 0, fmt.Errorf("etcd is at its own limit, the write may have taken place: %w", err)
	case err != nil:
		return 0, translate(ctx, err)
	case !resp.Succeeded:
		return 0, store.ErrConflict
	}
	return resp.Header.Revision, nil
}

// writes turns ops into etcd's and says how many bytes they may add.
func writes(ops []store.Op) (then []clientv3.Op, cost int64) {
	then = make([]clientv3.Op, 0, len(ops))
	for _, o := range ops {
		switch {
		case o.Prefix:
			from, end := span(o.Key)
			then = append(then, clientv3.OpDelete(from, clientv3.WithRange(end)))
		case o.Delete:
			then = append(then, clientv3.OpDelete(o.Key))
		default:
			then = append(then, clientv3.OpPut(o.Key, string(o.Value), clientv3.WithLease(clientv3.LeaseID(o.Lease))))
			cost += int64(len(o.Key) + len(o.Value) + putOverhead)
		}
	}
	return then, cost
}

// compares turns guards into etcd's; those of a range as the package says. It
// returns ErrConflict where it sees already that one does not hold.
func (v *server) compares(ctx context.Context, guards []store.Guard) ([]clientv3.Cmp, error) {
	var cmps []clientv3.Cmp
	for _, g := range guards {
		if !g.Prefix {
			cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(g.Key), "=", g.Version))
			continue
		}
		from, end := span(g.Key)
		if g.Count == 0 { // nothing may be there, however old
			cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(from).WithRange(end), "<", 1))
			continue
		}
		resp, err := ask(ctx, v, func() (*clientv3.GetResponse, error) {
			return v.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithKeysOnly(), clientv3.WithLimit(int64(g.Count)+1))
		})
		if err != nil {
			return nil, fmt.Errorf("list the guarded keys under %q: %w", g.Key, translate(ctx, err))
		}
		if len(resp.Kvs) != g.Count {
			return nil, fmt.Errorf("keys under %q: %w", g.Key, store.ErrConflict)
		}
		cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(from).WithRange(end), "<", g.Version+1))
		for _, kv := range resp.Kvs {
			if kv.ModRevision > g.Version {
				return nil, fmt.Errorf("key %q: %w", kv.Key, store.ErrConflict)
			}
			cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(string(kv.Key)), "=", kv.ModRevision))
		}
	}
	return cmps, nil
}

// Grant implements store.Store. etcd counts in whole seconds and from one and a
// half election timeouts up, 1 s while the server is embedded. A restart of the
// server starts every lease's time anew.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (store.LeaseID, error) {
	what := fmt.Sprintf("take a lease of %s", ttl)
	if ttl <= 0 {
		return 0, fmt.Errorf("%s: %w: it must last", what, store.ErrInvalid)
	}
	ctx, v, end, err := s.begin(ctx, shortCall)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", what, err)
	}
	defer end()
	if s.embedded != nil {
		if err := s.admit(ctx, v, putOverhead); err != nil {
			return 0, fmt.Errorf("%s: %w", what, err)
		}
	}
	seconds := int64((ttl + time.Second - 1) / time.Second)
	resp, err := ask(ctx, v, func() (*clientv3.LeaseGrantResponse, error) { return v.client.Grant(ctx, seconds) })
	if err != nil {
		return 0, fmt.Errorf("%s: %w", what, translate(ctx, err))
	}
	return store.LeaseID(resp.ID), nil
}

// Renew implements store.Store.
func (s *Store) Renew(ctx context.Context, id store.LeaseID) error {
	what := fmt.Sprintf("renew lease %x", int64(id))
	ctx, v, end, err := s.begin(ctx, shortCall)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer end()
	_, err = ask(ctx, v, func() (*clientv3.LeaseKeepAliveResponse, error) {
		return v.client.KeepAliveOnce(ctx, clientv3.LeaseID(id))
	})
	if err != nil {
		return fmt.Errorf("%s: %w", what, translate(ctx, err))
	}
	return nil
}

// Revoke implements store.Store.
func (s *Store) Revoke(ctx context.Context, id store.LeaseID) error {
	what := fmt.Sprintf("revoke lease %x", int64(id))
	ctx, v, end, err := s.begin(ctx, shortCall)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer end()
	if s.embedded != nil {
		if err := s.admit(ctx, v, 0); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	_, err = ask(ctx, v, func() (*clientv3.LeaseRevokeResponse, error) { return v.client.Revoke(ctx, clientv3.LeaseID(id)) })
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("%s: %w", what, translate(ctx, err))
	}
	return nil
}

// translate turns an error of etcd's client into one of package store, or
// wraps what it has no word for. A call that ended with its context gets the
// context's reason: that of the caller, or the store's own end.
func translate(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, store.ErrUnavailable):
		return err
	case errors.Is(err, rpctypes.ErrNoSpace):
		// Of an etcd outside. The one write that takes it over its quota gets
		// this answer too, although it was applied; what follows is not.
		return store.ErrFull
	case errors.Is(err, rpctypes.ErrTooManyOps):
		return fmt.Errorf("%w: etcd takes fewer operations; start it with --max-txn-ops=%d", store.ErrTooLarge, store.MaxGuards)
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		return fmt.Errorf("%w: etcd takes fewer bytes; start it with --max-request-bytes=%d", store.ErrTooLarge, maxRequestBytes)
	case errors.Is(err, rpctypes.ErrCompacted):
		return store.ErrCompacted
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return store.ErrLeaseGone
	case errors.Is(err, rpctypes.ErrFutureRev), errors.Is(err, rpctypes.ErrLeaseTTLTooLarge),
		errors.Is(err, rpctypes.ErrEmptyKey), errors.Is(err, rpctypes.ErrDuplicateKey):
		return fmt.Errorf("%w: %w", store.ErrInvalid, err)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case status.Code(err) == codes.ResourceExhausted && !errors.Is(err, rpctypes.ErrTooManyRequests):
		// gRPC's own limit, ahead of etcd's.
		return fmt.Errorf("%w: %w; start etcd with --max-request-bytes=%d", store.ErrTooLarge, err, maxRequestBytes)
	}
	return fmt.Errorf("etcd: %w", err)
}

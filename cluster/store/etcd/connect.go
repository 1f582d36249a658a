package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Remote is an etcd outside. It has to take transactions as large as the
// store's: start it with --max-txn-ops=4096 --max-request-bytes=4194304.
type Remote struct {
	Endpoints []string      // "https://10.0.0.1:2379"
	TLS       *tls.Config   // nil: none
	Start     time.Duration // how long connecting may take; 0: 10 s
	Logger    *slog.Logger  // nil discards
}

// Connect connects to an etcd outside and returns when it has answered. ctx
// bounds the connecting only; the caller closes the store. It compacts and
// defragments nothing there.
func Connect(ctx context.Context, r Remote) (*Store, error) {
	s, err := connect(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("connect to etcd at %s: %w", strings.Join(r.Endpoints, ", "), err)
	}
	return s, nil
}

func connect(ctx context.Context, r Remote) (*Store, error) {
	if len(r.Endpoints) == 0 {
		return nil, errors.New("no endpoint given")
	}
	if r.Start == 0 {
		r.Start = 10 * time.Second
	}
	s := newStore(r.Logger)
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            r.Endpoints,
		TLS:                  r.TLS,
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
		MaxCallSendMsgSize:   2 * maxRequestBytes,
		Logger:               bridge(s.log, s.done, s.fail),
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.Start, fmt.Errorf("no answer within %s: does it run there, and do the TLS settings match?", r.Start))
	defer cancel()
	// A transaction that reads nothing much, as large as the largest.
	cmps := make([]clientv3.Cmp, store.MaxGuards)
	for i := range cmps {
		cmps[i] = clientv3.Compare(clientv3.ModRevision("\x00"), "=", 0)
	}
	if _, err := client.Txn(ctx).If(cmps...).Commit(); err != nil {
		_ = client.Close()
		return nil, translate(ctx, err)
	}
	s.serve(&server{client: client, pace: &s.pace})
	s.close = func() { _ = client.Close() }
	return s, nil
}

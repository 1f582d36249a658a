package etcd

import (
	"context"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// RaiseAlarm makes the embedded etcd refuse puts, as if its file were full.
func (s *Store) RaiseAlarm(ctx context.Context) error {
	_, err := s.server.etcd.Server.Alarm(ctx, &etcdserverpb.AlarmRequest{
		Action: etcdserverpb.AlarmRequest_ACTIVATE,
		Alarm:  etcdserverpb.AlarmType_NOSPACE,
	})
	return err
}

// FileSize is that of the database file.
func (s *Store) FileSize() int64 { return s.server.size() }

// Limit is etcd's own quota for one of ours.
func Limit(quota int64) int64 { return limit(quota) }

// Bridge is the bridge from zap to slog.
var Bridge = bridge

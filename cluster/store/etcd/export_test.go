package etcd

import (
	"context"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// RaiseAlarm makes the embedded etcd refuse puts, as if its file were full.
func (s *Store) RaiseAlarm(ctx context.Context) error {
	_, err := s.now.etcd.Server.Alarm(ctx, &etcdserverpb.AlarmRequest{
		Action: etcdserverpb.AlarmRequest_ACTIVATE,
		Alarm:  etcdserverpb.AlarmType_NOSPACE,
	})
	return err
}

// FileSize is that of the database file.
func (s *Store) FileSize() int64 { return s.now.size() }

// Limit is etcd's own quota for one of ours.
func Limit(quota int64) int64 { return limit(quota) }

// Bridge is the bridge from zap to slog.
var Bridge = bridge

// Reckless makes the store commit whatever room its disk has, so that etcd meets
// the end of it.
func (s *Store) Reckless() {
	d := s.embedded.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	d.put, d.last = -1<<40, 0
}

// Runs is how many runs of etcd were started.
func (s *Store) Runs() int {
	s.embedded.disk.mu.Lock()
	defer s.embedded.disk.mu.Unlock()
	return s.embedded.runs
}

// Left is how many of them did not end.
func (s *Store) Left() int { return s.embedded.left }

// Examine looks for damage.
var Examine = examine

// CheckPages walks through a bbolt file.
var CheckPages = checkPages

// PageError is damage of a bbolt file.
type PageError = pageError

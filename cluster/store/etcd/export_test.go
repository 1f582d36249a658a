package etcd

import (
	"context"
	"fmt"
	"time"

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
// the end of it. The reserve, once given back, is not made again.
func (s *Store) Reckless() {
	d := s.embedded.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	d.put, d.last, d.size = -1<<40, 0, 0
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

// ReadLog reads one file of a log, the only one.
func ReadLog(path string) error {
	l := logCheck{}
	_, err := l.readFile(path, 0, true, true)
	return err
}

// Facts are what a store's health is told from.
type Facts = facts

// Assess tells the health.
var Assess = assess

// Room is a room on a disk: free beside what the reserve holds, and needed.
func Room(free, held, need, last int64) room { return room{free, held, need, last} }

// CheckPages walks through a bbolt file.
var CheckPages = checkPages

// PageError is damage of a bbolt file.
type PageError = pageError

// Slow makes the store believe that its last commit took so long.
func (s *Store) Slow(d time.Duration) {
	s.pace.mu.Lock()
	defer s.pace.mu.Unlock()
	s.pace.slow, s.pace.at = d, time.Now()
}

// Meter is what was counted, in parts.
func (s *Store) Meter() string {
	m := &s.now.meter
	m.mu.Lock()
	defer m.mu.Unlock()
	return fmt.Sprintf("%d of the log, %d of the database, %d of those before", m.log, m.written(), m.data)
}

// Fail makes the run of etcd that serves now fail for a reason.
func (s *Store) Fail(why error) {
	s.mu.Lock()
	v := s.now
	s.mu.Unlock()
	if v != nil {
		s.lost(v, why)
	}
}

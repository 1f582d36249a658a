package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/storage/schema"
)

const (
	// batchBytes bounds what waits for the next batch, so that neither the
	// room on the disk nor the count of the bytes in use is outrun.
	batchBytes = 8 << 20
	// Where maintenance did not help, writes look for room again this often.
	fullEvery = time.Second
	// A store that is three quarters full is compacted ahead of need, at most
	// this often.
	aheadEvery = time.Minute
)

// admit lets a write of so many bytes pass, or returns ErrFull. Where history
// takes the room, it is compacted first. One that costs nothing only deletes.
func (s *Store) admit(ctx context.Context, v *server, cost int64) error {
	has, err := v.disk.look()
	if err != nil {
		return err
	}
	switch {
	case !has.deletes():
		return fmt.Errorf("%w: the disk of %s has %d MiB left, %d MiB are needed to delete anything: free some",
			store.ErrUnavailable, v.dir, has.free>>20, has.last>>20)
	case cost == 0:
		return nil
	case !has.puts():
		return fmt.Errorf("%w: the disk of %s has %d MiB left beside a reserve of %d MiB, together %d MiB are needed: free some",
			store.ErrFull, v.dir, has.free>>20, has.held>>20, has.need>>20)
	}
	if v.pending.Add(cost) > batchBytes {
		v.pending.Store(0)
		if _, err := ask(ctx, v, func() (struct{}, error) {
			v.etcd.Server.Backend().ForceCommit()
			return struct{}{}, nil
		}); err != nil {
			return err
		}
	}
	roomy := func() bool { return v.fits(cost) && !v.alarmed.Load() }
	if !roomy() {
		every := time.Duration(0)
		if v.tight.Load() {
			every = fullEvery
		}
		if err := s.maintain(ctx, v, every, roomy); err != nil {
			return err
		}
		tight := !v.fits(cost)
		v.tight.Store(tight)
		if tight {
			return fmt.Errorf("%w: %d of %d bytes are in use: delete something or raise the quota", store.ErrFull, v.used(), v.quota)
		}
		return nil
	}
	if v.used() > v.quota/4*3 || v.size() > v.quota+v.quota/8 {
		s.maintainAhead(ctx, v)
	}
	return nil
}

// fits reports whether a write of so many bytes stays within the quota, and
// the file within etcd's own limit.
func (v *server) fits(cost int64) bool {
	return v.used()+cost <= v.quota && v.size()+cost < limit(v.quota)
}

// used is what entries and history take; a batch may be missing.
func (v *server) used() int64 { return v.etcd.Server.Backend().SizeInUse() }

// size is that of the file, which only defragmentation shrinks.
func (v *server) size() int64 { return v.etcd.Server.Backend().Size() }

// limit is etcd's own quota for one of ours.
func limit(quota int64) int64 { return quota + quota/4 + 2*batchBytes }

// Maintain makes room: it forgets the history of all keys, so that reads and
// watches of older revisions end with ErrCompacted, gives the disk back what
// the file does not use where that is much, and undoes an alarm. The store does
// so by itself when it is full or about to be. While it shrinks the file, other
// calls wait. It does nothing for an etcd outside, whose operator sees to it.
func (s *Store) Maintain(ctx context.Context) error {
	if s.embedded == nil {
		return nil
	}
	ctx, v, end, err := s.begin(ctx, longCall)
	if err == nil {
		defer end()
		err = s.maintain(ctx, v, 0, func() bool { return false })
	}
	if err != nil {
		return fmt.Errorf("maintain the store: %w", err)
	}
	return nil
}

// maintainAhead starts maintenance in the background unless there was some of late.
func (s *Store) maintainAhead(ctx context.Context, v *server) {
	if time.Since(time.Unix(0, v.maintained.Load())) < aheadEvery || !v.ahead.CompareAndSwap(false, true) {
		return
	}
	ctx, now, end, err := s.begin(context.WithoutCancel(ctx), longCall)
	if err != nil {
		v.ahead.Store(false)
		return
	}
	go func() {
		defer end()
		defer v.ahead.Store(false)
		if err := s.maintain(ctx, now, aheadEvery, func() bool { return false }); err != nil && ctx.Err() == nil {
			s.log.Warn("maintenance of the store did not succeed", keyErr, err)
		}
	}()
}

// maintain is Maintain, one at a time, unless there was some in the last every
// or there is enough room by the time that it is its turn.
func (s *Store) maintain(ctx context.Context, v *server, every time.Duration, enough func() bool) error {
	select {
	case v.maintaining <- struct{}{}:
		defer func() { <-v.maintaining }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if enough() || time.Since(time.Unix(0, v.maintained.Load())) < every {
		return nil
	}
	defer func() { v.maintained.Store(time.Now().UnixNano()) }()
	usedBefore, sizeBefore := v.used(), v.size()
	if rev := v.etcd.Server.KV().Rev(); rev > v.compacted {
		_, err := ask(ctx, v, func() (*clientv3.CompactResponse, error) {
			return v.client.Compact(ctx, rev, clientv3.WithCompactPhysical())
		})
		if err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
			return fmt.Errorf("compact its history: %w", translate(ctx, err))
		}
		v.compacted = rev
		if _, err := ask(ctx, v, func() (struct{}, error) { v.settle(ctx); return struct{}{}, nil }); err != nil {
			return translate(ctx, err)
		}
	}
	noSpace := slices.ContainsFunc(v.etcd.Server.Alarms(), func(a *etcdserverpb.AlarmMember) bool {
		return a.Alarm == etcdserverpb.AlarmType_NOSPACE
	})
	if waste := v.size() - v.used(); waste > v.quota/2 || noSpace && waste > 0 || v.size() > v.quota && waste > v.quota/8 {
		if _, err := ask(ctx, v, func() (struct{}, error) { return struct{}{}, v.defragment() }); err != nil {
			return err
		}
	}
	if noSpace && v.size() < limit(v.quota)-batchBytes {
		_, err := ask(ctx, v, func() (*clientv3.AlarmResponse, error) {
			return v.client.AlarmDisarm(ctx, &clientv3.AlarmMember{})
		})
		if err != nil {
			return fmt.Errorf("undo its alarm: %w", translate(ctx, err))
		}
		noSpace = false
	}
	v.alarmed.Store(noSpace)
	s.log.Info("store maintained", keyUsed, v.used(), keyFile, v.size(), "used_bytes_before", usedBefore, "file_bytes_before", sizeBefore)
	return nil
}

// defragment writes the file anew, without what it does not use. The client's
// call for it panics with a server in process, hence the backend's.
func (v *server) defragment() error {
	free, err := freeBytes(v.dir)
	if err != nil {
		return err
	}
	if need := v.used() + putRoom; free < need {
		return fmt.Errorf("%w: to shrink the file the disk of %s needs %d MiB free and has %d", store.ErrFull, v.dir, need>>20, free>>20)
	}
	v.meter.close() // the database that it counts for goes
	defer v.meter.open(v)
	if err := v.etcd.Server.Backend().Defrag(); err != nil {
		return fmt.Errorf("defragment its file: %w", err)
	}
	v.meter.add(v.size())
	return nil
}

// settle ends batches until bbolt counts the pages that a compaction has freed.
// That takes it two more write transactions, and that etcd has let go of its
// old read transactions, which it does on goroutines of its own: so until the
// count has stayed the same for a while. A batch with nothing in it is none,
// hence the delete of a key that is not there.
func (v *server) settle(ctx context.Context) {
	const pause, same, most = 10 * time.Millisecond, 3, 30
	be := v.etcd.Server.Backend()
	t := time.NewTicker(pause)
	defer t.Stop()
	used, since := v.used(), 0
	for range most {
		tx := be.BatchTx()
		tx.LockOutsideApply()
		tx.UnsafeDelete(schema.Meta, []byte("edgefn-none"))
		tx.Unlock()
		be.ForceCommit()
		if now := v.used(); now != used {
			used, since = now, 0
		} else if since++; since > same {
			return
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// Compact forgets what was before revision: reads and watches of older ones
// fail with ErrCompacted. The embedded etcd does so by itself, see Maintain.
func (s *Store) Compact(ctx context.Context, revision int64) error {
	what := fmt.Sprintf("compact to revision %d", revision)
	ctx, v, end, err := s.begin(ctx, longCall)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer end()
	_, err = ask(ctx, v, func() (*clientv3.CompactResponse, error) { return v.client.Compact(ctx, revision) })
	if err != nil {
		return fmt.Errorf("%s: %w", what, translate(ctx, err))
	}
	return nil
}

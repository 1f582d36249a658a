package deploy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// Remove is api.Backend's. With the function go its state, unless that is to
// stay, its dead letters, the ids it remembers, its usage, its versions with
// their images, its log, and the sessions of its triggers at brokers. What it has sent and cannot go out at
// once is not sent any more; its lines go to their safe values.
func (d *Deployer) Remove(ctx context.Context, name string, o api.RemoveOptions) error {
	rc, leave, err := d.use(ctx, name)
	if err != nil {
		return err
	}
	defer leave()
	wait := removeTime
	if f, here := d.Lookup(name); here {
		wait += f.svc.Spec().Timeout
	}
	// First it is written that the function goes, so that a crash leaves
	// nothing half removed.
	marked, err := d.mark(ctx, name, o.KeepState)
	if err != nil {
		return err
	}
	rc.nudge()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wait) // it goes whether or not one waits
	defer cancel()
	s, err := rc.await(ctx, func(s state) bool { return s.at >= marked && (s.gone || s.version != "" || s.err != nil) })
	switch {
	case err != nil:
		return &api.Error{
			Err:     errors.Join(api.ErrTimeout, err),
			Message: fmt.Sprintf("function %q is being removed, but is not gone yet", name),
			Hint:    "edgefn functions tells when it is",
		}
	case s.err != nil:
		return fmt.Errorf("remove function %q: it serves no more, the rest of it goes at the next start of the node if not before: %w", name, s.err)
	}
	d.log.Info("function removed", logFunction, name)
	return nil
}

// removeTime is how long a removal is waited for beyond the time-out of running
// events: the store or a broker may be away.
const removeTime = time.Minute

// sendTime is how long what a removed function has committed may take to go out.
const sendTime = 2 * time.Second

// mark writes that a function is to go, whatever version of it is active, and
// returns the revision at which the store says so.
func (d *Deployer) mark(ctx context.Context, name string, keepState bool) (revision int64, err error) {
	for {
		want, err := d.read(ctx, name)
		switch {
		case err != nil:
			return 0, err
		case want.revision == 0:
			return 0, notFound(name)
		case want.Removing:
			return want.at, nil
		}
		r := want.functionRecord
		r.Removing, r.KeepState = true, keepState
		revision, err := d.writeRecord(ctx, name, &want, r)
		if err == nil {
			return revision, nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return 0, fmt.Errorf("remove function %q: %w", name, err)
		}
		if err := durable.Sleep(ctx, conflictBackoff.Wait(1)); err != nil {
			return 0, err
		}
	}
}

// conflictBackoff is for a record that another writer has changed.
var conflictBackoff = durable.Backoff{First: 5 * time.Millisecond, Max: 100 * time.Millisecond}

// teardown has nothing of a function be left here, and in the store if it is being
// removed. It reports whether that is so.
func (d *Deployer) teardown(ctx context.Context, s *reconciling) (gone bool) {
	if !s.down {
		s.tries, s.next = 0, nil // those were of starting it
		var fn *functions.Function
		if s.f != nil {
			fn = s.f.svc.Spec()
			d.takeDown(ctx, s.f)
			s.left, s.f = s.f, nil
		} else if v, ok := s.want.find(s.want.Version); ok {
			fn = &v.Function
		}
		if fn != nil {
			for _, t := range sessions(fn) {
				if err := d.ends.end(ctx, t.MQTT.Broker, d.cfg.ClientID(s.rc.name, t.Name)); err != nil {
					d.log.Warn("session at broker is ended later", logFunction, s.rc.name, logTrigger, t.Name, logErr, err)
				}
			}
		}
		s.down = true
	}
	if s.next != nil {
		return false
	}
	if s.want.Removing {
		if err := d.erase(ctx, s.rc.name, &s.want); err != nil {
			d.log.Warn("removed function is not erased yet", logFunction, s.rc.name, logErr, err)
			s.tries++
			s.next = time.After(durable.StoreBackoff.Wait(s.tries))
			if errors.Is(err, store.ErrConflict) {
				s.rc.nudge() // someone has deployed it anew
				return false
			}
			s.rc.set(func(t *state) { *t = state{at: s.want.at, err: err} })
			return false
		}
	}
	if s.left != nil || s.want.Removing {
		d.forget(ctx, s)
	}
	s.left, s.tries, s.down = nil, 0, false
	s.want = desired{at: s.want.at}
	s.rc.set(func(t *state) { *t = state{at: s.want.at, gone: true} })
	return true
}

// takeDown lets the running events of a function end and stops all of it.
func (d *Deployer) takeDown(ctx context.Context, f *Deployment) {
	d.mu.Lock()
	delete(d.functions, f.name)
	d.mu.Unlock()
	d.BindLocal()
	f.svc.Stop()
	f.mu.Lock()
	sources := f.sources
	f.sources = map[string]*boundSource{}
	f.mu.Unlock()
	for _, s := range sources {
		s.task.Cancel()
	}
	wctx, cancel := context.WithTimeout(ctx, f.svc.Spec().Timeout+drainTime)
	f.served.Wait(wctx)
	cancel()
	f.served.Stop()
	for _, s := range sources {
		s.task.Stop()
	}
	f.stop()
	d.cfg.Settler.Outbox.Drop(ctx, f.name, sendTime) // after its last event
	d.cfg.Devices.Drop(f.name)
}

// erase deletes everything that the store has of a function whose removal was
// begun. The function's record goes with the rest, so if this fails it is tried
// again, at the latest at the next start.
func (d *Deployer) erase(ctx context.Context, name string, want *desired) error {
	ops := append(d.cfg.Settler.Erase(name, want.KeepState),
		store.Op{Key: keyFunctions + name, Delete: true},
		store.Op{Key: keyVersions + name + "/", Delete: true, Prefix: true},
		store.Op{Key: keyMemory + name + "/", Delete: true, Prefix: true},
	)
	ctx, cancel := context.WithTimeout(ctx, durable.StoreTime)
	defer cancel()
	_, err := d.cfg.Store.Commit(ctx, []store.Guard{{Key: keyFunctions + name, Version: want.revision}}, ops)
	if err == nil || answered(err) {
		return err
	}
	if e, _, rerr := d.cfg.Store.Get(ctx, keyFunctions+name, store.Read{}); rerr == nil && e.Version == 0 {
		return nil // only the answer was lost
	}
	return err
}

// forget drops what this node keeps of a function that is erased.
func (d *Deployer) forget(ctx context.Context, s *reconciling) {
	images := map[string]bool{}
	for _, v := range s.want.versions {
		images[v.Version] = true
	}
	if s.left != nil {
		for _, digest := range s.left.images() {
			images[digest] = true
		}
	}
	for digest := range images {
		d.removeImage(ctx, digest)
	}
	d.cfg.Settler.Forget(s.rc.name)
	if err := d.cfg.Logs.Remove(s.rc.name); err != nil {
		d.log.Warn("log of removed function stays", logFunction, s.rc.name, logErr, err)
	}
}

package deploy

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// Run follows the store, and ends sessions at brokers that were away, until ctx
// is done.
func (d *Deployer) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { d.ends.run(ctx) })
	for _, prefix := range []string{keyFunctions, keyVersions} {
		wg.Go(func() { d.follow(ctx, prefix, d.loaded) })
	}
	wg.Wait()
}

// follow wakes the reconciler of each function that changes after a revision, until
// ctx is done. Where the watch breaks, all are woken.
func (d *Deployer) follow(ctx context.Context, prefix string, revision int64) {
	for tries := 1; ; tries++ {
		err := d.cfg.Store.Watch(ctx, prefix, revision+1, func(es []store.Event) error {
			tries = 0
			for _, e := range es {
				name, _, _ := strings.Cut(strings.TrimPrefix(e.Key, prefix), "/")
				d.wake(name)
			}
			return nil
		})
		for {
			if ctx.Err() != nil {
				return
			}
			if !errors.Is(err, store.ErrCompacted) {
				d.log.Warn("the store is not followed, trying again", "prefix", prefix, logErr, err)
				if durable.Sleep(ctx, durable.StoreBackoff.Wait(max(tries, 1))) != nil {
					return
				}
			}
			if revision, err = d.wakeAll(ctx); err == nil {
				break
			}
			tries++
		}
	}
}

// wakeAll wakes the reconcilers of all functions that are in the store or here, and
// returns the revision at which it looked.
func (d *Deployer) wakeAll(ctx context.Context) (revision int64, err error) {
	cctx, cancel := context.WithTimeout(ctx, durable.StoreTime)
	defer cancel()
	_, revision, err = d.cfg.Store.Get(cctx, keyFunctions, store.Read{})
	if err != nil {
		return 0, err
	}
	// Later changes are seen as well: the watch goes on from revision.
	if err := durable.EachKey(ctx, d.cfg.Store, keyFunctions, func(key string) { d.wake(strings.TrimPrefix(key, keyFunctions)) }); err != nil {
		return 0, err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, rc := range d.reconcilers {
		rc.nudge()
	}
	return revision, nil
}

// wake has the reconciler of a function look at the store again.
func (d *Deployer) wake(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reconciler(name).nudge()
}

// reconciler returns the reconciler of a function, and starts it if there is none. The
// caller holds d.mu.
func (d *Deployer) reconciler(name string) *reconciler {
	rc := d.reconcilers[name]
	if rc == nil {
		rc = newReconciler(name)
		d.reconcilers[name] = rc
	}
	if rc.task == nil && d.running {
		rc.task = d.cfg.Spawn(func(ctx context.Context) { d.run(ctx, rc) })
	}
	return rc
}

// use returns the reconciler of a function, which stays until it is let go of. One
// at a time uses it: deploys, rollbacks and the removal of one function come one
// after the other.
func (d *Deployer) use(ctx context.Context, name string) (rc *reconciler, leave func(), err error) {
	rc, left := d.look(name)
	select {
	case rc.serial <- struct{}{}:
		return rc, func() { <-rc.serial; left() }, nil
	case <-ctx.Done():
		left()
		return nil, nil, context.Cause(ctx)
	}
}

// look returns the reconciler of a function, which stays until it is let go of.
func (d *Deployer) look(name string) (rc *reconciler, leave func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	rc = d.reconciler(name)
	rc.users++
	return rc, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		rc.users--
		rc.nudge() // it may be over
	}
}

// over takes a reconciler away that has nothing to keep, and reports whether it did.
func (d *Deployer) over(rc *reconciler) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if rc.users > 0 || len(rc.wake) > 0 {
		return false
	}
	delete(d.reconcilers, rc.name)
	return true
}

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

// follow wakes the keeper of each function that changes after a revision, until
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

// wakeAll wakes the keepers of all functions that are in the store or here, and
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
	for _, k := range d.keepers {
		k.nudge()
	}
	return revision, nil
}

// wake has the keeper of a function look at the store again.
func (d *Deployer) wake(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.keeper(name).nudge()
}

// keeper returns the keeper of a function, and starts it if there is none. The
// caller holds d.mu.
func (d *Deployer) keeper(name string) *keeper {
	k := d.keepers[name]
	if k == nil {
		k = newKeeper(name)
		d.keepers[name] = k
	}
	if k.task == nil && d.running {
		k.task = d.cfg.Spawn(func(ctx context.Context) { d.keep(ctx, k) })
	}
	return k
}

// use returns the keeper of a function, which stays until it is let go of. One
// at a time uses it: deploys, rollbacks and the removal of one function come one
// after the other.
func (d *Deployer) use(ctx context.Context, name string) (k *keeper, leave func(), err error) {
	k, left := d.look(name)
	select {
	case k.serial <- struct{}{}:
		return k, func() { <-k.serial; left() }, nil
	case <-ctx.Done():
		left()
		return nil, nil, context.Cause(ctx)
	}
}

// look returns the keeper of a function, which stays until it is let go of.
func (d *Deployer) look(name string) (k *keeper, leave func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	k = d.keeper(name)
	k.users++
	return k, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		k.users--
		k.nudge() // it may be over
	}
}

// over takes a keeper away that has nothing to keep, and reports whether it did.
func (d *Deployer) over(k *keeper) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if k.users > 0 || len(k.wake) > 0 {
		return false
	}
	delete(d.keepers, k.name)
	return true
}

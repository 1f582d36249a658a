package deploy

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// Remove is api.Backend's. With the function go its state, dead letters,
// the ids it remembers, its usage, its versions with their images, its log, and
// the sessions of its triggers at brokers. Messages that it has committed are
// still sent; its lines go to their safe values.
func (d *Deployer) Remove(ctx context.Context, name string) error {
	unlock, err := d.locks.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	f, err := d.Find(name)
	if err != nil {
		return err
	}
	fn := f.svc.Spec()
	// First it is written that the function goes, so that a crash leaves
	// nothing half removed.
	f.mu.Lock()
	r := f.record
	f.mu.Unlock()
	r.Removing = true
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("remove function %q: %w", name, err)
	}
	ops := []store.Op{{Key: keyFunctions + name, Value: text}}
	for _, t := range sessions(fn) {
		ops = append(ops, store.Op{Key: endingKey(t.MQTT.Broker, d.cfg.ClientID(name, t.Name))})
	}
	if err := d.commitOnce(ctx, ops); err != nil {
		return fmt.Errorf("remove function %q: %w", name, err)
	}
	ctx = context.WithoutCancel(ctx) // from here on it goes
	d.mu.Lock()
	delete(d.functions, name)
	d.mu.Unlock()
	d.BindLocal()
	d.takeDown(ctx, f)
	for _, t := range sessions(fn) {
		id := d.cfg.ClientID(name, t.Name)
		d.ends.again(ctx, endingKey(t.MQTT.Broker, id), t.MQTT.Broker, id)
	}
	d.cfg.Settler.Outbox.Forsake(name) // after its last event
	d.cfg.Devices.Drop(name)
	if err := d.erase(ctx, name); err != nil {
		return err
	}
	d.log.Info("function removed", logFunction, name)
	return nil
}

// takeDown lets the running events of a function end and stops all of it.
func (d *Deployer) takeDown(ctx context.Context, f *Deployment) {
	f.halt()
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
	if v := f.activate(nil); v != nil {
		v.stop()
	}
}

// erase deletes everything that is kept of a function whose removal was begun.
func (d *Deployer) erase(ctx context.Context, name string) error {
	var images []string
	prefix := keyVersions + name + "/"
	if err := durable.EachKey(ctx, d.cfg.Store, prefix, func(key string) { images = append(images, key[len(prefix):]) }); err != nil {
		return fmt.Errorf("remove function %q: %w", name, err)
	}
	for _, digest := range images {
		d.removeImage(ctx, digest)
	}
	// The record of the function goes with the rest, so if this fails it is
	// tried again at the next start.
	ops := append(d.cfg.Settler.Erase(name),
		store.Op{Key: keyFunctions + name, Delete: true},
		store.Op{Key: keyVersions + name + "/", Delete: true, Prefix: true},
	)
	if err := d.commitOnce(ctx, ops); err != nil {
		return fmt.Errorf("remove function %q: it serves no more, the rest of it goes at the next start of the node: %w", name, err)
	}
	d.cfg.Settler.Forget(name)
	if err := d.cfg.Logs.Remove(name); err != nil {
		d.log.Warn("log of removed function stays", logFunction, name, logErr, err)
	}
	return nil
}

func (d *Deployer) commitOnce(ctx context.Context, ops []store.Op) error {
	ctx, cancel := context.WithTimeout(ctx, durable.StoreTime)
	defer cancel()
	_, err := d.cfg.Store.Commit(ctx, nil, ops)
	return err
}

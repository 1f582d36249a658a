package node

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// Remove implements api.Backend. With the function go its state, dead letters,
// the ids it remembers, its usage, its versions with their images, its log, and
// the sessions of its triggers at brokers. What it has sent and cannot go out at
// once is not sent any more; its lines go to their safe values.
func (n *Node) Remove(ctx context.Context, name string) error {
	done, err := n.enter()
	if err != nil {
		return err
	}
	defer done()
	unlock, err := n.locks.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	d, err := n.find(name)
	if err != nil {
		return err
	}
	fn := d.svc.Spec()
	// First it is written that the function goes, so that a crash leaves
	// nothing half removed.
	d.mu.Lock()
	r := d.record
	d.mu.Unlock()
	r.Removing = true
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("remove function %q: %w", name, err)
	}
	ops := []store.Op{{Key: keyFunctions + name, Value: text}}
	for _, t := range sessions(fn) {
		ops = append(ops, store.Op{Key: endingKey(t.MQTT.Broker, n.parts.ClientID(n.cfg.Name, name, t.Name))})
	}
	if err := n.commitOnce(ctx, ops); err != nil {
		return storeError(fmt.Errorf("remove function %q: %w", name, err))
	}
	ctx = context.WithoutCancel(ctx) // from here on it goes
	n.mu.Lock()
	delete(n.functions, name)
	n.mu.Unlock()
	n.bindLocal()
	n.takeDown(ctx, d)
	for _, t := range sessions(fn) {
		id := n.parts.ClientID(n.cfg.Name, name, t.Name)
		n.endings.again(ctx, endingKey(t.MQTT.Broker, id), t.MQTT.Broker, id)
	}
	n.settler.Outbox.Drop(ctx, name, flushTime) // after its last event
	n.devices.Drop(name)
	if err := n.erase(ctx, name); err != nil {
		return storeError(err)
	}
	n.log.Info("function removed", logFunction, name)
	return nil
}

// takeDown lets the running events of a function end and stops all of it.
func (n *Node) takeDown(ctx context.Context, d *deployment) {
	d.halt()
	d.svc.Stop()
	d.mu.Lock()
	sources := d.sources
	d.sources = map[string]*boundSource{}
	d.mu.Unlock()
	for _, s := range sources {
		s.task.cancel()
	}
	wctx, cancel := context.WithTimeout(ctx, d.svc.Spec().Timeout+drainTime)
	d.served.wait(wctx)
	cancel()
	d.served.stop()
	for _, s := range sources {
		s.task.stop()
	}
	if v := d.activate(nil); v != nil {
		v.stop()
	}
}

// erase deletes everything that is kept of a function whose removal was begun.
func (n *Node) erase(ctx context.Context, name string) error {
	var images []string
	prefix := keyVersions + name + "/"
	if err := durable.EachKey(ctx, n.st, prefix, func(key string) { images = append(images, key[len(prefix):]) }); err != nil {
		return fmt.Errorf("remove function %q: %w", name, err)
	}
	for _, digest := range images {
		n.removeImage(ctx, digest)
	}
	// The record of the function goes with the rest, so if this fails it is
	// tried again at the next start.
	ops := append(n.settler.Erase(name),
		store.Op{Key: keyFunctions + name, Delete: true},
		store.Op{Key: keyVersions + name + "/", Delete: true, Prefix: true},
	)
	if err := n.commitOnce(ctx, ops); err != nil {
		return fmt.Errorf("remove function %q: it serves no more, the rest of it goes at the next start of the node: %w", name, err)
	}
	n.settler.Forget(name)
	if err := n.logs.Remove(name); err != nil {
		n.log.Warn("log of removed function stays", logFunction, name, logErr, err)
	}
	return nil
}

func (n *Node) commitOnce(ctx context.Context, ops []store.Op) error {
	ctx, cancel := context.WithTimeout(ctx, durable.StoreTime)
	defer cancel()
	_, err := n.st.Commit(ctx, nil, ops)
	return err
}

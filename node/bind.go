package node

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/settle"
	"github.com/edgefn/edgefn/node/settle/durable"
	"github.com/edgefn/edgefn/triggers"
)

// boundSource is the source of a trigger that has one of its own: a broker
// outside, a line, a sensor.
type boundSource struct {
	trigger functions.Trigger
	src     Source
	task    *task
}

// sameSource reports whether a source can serve a trigger as it is. Who settles
// in which order is the node's business, not the source's.
func sameSource(a, b functions.Trigger) bool {
	return a.ID == b.ID && reflect.DeepEqual(a.MQTT, b.MQTT) && reflect.DeepEqual(a.GPIO, b.GPIO) && reflect.DeepEqual(a.Sensor, b.Sensor)
}

// sameSession reports whether a source of b goes on with a's session.
func sameSession(a, b functions.Trigger) bool {
	return b.MQTT != nil && a.MQTT.Topic == b.MQTT.Topic && a.MQTT.Broker == b.MQTT.Broker
}

// isLocal reports whether the broker inside the node serves a trigger.
func isLocal(t *functions.Trigger) bool {
	return t.MQTT != nil && settle.BrokerName(t.MQTT.Broker) == functions.LocalBroker
}

// sourced returns the triggers of a function that need a source.
func sourced(fn *functions.Function) map[string]functions.Trigger {
	out := map[string]functions.Trigger{}
	for _, t := range fn.Triggers {
		if !isLocal(&t) {
			out[t.Name] = t
		}
	}
	return out
}

// sessions returns the triggers of a function that have a session at a broker
// outside.
func sessions(fn *functions.Function) map[string]functions.Trigger {
	out := sourced(fn)
	maps.DeleteFunc(out, func(_ string, t functions.Trigger) bool { return t.MQTT == nil })
	return out
}

// bind gives a function the sources of its triggers. What did not change goes
// on as it is; the session of a trigger that is gone, or that subscribes to
// something else, is ended at its broker. It returns what the user should know.
func (n *Node) bind(ctx context.Context, d *deployment, fn *functions.Function) (warnings []string) {
	want := sourced(fn)
	d.mu.Lock()
	defer d.mu.Unlock()
	var stopping sync.WaitGroup
	for _, name := range slices.Sorted(maps.Keys(d.sources)) {
		s := d.sources[name]
		t, stays := want[name]
		if stays && sameSource(s.trigger, t) {
			delete(want, name)
			continue
		}
		delete(d.sources, name)
		stopping.Go(s.task.stop)
		if s.trigger.MQTT != nil && (!stays || !sameSession(s.trigger, t)) {
			// One that is to be used again under the same id has to be ended
			// before; see below.
			stopping.Wait()
			if err := n.endings.end(ctx, s.trigger.MQTT.Broker, n.parts.ClientID(n.cfg.Name, d.name, name)); err != nil {
				warnings = append(warnings, fmt.Sprintf("trigger %q: the session at broker %q cannot be ended now, it is tried again: %v", name, s.trigger.MQTT.Broker, err))
			}
		}
	}
	stopping.Wait()
	n.bindLocal()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if err := n.startSource(ctx, d, want[name]); err != nil {
			warnings = append(warnings, fmt.Sprintf("trigger %q: %v", name, err))
		}
	}
	return warnings
}

// startSource runs the source of a trigger. The caller holds d.mu.
func (n *Node) startSource(ctx context.Context, d *deployment, t functions.Trigger) error {
	b := triggers.Binding{Function: d.name, Trigger: t}
	if t.MQTT != nil {
		n.endings.keep(ctx, t.MQTT.Broker, n.parts.ClientID(n.cfg.Name, d.name, t.Name))
	}
	src, err := n.parts.Source(&n.cfg, b, n, n.devices)
	if err != nil {
		n.log.Error("trigger has no source", logFunction, d.name, logTrigger, t.Name, logErr, err)
		return err
	}
	d.sources[t.Name] = &boundSource{trigger: t, src: src, task: n.spawn(func(ctx context.Context) {
		if err := src.Run(ctx); err != nil && ctx.Err() == nil {
			n.log.Error("source ended", logFunction, d.name, logTrigger, t.Name, logErr, err)
		}
	})}
	return nil
}

// bindLocal tells the broker inside the node which topics trigger what.
func (n *Node) bindLocal() {
	if n.local == nil {
		return
	}
	n.binding.Lock()
	defer n.binding.Unlock()
	var set []triggers.Binding
	for _, d := range n.deployments() {
		for _, t := range d.svc.Spec().Triggers {
			if isLocal(&t) {
				set = append(set, triggers.Binding{Function: d.name, Trigger: t})
			}
		}
	}
	n.local.Bind(set)
}

// sources tells the state of each trigger's source.
func (n *Node) sources(d *deployment) []api.SourceInfo {
	fn := d.svc.Spec()
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]api.SourceInfo, 0, len(fn.Triggers))
	for _, t := range fn.Triggers {
		i := api.SourceInfo{Trigger: t.Name, State: "refused", Error: "its source is not there"}
		switch s := d.sources[t.Name]; {
		case s != nil:
			i = s.src.Status()
			i.Trigger = t.Name
		case isLocal(&t) && n.local != nil:
			i = api.SourceInfo{Trigger: t.Name, State: "connected"}
		}
		out = append(out, i)
	}
	return out
}

// endEvery is how often sessions are tried to be ended whose broker was away.
const endEvery = time.Minute

// endTime bounds one try.
const endTime = 5 * time.Second

// endings ends the sessions of triggers that are gone. One whose broker is away
// is written down and tried again, also after a restart.
type endings struct {
	n *Node

	mu sync.Mutex // held while a session is ended, so that it is not used anew meanwhile
}

func endingKey(broker, clientID string) string { return keyEnding + broker + "/" + clientID }

// end ends a session, now or later; the error is why not now.
func (e *endings) end(ctx context.Context, broker, clientID string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	err := e.try(ctx, broker, clientID)
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, durable.StoreTime)
	defer cancel()
	if _, serr := e.n.st.Commit(ctx, nil, []store.Op{{Key: endingKey(broker, clientID)}}); serr != nil {
		e.n.log.Warn("session at broker stays", logBroker, broker, "client", clientID, logErr, serr)
	}
	return err
}

func (e *endings) try(ctx context.Context, broker, clientID string) error {
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	return e.n.parts.EndSession(ctx, &e.n.cfg, broker, clientID)
}

// keep says that a session is in use again.
func (e *endings) keep(ctx context.Context, broker, clientID string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, durable.StoreTime)
	defer cancel()
	key := endingKey(broker, clientID)
	if entry, _, err := e.n.st.Get(ctx, key, store.Read{}); err == nil && entry.Version == 0 {
		return
	}
	if _, err := e.n.st.Commit(ctx, nil, []store.Op{{Key: key, Delete: true}}); err != nil {
		e.n.log.Warn("session at broker may be ended once more", logBroker, broker, "client", clientID, logErr, err)
	}
}

// run tries again until ctx is done.
func (e *endings) run(ctx context.Context) {
	t := time.NewTicker(endEvery)
	defer t.Stop()
	for {
		err := durable.EachKey(ctx, e.n.st, keyEnding, func(key string) {
			broker, id, _ := strings.Cut(strings.TrimPrefix(key, keyEnding), "/")
			e.again(ctx, key, broker, id)
		})
		if err != nil && ctx.Err() == nil {
			e.n.log.Warn("sessions to be ended cannot be read", logErr, err)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

func (e *endings) again(ctx context.Context, key, broker, clientID string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, durable.StoreTime+endTime)
	defer cancel()
	// It may be in use again since the list was made.
	if entry, _, err := e.n.st.Get(ctx, key, store.Read{}); err != nil || entry.Version == 0 {
		return
	}
	if err := e.try(ctx, broker, clientID); err != nil {
		e.n.log.Debug("session at broker is not ended yet", logBroker, broker, "client", clientID, logErr, err)
		return
	}
	if _, err := e.n.st.Commit(ctx, nil, []store.Op{{Key: key, Delete: true}}); err != nil {
		e.n.log.Debug("session was ended and will be once more", logBroker, broker, logErr, err)
	}
}

package deploy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/settle"
	"github.com/edgefn/edgefn/node/tasks"
	"github.com/edgefn/edgefn/triggers"
)

// boundSource is the source of a trigger that has one of its own: a broker
// outside, a line, a sensor.
type boundSource struct {
	trigger functions.Trigger
	src     Source
	task    *tasks.Task
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
func (d *Deployer) bind(ctx context.Context, f *Deployment, fn *functions.Function) (warnings []string) {
	want := sourced(fn)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bound = true
	var stopping sync.WaitGroup
	for _, name := range slices.Sorted(maps.Keys(f.sources)) {
		s := f.sources[name]
		t, stays := want[name]
		if stays && sameSource(s.trigger, t) {
			delete(want, name)
			continue
		}
		delete(f.sources, name)
		stopping.Go(s.task.Stop)
		if s.trigger.MQTT != nil && (!stays || !sameSession(s.trigger, t)) {
			// One that is to be used again under the same id has to be ended
			// before; see below.
			stopping.Wait()
			if err := d.ends.end(ctx, s.trigger.MQTT.Broker, d.cfg.ClientID(f.name, name)); err != nil {
				warnings = append(warnings, fmt.Sprintf("trigger %q: the session at broker %q cannot be ended now, it is tried again: %v", name, s.trigger.MQTT.Broker, err))
			}
		}
		if !stays && s.trigger.MQTT != nil {
			stopping.Wait() // it saves what it remembers as it ends
			if err := d.forgetMemory(ctx, f.name, name); err != nil {
				d.log.Warn("what a removed trigger remembers stays in the store", logFunction, f.name, logTrigger, name, logErr, err)
			}
		}
	}
	stopping.Wait()
	d.BindLocal()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if err := d.startSource(ctx, f, want[name]); err != nil {
			warnings = append(warnings, fmt.Sprintf("trigger %q: %v", name, err))
		}
	}
	return warnings
}

// bindFirst gives a function its sources though no version of it serves yet: its
// events wait.
func (d *Deployer) bindFirst(ctx context.Context, f *Deployment) {
	f.mu.Lock()
	bound := f.bound
	f.mu.Unlock()
	if !bound {
		d.bind(ctx, f, f.svc.Spec())
	}
}

// startSource runs the source of a trigger. The caller holds f.mu.
func (d *Deployer) startSource(ctx context.Context, f *Deployment, t functions.Trigger) error {
	if d.isDraining() {
		return errors.New("the node stops")
	}
	b := triggers.Binding{Function: f.name, Trigger: t}
	if t.MQTT != nil {
		d.ends.keep(ctx, t.MQTT.Broker, d.cfg.ClientID(f.name, t.Name))
	}
	src, err := d.cfg.NewSource(b, &Memory{d.cfg.Store, memoryKey(f.name, t.Name)})
	if err != nil {
		d.log.Error("trigger has no source", logFunction, f.name, logTrigger, t.Name, logErr, err)
		return err
	}
	f.sources[t.Name] = &boundSource{trigger: t, src: src, task: d.cfg.Spawn(func(ctx context.Context) {
		if err := src.Run(ctx); err != nil && ctx.Err() == nil {
			d.log.Error("source ended", logFunction, f.name, logTrigger, t.Name, logErr, err)
		}
	})}
	return nil
}

// BindLocal tells the broker inside the node which topics trigger what.
func (d *Deployer) BindLocal() {
	if d.cfg.Local == nil {
		return
	}
	d.binding.Lock()
	defer d.binding.Unlock()
	var set []triggers.Binding
	for _, f := range d.Deployments() {
		for _, t := range f.svc.Spec().Triggers {
			if isLocal(&t) {
				set = append(set, triggers.Binding{Function: f.name, Trigger: t})
			}
		}
	}
	d.cfg.Local.Bind(set)
}

// Sources tells the state of the source of each of a function's triggers.
func (d *Deployer) Sources(f *Deployment) []api.SourceInfo {
	fn := f.svc.Spec()
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]api.SourceInfo, 0, len(fn.Triggers))
	for _, t := range fn.Triggers {
		i := api.SourceInfo{Trigger: t.Name, State: "refused", Error: "its source is not there"}
		switch s := f.sources[t.Name]; {
		case s != nil:
			i = s.src.Status()
			i.Trigger = t.Name
		case isLocal(&t) && d.cfg.Local != nil:
			i = api.SourceInfo{Trigger: t.Name, State: "connected"}
		}
		i.Paused = f.want.has(t.Name)
		out = append(out, i)
	}
	return out
}

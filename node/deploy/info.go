package deploy

import (
	"fmt"
	"slices"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/settle"
)

// Info is the function's row of edgefn functions, but for its dead letters.
func (f *Deployment) Info() api.FunctionInfo {
	fn := f.svc.Spec()
	f.mu.Lock()
	v := f.active
	i := api.FunctionInfo{
		Name: f.name, Version: f.want.Version, Runtime: fn.Runtime, Triggers: []string{},
		Deployed: f.want.Deployed, Error: f.failing, Queued: f.svc.Queued(), PausedTriggers: f.want.PausedTriggers,
	}
	paused := f.want.Paused || (len(fn.Triggers) > 0 && !slices.ContainsFunc(fn.Triggers, func(t functions.Trigger) bool { return !f.want.has(t.Name) }))
	f.mu.Unlock()
	for _, t := range fn.Triggers {
		switch {
		case t.MQTT != nil:
			i.Triggers = append(i.Triggers, fmt.Sprintf("mqtt %s %s", settle.BrokerName(t.MQTT.Broker), t.MQTT.Topic))
		case t.GPIO != nil:
			i.Triggers = append(i.Triggers, fmt.Sprintf("gpio %s %s", t.GPIO.Line, t.GPIO.Edge))
		case t.Sensor != nil:
			i.Triggers = append(i.Triggers, fmt.Sprintf("sensor %s %v", t.Sensor.Device, t.Sensor.Every))
		}
	}
	var s pool.Stats
	if v != nil {
		s = v.pool.Stats()
		i.Instances = s.Instances
	}
	if i.Error == "" {
		i.Error = f.svc.Blocked()
	}
	if i.Error == "" {
		i.Error = s.LastError
	}
	switch {
	case i.Error != "":
		i.State = "failing"
	case paused:
		i.State = "paused"
	case v == nil:
		i.State = "starting"
	case s.Up:
		i.State = "serving"
	default:
		i.State = "idle"
	}
	return i
}

// Versions are those that are kept, newest first.
func (f *Deployment) Versions() []api.VersionInfo {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []api.VersionInfo
	for _, v := range f.want.versions {
		out = append(out, api.VersionInfo{Version: v.Version, Deployed: v.Deployed, Active: v.Version == f.want.Version})
	}
	return out
}

// NotServing says why no version takes events.
func (f *Deployment) NotServing() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failing != "" {
		return &api.Error{Err: api.ErrRefused, Message: fmt.Sprintf("function %q does not start: %s", f.name, f.failing)}
	}
	return &api.Error{Err: api.ErrOverloaded, Message: fmt.Sprintf("function %q is starting", f.name), Hint: "try again in a moment"}
}

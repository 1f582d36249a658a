package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/functions/wire"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/settle"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// Functions implements api.Backend.
func (n *Node) Functions(context.Context) ([]api.FunctionInfo, error) {
	var out []api.FunctionInfo
	for _, d := range n.deployments() {
		out = append(out, n.info(d))
	}
	return out, nil
}

func (n *Node) info(d *deployment) api.FunctionInfo {
	fn := d.svc.Spec()
	d.mu.Lock()
	v := d.active
	i := api.FunctionInfo{
		Name: d.name, Version: d.record.Version, Runtime: fn.Runtime, Triggers: []string{},
		Deployed: d.record.Deployed, Error: d.failing, Queued: d.svc.Queued(), Dead: n.settler.Dead.Count(d.name),
	}
	starting := d.starting != nil
	d.mu.Unlock()
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
		i.Error = d.svc.Blocked()
	}
	if i.Error == "" {
		i.Error = s.LastError
	}
	switch {
	case i.Error != "":
		i.State = "failing"
	case starting || v == nil:
		i.State = "starting"
	case s.Up:
		i.State = "serving"
	default:
		i.State = "idle"
	}
	return i
}

// Describe implements api.Backend.
func (n *Node) Describe(_ context.Context, name string) (api.FunctionDetail, error) {
	d, err := n.find(name)
	if err != nil {
		return api.FunctionDetail{}, err
	}
	out := api.FunctionDetail{FunctionInfo: n.info(d), Function: *d.svc.Spec(), Usage: api.Usage(n.settler.Usage.Of(name)), Sources: n.sources(d)}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, v := range d.versions {
		out.Versions = append(out.Versions, api.VersionInfo{Version: v.Version, Deployed: v.Deployed, Active: v.Version == d.record.Version})
	}
	return out, nil
}

// Invoke implements api.Backend. The event is not queued: it runs now, once, or
// the answer is that the function is overloaded.
func (n *Node) Invoke(ctx context.Context, name string, r api.InvokeRequest) (api.Invoked, error) {
	done, err := n.enter()
	if err != nil {
		return api.Invoked{}, err
	}
	defer done()
	d, err := n.find(name)
	if err != nil {
		return api.Invoked{}, err
	}
	if size := len(r.ID) + len(r.Type) + len(r.Subject) + len(r.DataContentType); size > wire.Overhead/2 {
		return api.Invoked{}, fmt.Errorf("%w: id, type, subject and content type take %d bytes, at most %d are possible", api.ErrInvalid, size, wire.Overhead/2)
	}
	e := functions.Event{
		ID: r.ID, Type: r.Type, Source: "edgefn://cli", Subject: r.Subject, Time: time.Now().UTC(),
		DataContentType: r.DataContentType, Data: r.Data,
	}
	if e.ID == "" {
		e.ID = ulid.Make().String()
	}
	if e.Type == "" {
		e.Type = functions.TypeInvoke
	}
	out := api.Invoked{ID: e.ID, Invocation: ulid.Make().String()}
	if len(e.Data) > n.cfg.MaxPayload() {
		out.Failure = functions.Failf(functions.FailPayload, "the event has %d bytes of data, this node takes %d", len(e.Data), n.cfg.MaxPayload())
		return out, nil
	}
	v := d.svc.Current()
	if v == nil {
		return out, n.notServing(d)
	}
	if r.Wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.Wait)
		defer cancel()
	}
	stop := n.logs.Of(name).Collect(out.Invocation)
	res, err := v.Run(ctx, n.settler, settle.Request{
		Attempt: 1, Event: e, OwnID: r.ID != "", NoWait: true, Invocation: out.Invocation,
	})
	d.svc.Tally(err)
	out.Logs = stop()
	out.Repeat = res.Repeat
	out.Data, out.DataContentType = res.Outcome.Result.Data, res.Outcome.Result.DataContentType
	u := res.Outcome.Usage
	out.WallMS, out.CPUMS = u.Wall.Seconds()*1e3, u.CPU.Seconds()*1e3
	out.PeakMemory, out.Cold = u.PeakMemory, u.Cold
	var f *functions.Failure
	switch {
	case errors.As(err, &f):
		out.Failure = f
		return out, nil
	case errors.Is(err, pool.ErrOverloaded):
		return out, &api.Error{Err: api.ErrOverloaded, Message: fmt.Sprintf("function %q has no room for an event now", name), Hint: "try again, or raise scale.max or scale.queue"}
	case errors.Is(err, pool.ErrClosed):
		return out, &api.Error{Err: api.ErrOverloaded, Message: fmt.Sprintf("function %q is being replaced", name), Hint: "try again"}
	case errors.Is(err, context.DeadlineExceeded):
		return out, &api.Error{Err: errors.Join(api.ErrTimeout, err), Message: fmt.Sprintf("function %q did not answer within %v", name, r.Wait)}
	}
	return out, storeErrorOrNil(err)
}

func storeErrorOrNil(err error) error {
	if err == nil {
		return nil
	}
	return storeError(err)
}

// notServing says why no version takes events.
func (n *Node) notServing(d *deployment) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failing != "" {
		return &api.Error{Err: api.ErrRefused, Message: fmt.Sprintf("function %q does not start: %s", d.name, d.failing)}
	}
	return &api.Error{Err: api.ErrOverloaded, Message: fmt.Sprintf("function %q is starting", d.name), Hint: "try again in a moment"}
}

// Logs implements api.Backend.
func (n *Node) Logs(ctx context.Context, name string, o api.LogOptions, f func(api.LogLine) error) error {
	if _, err := n.find(name); err != nil {
		return err
	}
	return n.logs.Of(name).Read(ctx, o, f)
}

// stateKeyOf checks a key and returns where it is in the store.
func (n *Node) stateKeyOf(name, key string) (string, error) {
	if _, err := n.find(name); err != nil {
		return "", err
	}
	if key == "" {
		return "", fmt.Errorf("%w: state key is empty", api.ErrInvalid)
	}
	if err := settle.CheckKey(key); err != nil {
		return "", fmt.Errorf("%w: %w", api.ErrInvalid, err)
	}
	return settle.StateKey(name, key), nil
}

// StateGet implements api.Backend.
func (n *Node) StateGet(ctx context.Context, name, key string) ([]byte, error) {
	k, err := n.stateKeyOf(name, key)
	if err != nil {
		return nil, err
	}
	e, _, err := n.st.Get(ctx, k, store.Read{})
	if err != nil {
		return nil, storeError(err)
	}
	if e.Version == 0 {
		return nil, fmt.Errorf("function %q has no state key %q: %w", name, key, api.ErrNotFound)
	}
	return e.Value, nil
}

// StatePut implements api.Backend.
func (n *Node) StatePut(ctx context.Context, name, key string, value []byte) error {
	if _, err := n.stateKeyOf(name, key); err != nil {
		return err
	}
	if len(value) > functions.MaxValue {
		return fmt.Errorf("%w: the value has %d bytes, at most %d are possible", api.ErrInvalid, len(value), functions.MaxValue)
	}
	err := n.settler.PutState(ctx, name, key, value)
	var f *functions.Failure
	if errors.As(err, &f) {
		return fmt.Errorf("%w: %s", api.ErrFull, f.Message)
	}
	return storeErrorOrNil(err)
}

// StateDelete implements api.Backend.
func (n *Node) StateDelete(ctx context.Context, name, key string) error {
	if _, err := n.StateGet(ctx, name, key); err != nil {
		return err
	}
	return storeErrorOrNil(n.commitOnce(ctx, []store.Op{{Key: settle.StateKey(name, key), Delete: true}}))
}

// stateLimit bounds one answer of StateList.
const stateLimit = 1000

// StateList implements api.Backend.
func (n *Node) StateList(ctx context.Context, name, prefix, after string, limit int) ([]api.StateKey, error) {
	if _, err := n.find(name); err != nil {
		return nil, err
	}
	if limit <= 0 || limit > stateLimit {
		limit = stateLimit
	}
	space := settle.StateKey(name, "")
	r := store.Read{}
	if after != "" {
		r.After = space + after
	}
	// Values are read for their size alone, so in small pages.
	out := []api.StateKey{}
	for len(out) < limit {
		r.Limit = min(20, limit-len(out))
		es, revision, err := n.st.List(ctx, space+prefix, r)
		if err != nil {
			return nil, storeError(err)
		}
		for _, e := range es {
			out = append(out, api.StateKey{Key: e.Key[len(space):], Bytes: len(e.Value)})
		}
		if len(es) < r.Limit {
			break
		}
		r.Revision, r.After = revision, es[len(es)-1].Key
	}
	return out, nil
}

// Usage implements api.Backend.
func (n *Node) Usage(_ context.Context, name string) ([]api.Usage, error) {
	if name != "" {
		if _, err := n.find(name); err != nil {
			return nil, err
		}
		return []api.Usage{api.Usage(n.settler.Usage.Of(name))}, nil
	}
	out := []api.Usage{}
	for _, d := range n.deployments() {
		out = append(out, api.Usage(n.settler.Usage.Of(d.name)))
	}
	return out, nil
}

// Status implements api.Backend.
func (n *Node) Status(ctx context.Context) (api.Status, error) {
	n.mu.RLock()
	s := api.Status{
		Node: n.cfg.Name, Version: n.cfg.Version, Ready: n.ready, Started: n.started, Functions: len(n.functions),
		Restored: n.restored, Platform: n.boxes.Platform(), Runtimes: map[string]string{}, Brokers: map[string]api.ComponentStatus{},
	}
	n.mu.RUnlock()
	s.Containerd = n.boxes.Status(ctx)
	s.Store = n.storeStatus(ctx)
	s.Broker = api.ComponentStatus{State: "off"}
	if n.local != nil {
		s.Broker = n.local.Status()
	}
	for _, name := range n.brokerNames() {
		s.Brokers[name] = n.publishers[name].Status()
	}
	for r, v := range n.runtimes {
		s.Runtimes[string(r)] = v
	}
	s.Warnings = append(slices.Clone(n.boxes.Warnings()), n.restoreWarnings()...)
	var err error
	if s.Outbox, err = n.outboxQueues(ctx); err != nil {
		s.Warnings = append(s.Warnings, err.Error())
	}
	return s, nil
}

// outboxQueues is what waits to be sent. With an error it may not say since when.
func (n *Node) outboxQueues(ctx context.Context) ([]api.OutboxQueue, error) {
	ctx, cancel := context.WithTimeout(ctx, durable.StoreTime)
	defer cancel()
	depths, err := n.settler.Outbox.Depths(ctx)
	out := make([]api.OutboxQueue, 0, len(depths))
	for _, d := range depths {
		q := api.OutboxQueue{Function: d.Function, To: d.To, Waiting: d.Waiting, Bytes: d.Bytes, Oldest: d.Oldest}
		if !d.Oldest.IsZero() {
			q.AgeS = max(0, time.Since(d.Oldest).Seconds())
		}
		if d.Err != nil {
			q.Error = d.Err.Error()
		}
		out = append(out, q)
	}
	return out, err
}

// Health implements api.Backend: it reads what every event looks up.
func (n *Node) Health(context.Context) error {
	_ = n.deployments()
	return nil
}

func (n *Node) storeStatus(ctx context.Context) api.ComponentStatus {
	ctx, cancel := context.WithTimeout(ctx, durable.StoreTime)
	defer cancel()
	address := "embedded"
	if len(n.cfg.Store.Endpoints) > 0 {
		address = n.cfg.Store.Endpoints[0]
	}
	used, quota, err := n.st.Size(ctx)
	if err != nil {
		return api.ComponentStatus{State: "down", Address: address, Detail: err.Error()}
	}
	detail := functions.FormatSize(used) + " used"
	if quota > 0 {
		detail = fmt.Sprintf("%s of %s used", functions.FormatSize(used), functions.FormatSize(quota))
	}
	return api.ComponentStatus{State: "up", Address: address, Detail: detail}
}

package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/functions/wire"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/deploy"
	"github.com/edgefn/edgefn/node/settle"
	"github.com/edgefn/edgefn/node/settle/durable"
	"github.com/edgefn/edgefn/triggers"
)

// Missing implements api.Backend.
func (n *Node) Missing(ctx context.Context, version string, blobs []string) ([]string, error) {
	done, err := n.enter()
	if err != nil {
		return nil, err
	}
	defer done()
	return n.boxes.Missing(ctx, version, blobs)
}

// Deploy implements api.Backend.
func (n *Node) Deploy(ctx context.Context, image io.Reader, o api.DeployOptions, progress func(api.Progress)) (api.Deployed, error) {
	done, err := n.enter()
	if err != nil {
		return api.Deployed{}, err
	}
	defer done()
	out, err := n.deployer.Deploy(ctx, image, o, progress)
	return out, storeErrorOrNil(err)
}

// Rollback implements api.Backend.
func (n *Node) Rollback(ctx context.Context, name, to string, progress func(api.Progress)) (api.Deployed, error) {
	done, err := n.enter()
	if err != nil {
		return api.Deployed{}, err
	}
	defer done()
	out, err := n.deployer.Rollback(ctx, name, to, progress)
	return out, storeErrorOrNil(err)
}

// Kept implements api.Backend.
func (n *Node) Kept(ctx context.Context, name string) (api.Kept, error) {
	d, err := n.deployer.Find(name)
	if err != nil {
		return api.Kept{}, err
	}
	k, err := n.settler.Kept(ctx, name)
	if err != nil {
		return api.Kept{}, storeError(err)
	}
	out := api.Kept{
		Versions: len(d.Versions()), StateKeys: k.StateKeys, StateBytes: k.StateBytes,
		DeadLetters: k.DeadLetters, Retries: k.Retries, Outgoing: k.Outgoing,
	}
	fn := d.Service().Spec()
	out.Triggers = len(fn.Triggers)
	out.Invocations = n.settler.Usage.Of(name).Invocations
	out.LogBytes, err = n.logs.Size(name)
	return out, err
}

// Remove implements api.Backend.
func (n *Node) Remove(ctx context.Context, name string, o api.RemoveOptions) error {
	done, err := n.enter()
	if err != nil {
		return err
	}
	defer done()
	return storeErrorOrNil(n.deployer.Remove(ctx, name, o))
}

// Pause implements api.Backend.
func (n *Node) Pause(ctx context.Context, name, trigger string) (api.Paused, error) {
	return n.pause(ctx, name, trigger, n.deployer.Pause)
}

// Resume implements api.Backend.
func (n *Node) Resume(ctx context.Context, name, trigger string) (api.Paused, error) {
	return n.pause(ctx, name, trigger, n.deployer.Resume)
}

func (n *Node) pause(ctx context.Context, name, trigger string, set func(ctx context.Context, name, trigger string) (api.Paused, error)) (api.Paused, error) {
	done, err := n.enter()
	if err != nil {
		return api.Paused{}, err
	}
	defer done()
	out, err := set(ctx, name, trigger)
	return out, storeErrorOrNil(err)
}

// Functions implements api.Backend.
func (n *Node) Functions(context.Context) ([]api.FunctionInfo, error) {
	var out []api.FunctionInfo
	for _, d := range n.deployer.Deployments() {
		out = append(out, n.info(d))
	}
	return out, nil
}

func (n *Node) info(d *deploy.Deployment) api.FunctionInfo {
	i := d.Info()
	i.Dead = n.settler.Dead.Count(i.Name)
	return i
}

// Describe implements api.Backend.
func (n *Node) Describe(_ context.Context, name string) (api.FunctionDetail, error) {
	d, err := n.deployer.Find(name)
	if err != nil {
		return api.FunctionDetail{}, err
	}
	return api.FunctionDetail{
		FunctionInfo: n.info(d), Function: *d.Service().Spec(), Versions: d.Versions(),
		Usage: api.Usage(n.settler.Usage.Of(name)), Sources: n.deployer.Sources(d),
	}, nil
}

// Invoke implements api.Backend. The event is not queued: it runs now, once, or
// the answer is that the function is overloaded.
func (n *Node) Invoke(ctx context.Context, name string, r api.InvokeRequest) (api.Invoked, error) {
	done, err := n.enter()
	if err != nil {
		return api.Invoked{}, err
	}
	defer done()
	d, err := n.deployer.Find(name)
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
	if r.Wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.Wait)
		defer cancel()
	}
	stop := n.logs.Of(name).Collect(out.Invocation)
	res, err := d.Service().RunNow(ctx, settle.Request{
		Attempt: 1, Event: e, OwnID: r.ID != "", NoWait: true, Invocation: out.Invocation,
	})
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
	case errors.Is(err, settle.ErrNotServing):
		return out, d.NotServing()
	case errors.Is(err, triggers.ErrStopped), errors.Is(err, pool.ErrClosed) && !n.deployed(name):
		return out, &api.Error{Err: api.ErrNotFound, Message: fmt.Sprintf("function %q was removed before the event was handled", name), Hint: "edgefn functions lists those there are"}
	case errors.Is(err, pool.ErrClosed):
		return out, &api.Error{Err: api.ErrOverloaded, Message: fmt.Sprintf("function %q is being replaced", name), Hint: "try again"}
	case errors.Is(err, context.DeadlineExceeded):
		return out, &api.Error{Err: errors.Join(api.ErrTimeout, err), Message: fmt.Sprintf("function %q did not answer within %v", name, r.Wait)}
	}
	return out, storeErrorOrNil(err)
}

// deployed reports whether there is a function of a name.
func (n *Node) deployed(name string) bool {
	_, ok := n.deployer.Lookup(name)
	return ok
}

func storeErrorOrNil(err error) error {
	if err == nil {
		return nil
	}
	return storeError(err)
}

// storeError gives an error of the store its place in the API.
func storeError(err error) error {
	if errors.Is(err, store.ErrFull) {
		return &api.Error{Err: errors.Join(api.ErrFull, err), Message: err.Error(), Hint: "make room: delete state or dead letters, or free the disk"}
	}
	if errors.Is(err, store.ErrClosed) {
		return errors.Join(api.ErrStopping, err)
	}
	return err
}

// Logs implements api.Backend.
func (n *Node) Logs(ctx context.Context, name string, o api.LogOptions, f func(api.LogLine) error) error {
	if _, err := n.deployer.Find(name); err != nil {
		return err
	}
	return n.logs.Of(name).Read(ctx, o, f)
}

// stateKeyOf checks a key and returns where it is in the store.
func (n *Node) stateKeyOf(name, key string) (string, error) {
	if _, err := n.deployer.Find(name); err != nil {
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
	ctx, cancel := context.WithTimeout(ctx, durable.StoreTime)
	defer cancel()
	_, err := n.st.Commit(ctx, nil, []store.Op{{Key: settle.StateKey(name, key), Delete: true}})
	return storeErrorOrNil(err)
}

// stateLimit bounds one answer of StateList.
const stateLimit = 1000

// StateList implements api.Backend.
func (n *Node) StateList(ctx context.Context, name, prefix, after string, limit int) ([]api.StateKey, error) {
	if _, err := n.deployer.Find(name); err != nil {
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
		if _, err := n.deployer.Find(name); err != nil {
			return nil, err
		}
		return []api.Usage{api.Usage(n.settler.Usage.Of(name))}, nil
	}
	out := []api.Usage{}
	for _, d := range n.deployer.Deployments() {
		out = append(out, api.Usage(n.settler.Usage.Of(d.Name())))
	}
	return out, nil
}

package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/deploy"
	"github.com/edgefn/edgefn/node/settle"
	"github.com/edgefn/edgefn/node/settle/dead"
)

// DeadList implements api.Backend. The letters come without their data.
func (n *Node) DeadList(ctx context.Context, name string) ([]api.DeadLetter, error) {
	if _, err := n.deployer.Find(name); err != nil {
		return nil, err
	}
	out := []api.DeadLetter{}
	err := n.settler.Dead.Each(ctx, name, func(l dead.Letter) error {
		l.Event.Data = nil
		l.Failure.Detail = "" // show has it
		out = append(out, deadLetter(name, l))
		return nil
	})
	return out, storeErrorOrNil(err)
}

// DeadShow implements api.Backend.
func (n *Node) DeadShow(ctx context.Context, name, id string) (api.DeadLetter, error) {
	if _, err := n.deployer.Find(name); err != nil {
		return api.DeadLetter{}, err
	}
	it, ok := n.settler.Dead.Find(name, id)
	if !ok {
		return api.DeadLetter{}, noLetter(name, id)
	}
	l, err := n.settler.Dead.Get(ctx, name, it)
	if errors.Is(err, dead.ErrNotFound) {
		return api.DeadLetter{}, noLetter(name, id)
	}
	return deadLetter(name, l), storeErrorOrNil(err)
}

func noLetter(name, id string) error {
	return &api.Error{
		Err: api.ErrNotFound, Message: fmt.Sprintf("function %q has no dead letter %q", name, id),
		Hint: "edgefn dead list " + name + " lists those there are",
	}
}

// DeadDelete implements api.Backend.
func (n *Node) DeadDelete(ctx context.Context, name, id string) (api.DeadOutcome, error) {
	if _, err := n.deployer.Find(name); err != nil {
		return api.DeadOutcome{}, err
	}
	items, found := n.settler.Dead.Claim(name, id)
	defer n.settler.Dead.Unclaim(name, items)
	if !found {
		return api.DeadOutcome{}, noLetter(name, id)
	}
	var out api.DeadOutcome
	for len(items[out.Deleted:]) > 0 {
		batch := items[out.Deleted:min(out.Deleted+dead.MaxBatch, len(items))]
		if err := n.settler.Dead.Delete(ctx, name, batch); err != nil {
			return out, storeError(err)
		}
		out.Deleted += len(batch)
	}
	return out, nil
}

// DeadRetry implements api.Backend. A letter goes in the transaction that
// commits what its event did.
func (n *Node) DeadRetry(ctx context.Context, name, id string) (api.DeadOutcome, error) {
	var out api.DeadOutcome
	done, err := n.enter()
	if err != nil {
		return out, err
	}
	defer done()
	d, err := n.deployer.Find(name)
	if err != nil {
		return out, err
	}
	items, found := n.settler.Dead.Claim(name, id)
	defer n.settler.Dead.Unclaim(name, items)
	if !found {
		return out, noLetter(name, id)
	}
	for _, it := range items {
		l, err := n.settler.Dead.Get(ctx, name, it)
		if errors.Is(err, dead.ErrNotFound) {
			continue // it has aged out
		}
		if err != nil {
			return out, storeError(err)
		}
		if l.Cut {
			if id != "" {
				return out, &api.Error{
					Err:     api.ErrRefused,
					Message: fmt.Sprintf("dead letter %s cannot be run again: its event had %d bytes, over the node's limit, and only the first %d were kept", id, l.Bytes, dead.CutTo),
					Hint:    fmt.Sprintf("edgefn dead delete %s %s removes it", name, id),
				}
			}
			out.Failed++
			continue
		}
		if l.Out != nil {
			if err := n.settler.Outbox.Requeue(ctx, name, l); err != nil {
				return out, storeError(err)
			}
			out.Handled++
			if err := n.settler.Dead.Delete(ctx, name, []dead.Item{it}); err != nil {
				return out, storeError(err)
			}
			continue
		}
		if err := n.retryLetter(ctx, d, it, l, &out); err != nil {
			return out, err
		}
	}
	return out, nil
}

// retryLetter runs a letter's event once more. The error is one that the next
// letter would meet as well.
func (n *Node) retryLetter(ctx context.Context, d *deploy.Deployment, it dead.Item, l dead.Letter, out *api.DeadOutcome) error {
	_, err := d.Service().RunNow(ctx, settle.Request{
		Trigger: l.Trigger, Attempt: l.Attempts + 1, Event: l.Event, OwnID: l.OwnID,
		Extra: []store.Op{{Key: l.Key(), Delete: true}},
	})
	var f *functions.Failure
	switch {
	case errors.Is(err, settle.ErrNotServing):
		return d.NotServing()
	case err == nil:
		out.Handled++
		// The key is gone already; this brings the count in line.
		return n.settler.Dead.Delete(ctx, d.Name(), []dead.Item{it})
	case errors.As(err, &f) && f.Kind != functions.FailTransient:
		out.Failed++
		return storeErrorOrNil(n.settler.Dead.FailedAgain(ctx, l, f))
	case errors.Is(err, pool.ErrClosed), errors.As(err, &f):
		return &api.Error{Err: api.ErrOverloaded, Message: fmt.Sprintf("function %q cannot run events now: %v", d.Name(), err), Hint: "try again in a moment"}
	}
	return storeError(err)
}

// deadLetter gives a letter the words of the API.
func deadLetter(function string, l dead.Letter) api.DeadLetter {
	e := &l.Event
	out := api.DeadLetter{
		ID: l.ID, Function: function, Trigger: l.Trigger, Time: l.Time, Attempts: l.Attempts, Failure: l.Failure,
		Event: api.EventInfo{
			ID: e.ID, Type: e.Type, Source: e.Source, Subject: e.Subject, Time: e.Time,
			DataContentType: e.DataContentType, Expires: e.Expires, Extensions: e.Extensions, Data: e.Data,
		},
		Bytes: l.Bytes, Cut: l.Cut,
	}
	if o := l.Out; o != nil {
		out.Out = &api.DeadOut{Broker: o.Broker, QoS: o.QoS, Retain: o.Retain, Function: o.Function}
	}
	return out
}

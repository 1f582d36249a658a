package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// pause is what of a function is paused. It is part of the function's record: a
// new version, a restart and another node keep it.
type pause struct {
	Paused         bool     `json:"paused,omitempty"`          // every trigger, and events from other functions
	PausedTriggers []string `json:"paused_triggers,omitempty"` // else these, sorted
}

// has reports whether a trigger is paused.
func (p *pause) has(trigger string) bool {
	return p.Paused || slices.Contains(p.PausedTriggers, trigger)
}

// with returns the pause with one trigger more, or with all where it is empty.
func (p *pause) with(trigger string) pause {
	switch {
	case trigger == "":
		return pause{Paused: true}
	case p.has(trigger):
		return *p
	}
	list := append(slices.Clone(p.PausedTriggers), trigger)
	slices.Sort(list)
	return pause{PausedTriggers: list}
}

// without returns the pause with one trigger less, of those that the function
// has, or with none where it is empty.
func (p *pause) without(trigger string, all []string) pause {
	if trigger == "" {
		return pause{}
	}
	list := slices.Clone(p.PausedTriggers)
	if p.Paused {
		list = slices.Clone(all)
	}
	list = slices.DeleteFunc(list, func(t string) bool { return t == trigger })
	slices.Sort(list)
	return pause{PausedTriggers: list}
}

// samePause reports whether two pauses are the same.
func (p *pause) samePause(q *pause) bool {
	return p.Paused == q.Paused && slices.Equal(p.PausedTriggers, q.PausedTriggers)
}

// warning says that a function is paused, for who deploys it; empty: it is not.
func (p *pause) warning(name string) string {
	switch {
	case p.Paused:
		return fmt.Sprintf("the function is paused, its events wait: edgefn resume %s lets them run", name)
	case len(p.PausedTriggers) > 0:
		return fmt.Sprintf("events of %s wait, since that is paused: edgefn resume %s lets them run", strings.Join(p.PausedTriggers, ", "), name)
	}
	return ""
}

// Pause is api.Backend's. The events of a trigger, or of the whole function where
// it is empty, do not run until they are resumed.
func (d *Deployer) Pause(ctx context.Context, name, trigger string) (api.Paused, error) {
	return d.setPause(ctx, name, trigger, func(p *pause, _ []string) pause { return p.with(trigger) })
}

// Resume is api.Backend's.
func (d *Deployer) Resume(ctx context.Context, name, trigger string) (api.Paused, error) {
	return d.setPause(ctx, name, trigger, func(p *pause, all []string) pause { return p.without(trigger, all) })
}

// setPause changes what of a function is paused, and returns when this node
// holds to it. It waits for no deploy: a version that is being checked takes the
// change over.
func (d *Deployer) setPause(ctx context.Context, name, trigger string, change func(p *pause, all []string) pause) (api.Paused, error) {
	rc, leave := d.look(name)
	defer leave()
	for tries := 1; ; tries++ {
		want, err := d.read(ctx, name)
		switch {
		case err != nil:
			return api.Paused{}, err
		case !want.there():
			return api.Paused{}, notFound(name)
		}
		v, _ := want.find(want.Version)
		all := triggerNames(&v.Function)
		if trigger != "" && !slices.Contains(all, trigger) && !slices.Contains(want.PausedTriggers, trigger) {
			return api.Paused{}, noTrigger(name, trigger, all)
		}
		r := want.functionRecord
		r.pause = change(&want.pause, all)
		at := want.at
		if !r.samePause(&want.pause) {
			at, err = d.writeRecord(ctx, name, &want, r)
		}
		switch {
		case errors.Is(err, store.ErrConflict): // not of ours: read again
			if err := durable.Sleep(ctx, conflictBackoff.Wait(tries)); err != nil {
				return api.Paused{}, err
			}
			continue
		case err != nil:
			return api.Paused{}, fmt.Errorf("write function %q: %w", name, err)
		}
		rc.nudge()
		ctx, cancel := context.WithTimeout(ctx, 2*durable.StoreTime)
		defer cancel()
		if _, err := rc.await(ctx, func(s state) bool { return s.at >= at }); err != nil {
			return api.Paused{}, &api.Error{
				Err:     errors.Join(api.ErrTimeout, err),
				Message: fmt.Sprintf("function %q is to be paused as you say, but node %q has not done it yet", name, d.cfg.Node),
				Hint:    "edgefn describe " + name + " tells when it has",
			}
		}
		return api.Paused{Function: name, Paused: r.Paused, Triggers: r.PausedTriggers}, nil
	}
}

func triggerNames(fn *functions.Function) []string {
	names := make([]string, len(fn.Triggers))
	for i := range fn.Triggers {
		names[i] = fn.Triggers[i].Name
	}
	return names
}

func noTrigger(name, trigger string, all []string) error {
	hint := "it has none: leave --trigger out"
	if len(all) > 0 {
		hint = "it has " + strings.Join(all, ", ")
	}
	return &api.Error{Err: api.ErrNotFound, Message: fmt.Sprintf("function %q has no trigger %q", name, trigger), Hint: hint}
}

package functionstest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/wire"
)

// Node is a node's side of functions in memory: state that outlives
// invocations, and grants. Its zero value is ready.
type Node struct {
	mu     sync.Mutex
	spaces map[string]map[string][]byte // by function, then by key
	ids    int
}

// State returns a copy of the committed state of a function.
func (n *Node) State(function string) map[string][]byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.spaces[function])
}

// SetState writes a value in the state of a function.
func (n *Node) SetState(function, key string, value []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.set(function, key, value)
}

func (n *Node) set(function, key string, value []byte) {
	if n.spaces == nil {
		n.spaces = map[string]map[string][]byte{}
	}
	if n.spaces[function] == nil {
		n.spaces[function] = map[string][]byte{}
	}
	n.spaces[function][key] = value
}

// Invocation is what one invocation asked for. It is a pool.Host.
type Invocation struct {
	n *Node
	f *functions.Function

	mu      sync.Mutex
	effects []functions.Effect
}

// Begin starts an invocation of f.
func (n *Node) Begin(f *functions.Function) *Invocation { return &Invocation{n: n, f: f} }

// Call answers what a running function asks, with effects kept until Commit.
func (i *Invocation) Call(_ context.Context, kind wire.Kind, c wire.Call) (wire.Reply, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	owner := c.Function
	if owner == "" {
		owner = i.f.Name
	}
	switch kind {
	case wire.KindGet, wire.KindPut, wire.KindDelete, wire.KindList:
		key := c.Key
		if kind == wire.KindList {
			key = c.Prefix
		}
		if !i.f.MayUseState(owner, key) {
			return wire.Reply{}, fmt.Errorf("state %s/%s is not granted: add it to grants: state", owner, key)
		}
		if kind != wire.KindList && (key == "" || len(key) > functions.MaxKey) {
			return wire.Reply{}, fmt.Errorf("state key %q is of %d bytes, 1 to %d are possible", key, len(key), functions.MaxKey)
		}
		return i.state(kind, owner, c), nil
	case wire.KindPublish:
		if err := functions.CheckTopic(c.Topic); err != nil {
			return wire.Reply{}, err
		}
		if !i.f.MayPublish(c.Topic) {
			return wire.Reply{}, fmt.Errorf("topic %s is not granted: add it to grants: publish", c.Topic)
		}
		p, err := c.Properties(time.Now())
		if err != nil {
			return wire.Reply{}, err
		}
		i.effects = append(i.effects, functions.Publish{Broker: c.Broker, Topic: c.Topic, Data: c.Data, QoS: c.QoS, Retain: c.Retain, Properties: p})
		return wire.Reply{}, nil
	case wire.KindInvoke:
		if !i.f.MayInvoke(owner) {
			return wire.Reply{}, fmt.Errorf("function %s is not granted: add it to grants: invoke", owner)
		}
		e := functions.Event{ID: c.ID, Type: c.Type, Subject: c.Subject, Data: c.Data, Source: "edgefn://" + i.f.Name}
		if e.ID == "" {
			e.ID = i.n.id()
		}
		if e.Type == "" {
			e.Type = functions.TypeInvoke
		}
		i.effects = append(i.effects, functions.Invoke{Function: owner, Event: e})
		return wire.Reply{ID: e.ID}, nil
	case wire.KindSetLine, wire.KindPulseLine, wire.KindReleaseLine, wire.KindReadLine, wire.KindReadSensor:
		return i.device(kind, c)
	case wire.KindHello, wire.KindEvent, wire.KindResult, wire.KindFailure, wire.KindLog, wire.KindOK, wire.KindError:
	}
	return wire.Reply{}, errors.New("this is no call")
}

func (n *Node) id() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ids++
	return fmt.Sprintf("id-%d", n.ids)
}

// state answers a call about state: what is committed under what this
// invocation wrote.
func (i *Invocation) state(kind wire.Kind, owner string, c wire.Call) wire.Reply {
	if kind == wire.KindPut {
		i.effects = append(i.effects, functions.Put{Function: owner, Key: c.Key, Value: c.Value})
		return wire.Reply{}
	}
	if kind == wire.KindDelete {
		i.effects = append(i.effects, functions.Delete{Function: owner, Key: c.Key})
		return wire.Reply{}
	}
	seen := i.n.State(owner)
	if seen == nil {
		seen = map[string][]byte{}
	}
	for _, e := range i.effects {
		switch e := e.(type) {
		case functions.Put:
			if e.Function == owner {
				seen[e.Key] = e.Value
			}
		case functions.Delete:
			if e.Function == owner {
				delete(seen, e.Key)
			}
		}
	}
	if kind == wire.KindList {
		keys := slices.Sorted(maps.Keys(seen))
		return wire.Reply{Keys: slices.DeleteFunc(keys, func(k string) bool { return !strings.HasPrefix(k, c.Prefix) })}
	}
	v, found := seen[c.Key]
	return wire.Reply{Found: found, Value: v}
}

// Commit has the effects take place and returns those of them that are not about
// state.
func (i *Invocation) Commit() (out Committed) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.n.mu.Lock()
	defer i.n.mu.Unlock()
	for _, e := range i.effects {
		switch e := e.(type) {
		case functions.Put:
			i.n.set(e.Function, e.Key, e.Value)
		case functions.Delete:
			delete(i.n.spaces[e.Function], e.Key)
		case functions.Publish:
			out.Published = append(out.Published, e)
		case functions.Invoke:
			out.Invoked = append(out.Invoked, e)
		case functions.SetLine, functions.PulseLine, functions.ReleaseLine:
			out.Commanded = append(out.Commanded, e)
		}
	}
	return out
}

package settle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/oklog/ulid/v2"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/functions/wire"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// statePrefix: FUNCTION/KEY; the value is what the function wrote.
const statePrefix = durable.Root + "state/"

// StateKey is where a key of a function's state is in the store.
func StateKey(function, key string) string { return statePrefix + function + "/" + key }

// Bounds of one invocation.
const (
	// maxListed is how many keys one list may give.
	maxListed = 2048
	// maxGuarded is how many keys may be read and listed in all: all that the
	// store can guard, less what the commit guards beside them.
	maxGuarded = store.MaxGuards - 8
	// maxListedBytes keeps the answer to a list within a frame.
	maxListedBytes = 512 << 10
	// maxEffectBytes bounds what the effects take. What the commit adds to them
	// (the event's id, attributes, a result up to a frame) fits in the rest of
	// store.MaxBytes.
	maxEffectBytes = 2 << 20
)

// transaction answers what one invocation asks of the node. Reads are those of
// one revision of the store, under the invocation's own writes; the effects are
// kept until the invocation has succeeded. Calls come one at a time.
type transaction struct {
	fn         *functions.Function
	st         store.Store
	around     Surroundings
	maxPayload int

	revision int64            // of the store, from the first read on; 0: nothing read yet
	reads    map[string]int64 // store key -> version read, 0: absent
	sizes    map[string]int   // store key -> bytes of the value read, -1: absent
	lists    map[string]int   // store prefix -> keys listed
	writes   map[string]write // store key -> the last write
	messages []functions.Publish
	invokes  []functions.Invoke
	commands []functions.Effect // of lines, in order
	levels   map[string]bool    // line -> what this invocation commands
	pulses   bool               // one of commands is a pulse
	effects  int
	bytes    int
	fault    error // a read failed for the node's reasons, not the function's
}

// write is a put, or a delete where deleted is set.
type write struct {
	value   []byte
	deleted bool
}

var _ pool.Host = (*transaction)(nil)

func newTransaction(fn *functions.Function, st store.Store, around Surroundings, maxPayload int) *transaction {
	return &transaction{
		fn: fn, st: st, around: around, maxPayload: maxPayload,
		reads: map[string]int64{}, sizes: map[string]int{}, lists: map[string]int{}, writes: map[string]write{},
		levels: map[string]bool{},
	}
}

// Call implements pool.Host.
func (t *transaction) Call(ctx context.Context, kind wire.Kind, c wire.Call) (wire.Reply, error) {
	switch kind {
	case wire.KindGet:
		return t.get(ctx, c)
	case wire.KindList:
		return t.list(ctx, c)
	case wire.KindPut, wire.KindDelete:
		return wire.Reply{}, t.write(kind, c)
	case wire.KindPublish:
		return wire.Reply{}, t.publish(c)
	case wire.KindInvoke:
		return t.invoke(c)
	case wire.KindSetLine, wire.KindPulseLine, wire.KindReleaseLine, wire.KindReadLine:
		return t.line(ctx, kind, c)
	case wire.KindReadSensor:
		return t.sensor(ctx, c)
	case wire.KindHello, wire.KindEvent, wire.KindResult, wire.KindFailure, wire.KindLog, wire.KindOK, wire.KindError:
	}
	return wire.Reply{}, fmt.Errorf("%q is nothing that a function can ask for", kind)
}

func (t *transaction) get(ctx context.Context, c wire.Call) (wire.Reply, error) {
	key, err := t.stateKey(c.Function, c.Key)
	if err != nil {
		return wire.Reply{}, err
	}
	if w, ok := t.writes[key]; ok {
		return wire.Reply{Found: !w.deleted, Value: w.value}, nil
	}
	if _, again := t.reads[key]; !again && t.guarded() >= maxGuarded {
		return wire.Reply{}, fmt.Errorf("read key %q: one invocation may read and list %d keys", c.Key, maxGuarded)
	}
	e, err := t.read(ctx, key)
	if err != nil {
		return wire.Reply{}, err
	}
	return wire.Reply{Found: e.Version != 0, Value: e.Value}, nil
}

// read reads a key of the store at the transaction's revision and has the
// commit guard it.
func (t *transaction) read(ctx context.Context, key string) (store.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, durable.StoreTime)
	defer cancel()
	e, revision, err := t.st.Get(ctx, key, store.Read{Revision: t.revision})
	if err != nil {
		t.fault = fmt.Errorf("read state: %w", err)
		return store.Entry{}, t.fault
	}
	t.revision = revision
	t.reads[key], t.sizes[key] = e.Version, -1
	if e.Version != 0 {
		t.sizes[key] = len(e.Value)
	}
	return e, nil
}

func (t *transaction) list(ctx context.Context, c wire.Call) (wire.Reply, error) {
	owner := t.owner(c.Function)
	if !t.fn.MayUseState(owner, c.Prefix) {
		return wire.Reply{}, t.noState(owner, c.Prefix)
	}
	if err := CheckKey(c.Prefix); err != nil {
		return wire.Reply{}, err
	}
	space := statePrefix + owner + "/"
	prefix := space + c.Prefix
	ctx, cancel := context.WithTimeout(ctx, durable.StoreTime)
	defer cancel()
	es, revision, err := t.st.List(ctx, prefix, store.Read{Revision: t.revision, KeysOnly: true, Limit: maxListed + 1})
	if err != nil {
		t.fault = fmt.Errorf("list state: %w", err)
		return wire.Reply{}, t.fault
	}
	if len(es) > maxListed {
		return wire.Reply{}, fmt.Errorf("list keys %q: there are more than %d: ask for a longer prefix", c.Prefix, maxListed)
	}
	t.revision = revision
	if _, again := t.lists[prefix]; !again && t.guarded()+len(es) >= maxGuarded {
		return wire.Reply{}, fmt.Errorf("list keys %q: one invocation may read and list %d keys", c.Prefix, maxGuarded)
	}
	t.lists[prefix] = len(es)
	keys := map[string]bool{}
	for _, e := range es {
		keys[e.Key] = true
	}
	for key, w := range t.writes {
		if strings.HasPrefix(key, prefix) {
			if w.deleted {
				delete(keys, key)
			} else {
				keys[key] = true
			}
		}
	}
	out, bytes := make([]string, 0, len(keys)), 0
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		key = strings.TrimPrefix(key, space)
		if bytes += len(key) + 5; bytes > maxListedBytes {
			return wire.Reply{}, fmt.Errorf("list keys %q: they take more than %d bytes: ask for a longer prefix", c.Prefix, maxListedBytes)
		}
		out = append(out, key)
	}
	return wire.Reply{Keys: out}, nil
}

func (t *transaction) write(kind wire.Kind, c wire.Call) error {
	key, err := t.stateKey(c.Function, c.Key)
	if err != nil {
		return err
	}
	if len(c.Value) > functions.MaxValue {
		return fmt.Errorf("write key %q: the value has %d bytes, at most %d are possible", c.Key, len(c.Value), functions.MaxValue)
	}
	old, again := t.writes[key]
	if !again {
		if err := t.count(len(key) + len(c.Value)); err != nil {
			return fmt.Errorf("write key %q: %w", c.Key, err)
		}
	} else if err := t.grow(len(c.Value) - len(old.value)); err != nil {
		return fmt.Errorf("write key %q: %w", c.Key, err)
	}
	w := write{deleted: kind == wire.KindDelete}
	if !w.deleted {
		w.value = append([]byte{}, c.Value...) // an empty value is a value
	}
	t.writes[key] = w
	return nil
}

func (t *transaction) publish(c wire.Call) error {
	if err := functions.CheckTopic(c.Topic); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	if !t.fn.MayPublish(c.Topic) {
		return fmt.Errorf("publish to %q: not granted: add a topic filter that matches it to grants.publish of function %q", c.Topic, t.fn.Name)
	}
	properties, err := c.Properties(time.Now())
	if err != nil {
		return fmt.Errorf("publish to %q: %w", c.Topic, err)
	}
	m := functions.Publish{Broker: c.Broker, Topic: c.Topic, Data: slices.Clone(c.Data), QoS: c.QoS, Retain: c.Retain, Properties: properties}
	if m.Broker == "" {
		m.Broker = functions.LocalBroker
		if t.fn.Output != nil {
			m.Broker = BrokerName(t.fn.Output.Broker)
		}
	}
	switch {
	case !t.around.HasBroker(m.Broker):
		return fmt.Errorf("publish to %q: this node has no broker %q", c.Topic, m.Broker)
	case m.QoS > 2:
		return fmt.Errorf("publish to %q: qos %d: 0, 1 and 2 are possible", c.Topic, m.QoS)
	case len(m.Data) > t.maxPayload:
		return fmt.Errorf("publish to %q: the message has %d bytes, at most %d are possible", c.Topic, len(m.Data), t.maxPayload)
	}
	if err := t.count(len(m.Topic) + len(m.Data) + m.Size()); err != nil {
		return fmt.Errorf("publish to %q: %w", c.Topic, err)
	}
	t.messages = append(t.messages, m)
	return nil
}

func (t *transaction) invoke(c wire.Call) (wire.Reply, error) {
	switch {
	case !t.fn.MayInvoke(c.Function):
		return wire.Reply{}, fmt.Errorf("invoke %q: not granted: add it to grants.invoke of function %q", c.Function, t.fn.Name)
	case !t.around.HasFunction(c.Function):
		return wire.Reply{}, fmt.Errorf("invoke %q: there is no such function", c.Function)
	case len(c.Data) > t.maxPayload:
		return wire.Reply{}, fmt.Errorf("invoke %q: the data has %d bytes, at most %d are possible", c.Function, len(c.Data), t.maxPayload)
	case len(c.ID)+len(c.Type)+len(c.Subject) > wire.Overhead/2:
		return wire.Reply{}, fmt.Errorf("invoke %q: id, type and subject take more than %d bytes", c.Function, wire.Overhead/2)
	}
	e := functions.Event{ID: c.ID, Type: c.Type, Source: "edgefn://" + t.fn.Name, Subject: c.Subject, Data: slices.Clone(c.Data)}
	if e.ID == "" {
		e.ID = ulid.Make().String()
	}
	if e.Type == "" {
		e.Type = functions.TypeInvoke
	}
	if err := t.count(len(c.Function) + len(e.ID) + len(e.Type) + len(e.Subject) + len(e.Data)); err != nil {
		return wire.Reply{}, fmt.Errorf("invoke %q: %w", c.Function, err)
	}
	t.invokes = append(t.invokes, functions.Invoke{Function: c.Function, Event: e})
	return wire.Reply{ID: e.ID}, nil
}

// count takes one more effect of n bytes into account.
func (t *transaction) count(n int) error {
	if t.effects >= functions.MaxEffects {
		return fmt.Errorf("one invocation may have %d effects", functions.MaxEffects)
	}
	if err := t.grow(n); err != nil {
		return err
	}
	t.effects++
	return nil
}

func (t *transaction) grow(n int) error {
	if t.bytes+n > maxEffectBytes {
		return fmt.Errorf("the effects of one invocation may take %d bytes", maxEffectBytes)
	}
	t.bytes += n
	return nil
}

func (t *transaction) owner(function string) string {
	if function == "" {
		return t.fn.Name
	}
	return function
}

func (t *transaction) noState(owner, key string) error {
	return fmt.Errorf("state of function %q, key %q: not granted: add %q to grants.state of function %q", owner, key, owner, t.fn.Name)
}

// stateKey checks a key and the right to it and returns where it is in the store.
func (t *transaction) stateKey(function, key string) (string, error) {
	owner := t.owner(function)
	if !t.fn.MayUseState(owner, key) {
		return "", t.noState(owner, key)
	}
	if key == "" {
		return "", errors.New("state key is empty")
	}
	if err := CheckKey(key); err != nil {
		return "", err
	}
	return StateKey(owner, key), nil
}

// CheckKey checks a key, or the beginning of one.
func CheckKey(key string) error {
	switch {
	case len(key) > functions.MaxKey:
		return fmt.Errorf("state key has %d bytes, at most %d are possible", len(key), functions.MaxKey)
	case !utf8.ValidString(key):
		return fmt.Errorf("state key %q is not UTF-8", key)
	}
	return nil
}

// guarded is how many keys the commit will guard.
func (t *transaction) guarded() int {
	n := len(t.reads) + len(t.lists)
	for _, listed := range t.lists {
		n += listed
	}
	return n
}

// guards are the conditions under which what was read still holds.
func (t *transaction) guards() []store.Guard {
	out := make([]store.Guard, 0, len(t.reads)+len(t.lists)+1)
	for _, key := range slices.Sorted(maps.Keys(t.reads)) {
		out = append(out, store.Guard{Key: key, Version: t.reads[key]})
	}
	for _, prefix := range slices.Sorted(maps.Keys(t.lists)) {
		out = append(out, store.Guard{Key: prefix, Prefix: true, Version: t.revision, Count: t.lists[prefix]})
	}
	return out
}

// stateOps are the writes of state.
func (t *transaction) stateOps() []store.Op {
	out := make([]store.Op, 0, len(t.writes))
	for _, key := range slices.Sorted(maps.Keys(t.writes)) {
		w := t.writes[key]
		out = append(out, store.Op{Key: key, Value: w.value, Delete: w.deleted})
	}
	return out
}

// BrokerName is the name of a broker where an empty one stands for the one
// inside the node.
func BrokerName(name string) string {
	if name == "" {
		return functions.LocalBroker
	}
	return name
}

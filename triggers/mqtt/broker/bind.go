package broker

import (
	"slices"
	"sync"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/triggers"
)

// bindState remembers, on disk too, which bindings have had the retained
// messages that their filters match.
type bindState struct {
	mu   sync.Mutex // held throughout Bind
	set  []triggers.Binding
	seen map[string]string // target.key -> filter
}

func (s *bindState) load(st *store) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = map[string]string{}
	return st.each(bucketBound, nil, func(key, value []byte) error {
		s.seen[string(key)] = string(value)
		return nil
	})
}

// Bind replaces the set of function triggers that this broker serves; those of
// other brokers and kinds are passed over. A trigger with a filter that it did
// not have before gets the retained messages that the filter matches, as events
// with mqttretain "true"; a restart of the node is no new binding. Events of a
// trigger that is taken away and are not handed over yet are done with. Bind
// may be called at any time, before Listen too, and does not wait for events.
func (b *Broker) Bind(set []triggers.Binding) {
	b.binding.mu.Lock()
	defer b.binding.mu.Unlock()
	b.binding.set = slices.Clone(set)
	b.bindLocked()
}

// rebind does for a broker that begins to run what Bind could not do before.
func (b *Broker) rebind() {
	b.binding.mu.Lock()
	defer b.binding.mu.Unlock()
	b.bindLocked()
}

// bindLocked puts binding.set in force; binding.mu is held.
func (b *Broker) bindLocked() {
	s := &b.binding
	next := &bindings{byKey: map[string]target{}}
	for _, x := range s.set {
		m := x.Trigger.MQTT
		if m == nil || (m.Broker != "" && m.Broker != functions.LocalBroker && m.Broker != b.cfg.Name) {
			continue
		}
		t := target{function: x.Function, trigger: x.Trigger}
		if _, had := next.byKey[t.key()]; !had {
			next.list = append(next.list, t)
		}
		next.byKey[t.key()] = t
	}
	b.mu.Lock()
	up := b.state == running
	if up {
		b.wg.Add(1) // shutdown waits for what follows
		defer b.wg.Done()
	}
	b.mu.Unlock()

	fresh := map[string][]*message{}
	b.routing.Lock()
	old := b.bound.Swap(next)
	if up {
		now := b.now()
		for _, t := range next.list {
			filter := t.trigger.MQTT.Topic
			if had, ok := s.seen[t.key()]; !ok || had != filter {
				fresh[t.key()] = b.retained.match(filter, now)
			}
		}
	}
	b.routing.Unlock()
	if !up {
		return // Run does the rest
	}
	for key := range old.byKey {
		if _, still := next.byKey[key]; !still {
			delete(s.seen, key)
			b.store.remove(bucketBound, []byte(key), nil)
		}
	}
	for _, t := range next.list {
		if messages, ok := fresh[t.key()]; ok {
			s.seen[t.key()] = t.trigger.MQTT.Topic
			b.deliverRetained(t, messages)
		}
		if b.pending.startFeeding(t.key()) {
			b.wg.Go(func() { b.feed(t) })
		}
	}
}

// deliverRetained hands a new binding its retained messages, and notes on disk
// that it had them once they are settled. The lane is bounded by the store of
// retained messages, whose payloads the events share.
func (b *Broker) deliverRetained(t target, messages []*message) {
	l := b.lanes.open("r"+t.key(), int64(b.cfg.MaxRetained), b.cfg.MaxRetainedBytes)
	all := newWaiter(func(err error) {
		b.lanes.close(l)
		if err == nil {
			b.store.put(bucketBound, []byte(t.key()), []byte(t.trigger.MQTT.Topic), nil)
		}
	})
	for _, m := range messages {
		size := m.size()
		l.budget.force(size)
		ev, own := b.event(t, m, true, false, nil)
		all.add()
		b.lanes.push(l, b.taskFor(t, ev, own, func(err error) {
			b.lanes.give(l, size)
			all.done(err)
		}))
	}
	all.done(nil)
}

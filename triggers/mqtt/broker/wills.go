package broker

import (
	"encoding/binary"

	"github.com/fxamacker/cbor/v2"
)

// restartGrace is how many seconds a client that was connected when the node
// ended has to come back before its will is published.
const restartGrace = 5

// willRecord is a will on disk, from CONNECT until it is published or its client
// says goodbye.
type willRecord struct {
	Message cbor.RawMessage `cbor:"1,keyasint"`
	Delay   int64           `cbor:"2,keyasint,omitempty"` // seconds
	Due     instant         `cbor:"3,keyasint,omitempty"` // 0: its client is connected
}

// will is the will of a connection.
type will struct {
	m     *message
	delay int64  // seconds
	key   []byte // where it is on disk; nil: nowhere
}

// delayedWill waits for its client to come back [MQTT-3.1.3-9].
type delayedWill struct {
	*will
	due instant
}

// keepWill puts the will of a connection on disk; b.mu is held.
func (b *Broker) keepWill(id string, x *will, w *waiter) {
	b.willSeq++
	x.key = keyOf(id, seqKey(b.willSeq))
	b.store.put(bucketWills, x.key, marshal(willRecord{Message: marshal(x.m), Delay: x.delay}), w)
}

// delayWill has a will wait; b.mu is held.
func (b *Broker) delayWill(id string, x *will, now instant) {
	due := now.after(x.delay)
	b.wills[id] = delayedWill{will: x, due: due}
	b.store.put(bucketWills, x.key, marshal(willRecord{Message: marshal(x.m), Delay: x.delay, Due: due}), nil)
}

// dropWill forgets a will that is not to be published.
func (b *Broker) dropWill(x *will) {
	if x != nil {
		b.store.remove(bucketWills, x.key, nil)
	}
}

// restoreWills reads the wills that an earlier run has left. None waits for
// longer than its delay, whatever the clock says.
func (b *Broker) restoreWills(now instant) error {
	return b.store.each(bucketWills, nil, func(key, value []byte) error {
		var r willRecord
		if err := unmarshal(value, &r); err != nil {
			return err
		}
		m, err := unmarshalMessage(r.Message, now)
		if err != nil {
			return err
		}
		n := len(key) - 9 // NUL and the sequence
		id, seq := string(key[:n]), binary.BigEndian.Uint64(key[n+1:])
		b.willSeq = max(b.willSeq, seq)
		x := delayedWill{will: &will{m: m, delay: r.Delay, key: append([]byte{}, key...)}, due: now.after(r.Delay)}
		if r.Due == 0 {
			x.due = now.after(max(r.Delay, restartGrace))
		} else {
			x.due = min(x.due, r.Due)
		}
		if old, had := b.wills[id]; had {
			b.dropWill(old.will) // it was published, but for the note of it
		}
		b.wills[id] = x
		return nil
	})
}

// publishWill publishes a will. Its events wait on disk like those of functions'
// outputs, within the same bound, so that it leaves the disk as it enters queues:
// what it sets off outlives a restart, whoever comes back meanwhile.
func (b *Broker) publishWill(x *will) {
	m := *x.m
	if m.Lifetime > 0 {
		m.Expiry, m.Lifetime = b.now().after(int64(m.Lifetime)), 0
	}
	w := newWaiter(func(error) {}) // a retained one is written at once
	targets, err := b.route(&m, w)
	if err != nil {
		targets = b.routeUnwaited(&m)
	}
	for _, t := range targets {
		ev, own := b.event(t, &m, false, false, nil)
		e := &chained{target: t, event: ev, ownID: own, size: m.size(), settled: make(chan error, 1)}
		if err := b.queueBehind(e, w); err != nil {
			b.stats.dropped.Add(1)
			b.cfg.Logger.Warn("mqtt will goes to no function", keyTopic, shorten(m.Topic), keyErr, err)
		}
	}
	w.done(nil)
	b.dropWill(x) // the store commits in this order
}

package broker

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/edgefn/edgefn/functions"
)

// Publish sends a message of a function or of the node: to subscribers, to the
// retained messages where retain is set, and to matching function triggers.
// For QoS 1 and 2 it returns once every persistent session has the message on
// disk, and once every function that it triggers has settled its event.
//
// Functions can trigger each other in a circle, or themselves: waiting for
// settlement could then wait for ever, and a full queue of the function whose
// output this is would never empty. So an event that is not settled after 250
// ms is put on disk, from where it is handed over again after a restart, and
// Publish returns. When 10,000 events wait there, ErrBacklog is returned, and
// the message has gone to subscribers, but not to all functions.
//
// For QoS 0 it returns once the events are queued. A message that has expired goes
// nowhere, and is counted. out.Broker is not looked at.
func (b *Broker) Publish(ctx context.Context, out functions.Publish) error {
	topic, qos := out.Topic, out.QoS
	if err := functions.CheckTopic(topic); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	if qos > 2 {
		return fmt.Errorf("publish to %q: QoS %d is none of 0, 1 and 2", topic, qos)
	}
	b.mu.Lock()
	up := b.state == listening || b.state == running
	b.mu.Unlock()
	if !up {
		return fmt.Errorf("publish to %q: %w", topic, ErrNotRunning)
	}
	now := b.cfg.Clock()
	if out.Expired(now) {
		b.stats.expired.Add(1)
		return nil
	}
	m := &message{Topic: topic, Payload: out.Data, QoS: qos, Retain: out.Retain}
	m.takeProperties(out.Properties, now, b.now())
	stored := make(chan error, 1)
	w := newWaiter(func(err error) { stored <- err })
	if qos == 0 {
		w = nil
	}
	targets, full := b.route(m, w)
	if full != nil && qos > 0 {
		return fmt.Errorf("publish to %q: %w", topic, full)
	}
	events := make([]*chained, 0, len(targets))
	for _, t := range targets {
		ev, own := b.event(t, m, false, false, nil)
		e := &chained{target: t, event: ev, ownID: own, size: m.size(), settled: make(chan error, 1)}
		if b.pending.waits(t.key()) {
			if err := b.queueBehind(e, w); err != nil { //nolint:contextcheck // the event outlives the call
				return fmt.Errorf("publish to %q: %w", topic, err)
			}
			continue
		}
		if err := b.chain(ctx, e); err != nil {
			return fmt.Errorf("publish to %q: %w", topic, err)
		}
		events = append(events, e)
	}
	if qos > 0 {
		w.done(nil)
		select {
		case err := <-stored:
			if err != nil {
				return fmt.Errorf("publish to %q: %w", topic, err)
			}
		case <-ctx.Done():
			return fmt.Errorf("publish to %q: wait for the disk: %w", topic, ctx.Err())
		}
		if err := b.awaitChain(ctx, events); err != nil {
			return fmt.Errorf("publish to %q: %w", topic, err)
		}
	}
	if full != nil {
		return fmt.Errorf("publish to %q: %w", topic, full)
	}
	return nil
}

// chained is the event of a function's output for another function.
type chained struct {
	target  target
	event   functions.Event
	ownID   bool
	size    int64
	lane    *lane
	settled chan error // capacity 1: the outcome

	mu   sync.Mutex
	key  uint64 // its record on disk; 0: none
	done bool
	err  error
}

// outputLane is the key of the lane of a trigger's events of function outputs.
func outputLane(t target) string { return "o" + t.key() }

// chain queues the event of a function's output. It waits for room until ctx is
// done.
func (b *Broker) chain(ctx context.Context, e *chained) error {
	e.lane = b.lanes.open(outputLane(e.target), maxPending, maxPendingBytes)
	defer b.lanes.close(e.lane)
	if !e.lane.budget.take(e.size, ctx.Done()) {
		return fmt.Errorf("wait for room in front of function %q: %w", e.target.function, ctx.Err())
	}
	//nolint:contextcheck // the event outlives the call of Publish
	b.lanes.push(e.lane, b.taskFor(e.target, e.event, e.ownID, func(err error) { b.chainSettled(e, err) }))
	return nil
}

// queueBehind puts an event on disk behind others of its target that wait there,
// so that it does not overtake them. w has it too, and may be nil.
func (b *Broker) queueBehind(e *chained, w *waiter) error {
	key, ok := b.pending.add(pendingMeta{target: e.target.key(), since: b.uptime(), size: e.size, expires: e.event.Expires, writing: true})
	if !ok {
		return b.backlog(e)
	}
	w.add()
	written := newWaiter(func(err error) {
		b.pending.written(key, err == nil)
		b.startFeeding(e.target)
		w.done(err)
	})
	b.store.put(bucketPending, seqKey(key), marshal(newPendingRecord(e, b.cfg.Clock())), written)
	written.done(nil)
	return nil
}

// startFeeding has what waits for a target handed over, if nobody does that.
func (b *Broker) startFeeding(t target) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state != running || !b.pending.startFeeding(t.key()) {
		return // Bind begins it when the broker runs
	}
	b.wg.Go(func() { b.feed(t) })
}

// uptime is for how many seconds the broker has been there. No clock that is set
// changes it.
func (b *Broker) uptime() int64 { return int64(time.Since(b.began) / time.Second) }

func (b *Broker) backlog(e *chained) error {
	return fmt.Errorf("%w: %d events, %d bytes at most; function %q is one of them", ErrBacklog, maxPending, maxPendingBytes, e.target.function)
}

func (b *Broker) chainSettled(e *chained, err error) {
	e.mu.Lock()
	e.done, e.err = true, err
	key := e.key
	e.mu.Unlock()
	b.lanes.give(e.lane, e.size)
	if key != 0 {
		b.pending.finish(b.store, key, err == nil)
	}
	e.settled <- err
}

// awaitChain waits for a moment until all events are settled and puts those on
// disk that are not.
func (b *Broker) awaitChain(ctx context.Context, events []*chained) error {
	if len(events) == 0 {
		return nil
	}
	timer := time.NewTimer(chainWait)
	defer timer.Stop()
	late := false
	var open []*chained
	for _, e := range events {
		var err error
		if late {
			open = append(open, e)
			continue
		}
		select {
		case err = <-e.settled:
		case <-timer.C:
			late = true
		case <-ctx.Done():
			return fmt.Errorf("wait for function %q: %w", e.target.function, ctx.Err())
		}
		if late || err != nil {
			open = append(open, e)
		}
	}
	if len(open) == 0 {
		return nil
	}
	stored := make(chan error, 1)
	w := newWaiter(func(err error) { stored <- err })
	for _, e := range open {
		if err := b.keep(e, w); err != nil {
			return err
		}
	}
	w.done(nil)
	select {
	case err := <-stored:
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for the disk: %w", ctx.Err())
	}
}

// keep puts an event on disk unless it is settled by now.
func (b *Broker) keep(e *chained, w *waiter) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.done && e.err == nil {
		return nil
	}
	key, ok := b.pending.add(pendingMeta{
		target: e.target.key(), since: b.uptime(), size: e.size, expires: e.event.Expires, live: !e.done,
	})
	if !ok {
		return b.backlog(e)
	}
	e.key = key
	b.store.put(bucketPending, seqKey(key), marshal(newPendingRecord(e, b.cfg.Clock())), w)
	return nil
}

// pendingRecord is an event of a function's output on disk.
type pendingRecord struct {
	Function    string            `cbor:"1,keyasint"`
	Trigger     string            `cbor:"2,keyasint"`
	OwnID       bool              `cbor:"3,keyasint,omitempty"`
	Since       int64             `cbor:"4,keyasint"`
	Size        int64             `cbor:"5,keyasint"`
	ID          string            `cbor:"6,keyasint"`
	Type        string            `cbor:"7,keyasint"`
	Source      string            `cbor:"8,keyasint"`
	Subject     string            `cbor:"9,keyasint,omitempty"`
	TimeNS      int64             `cbor:"10,keyasint,omitempty"`
	ContentType string            `cbor:"11,keyasint,omitempty"`
	Extensions  map[string]string `cbor:"12,keyasint,omitempty"`
	Data        []byte            `cbor:"13,keyasint,omitempty"`

	Expiry functions.Expiry `cbor:"14,keyasint"`
}

func newPendingRecord(e *chained, now time.Time) pendingRecord {
	ev := e.event
	return pendingRecord{
		Function: e.target.function, Trigger: e.target.trigger.Name, OwnID: e.ownID, Since: now.Unix(), Size: e.size,
		ID: ev.ID, Type: ev.Type, Source: ev.Source, Subject: ev.Subject, TimeNS: ev.Time.UnixNano(),
		ContentType: ev.DataContentType, Extensions: ev.Extensions, Data: ev.Data, Expiry: functions.StoreExpiry(ev.Expires, now),
	}
}

func (r *pendingRecord) event() functions.Event {
	return functions.Event{
		ID: r.ID, Type: r.Type, Source: r.Source, Subject: r.Subject, Time: time.Unix(0, r.TimeNS),
		DataContentType: r.ContentType, Extensions: r.Extensions, Data: r.Data,
	}
}

// pendingMeta is what memory keeps of an event on disk.
type pendingMeta struct {
	target string // target.key
	since  int64  // Broker.uptime
	size   int64
	live   bool // in a lane: it removes its record itself

	expires time.Time // zero: never

	writing bool // its record is on its way to the disk
}

// pendingEvents are the events of function outputs on disk.
type pendingEvents struct {
	mu      sync.Mutex
	seq     uint64
	bytes   int64
	byKey   map[uint64]*pendingMeta
	feeding map[string]bool // targets whose events a goroutine puts in their lane
}

func (p *pendingEvents) load(st *store, now time.Time) error {
	p.byKey, p.feeding = map[uint64]*pendingMeta{}, map[string]bool{}
	return st.each(bucketPending, nil, func(key, value []byte) error {
		var r pendingRecord
		if err := unmarshal(value, &r); err != nil {
			return err
		}
		p.seq = binary.BigEndian.Uint64(key)
		p.byKey[p.seq] = &pendingMeta{target: r.Function + "\x00" + r.Trigger, size: r.Size, expires: r.Expiry.Restore(now)}
		p.bytes += r.Size
		return nil
	})
}

func (p *pendingEvents) add(m pendingMeta) (key uint64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.byKey) >= maxPending || p.bytes+m.size > maxPendingBytes {
		return 0, false
	}
	p.seq++
	p.byKey[p.seq] = &m
	p.bytes += m.size
	return p.seq, true
}

// finish removes a settled event from the disk; one that was not settled waits
// there for the next Bind or start.
func (p *pendingEvents) finish(st *store, key uint64, settled bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m := p.byKey[key]; m != nil {
		if !settled {
			m.live = false
			return
		}
		p.remove(st, key, m)
	}
}

func (p *pendingEvents) remove(st *store, key uint64, m *pendingMeta) {
	delete(p.byKey, key)
	p.bytes -= m.size
	st.remove(bucketPending, seqKey(key), nil)
}

// sweep drops events whose function did not come back; now is Broker.uptime.
func (p *pendingEvents) sweep(st *store, now int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, m := range p.byKey {
		if !m.live && !m.writing && m.since+int64(pendingExpiry/time.Second) <= now {
			p.remove(st, key, m)
		}
	}
}

func (p *pendingEvents) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.byKey)
}

// next returns the oldest event of a target that is in no lane, and marks it as
// being in one. When there is none, the target's feeding ends.
func (p *pendingEvents) next(target string) (key uint64, expires time.Time, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, m := range p.byKey {
		if m.target == target && !m.live && (key == 0 || k < key) {
			key = k
		}
	}
	if key == 0 || p.byKey[key].writing {
		delete(p.feeding, target)
		return 0, time.Time{}, false
	}
	p.byKey[key].live = true
	return key, p.byKey[key].expires, true
}

// feed hands over what waits on disk for a target, oldest first. Its memory is
// bounded by the lane: the next event is read when there is room.
func (b *Broker) feed(t target) {
	l := b.lanes.open(outputLane(t), maxPending, maxPendingBytes)
	defer b.lanes.close(l)
	for {
		key, expires, ok := b.pending.next(t.key())
		if !ok {
			return
		}
		values, err := b.store.get(bucketPending, [][]byte{seqKey(key)})
		var r pendingRecord
		if err == nil && values[0] != nil {
			err = unmarshal(values[0], &r)
		}
		if err != nil || r.ID == "" {
			b.cfg.Logger.Error("mqtt broker cannot read a waiting event", keyFunction, t.function, keyTrigger, t.trigger.Name, keyErr, err)
			b.pending.finish(b.store, key, true)
			continue
		}
		e := &chained{target: t, event: r.event(), ownID: r.OwnID, size: r.Size, lane: l, key: key, settled: make(chan error, 1)}
		e.event.Expires = expires // which no setting of the clock has changed
		if !l.budget.take(e.size, b.lanes.quit) {
			b.pending.finish(b.store, key, false)
			b.pending.stopFeeding(t.key())
			return
		}
		b.lanes.push(l, b.taskFor(t, e.event, e.ownID, func(err error) { b.chainSettled(e, err) }))
	}
}

func (p *pendingEvents) stopFeeding(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.feeding, target)
}

// startFeeding reports whether the caller shall feed the target: events wait
// for it and nobody else does.
func (p *pendingEvents) startFeeding(target string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.feeding[target] {
		return false
	}
	for _, m := range p.byKey {
		if m.target == target && !m.live && !m.writing {
			p.feeding[target] = true
			return true
		}
	}
	return false
}

// waits reports whether events wait on disk for a target.
func (p *pendingEvents) waits(target string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.feeding[target] {
		return true
	}
	for _, m := range p.byKey {
		if m.target == target && !m.live {
			return true
		}
	}
	return false
}

// written says that the record of an event is on disk, or that it cannot be.
func (p *pendingEvents) written(key uint64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.byKey[key]
	if m == nil {
		return
	}
	if m.writing = false; !ok {
		delete(p.byKey, key)
		p.bytes -= m.size
	}
}

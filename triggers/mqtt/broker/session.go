package broker

import (
	"container/list"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/fxamacker/cbor/v2"
)

// sessionRecord is a persistent session on disk.
type sessionRecord struct {
	Epoch  uint64  `cbor:"1,keyasint"`
	Expiry int64   `cbor:"2,keyasint"`           // seconds that it outlives its connection
	Since  instant `cbor:"5,keyasint,omitempty"` // of the disconnection; 0: connected
	Seq    uint64  `cbor:"4,keyasint,omitempty"` // last item when it was disconnected

	SinceSeconds int64 `cbor:"3,keyasint,omitempty"` // Since as earlier versions stored it
}

// itemRecord is a queued message on disk, with its packet id.
type itemRecord struct {
	PID      uint16          `cbor:"1,keyasint"`
	QoS      byte            `cbor:"2,keyasint"`
	Retain   bool            `cbor:"3,keyasint,omitempty"`
	Released bool            `cbor:"4,keyasint,omitempty"` // PUBREC came; only PUBREL is left to send
	IDs      []int           `cbor:"5,keyasint,omitempty"`
	Size     int64           `cbor:"6,keyasint,omitempty"`
	Expiry   instant         `cbor:"9,keyasint,omitempty"`
	Message  cbor.RawMessage `cbor:"8,keyasint,omitempty"`

	ExpirySeconds int64 `cbor:"7,keyasint,omitempty"` // Expiry as earlier versions stored it
}

// item is a QoS 1 or 2 message for one session, from when it is routed until
// the client has acknowledged it.
type item struct {
	seq      uint64 // place in the queue
	pid      uint16 // its own from the start, so that queueing and numbering are one write
	qos      byte
	retain   bool
	ids      []int
	m        *message // nil while it is only on disk
	size     int64
	expiry   instant
	durable  bool // on disk
	sent     bool // sent once, perhaps on an earlier connection: the next time with DUP
	inflight bool // sent on this connection
	released bool // PUBREC came
	ready    bool // PUBREL may be sent: the release is on disk
}

// session is what a client has beyond its connection.
type session struct {
	id     string
	epoch  uint64 // random, unlike that of any other session of this client id
	online atomic.Bool

	mu         sync.Mutex
	gone       bool
	persistent bool    // outlives its connection
	expiry     int64   // seconds; counts while disconnected
	since      instant // of the disconnection; 0: connected
	conn       *conn
	subs       map[string]subscription
	subBytes   int // of filters

	// Messages to the client, in order.
	items   list.List // of *item
	byPID   map[uint16]*list.Element
	next    *list.Element // first that was not sent on this connection; nil: none
	unacked int           // sent on this connection, not yet acknowledged
	bytes   int64
	queued  *atomic.Int64 // bytes of all sessions
	seq     uint64
	lastPID uint16

	// Messages from the client.
	works map[uint16]*work
	uses  map[uint16]uint32 // how often a QoS 2 packet id was used up, for event ids
}

func (b *Broker) newSession(id string, epoch uint64) *session {
	return &session{
		id: id, epoch: epoch, queued: &b.queued,
		subs:  map[string]subscription{},
		byPID: map[uint16]*list.Element{},
		works: map[uint16]*work{},
		uses:  map[uint16]uint32{},
	}
}

// record is the session's record on disk; mu is held.
func (s *session) record() []byte {
	return marshal(sessionRecord{Epoch: s.epoch, Expiry: s.expiry, Since: s.since, Seq: s.seq})
}

func (s *session) itemKey(it *item) []byte { return keyOf(s.id, seqKey(it.seq)) }

// enqueue puts a QoS 1 or 2 message in the queue; for a persistent session w is
// told when it is on disk. A full queue drops its oldest message that was
// never sent, or else this one. It reports how many were dropped.
func (s *session) enqueue(b *Broker, m *message, qos byte, retain bool, ids []int, w *waiter) (dropped int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone || (s.conn == nil && !s.persistent) {
		return 0
	}
	size := m.size()
	for !s.fits(b, size) {
		if b.cfg.QueueFull == Refuse {
			if w == nil {
				return dropped + 1
			}
			break // there was room a moment ago
		}
		oldest := s.next
		for oldest != nil && oldest.Value.(*item).sent {
			oldest = oldest.Next()
		}
		if oldest == nil {
			return dropped + 1
		}
		s.drop(b, oldest)
		dropped++
	}
	s.seq++
	it := &item{
		seq: s.seq, pid: s.freePID(), qos: qos, retain: retain, ids: ids,
		m: m, size: size, expiry: m.Expiry,
	}
	s.push(it)
	if s.persistent {
		value := marshal(itemRecord{
			PID: it.pid, QoS: qos, Retain: retain, IDs: ids, Size: size, Expiry: m.Expiry, Message: marshal(m),
		})
		b.store.write(change{bucket: bucketQueue, key: s.itemKey(it), value: value, w: w, fn: func(ok bool) {
			s.stored(b, it, ok)
		}})
	}
	if s.conn != nil {
		s.conn.signal()
	}
	return dropped
}

// hasRoom reports whether there is room for a message of that size.
func (s *session) hasRoom(b *Broker, size int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone || (s.conn == nil && !s.persistent) || s.fits(b, size)
}

// fits reports whether there is room for a message of that size; mu is held. An
// empty queue always has room for a small one.
func (s *session) fits(b *Broker, size int64) bool {
	if s.items.Len() == 0 && size <= queueLeast {
		return true
	}
	return s.items.Len() < b.cfg.MaxQueue && s.bytes+size <= b.cfg.MaxQueueBytes && s.bytes+size <= b.cfg.MaxQueuedBytes-s.queued.Load()
}

// count counts bytes of the queue; mu is held.
func (s *session) count(n int64) {
	s.bytes += n
	s.queued.Add(n)
}

func (s *session) push(it *item) {
	e := s.items.PushBack(it)
	s.byPID[it.pid] = e
	s.count(it.size)
	if s.next == nil {
		s.next = e
	}
}

// freePID returns a packet id that no item has: there are fewer items than
// packet ids.
func (s *session) freePID() uint16 {
	for {
		s.lastPID++
		if _, used := s.byPID[s.lastPID]; s.lastPID != 0 && !used {
			return s.lastPID
		}
	}
}

// stored notes that an item is on disk; its payload then leaves memory while
// nobody is there to take it. One that the disk did not take is dropped unless
// the client has it: its sender, who gets no acknowledgement, sends it again.
func (s *session) stored(b *Broker, it *item, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it.durable = ok
	switch e := s.byPID[it.pid]; {
	case !ok && e != nil && e.Value.(*item) == it && !it.sent:
		s.drop(b, e)
	case ok && s.conn == nil:
		it.m = nil
	}
}

// drop removes an item; mu is held.
func (s *session) drop(b *Broker, e *list.Element) {
	it := e.Value.(*item)
	if s.next == e {
		s.next = e.Next()
	}
	if it.inflight {
		s.unacked--
	}
	s.items.Remove(e)
	delete(s.byPID, it.pid)
	s.count(-it.size)
	if s.persistent {
		b.store.remove(bucketQueue, s.itemKey(it), nil)
	}
}

// rewind makes everything unacknowledged due again on a new connection; mu is
// held.
func (s *session) rewind() {
	for e := s.items.Front(); e != nil; e = e.Next() {
		e.Value.(*item).inflight = false
	}
	s.next, s.unacked = s.items.Front(), 0
}

// unload drops from memory what is on disk; mu is held.
func (s *session) unload() {
	for e := s.items.Front(); e != nil; e = e.Next() {
		if it := e.Value.(*item); it.durable {
			it.m = nil
		}
	}
}

// due is an item that is to be sent now.
type due struct {
	outgoing
	key     []byte // where the message is on disk, when m is nil
	release bool   // send PUBREL instead
}

// take returns what may be sent now: up to the client's receive maximum, and
// no more than a few messages or bytes at once. Expired messages are dropped.
func (s *session) take(b *Broker, window int, now instant) (out []due) {
	const atOnce, bytesAtOnce = 64, 256 << 10
	s.mu.Lock()
	defer s.mu.Unlock()
	var size int64
	for s.next != nil && s.unacked < window && len(out) < atOnce && size < bytesAtOnce {
		e := s.next
		it := e.Value.(*item)
		if !it.sent && it.expiry != 0 && it.expiry <= now {
			s.drop(b, e)
			b.stats.expired.Add(1)
			continue
		}
		s.next = e.Next()
		it.inflight = true
		s.unacked++
		if it.released {
			if it.ready {
				out = append(out, due{outgoing: outgoing{pid: it.pid}, release: true})
			}
			continue
		}
		d := due{outgoing: outgoing{m: it.m, qos: it.qos, retain: it.retain, dup: it.sent, pid: it.pid, ids: it.ids}}
		if it.m == nil {
			d.key = s.itemKey(it)
		}
		it.sent = true
		size += it.size
		out = append(out, d)
	}
	return out
}

// discard removes an item that cannot be sent.
func (s *session) discard(b *Broker, pid uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.byPID[pid]; e != nil {
		s.drop(b, e)
	}
}

// acked ends the delivery of a QoS 1 message (PUBACK) or QoS 2 message
// (PUBCOMP, or a PUBREC that refuses it).
func (s *session) acked(b *Broker, pid uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.byPID[pid]; e != nil && e.Value.(*item).inflight {
		s.drop(b, e)
		if s.conn != nil {
			s.conn.signal()
		}
	}
}

// qosOf returns the QoS of an item in flight, 0 for none.
func (s *session) qosOf(pid uint16) byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.byPID[pid]; e != nil && e.Value.(*item).inflight {
		return e.Value.(*item).qos
	}
	return 0
}

// release answers PUBREC: from here on the message is never sent again. For a
// persistent session that is on disk before PUBREL is sent.
func (s *session) release(b *Broker, pid uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.byPID[pid]
	if e == nil {
		return
	}
	it := e.Value.(*item)
	if it.released {
		if it.ready && s.conn != nil {
			s.conn.pubrel(pid)
		}
		return
	}
	it.released, it.m = true, nil
	s.count(-it.size)
	it.size = 0
	if !s.persistent {
		it.ready = true
		s.conn.pubrel(pid)
		return
	}
	value := marshal(itemRecord{PID: pid, QoS: it.qos, Released: true})
	b.store.write(change{bucket: bucketQueue, key: s.itemKey(it), value: value, fn: func(ok bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		it.ready = ok
		if !ok {
			it.released = false // PUBREC will come again
		}
		if ok && it.inflight && s.conn != nil {
			s.conn.pubrel(pid)
		}
	}})
}

// restore reads all sessions from disk. Those that were connected count as
// disconnected now.
func (b *Broker) restore(now instant) error {
	err := b.store.each(bucketSessions, nil, func(key, value []byte) error {
		var r sessionRecord
		if err := unmarshal(value, &r); err != nil {
			return err
		}
		if r.SinceSeconds != 0 {
			r.Since = ofSeconds(r.SinceSeconds)
		}
		if r.Since != 0 && r.Since < clockSet && now >= clockSet {
			r.Since = now // nobody knows for how long it was away
		}
		s := b.newSession(string(key), r.Epoch)
		s.persistent, s.expiry, s.since, s.seq = true, r.Expiry, r.Since, r.Seq
		// What was queued after the disconnection was never sent; of all else
		// nobody knows, so that it is sent with DUP.
		sentUpTo := r.Seq
		if r.Since == 0 {
			s.since, sentUpTo = now, ^uint64(0)
		}
		b.sessions[s.id] = s
		return b.restoreSession(s, sentUpTo)
	})
	if err != nil {
		return err
	}
	return nil
}

func (b *Broker) restoreSession(s *session, sentUpTo uint64) error {
	prefix := keyOf(s.id, nil)
	err := b.store.each(bucketSubs, prefix, func(_, value []byte) error {
		var sub subscription
		if err := unmarshal(value, &sub); err != nil {
			return err
		}
		s.subs[sub.Filter] = sub
		s.subBytes += len(sub.Filter)
		b.subs.add(s, sub)
		return nil
	})
	if err != nil {
		return err
	}
	err = b.store.each(bucketQueue, prefix, func(key, value []byte) error {
		var r itemRecord
		if err := unmarshal(value, &r); err != nil {
			return err
		}
		if r.ExpirySeconds != 0 {
			r.Expiry = ofSeconds(r.ExpirySeconds)
		}
		r.Expiry = r.Expiry.stored(b.now())
		it := &item{
			seq: seqOf(key), pid: r.PID, qos: r.QoS, retain: r.Retain, ids: r.IDs, size: r.Size, expiry: r.Expiry,
			durable: true, released: r.Released, ready: r.Released,
		}
		it.sent = it.released || it.seq <= sentUpTo
		s.seq = max(s.seq, it.seq)
		s.lastPID = it.pid
		s.push(it)
		return nil
	})
	if err != nil {
		return err
	}
	return b.store.each(bucketReceived, prefix, func(key, value []byte) error {
		var r receivedRecord
		if err := unmarshal(value, &r); err != nil {
			return err
		}
		pid := pidOf(key)
		s.uses[pid] = r.Uses
		if r.Received {
			w := &work{b: b, s: s, pid: pid, qos: 2, use: r.Uses, state: received, keep: r.Keep}
			copy(w.sum[:], r.Sum)
			s.works[pid] = w
		}
		return nil
	})
}

// forgetQueue empties the queue in memory; mu is held.
func (s *session) forgetQueue() {
	s.items.Init()
	maps.DeleteFunc(s.byPID, func(uint16, *list.Element) bool { return true })
	s.next, s.unacked = nil, 0
	s.count(-s.bytes)
}

// filters returns the session's filters, sorted; mu is held.
func (s *session) filters() []string { return slices.Sorted(maps.Keys(s.subs)) }

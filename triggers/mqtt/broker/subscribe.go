package broker

import (
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/triggers/mqtt/broker/packet"
)

// subscribe makes subscriptions and sends the retained messages that they
// match. For a persistent session SUBACK means that they are on disk. A filter
// that is there more than once counts once, as the last one asks for it.
func (c *conn) subscribe(pk *packets.Packet) error {
	last := make(map[string]int, min(len(pk.Filters), maxSubscriptions))
	for i, f := range pk.Filters {
		if _, again := last[f.Filter]; again || len(last) < maxSubscriptions {
			last[f.Filter] = i
		}
	}
	codes := make([]byte, len(pk.Filters))
	stored := make(chan error, 1)
	w := newWaiter(func(err error) { stored <- err })
	var wants []want
	for i, f := range pk.Filters {
		if n, taken := last[f.Filter]; !taken || n != i {
			codes[i] = packets.ErrQuotaExceeded.Code
			continue
		}
		sub := subscription{
			Filter: strings.Clone(f.Filter), QoS: f.Qos,
			NoLocal: f.NoLocal, AsPublished: f.RetainAsPublished, RetainHandling: f.RetainHandling, ID: f.Identifier,
		}
		if c.version != mqtt5 {
			sub.NoLocal, sub.AsPublished, sub.RetainHandling = false, false, 0
		}
		code, x := c.subscribeOne(sub, w)
		codes[i] = code
		if x.filter != "" {
			wants = append(wants, x)
		}
	}
	for i, f := range pk.Filters {
		if n, taken := last[f.Filter]; taken {
			codes[i] = codes[n]
		}
		if codes[i] > 2 && c.version < mqtt5 {
			codes[i] = packets.ErrUnspecifiedError.Code // [MQTT-3.9.3-2]
		}
	}
	w.done(nil)
	if err := <-stored; err != nil {
		return packet.Violation(packets.ErrImplementationSpecificError, "store subscription: %v", err)
	}
	c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Suback}, PacketID: pk.PacketID, ReasonCodes: codes})
	c.sendRetained(wants)
	return nil
}

// want is a filter whose retained messages a client gets, up to the one that was
// the newest when it subscribed: later ones come as they are published.
type want struct {
	subscription
	filter string // without $share; empty: it gets none
	upTo   uint64 // message.Seq
}

// subscribeOne makes one subscription. It returns the code for SUBACK and which
// retained messages the client gets.
func (c *conn) subscribeOne(sub subscription, w *waiter) (code byte, x want) {
	group, plain, err := splitShared(sub.Filter)
	if err != nil || strings.Count(plain, "/") >= maxLevels {
		return packets.ErrTopicFilterInvalid.Code, want{}
	}
	if !c.maySubscribe(plain) {
		return packets.ErrNotAuthorized.Code, want{}
	}
	s := c.s
	c.b.routing.Lock()
	defer c.b.routing.Unlock()
	s.mu.Lock()
	_, had := s.subs[sub.Filter]
	if !had && !c.b.roomForFilter(s, sub.Filter) {
		s.mu.Unlock()
		return packets.ErrQuotaExceeded.Code, want{}
	}
	if !had {
		s.subBytes += len(sub.Filter)
	}
	s.subs[sub.Filter] = sub
	if s.persistent {
		c.b.store.put(bucketSubs, keyOf(s.id, part(sub.Filter)), marshal(sub), w)
	}
	s.mu.Unlock()
	c.b.subs.add(s, sub)
	if group != "" || sub.RetainHandling == 2 || (sub.RetainHandling == 1 && had) { // [MQTT-3.3.1-10] [MQTT-3.3.1-11]
		return sub.QoS, want{}
	}
	return sub.QoS, want{subscription: sub, filter: plain, upTo: c.b.retained.newest()}
}

// roomForFilter reports whether a session may have one more filter; s.mu is held.
func (b *Broker) roomForFilter(s *session, filter string) bool {
	count, bytes := b.subs.held()
	return len(s.subs) < maxSubscriptions && s.subBytes+len(filter) <= maxFilterBytes &&
		count < maxAllSubscriptions && bytes+len(filter) <= maxAllFilterBytes
}

// sendRetained sends the retained messages that a client wants, each once per
// filter. It takes a few at a time and waits for the client to read them: it
// asked for them itself. It ends with the connection.
func (c *conn) sendRetained(wants []want) {
	const atOnce = 256
	var upTo uint64
	for _, x := range wants {
		upTo = max(upTo, x.upTo)
	}
	now := c.b.now()
	for after := uint64(0); len(wants) > 0; {
		messages := c.b.retained.between(after, upTo, atOnce)
		if len(messages) == 0 {
			return
		}
		for _, m := range messages {
			after = m.Seq
			if m.expired(now) {
				continue
			}
			for _, x := range wants {
				if m.Seq > x.upTo || !functions.TopicMatches(x.filter, m.Topic) {
					continue
				}
				o := outgoing{m: m, qos: min(m.QoS, x.QoS), retain: true}
				if x.ID > 0 {
					o.ids = []int{x.ID}
				}
				if !c.sendOneRetained(o) {
					return
				}
			}
			select {
			case <-c.done:
				return
			default:
			}
		}
	}
}

// sendOneRetained waits for room in the client's queue. It reports false when the
// connection ended.
func (c *conn) sendOneRetained(o outgoing) bool {
	for !c.trySendRetained(o) {
		select {
		case <-c.room:
		case <-c.done:
			return false
		}
	}
	return true
}

// trySendRetained queues a retained message, unless there is a newer one of its
// topic by now: that comes by itself, and must not come first.
func (c *conn) trySendRetained(o outgoing) (done bool) {
	r := &c.b.retained
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.byTopic[o.m.Topic]; e == nil || e.Value != o.m {
		return true
	}
	if o.qos == 0 {
		return c.send0(o)
	}
	// It does not wait for room: this is the reader, and acknowledgements make it.
	c.b.stats.dropped.Add(int64(c.s.enqueue(c.b, o.m, o.qos, true, o.ids, nil)))
	return true
}

// unsubscribe ends subscriptions. UNSUBACK means that this is on disk.
func (c *conn) unsubscribe(pk *packets.Packet) error {
	codes := make([]byte, len(pk.Filters))
	stored := make(chan error, 1)
	w := newWaiter(func(err error) { stored <- err })
	s := c.s
	for i, f := range pk.Filters {
		s.mu.Lock()
		_, had := s.subs[f.Filter]
		delete(s.subs, f.Filter)
		if had {
			s.subBytes -= len(f.Filter)
		}
		if had && s.persistent {
			c.b.store.remove(bucketSubs, keyOf(s.id, part(f.Filter)), w)
		}
		s.mu.Unlock()
		if had {
			c.b.subs.remove(s, f.Filter)
		} else {
			codes[i] = packets.CodeNoSubscriptionExisted.Code
		}
	}
	w.done(nil)
	if err := <-stored; err != nil {
		return packet.Violation(packets.ErrImplementationSpecificError, "store subscriptions: %v", err)
	}
	c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsuback}, PacketID: pk.PacketID, ReasonCodes: codes})
	return nil
}

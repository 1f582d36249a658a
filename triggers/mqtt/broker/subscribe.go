package broker

import (
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"
)

// subscribe makes subscriptions and sends the retained messages that they
// match. For a persistent session SUBACK means that they are on disk.
func (c *conn) subscribe(pk *packets.Packet) error {
	if pk.PacketID == 0 || len(pk.Filters) == 0 {
		return violation(packets.ErrProtocolViolation, "SUBSCRIBE with no packet id or no filter") // [MQTT-3.8.3-2]
	}
	codes := make([]byte, len(pk.Filters))
	stored := make(chan error, 1)
	w := newWaiter(func(err error) { stored <- err })
	var retained []outgoing
	for i, f := range pk.Filters {
		sub := subscription{
			Filter: strings.Clone(f.Filter), QoS: f.Qos,
			NoLocal: f.NoLocal, AsPublished: f.RetainAsPublished, RetainHandling: f.RetainHandling, ID: f.Identifier,
		}
		if c.version != mqtt5 {
			sub.NoLocal, sub.AsPublished, sub.RetainHandling = false, false, 0
		}
		code, messages := c.subscribeOne(sub, w)
		retained = append(retained, messages...)
		codes[i] = code
		if code > 2 && c.version < mqtt5 {
			codes[i] = packets.ErrUnspecifiedError.Code // [MQTT-3.9.3-2]
		}
	}
	w.done(nil)
	if err := <-stored; err != nil {
		return violation(packets.ErrServerUnavailable, "store subscription: %v", err)
	}
	c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Suback}, PacketID: pk.PacketID, ReasonCodes: codes})
	for _, o := range retained {
		if !c.sendRetained(o) {
			return nil
		}
	}
	return nil
}

// subscribeOne makes one subscription. It returns the code for SUBACK and the
// retained messages that the client gets.
func (c *conn) subscribeOne(sub subscription, w *waiter) (code byte, messages []outgoing) {
	group, plain, err := splitShared(sub.Filter)
	if err != nil {
		return packets.ErrTopicFilterInvalid.Code, nil
	}
	if group != "" && sub.NoLocal {
		return packets.ErrProtocolViolation.Code, nil // [MQTT-3.8.3-4]
	}
	if !c.maySubscribe(plain) {
		return packets.ErrNotAuthorized.Code, nil
	}
	s := c.s
	c.b.routing.Lock()
	defer c.b.routing.Unlock()
	s.mu.Lock()
	_, had := s.subs[sub.Filter]
	if !had && len(s.subs) >= maxSubscriptions {
		s.mu.Unlock()
		return packets.ErrQuotaExceeded.Code, nil
	}
	s.subs[sub.Filter] = sub
	if s.persistent {
		c.b.store.put(bucketSubs, keyOf(s.id, []byte(sub.Filter)), marshal(sub), w)
	}
	s.mu.Unlock()
	c.b.subs.add(s, sub)
	if group != "" || sub.RetainHandling == 2 || (sub.RetainHandling == 1 && had) { // [MQTT-3.3.1-10] [MQTT-3.3.1-11]
		return sub.QoS, nil
	}
	var ids []int
	if sub.ID > 0 {
		ids = []int{sub.ID}
	}
	for _, m := range c.b.retained.match(plain, c.b.cfg.Clock().Unix()) {
		messages = append(messages, outgoing{m: m, qos: min(m.QoS, sub.QoS), retain: true, ids: ids})
	}
	return sub.QoS, messages
}

// sendRetained queues a retained message. It waits until the client has read
// enough QoS 0 messages: it asked for that many itself. It reports false when
// the connection ended.
func (c *conn) sendRetained(o outgoing) bool {
	if o.qos > 0 {
		c.b.stats.dropped.Add(int64(c.s.enqueue(c.b, o.m, o.qos, true, o.ids, nil)))
		return true
	}
	for !c.send0(o) {
		select {
		case <-c.room:
		case <-c.done:
			return false
		}
	}
	return true
}

// unsubscribe ends subscriptions. UNSUBACK means that this is on disk.
func (c *conn) unsubscribe(pk *packets.Packet) error {
	if pk.PacketID == 0 || len(pk.Filters) == 0 {
		return violation(packets.ErrProtocolViolation, "UNSUBSCRIBE with no packet id or no filter") // [MQTT-3.10.3-2]
	}
	codes := make([]byte, len(pk.Filters))
	stored := make(chan error, 1)
	w := newWaiter(func(err error) { stored <- err })
	s := c.s
	for i, f := range pk.Filters {
		s.mu.Lock()
		_, had := s.subs[f.Filter]
		delete(s.subs, f.Filter)
		if had && s.persistent {
			c.b.store.remove(bucketSubs, keyOf(s.id, []byte(f.Filter)), w)
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
		return violation(packets.ErrServerUnavailable, "store subscriptions: %v", err)
	}
	c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsuback}, PacketID: pk.PacketID, ReasonCodes: codes})
	return nil
}

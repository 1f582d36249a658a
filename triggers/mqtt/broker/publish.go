package broker

import (
	"strings"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/triggers/mqtt/broker/packet"
)

// delayedWill waits for its client to come back [MQTT-3.1.3-9].
type delayedWill struct {
	m   *message
	due instant
}

// reserved reports whether clients may not publish to a topic.
func reserved(topic string) bool {
	root, _, _ := strings.Cut(topic, "/")
	return root == "$SYS" || root == "$share"
}

// publish handles a PUBLISH packet.
func (c *conn) publish(pk *packets.Packet) error {
	m, err := c.message(pk)
	if err != nil {
		return err
	}
	c.b.stats.received.Add(1)
	if reserved(m.Topic) {
		c.deny(pk)
		return nil
	}
	if len(m.Payload) > c.b.cfg.MaxPayload {
		c.b.stats.oversized.Add(1)
	}
	if m.QoS == 0 {
		c.publish0(m)
		return nil
	}
	return c.publishAcked(pk, m)
}

// message makes a message of a PUBLISH; it checks what the packet alone does not
// tell.
func (c *conn) message(pk *packets.Packet) (*message, error) {
	p := &pk.Properties
	topic := pk.TopicName
	if p.TopicAliasFlag {
		if p.TopicAlias > maxAliases { // [MQTT-3.3.2-9]
			return nil, packet.Violation(packets.ErrTopicAliasInvalid, "topic alias %d, at most %d are taken", p.TopicAlias, maxAliases)
		}
		if topic == "" {
			if topic = c.aliases[p.TopicAlias]; topic == "" {
				return nil, packet.Violation(packets.ErrProtocolViolation, "topic alias %d was not set", p.TopicAlias)
			}
		} else {
			if c.aliases == nil {
				c.aliases = map[uint16]string{}
			}
			topic = strings.Clone(topic)
			c.aliases[p.TopicAlias] = topic // [MQTT-3.3.2-12]
		}
	}
	if err := functions.CheckTopic(topic); err != nil {
		return nil, packet.Violation(packets.ErrTopicNameInvalid, "PUBLISH: %v", err)
	}
	m := &message{
		Topic: topic, Payload: pk.Payload, QoS: pk.FixedHeader.Qos, Retain: pk.FixedHeader.Retain, origin: c.s.id,
	}
	if c.version == mqtt5 {
		m.setProperties(p)
		if p.MessageExpiryInterval > 0 {
			m.Expiry = c.b.now().after(int64(p.MessageExpiryInterval))
		}
	}
	return m, nil
}

// deny answers a message that the client may not publish. Before MQTT 5 there
// is no word for that: the message is acknowledged and goes nowhere, since
// closing the connection would make the client send it for ever.
func (c *conn) deny(pk *packets.Packet) {
	switch pk.FixedHeader.Qos {
	case 1:
		c.ack(packets.Puback, pk.PacketID, c.code5(packets.ErrNotAuthorized))
	case 2:
		c.ack(packets.Pubrec, pk.PacketID, c.code5(packets.ErrNotAuthorized))
	}
}

// publish0 routes a QoS 0 message. Where functions want it and its client has
// too much in work already, it waits for half a keep-alive at most, so that
// the client's pings are still read, and is dropped then.
func (c *conn) publish0(m *message) {
	size, wanted := m.size(), len(c.b.bound.Load().match(m.Topic)) > 0
	if wanted {
		patience := c.keepAlive / 2
		if patience == 0 || patience > 10*time.Second {
			patience = 10 * time.Second
		}
		if !c.takeClient(size, patience) {
			c.b.stats.dropped.Add(1)
			return
		}
	}
	targets := c.b.routeUnwaited(m)
	if len(targets) == 0 {
		if wanted {
			c.b.giveClient(c.s, size)
		}
		return
	}
	if !wanted { // bound meanwhile
		c.s.lane.budget.force(size)
		c.b.total.force(size)
	}
	s := c.s
	all := newWaiter(func(error) { c.b.giveClient(s, size) })
	c.b.handOver(s.lane, targets, m, false, nil, all)
	all.done(nil)
}

// routeUnwaited is route for messages that nobody waits for.
func (b *Broker) routeUnwaited(m *message) []target {
	targets, _ := b.route(m, nil)
	return targets
}

// publishAcked routes a QoS 1 or 2 message unless it is a repeat.
func (c *conn) publishAcked(pk *packets.Packet, m *message) error {
	s, sum, dup := c.s, m.sum(), pk.FixedHeader.Dup
	s.mu.Lock()
	prev := s.works[pk.PacketID]
	repeat := prev != nil && prev.matches(m.QoS, dup, sum)
	again := repeat && prev.state == failed
	counted := prev != nil && prev.conn == c
	if !counted && c.inbound >= receiveMaximum && c.version == mqtt5 {
		s.mu.Unlock()
		return packet.Violation(packets.ErrReceiveMaximum, "more than %d unacknowledged messages", receiveMaximum) // [MQTT-3.3.4-7]
	}
	if !counted {
		c.inbound++
	}
	if repeat {
		c.b.stats.repeats.Add(1)
		prev.conn = c
		switch prev.state {
		case settled:
			delete(s.works, prev.pid)
			c.inbound--
			c.puback(prev.pid)
		case received:
			c.pubrec(prev.pid, 0)
		case failed:
			prev.state = working
		case working, receiving, releasing: // answered when that is done
		}
	}
	s.mu.Unlock()
	if repeat && !again {
		return nil
	}
	size := m.size()
	if !c.takeClient(size, 0) {
		if again {
			s.mu.Lock()
			prev.state = failed
			s.mu.Unlock()
		}
		return nil // the connection is over
	}
	if again {
		// Subscribers have had it; the functions have not.
		all := newWaiter(prev.finish)
		s.mu.Lock()
		prev.size = size
		s.mu.Unlock()
		c.b.handOver(s.lane, c.b.bound.Load().match(m.Topic), m, dup, prev, all)
		all.done(nil)
		return nil
	}
	w := &work{b: c.b, s: s, pid: pk.PacketID, qos: m.QoS, sum: sum, size: size, conn: c}
	all := newWaiter(w.finish)
	s.mu.Lock()
	w.use = s.uses[w.pid]
	s.works[w.pid] = w
	s.mu.Unlock()
	targets, _ := c.b.route(m, all)
	if len(targets) > 0 {
		s.mu.Lock()
		w.keep = true
		s.mu.Unlock()
		c.b.handOver(s.lane, targets, m, dup, w, all)
	}
	all.done(nil)
	return nil
}

// route gives a message to the retained messages and to subscribers, and
// returns the function triggers that it matches. w is told what must be on
// disk before the message counts as taken; nil: nobody waits. kept is false
// when the message could not be retained for lack of room.
func (b *Broker) route(m *message, w *waiter) (targets []target, kept bool) {
	b.routing.RLock()
	defer b.routing.RUnlock()
	kept = true
	if m.Retain {
		kept = b.retained.set(m, w)
		if !kept {
			b.stats.retainedRefused.Add(1)
			b.cfg.Logger.Warn("mqtt message not retained: no room", "topic", m.Topic, "at_most", maxRetained)
		}
	}
	for _, t := range b.subs.match(m.Topic, m.origin) {
		qos, retain := min(m.QoS, t.qos), m.Retain && t.retain
		if qos > 0 {
			b.stats.dropped.Add(int64(t.s.enqueue(b, m, qos, retain, t.ids, w)))
			continue
		}
		t.s.mu.Lock()
		conn := t.s.conn
		t.s.mu.Unlock()
		if conn != nil && !conn.send0(outgoing{m: m, retain: retain, ids: t.ids}) {
			b.stats.dropped.Add(1)
		}
	}
	return b.bound.Load().match(m.Topic), kept
}

// handOver puts the events of a client's message in the client's lane; all
// counts each of them. w is the message if it awaits an acknowledgement.
func (b *Broker) handOver(l *lane, targets []target, m *message, dup bool, w *work, all *waiter) {
	for _, t := range targets {
		ev, own := b.event(t, m, false, dup, w)
		all.add()
		b.lanes.push(l, b.taskFor(t, ev, own, all.done))
	}
}

// publishWill publishes the will of a client.
func (b *Broker) publishWill(l *lane, m *message) {
	if m.Lifetime > 0 {
		m.Expiry, m.Lifetime = b.now().after(int64(m.Lifetime)), 0
	}
	targets := b.routeUnwaited(m)
	if len(targets) == 0 {
		return
	}
	size := m.size()
	l.budget.force(size) // one per connection that ended
	all := newWaiter(func(error) { b.lanes.give(l, size) })
	b.handOver(l, targets, m, false, nil, all)
	all.done(nil)
}

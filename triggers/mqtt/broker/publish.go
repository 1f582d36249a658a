package broker

import (
	"fmt"
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/triggers/mqtt/broker/packet"
)

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
	if reserved(m.Topic) || !c.mayPublish(m.Topic) {
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
	if n := strings.Count(topic, "/") + 1; n > maxLevels {
		return nil, packet.Violation(packets.ErrTopicNameInvalid, "PUBLISH: the topic has %d levels, at most %d are taken", n, maxLevels)
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

// publish0 routes a QoS 0 message. One for which there is no room goes to no
// function, and is counted.
func (c *conn) publish0(m *message) {
	targets := c.b.routeUnwaited(m)
	if len(targets) == 0 {
		return
	}
	b, id, size := c.b, c.s.id, m.cost()
	if !b.intake.take(id, targets, size, 0) {
		b.stats.dropped.Add(1)
		return
	}
	all := newWaiter(func(error) { b.intake.give(id, size) })
	b.handOver(id, targets, m, size, false, nil, all)
	all.done(nil)
}

// refusal is a message of QoS 1 or 2 for which there was no room.
type refusal struct {
	client  string
	targets []target
	size    int64
	qos     byte
}

// overflow refuses a message that went nowhere, for a bound was reached.
func (c *conn) overflow(w *work, err error) {
	c.b.intake.give(w.s.id, w.size)
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if w.s.works[w.pid] == w {
		delete(w.s.works, w.pid)
	}
	switch {
	case c.version != mqtt5:
		c.unsettled(err)
	case w.qos == 1:
		c.inbound--
		c.ack(packets.Puback, w.pid, packets.ErrQuotaExceeded.Code)
	default:
		c.inbound--
		c.ack(packets.Pubrec, w.pid, packets.ErrQuotaExceeded.Code)
	}
}

// overrun takes no message of QoS 1 or 2 from this connection any more, so that
// none overtakes the one for which there is no room now. Nobody is told so: the
// connection serves on, and ends when there is room, whereupon the client sends
// again what was not acknowledged.
func (c *conn) overrun(r refusal) {
	if !c.overran.CompareAndSwap(nil, &r) {
		return
	}
	c.b.stats.overruns.Add(1)
	var functions []string
	for _, t := range r.targets {
		functions = append(functions, t.function)
	}
	c.b.cfg.Logger.Info("mqtt client sends more than is settled; it is to send again what is beyond that once there is room",
		keyClient, r.client, keyFunction, functions)
}

// routeUnwaited is route for messages that nobody waits for.
func (b *Broker) routeUnwaited(m *message) []target {
	targets, err := b.route(m, nil)
	if err != nil {
		b.cfg.Logger.Warn("mqtt message not retained", keyTopic, m.Topic, keyErr, err)
	}
	return targets
}

// publishAcked routes a QoS 1 or 2 message unless it is a repeat.
func (c *conn) publishAcked(pk *packets.Packet, m *message) error {
	if c.overran.Load() != nil {
		return nil
	}
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
	size, wanted := m.cost(), c.b.bound.Load().match(m.Topic)
	if !c.b.intake.take(s.id, wanted, size, m.QoS) {
		if again {
			s.mu.Lock()
			prev.state = failed
			s.mu.Unlock()
		}
		c.overrun(refusal{client: s.id, targets: wanted, size: size, qos: m.QoS})
		return nil
	}
	if again {
		// Subscribers have had it; the functions have not.
		all := newWaiter(prev.finish)
		s.mu.Lock()
		prev.size = size
		s.mu.Unlock()
		c.b.handOver(s.id, wanted, m, size, dup, prev, all)
		all.done(nil)
		return nil
	}
	w := &work{b: c.b, s: s, pid: pk.PacketID, qos: m.QoS, sum: sum, size: size, conn: c}
	all := newWaiter(w.finish)
	s.mu.Lock()
	w.use = s.uses[w.pid]
	s.works[w.pid] = w
	s.mu.Unlock()
	targets, err := c.b.route(m, all)
	if err != nil {
		c.overflow(w, err)
		return nil
	}
	if len(targets) > 0 {
		s.mu.Lock()
		w.keep = true
		s.mu.Unlock()
		c.b.handOver(s.id, targets, m, size, dup, w, all)
	}
	all.done(nil)
	return nil
}

// route gives a message to the retained messages and to subscribers, and
// returns the function triggers that it matches. w is told what must be on
// disk before the message counts as taken; nil: nobody waits. At a bound the
// error is ErrRetainedFull or ErrQueueFull; a message that somebody waits for
// then went nowhere.
func (b *Broker) route(m *message, w *waiter) (targets []target, err error) {
	b.routing.RLock()
	defer b.routing.RUnlock()
	sessions := b.subs.match(m.Topic, m.origin)
	if w != nil && b.cfg.QueueFull == Refuse {
		for _, t := range sessions {
			if min(m.QoS, t.qos) > 0 && !t.s.hasRoom(b, m.size()) {
				b.stats.refusedFull.Add(1)
				return nil, fmt.Errorf("%w: client %q", ErrQueueFull, t.s.id)
			}
		}
	}
	if m.Retain && !b.retained.set(m, w) {
		b.stats.retainedRefused.Add(1)
		err = fmt.Errorf("%w: at most %d messages and %d bytes", ErrRetainedFull, b.cfg.MaxRetained, b.cfg.MaxRetainedBytes)
		if w != nil {
			return nil, err
		}
	}
	for _, t := range sessions {
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
	return b.bound.Load().match(m.Topic), err
}

// handOver puts the events of a client's message in its lanes to their
// triggers; all counts each of them, size is what the message counts for. w is
// the message if it awaits an acknowledgement.
func (b *Broker) handOver(client string, targets []target, m *message, size int64, dup bool, w *work, all *waiter) {
	for _, t := range targets {
		ev, own := b.event(t, m, false, dup, w)
		all.add()
		l := b.lanes.open(clientLane(client, t), 0, 0)
		b.intake.handed(t, size)
		b.lanes.push(l, b.taskFor(t, ev, own, func(err error) {
			b.intake.settled(t, size)
			b.lanes.close(l)
			all.done(err)
		}))
	}
}

// clientLane is the key of the lane of a client's events for one trigger. No
// client id has a NUL.
func clientLane(client string, t target) string { return "c" + client + "\x00" + t.key() }

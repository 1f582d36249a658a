package broker

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/triggers"
	"github.com/edgefn/edgefn/triggers/mqtt"
)

// workState is how far a QoS 1 or 2 message from a client has come.
type workState byte

const (
	working   workState = iota // functions or the store have it
	failed                     // a function did not settle it; the client must send it again
	settled                    // QoS 1: finished while the client was away; PUBACK when it asks again
	receiving                  // QoS 2: finished, its packet id is on the way to the disk
	received                   // QoS 2: PUBREC may be sent; a repeat until PUBREL
	releasing                  // QoS 2: PUBREL came, its packet id is on the way off the disk
)

// receivedRecord is a QoS 2 packet id on disk.
type receivedRecord struct {
	Uses     uint32 `cbor:"1,keyasint"` // times that the packet id was released
	Received bool   `cbor:"2,keyasint,omitempty"`
	Keep     bool   `cbor:"3,keyasint,omitempty"` // events were made of it: keep counting
	Sum      []byte `cbor:"4,keyasint,omitempty"`
}

// work is a QoS 1 or 2 message from a client until it is acknowledged, and for
// QoS 2 until it is released. Its mutable fields are guarded by s.mu.
type work struct {
	b    *Broker
	s    *session
	pid  uint16
	qos  byte
	sum  [16]byte
	size int64
	use  uint32 // how often the packet id was used before

	conn  *conn // the connection that awaits the acknowledgement; nil: none
	state workState
	keep  bool
}

// matches reports whether a PUBLISH is this message again.
func (w *work) matches(qos byte, dup bool, sum [16]byte) bool {
	return w.qos == qos && w.sum == sum && (dup || qos == 2)
}

// finish is called when everything that the message set off is done.
func (w *work) finish(err error) {
	w.b.intake.give(w.s.id, w.size)
	s := w.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone || s.works[w.pid] != w {
		return // the client has used the packet id for another message
	}
	switch {
	case errors.Is(err, errNotStored):
		// Sessions may lack it: the repeat is another message.
		delete(s.works, w.pid)
		if w.conn != nil {
			w.conn.inbound--
			w.conn.unsettled(err)
		}
	case err != nil:
		w.state = failed
		if w.conn != nil {
			w.conn.unsettled(err)
		}
	case w.qos == 1:
		if c := w.conn; c != nil && c == s.conn {
			delete(s.works, w.pid)
			c.inbound--
			c.puback(w.pid)
			return
		}
		w.state = settled
	case s.persistent:
		w.state = receiving
		rec := receivedRecord{Uses: w.use, Received: true, Keep: w.keep, Sum: w.sum[:]}
		w.b.store.write(change{
			bucket: bucketReceived, key: keyOf(s.id, pidKey(w.pid)), value: marshal(rec),
			fn: func(ok bool) {
				s.mu.Lock()
				defer s.mu.Unlock()
				if s.gone || s.works[w.pid] != w {
					return
				}
				if !ok {
					w.state = failed
					if w.conn != nil {
						w.conn.unsettled(errNotStored)
					}
					return
				}
				w.receipt()
			},
		})
	default:
		w.receipt()
	}
}

// receipt sends PUBREC; s.mu is held.
func (w *work) receipt() {
	w.state = received
	if w.conn != nil && w.conn == w.s.conn {
		w.conn.pubrec(w.pid, 0)
	}
}

// released answers PUBREL: the packet id is free once that is on disk; s.mu is
// held.
func (w *work) released(c *conn) {
	s := w.s
	if w.conn != c {
		c.inbound++
		w.conn = c
	}
	if w.state != received {
		return // PUBCOMP follows the commit; before PUBREC there is nothing to release
	}
	w.state = releasing
	complete := func() {
		s.uses[w.pid] = w.use
		if w.keep {
			s.uses[w.pid] = w.use + 1
		}
		if s.uses[w.pid] == 0 {
			delete(s.uses, w.pid)
		}
		delete(s.works, w.pid)
		if w.conn != nil && w.conn == s.conn {
			w.conn.inbound--
			w.conn.pubcomp(w.pid, 0)
		}
	}
	if !s.persistent {
		complete()
		return
	}
	ch := change{bucket: bucketReceived, key: keyOf(s.id, pidKey(w.pid))}
	if w.keep {
		ch.value = marshal(receivedRecord{Uses: w.use + 1})
	} else if w.use > 0 {
		ch.value = marshal(receivedRecord{Uses: w.use})
	}
	ch.fn = func(ok bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.works[w.pid] != w {
			return
		}
		if !ok {
			w.state = received // PUBREL will come again
			return
		}
		complete()
	}
	w.b.store.write(ch)
}

// eventID is the id of the event of a QoS 2 message: the same for every
// delivery of that message, and another for every other message.
func (w *work) eventID() string {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%d:%s", len(w.s.id), w.s.id)
	var tail [14]byte
	binary.BigEndian.PutUint64(tail[:], w.s.epoch)
	binary.BigEndian.PutUint16(tail[8:], w.pid)
	binary.BigEndian.PutUint32(tail[10:], w.use)
	_, _ = h.Write(tail[:])
	_, _ = h.Write(w.sum[:])
	return "qos2-" + hex.EncodeToString(h.Sum(nil)[:16])
}

// target is a function trigger that is bound to this broker.
type target struct {
	function string
	trigger  functions.Trigger
}

func (t target) key() string { return t.function + "\x00" + t.trigger.Name }

// bindings are the function triggers, replaced as a whole.
type bindings struct {
	list  []target
	byKey map[string]target
}

func (bs *bindings) match(topic string) (out []target) {
	for _, t := range bs.list {
		if functions.TopicMatches(t.trigger.MQTT.Topic, topic) {
			out = append(out, t)
		}
	}
	return out
}

// event makes the event that a target gets of a message. w is the client's
// QoS 2 message that it comes from, or nil.
func (b *Broker) event(t target, m *message, retain, dup bool, w *work) (ev functions.Event, ownID bool) {
	msg := mqtt.Message{
		Topic: m.Topic, Payload: m.Payload, QoS: min(m.QoS, t.trigger.MQTT.QoS), Retain: retain, Dup: dup,
	}
	if w != nil {
		msg.PacketID = w.pid
	}
	now := b.cfg.Clock()
	msg.Properties, msg.UTF8 = m.properties(now, b.now()), m.Format != nil && *m.Format == 1
	ev, ownID = mqtt.Event(b.cfg.Name, t.trigger, msg, now)
	if !ownID && w != nil && msg.QoS == 2 {
		ev.ID, ownID = w.eventID(), true
	}
	return ev, ownID
}

// taskFor makes the hand-over of an event to a target. A target that is not
// bound any more when its turn comes is done with.
func (b *Broker) taskFor(t target, ev functions.Event, ownID bool, done func(error)) task {
	return task{
		deliver: func(ctx context.Context, settle func(error)) error {
			if _, bound := b.bound.Load().byKey[t.key()]; !bound {
				settle(nil)
				return nil
			}
			b.stats.events.Add(1)
			return b.cfg.Sink.Deliver(ctx, triggers.Delivery{
				Function: t.function, Trigger: t.trigger.Name, Event: ev, OwnID: ownID, Repeat: ev.Extensions[functions.ExtMQTTDup] == "true", Settle: settle,
			})
		},
		settled: done,
	}
}

// counters are the numbers behind Stats.
type counters struct {
	received, sent, events, dropped, expired, refused, oversized, retainedRefused, refusedFull, repeats, overruns, denied atomic.Int64
}

package mqtt

import "github.com/edgefn/edgefn/triggers/mqtt/replay"

// window knows the QoS 1 and 2 messages that one session at the broker has
// handed over and that are not acknowledged for certain. It decides what a
// received message is: a new one or a repeat. It has no lock and no clock.
//
// A packet id belongs to a message until its PUBACK or PUBCOMP has reached the
// broker [MQTT-2.3.1-4]. So a repeat is sure as long as nothing was sent that
// may free the id:
//
//	QoS 1: until a PUBACK was written to a live connection
//	QoS 2: until the broker's PUBREL came
type window struct {
	byID map[uint16]*held // at most 65535
}

// held is a message from its arrival until it is acknowledged.
type held struct {
	id     uint16
	qos    byte
	topic  string
	digest replay.Digest
	size   int // bytes that it occupies while it is not settled

	ack     func() // of its newest arrival
	conn    uint64 // the connection that ack belongs to
	settled bool
	due     bool // it waits for its acknowledgement to be written
}

// verdict says what to do with a received message.
type verdict int

const (
	verdictNew    verdict = iota // queue it
	verdictRepeat                // it is in work: nothing, its settling acknowledges
	verdictAgain                 // it was settled: acknowledge it again
)

func newWindow() *window { return &window{byID: make(map[uint16]*held)} }

// look decides about a message that arrived on connection conn. It returns the
// entry in question; a new one must be added with add.
func (w *window) look(m Message, digest replay.Digest, conn uint64, ack func()) (*held, verdict) {
	old, ok := w.byID[m.PacketID]
	// A QoS 2 sender keeps the id until PUBCOMP, whatever its DUP says; a QoS 1
	// repeat must have DUP set [MQTT-3.3.1-1].
	if ok && old.qos == m.QoS && (m.Dup || m.QoS == 2) && old.digest == digest && old.topic == m.Topic {
		old.ack, old.conn = ack, conn
		if old.settled {
			return old, verdictAgain
		}
		return old, verdictRepeat
	}
	return &held{
		id: m.PacketID, qos: m.QoS, topic: m.Topic, digest: digest,
		size: len(m.Payload) + len(m.Topic), ack: ack, conn: conn,
	}, verdictNew
}

// add puts a new entry in its id's place. An entry that was there belongs to a
// message that the broker gave up; it will not be acknowledged.
func (w *window) add(h *held) { w.byID[h.id] = h }

// acknowledge reports whether h.ack of a settled entry is to be called now,
// which needs the entry's connection to be conn, the live one; 0 is none. An
// entry that stays is acknowledged when the broker sends it again.
func (w *window) acknowledge(h *held, conn uint64) bool {
	if w.byID[h.id] != h || h.conn != conn || conn == 0 {
		return false
	}
	if h.qos == 1 {
		delete(w.byID, h.id)
	}
	return true
}

// letGo forgets an entry that was not settled: a repeat of it is new.
func (w *window) letGo(h *held) {
	if w.byID[h.id] == h {
		delete(w.byID, h.id)
	}
}

// release takes note of a PUBREL: the broker knows that its QoS 2 message is
// settled and may use the id again.
func (w *window) release(id uint16) {
	if h, ok := w.byID[id]; ok && h.qos == 2 && h.settled {
		delete(w.byID, id)
	}
}

// forget drops everything: the broker has no session any more, so its packet
// ids mean nothing.
func (w *window) forget() { clear(w.byID) }

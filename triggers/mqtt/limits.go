package mqtt

import (
	"fmt"
)

// maxRemaining is the largest remaining length that a packet can have
// [MQTT 5, section 1.5.5; the same in 3.1.1].
const maxRemaining = 268_435_455

// limits are what a broker said in its CONNACK that it takes [MQTT 5, section
// 3.2.2.3]. Over MQTT 3.1.1 it says nothing.
type limits struct {
	known    bool
	packet   uint32 // bytes of a whole packet; 0: it named no bound
	retain   bool
	qos      byte
	inFlight int // QoS 1 and 2 messages that may wait for their acknowledgement
}

// unknown are the limits of a broker that said nothing: those of the protocol.
var unknown = limits{retain: true, qos: 2, inFlight: 65535}

// check reports why a message must not be sent, or nil. A message that asks for
// a higher QoS than the broker has is refused and not sent with less
// [MQTT-3.2.2-11]: its author asked for that guarantee.
func (l limits) check(m outgoing) error {
	size, ok := l.size(m)
	switch {
	case !ok:
		return fmt.Errorf("%w: its %d bytes are more than an MQTT packet can carry", ErrRefused, len(m.data))
	case l.packet != 0 && size > uint64(l.packet): // [MQTT-3.2.2-15]
		return fmt.Errorf("%w: as a packet it has %d bytes, and the broker takes %d", ErrRefused, size, l.packet)
	case m.retain && !l.retain: // [MQTT-3.2.2-14]
		return fmt.Errorf("%w: it is to be retained, and the broker retains no messages", ErrRefused)
	case m.qos > l.qos:
		return fmt.Errorf("%w: it asks for QoS %d, and the broker takes QoS %d at most", ErrRefused, m.qos, l.qos)
	}
	return nil
}

// size is how many bytes m has as a PUBLISH packet of MQTT 5 without
// properties; false: no packet can carry it. In MQTT 3.1.1 it is a byte shorter.
func (limits) size(m outgoing) (bytes uint64, ok bool) {
	n := uint64(len(m.topic)) + uint64(len(m.data)) + 3 // the topic's length and that of no properties
	if m.qos > 0 {
		n += 2 // the packet id
	}
	head := uint64(2)
	for rest := n >> 7; rest > 0; rest >>= 7 {
		head++
	}
	return head + n, n <= maxRemaining
}

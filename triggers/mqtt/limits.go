package mqtt

import (
	"fmt"

	"github.com/edgefn/edgefn/functions"
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
		return fmt.Errorf("%w: its %d bytes are more than an MQTT packet can carry", ErrRefused, len(m.data)+m.Size())
	case l.packet != 0 && size > uint64(l.packet): // [MQTT-3.2.2-15]
		return fmt.Errorf("%w: as a packet it has %d bytes, and the broker takes %d", ErrRefused, size, l.packet)
	case m.retain && !l.retain: // [MQTT-3.2.2-14]
		return fmt.Errorf("%w: it is to be retained, and the broker retains no messages", ErrRefused)
	case m.qos > l.qos:
		return fmt.Errorf("%w: it asks for QoS %d, and the broker takes QoS %d at most", ErrRefused, m.qos, l.qos)
	}
	return nil
}

// size is how many bytes m has as a PUBLISH packet of MQTT 5; false: no packet can
// carry it. In MQTT 3.1.1 it is shorter: a byte, and its properties.
func (limits) size(m outgoing) (bytes uint64, ok bool) {
	p := propertiesSize(m.Properties)
	n := 2 + uint64(len(m.topic)) + variableSize(p) + p + uint64(len(m.data))
	if m.qos > 0 {
		n += 2 // the packet id
	}
	return 1 + variableSize(n) + n, n <= maxRemaining
}

// propertiesSize is how many bytes properties have in a packet [MQTT 5, section
// 2.2.2.2]: an identifier before each, and a length before each text.
func propertiesSize(p functions.Properties) uint64 {
	n := p.Size() + 5*len(p.User)
	for _, length := range []int{len(p.ContentType), len(p.ResponseTopic), len(p.Correlation)} {
		if length > 0 {
			n += 3
		}
	}
	if !p.Expires.IsZero() {
		n += 5
	}
	return uint64(n)
}

// variableSize is how many bytes a number has as a variable byte integer [MQTT 5,
// section 1.5.5].
func variableSize(n uint64) uint64 {
	size := uint64(1)
	for n >>= 7; n > 0; n >>= 7 {
		size++
	}
	return size
}

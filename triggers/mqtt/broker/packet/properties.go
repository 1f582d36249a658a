package packet

import (
	"github.com/mochi-mqtt/server/v2/packets"
)

// section is what there is of properties in one place of a packet.
type section struct {
	seen  uint64 // a bit for each identifier
	twice uint64 // those that came more than once
}

func (s section) has(id byte) bool { return s.seen>>id&1 != 0 }

// form is how a property's value is written.
type form byte

const (
	oneByte form = iota + 1
	twoBytes
	fourBytes
	variable // a variable byte integer
	data     // a string, or binary data
	pair     // two strings
)

// forms has the properties that a client may send and those that only a server
// sends: their form must be known to tell which one it is. 2.2.2.2
var forms = [43]form{
	packets.PropPayloadFormat:          oneByte,
	packets.PropMessageExpiryInterval:  fourBytes,
	packets.PropContentType:            data,
	packets.PropResponseTopic:          data,
	packets.PropCorrelationData:        data,
	packets.PropSubscriptionIdentifier: variable,
	packets.PropSessionExpiryInterval:  fourBytes,
	packets.PropAssignedClientID:       data,
	packets.PropServerKeepAlive:        twoBytes,
	packets.PropAuthenticationMethod:   data,
	packets.PropAuthenticationData:     data,
	packets.PropRequestProblemInfo:     oneByte,
	packets.PropWillDelayInterval:      fourBytes,
	packets.PropRequestResponseInfo:    oneByte,
	packets.PropResponseInfo:           data,
	packets.PropServerReference:        data,
	packets.PropReasonString:           data,
	packets.PropReceiveMaximum:         twoBytes,
	packets.PropTopicAliasMaximum:      twoBytes,
	packets.PropTopicAlias:             twoBytes,
	packets.PropMaximumQos:             oneByte,
	packets.PropRetainAvailable:        oneByte,
	packets.PropUser:                   pair,
	packets.PropMaximumPacketSize:      fourBytes,
	packets.PropWildcardSubAvailable:   oneByte,
	packets.PropSubIDAvailable:         oneByte,
	packets.PropSharedSubAvailable:     oneByte,
}

// section passes over the properties of a packet, or of a will, and notes which
// there are. It is empty before MQTT 5.
func (v *view) section(c *cursor, place byte) (s section, err error) {
	if v.ProtocolVersion < V5 {
		return s, nil
	}
	if c.bad {
		return s, malformed("%s packet ends before its properties", name(v.FixedHeader.Type))
	}
	n, padded, err := variableLength(c)
	if err != nil {
		return s, err
	}
	if padded {
		return s, &Error{Code: packets.ErrMalformedPacket.Code, Number: "MQTT-1.5.5-1", Text: "length of properties has more bytes than it needs"}
	}
	in := &cursor{b: c.take(n)}
	if c.bad {
		return s, malformed("properties are longer than their %s packet", name(v.FixedHeader.Type))
	}
	for len(in.b) > 0 {
		id := in.byte() // one byte is enough for all that there are
		if int(id) >= len(forms) || forms[id] == 0 {
			return s, malformed("property %d is unknown", id)
		}
		switch forms[id] {
		case oneByte:
			in.take(1)
		case twoBytes:
			in.take(2)
		case fourBytes:
			in.take(4)
		case data:
			in.data()
		case pair:
			in.data()
			in.data()
		case variable:
			if _, padded, err := variableLength(in); err != nil || padded {
				return s, malformed("property %d is no variable byte integer", id)
			}
		}
		if in.bad {
			return s, malformed("property %d is longer than its section", id)
		}
		s.twice |= s.seen & (1 << id)
		s.seen |= 1 << id
	}
	// Which property may stand where is the codec's table, but for a property
	// that clients may not send.
	if place == packets.Disconnect && s.has(packets.PropServerReference) {
		return s, Violation(packets.ErrProtocolViolation, "DISCONNECT of a client with a server reference")
	}
	s.twice &^= 1 << packets.PropUser // as often as one likes, everywhere
	return s, nil
}

package packet

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Versions of the protocol, as CONNECT carries them.
const (
	V31  = 3
	V311 = 4
	V5   = 5
)

// Error is what a client did against the protocol.
type Error struct {
	Code   byte   // reason code of MQTT 5
	Number string // of the requirement, such as "MQTT-3.1.2-3"; empty where the standard gives none
	Text   string
}

func (e *Error) Error() string {
	if e.Number == "" {
		return e.Text
	}
	return e.Text + " [" + e.Number + "]"
}

// Violation makes an Error.
func Violation(code packets.Code, format string, args ...any) *Error {
	return &Error{Code: code.Code, Text: fmt.Sprintf(format, args...)}
}

func malformed(format string, args ...any) *Error {
	return Violation(packets.ErrMalformedPacket, format, args...)
}

// translate makes an Error of one of the codec's.
func translate(err error) error {
	var code packets.Code
	if errors.As(err, &code) {
		return &Error{Code: code.Code, Text: err.Error()}
	}
	return malformed("%v", err)
}

// Encode returns the bytes of a packet of a server that is no PUBLISH.
func Encode(pk packets.Packet) []byte {
	buf := new(bytes.Buffer)
	var err error
	switch pk.FixedHeader.Type {
	case packets.Connack:
		err = pk.ConnackEncode(buf)
	case packets.Puback, packets.Pubrec, packets.Pubcomp:
		err = pk.PubackEncode(buf) // all of one form; the type is in the header
	case packets.Pubrel:
		pk.FixedHeader.Qos = 1 // its reserved bits [MQTT-3.6.1-1]
		err = pk.PubrelEncode(buf)
	case packets.Suback:
		err = pk.SubackEncode(buf)
	case packets.Unsuback:
		err = pk.UnsubackEncode(buf)
	case packets.Pingresp:
		err = pk.PingrespEncode(buf)
	case packets.Disconnect:
		err = pk.DisconnectEncode(buf)
	default:
		panic(fmt.Sprintf("packet: encode type %d", pk.FixedHeader.Type))
	}
	if err != nil {
		panic(fmt.Sprintf("packet: encode type %d: %v", pk.FixedHeader.Type, err)) // only made of our own values
	}
	return buf.Bytes()
}

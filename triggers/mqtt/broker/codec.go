package broker

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/fxamacker/cbor/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// Versions of the protocol, as CONNECT carries them.
const (
	mqtt31  = 3
	mqtt311 = 4
	mqtt5   = 5
)

// property is an MQTT 5 user property.
type property struct {
	_   struct{} `cbor:",toarray"`
	Key string
	Val string
}

// message is an application message on its way to subscribers, functions and
// the store. It is never changed once it is routed.
type message struct {
	Topic   string `cbor:"1,keyasint"`
	Payload []byte `cbor:"2,keyasint,omitempty"`
	QoS     byte   `cbor:"3,keyasint,omitempty"`
	Retain  bool   `cbor:"4,keyasint,omitempty"`
	Expiry  int64  `cbor:"5,keyasint,omitempty"` // Unix seconds; 0: never

	// MQTT 5 properties that subscribers get unaltered [MQTT-3.3.2-4].
	Format      *byte      `cbor:"6,keyasint,omitempty"`
	ContentType string     `cbor:"7,keyasint,omitempty"`
	Response    string     `cbor:"8,keyasint,omitempty"`
	Correlation []byte     `cbor:"9,keyasint,omitempty"`
	User        []property `cbor:"10,keyasint,omitempty"`

	Seq uint64 `cbor:"11,keyasint,omitempty"` // of a retained message: the order in which they were set

	origin string // client id of the sender; empty: a function or none
}

// size is what a message counts for in bounds: its content and a flat
// surcharge for what surrounds it.
func (m *message) size() int64 {
	n := len(m.Topic) + len(m.Payload) + len(m.ContentType) + len(m.Response) + len(m.Correlation) + 256
	for _, p := range m.User {
		n += len(p.Key) + len(p.Val) + 32
	}
	return int64(n)
}

// sum identifies the content: the topic and the payload.
func (m *message) sum() (s [16]byte) {
	h := sha256.New()
	_, _ = io.WriteString(h, m.Topic)
	_, _ = h.Write([]byte{0}) // no topic has a NUL
	_, _ = h.Write(m.Payload)
	copy(s[:], h.Sum(nil))
	return s
}

func (m *message) expired(now int64) bool { return m.Expiry != 0 && m.Expiry <= now }

// setProperties takes over what a PUBLISH or a will carries.
func (m *message) setProperties(p *packets.Properties, now int64) {
	if p.PayloadFormatFlag {
		f := p.PayloadFormat
		m.Format = &f
	}
	m.ContentType, m.Response, m.Correlation = p.ContentType, p.ResponseTopic, p.CorrelationData
	for _, u := range p.User {
		m.User = append(m.User, property{Key: u.Key, Val: u.Val})
	}
	if p.MessageExpiryInterval > 0 {
		m.Expiry = now + int64(p.MessageExpiryInterval)
	}
}

// outgoing is a message as one client gets it.
type outgoing struct {
	m      *message
	qos    byte
	retain bool
	dup    bool
	pid    uint16
	ids    []int // subscription identifiers [MQTT-3.3.4-3]
}

// encodePublish appends the PUBLISH packet.
func encodePublish(buf *bytes.Buffer, version byte, o outgoing, now int64) error {
	m := o.m
	pk := packets.Packet{
		FixedHeader:     packets.FixedHeader{Type: packets.Publish, Qos: o.qos, Dup: o.dup, Retain: o.retain},
		ProtocolVersion: version,
		TopicName:       m.Topic,
		Payload:         m.Payload,
		PacketID:        o.pid,
		Mods:            packets.Mods{AllowResponseInfo: true},
	}
	if version == mqtt5 {
		p := &pk.Properties
		if m.Format != nil {
			p.PayloadFormat, p.PayloadFormatFlag = *m.Format, true
		}
		p.ContentType, p.ResponseTopic, p.CorrelationData = m.ContentType, m.Response, m.Correlation
		for _, u := range m.User {
			p.User = append(p.User, packets.UserProperty{Key: u.Key, Val: u.Val})
		}
		p.SubscriptionIdentifier = o.ids
		if m.Expiry != 0 {
			p.MessageExpiryInterval = uint32(max(1, m.Expiry-now)) // [MQTT-3.3.2-6]
		}
	}
	return pk.PublishEncode(buf)
}

// encode returns the bytes of a packet that is no PUBLISH.
func encode(pk packets.Packet) []byte {
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
		panic(fmt.Sprintf("broker: encode packet type %d", pk.FixedHeader.Type))
	}
	if err != nil {
		panic(fmt.Sprintf("broker: encode packet type %d: %v", pk.FixedHeader.Type, err)) // only made of our own values
	}
	return buf.Bytes()
}

// protocolError is what a client did against the protocol.
type protocolError struct {
	code byte // MQTT 5 reason code
	text string
}

func (e *protocolError) Error() string { return e.text }

func violation(code packets.Code, format string, args ...any) *protocolError {
	return &protocolError{code: code.Code, text: fmt.Sprintf(format, args...)}
}

// translate makes a protocolError of an error of the codec.
func translate(err error) error {
	var code packets.Code
	if errors.As(err, &code) {
		return &protocolError{code: code.Code, text: err.Error()}
	}
	return &protocolError{code: packets.ErrMalformedPacket.Code, text: err.Error()}
}

// readPacket reads one packet of at most limit bytes. Memory is taken as the
// bytes arrive, never for what a header merely announces.
func readPacket(r *bufio.Reader, version byte, limit int) (pk packets.Packet, err error) {
	first, err := r.ReadByte()
	if err != nil {
		return pk, err
	}
	pk.ProtocolVersion = version
	if err := pk.FixedHeader.Decode(first); err != nil {
		return pk, translate(err)
	}
	// mochi's length decoder accepts a header that never ends; the standard
	// allows four bytes [MQTT-1.5.5-1].
	length, shift := 0, 0
	for {
		b, err := r.ReadByte()
		if err != nil {
			return pk, err
		}
		length |= int(b&0x7f) << shift
		if b&0x80 == 0 {
			break
		}
		if shift += 7; shift > 21 {
			return pk, violation(packets.ErrMalformedVariableByteInteger, "remaining length is longer than four bytes")
		}
	}
	pk.FixedHeader.Remaining = length
	if length > limit {
		return pk, violation(packets.ErrPacketTooLarge, "packet of %d bytes, at most %d are taken", length, limit)
	}
	var body []byte
	if length <= r.Size() {
		body = make([]byte, length)
		_, err = io.ReadFull(r, body)
	} else {
		buf := new(bytes.Buffer)
		_, err = io.CopyN(buf, r, int64(length))
		body = buf.Bytes()
	}
	if err != nil {
		return pk, err
	}
	return pk, decode(&pk, body)
}

// decode fills pk from its body. mochi's decoders index past the end of some
// short packets (a version 5 SUBSCRIBE with no options byte); a panic there is
// the sender's malformed packet.
func decode(pk *packets.Packet, body []byte) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = violation(packets.ErrMalformedPacket, "malformed packet of type %d: %v", pk.FixedHeader.Type, r)
		}
	}()
	switch pk.FixedHeader.Type {
	case packets.Connect:
		err = pk.ConnectDecode(body)
	case packets.Publish:
		err = pk.PublishDecode(body)
	case packets.Puback, packets.Pubrec, packets.Pubrel, packets.Pubcomp:
		err = pk.PubackDecode(body)
	case packets.Subscribe:
		err = pk.SubscribeDecode(body)
	case packets.Unsubscribe:
		err = pk.UnsubscribeDecode(body)
	case packets.Pingreq:
	case packets.Disconnect:
		err = pk.DisconnectDecode(body)
	default:
		return violation(packets.ErrProtocolViolation, "packet type %d from a client", pk.FixedHeader.Type)
	}
	if err != nil {
		return translate(err)
	}
	return nil
}

// marshal and unmarshal are the form of records on disk.
func marshal(v any) []byte {
	data, err := cbor.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("broker: encode record: %v", err)) // only of our own types
	}
	return data
}

func unmarshal(data []byte, v any) error {
	if err := cbor.Unmarshal(data, v); err != nil {
		return fmt.Errorf("decode record: %w", err)
	}
	return nil
}

package packet

import (
	"bufio"
	"bytes"
	"io"
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Read reads one packet of at most limit bytes and checks it. version is the
// connection's, 0 before CONNECT: the packet's own version is used for a
// CONNECT. Memory is taken as the bytes arrive, never for what a header merely
// announces. An error that is no *Error is the connection's.
func Read(r *bufio.Reader, version byte, limit int) (pk packets.Packet, err error) {
	first, err := r.ReadByte()
	if err != nil {
		return pk, err
	}
	pk.ProtocolVersion = version
	if err := header(&pk, first); err != nil {
		return pk, err
	}
	length, padded, err := variableLength(r)
	if err != nil {
		return pk, err
	}
	if padded && version == V5 {
		return pk, &Error{Code: packets.ErrMalformedPacket.Code, Number: "MQTT-1.5.5-1", Text: "remaining length has more bytes than it needs"}
	}
	pk.FixedHeader.Remaining = length
	if length > limit {
		return pk, Violation(packets.ErrPacketTooLarge, "packet of %d bytes, at most %d are taken", length, limit)
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

// header checks the first byte of a packet. An error here ends the packet before
// its length is read.
func header(pk *packets.Packet, first byte) error {
	h := &pk.FixedHeader
	h.Type = first >> 4
	flags := first & 0xf
	var want byte
	number := "MQTT-2.1.3-1"
	if pk.ProtocolVersion == V31 || pk.ProtocolVersion == V311 {
		number = "MQTT-2.2.2-2"
	}
	switch h.Type {
	case packets.Publish:
		h.Dup, h.Qos, h.Retain = flags&8 != 0, flags>>1&3, flags&1 != 0
		switch {
		case h.Qos == 3:
			return &Error{Code: packets.ErrMalformedPacket.Code, Number: "MQTT-3.3.1-4", Text: "PUBLISH of QoS 3"}
		case h.Dup && h.Qos == 0:
			return &Error{Code: packets.ErrMalformedPacket.Code, Number: "MQTT-3.3.1-2", Text: "PUBLISH of QoS 0 with DUP"}
		}
		return nil
	case packets.Pubrel:
		want, number = 2, "MQTT-3.6.1-1"
	case packets.Subscribe:
		want, number = 2, "MQTT-3.8.1-1"
	case packets.Unsubscribe:
		want, number = 2, "MQTT-3.10.1-1"
	case packets.Disconnect:
		number = "MQTT-3.14.1-1"
	case packets.Auth:
		if pk.ProtocolVersion < V5 {
			return malformed("packet of type 15, which this version does not have")
		}
		number = "MQTT-3.15.1-1"
	case packets.Reserved:
		return malformed("packet of type 0")
	}
	if flags != want {
		return &Error{Code: packets.ErrMalformedPacket.Code, Number: number, Text: "reserved flags of a " + name(h.Type) + " packet are wrong"}
	}
	return nil
}

// variableLength reads a variable byte integer, of four bytes at most. padded
// tells that fewer bytes would have done.
func variableLength(r io.ByteReader) (n int, padded bool, err error) {
	for shift := 0; ; shift += 7 {
		if shift > 21 {
			return 0, false, malformed("variable byte integer is longer than four bytes")
		}
		b, err := r.ReadByte()
		if err != nil {
			return 0, false, err
		}
		n |= int(b&0x7f) << shift
		if b&0x80 == 0 {
			return n, b == 0 && shift > 0, nil
		}
	}
}

// decode fills pk from its body and checks it.
func decode(pk *packets.Packet, body []byte) (err error) {
	if fromServer(pk.FixedHeader.Type) {
		return Violation(packets.ErrProtocolViolation, "%s from a client", name(pk.FixedHeader.Type))
	}
	v := view{Packet: pk, body: body}
	if err := v.measure(); err != nil {
		return err
	}
	if err := values(pk, body); err != nil {
		return err
	}
	return v.check()
}

// name is a packet type as the standard writes it.
func name(kind byte) string { return strings.ToUpper(packets.PacketNames[kind]) }

func fromServer(kind byte) bool {
	switch kind {
	case packets.Connack, packets.Suback, packets.Unsuback, packets.Pingresp:
		return true
	}
	return false
}

// values has the codec take the body apart. It indexes past the end of some
// short packets; a panic there is the sender's malformed packet.
func values(pk *packets.Packet, body []byte) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = malformed("malformed %s packet: %v", name(pk.FixedHeader.Type), r)
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
	case packets.Disconnect:
		if len(body) == 1 {
			pk.ReasonCode = body[0] // which the codec passes over
			return nil
		}
		err = pk.DisconnectDecode(body)
	case packets.Auth:
		if len(body) > 0 {
			pk.ReasonCode = body[0]
		}
		if len(body) > 1 {
			err = pk.AuthDecode(body)
		}
	}
	if err != nil {
		return translate(err)
	}
	return nil
}

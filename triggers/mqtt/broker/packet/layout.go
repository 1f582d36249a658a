package packet

import (
	"encoding/binary"

	"github.com/mochi-mqtt/server/v2/packets"
)

// view is a packet while it is checked: its values and what the codec does not
// keep of its bytes.
type view struct {
	*packets.Packet
	body    []byte
	props   section
	will    section // the will's properties
	options []byte  // of each filter of a SUBSCRIBE
	rest    []byte  // what follows the last field; of a PUBLISH that is its payload
}

// cursor walks over a packet. Once something is missing, bad is set and all
// that is read is empty.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n int) []byte {
	if c.bad || n > len(c.b) {
		c.b, c.bad = nil, true
		return nil
	}
	out := c.b[:n]
	c.b = c.b[n:]
	return out
}

func (c *cursor) byte() byte {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) uint16() uint16 {
	if b := c.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

// data reads a string or binary data: a length of two bytes and that many bytes.
func (c *cursor) data() []byte { return c.take(int(c.uint16())) }

// ReadByte makes a cursor a source of variable byte integers.
func (c *cursor) ReadByte() (byte, error) {
	b := c.byte()
	if c.bad {
		return 0, malformed("packet ends within a variable byte integer")
	}
	return b, nil
}

// measure finds where the fields are, and that the packet has room for them.
func (v *view) measure() error {
	c := &cursor{b: v.body}
	var err error
	switch v.FixedHeader.Type {
	case packets.Connect:
		err = v.measureConnect(c)
	case packets.Publish:
		c.data()
		if v.FixedHeader.Qos > 0 {
			c.uint16()
		}
		v.props, err = v.section(c, packets.Publish)
	case packets.Puback, packets.Pubrec, packets.Pubrel, packets.Pubcomp:
		c.uint16()
		v.props, err = v.reason(c)
	case packets.Disconnect, packets.Auth:
		v.props, err = v.reason(c)
	case packets.Subscribe, packets.Unsubscribe:
		c.uint16()
		if v.props, err = v.section(c, v.FixedHeader.Type); err != nil {
			return err
		}
		for len(c.b) > 0 {
			c.data()
			if v.FixedHeader.Type == packets.Subscribe {
				v.options = append(v.options, c.byte())
			}
		}
	}
	if err != nil {
		return err
	}
	if c.bad {
		return malformed("%s packet ends within a field", name(v.FixedHeader.Type))
	}
	v.rest = c.b
	return nil
}

// measureConnect also learns the version: where it is none of ours, the rest of
// the packet means nothing.
func (v *view) measureConnect(c *cursor) (err error) {
	if v.ProtocolVersion != 0 {
		return &Error{Code: packets.ErrProtocolViolation.Code, Number: "MQTT-3.1.0-2", Text: "a second CONNECT"}
	}
	protocol, version := string(c.data()), c.byte()
	switch {
	case c.bad:
		return malformed("CONNECT packet ends within a field")
	case protocol != "MQTT" && protocol != "MQIsdp":
		return &Error{Code: packets.ErrProtocolViolationProtocolName.Code, Number: "MQTT-3.1.2-1", Text: "CONNECT of another protocol"}
	case protocol == "MQIsdp" && version != V31, protocol == "MQTT" && version != V311 && version != V5:
		e := Violation(packets.ErrUnsupportedProtocolVersion, "CONNECT of version %d, not 3.1, 3.1.1 or 5", version)
		e.Number = "MQTT-3.1.2-2"
		return e
	}
	v.ProtocolVersion = version
	flags := c.byte()
	c.uint16() // keep-alive
	if v.props, err = v.section(c, packets.Connect); err != nil {
		return err
	}
	c.data() // client id
	if flags&0x04 != 0 {
		if v.will, err = v.section(c, packets.WillProperties); err != nil {
			return err
		}
		c.data()
		c.data()
	}
	if flags&0x80 != 0 {
		c.data()
	}
	if flags&0x40 != 0 {
		c.data()
	}
	return nil
}

// reason passes over a reason code and properties, both of which may be absent.
func (v *view) reason(c *cursor) (section, error) {
	if v.ProtocolVersion < V5 || len(c.b) == 0 || c.bad {
		return section{}, nil
	}
	c.byte()
	if len(c.b) == 0 {
		return section{}, nil
	}
	return v.section(c, v.FixedHeader.Type)
}

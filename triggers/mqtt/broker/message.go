package broker

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/edgefn/edgefn/triggers/mqtt/broker/packet"
)

// Versions of the protocol, as CONNECT carries them.
const (
	mqtt31  = packet.V31
	mqtt311 = packet.V311
	mqtt5   = packet.V5
)

// instant is a time of the wall clock in Unix nanoseconds; 0 is none. Intervals
// of the protocol are whole seconds that begin at any moment: counted in whole
// seconds of the clock they would end up to a second too early.
type instant int64

// after is the end of an interval that begins at t.
func (t instant) after(seconds int64) instant {
	if end := int64(math.MaxInt64 / time.Second); seconds >= end-int64(t)/int64(time.Second) {
		return math.MaxInt64
	}
	return t + instant(seconds)*instant(time.Second)
}

// ofSeconds takes over a time that earlier versions stored in Unix seconds.
func ofSeconds(t int64) instant { return instant(0).after(t) }

// clockSet is the begin of 2024: a clock before that was not set yet.
const clockSet = instant(1704067200 * time.Second)

// now is the time by the clock as it was when the broker began, and by the time
// that has passed since: a clock that is set meanwhile ends no interval.
func (b *Broker) now() instant {
	return instant(b.start.Add(b.cfg.Clock().Sub(b.start)).UnixNano())
}

// property is an MQTT 5 user property.
type property struct {
	_   struct{} `cbor:",toarray"`
	Key string
	Val string
}

// message is an application message on its way to subscribers, functions and
// the store. It is never changed once it is routed.
type message struct {
	Topic   string  `cbor:"1,keyasint"`
	Payload []byte  `cbor:"2,keyasint,omitempty"`
	QoS     byte    `cbor:"3,keyasint,omitempty"`
	Retain  bool    `cbor:"4,keyasint,omitempty"`
	Expiry  instant `cbor:"11,keyasint,omitempty"` // 0: never

	// MQTT 5 properties that subscribers get unaltered [MQTT-3.3.2-4].
	Format      *byte      `cbor:"6,keyasint,omitempty"`
	ContentType string     `cbor:"7,keyasint,omitempty"`
	Response    string     `cbor:"8,keyasint,omitempty"`
	Correlation []byte     `cbor:"9,keyasint,omitempty"`
	User        []property `cbor:"10,keyasint,omitempty"`

	Seq uint64 `cbor:"13,keyasint,omitempty"` // of a retained message: the order in which they were set

	// Lifetime is how many seconds a will lives from when it is published; 0: no
	// bound. 3.1.3.2.4
	Lifetime uint32 `cbor:"12,keyasint,omitempty"`

	ExpirySeconds int64 `cbor:"5,keyasint,omitempty"` // Expiry as earlier versions stored it

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

func (m *message) expired(now instant) bool { return m.Expiry != 0 && m.Expiry <= now }

// setProperties takes over what a PUBLISH or a will carries, but for its expiry.
func (m *message) setProperties(p *packets.Properties) {
	if p.PayloadFormatFlag {
		f := p.PayloadFormat
		m.Format = &f
	}
	m.ContentType, m.Response, m.Correlation = p.ContentType, p.ResponseTopic, p.CorrelationData
	for _, u := range p.User {
		m.User = append(m.User, property{Key: u.Key, Val: u.Val})
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

	alias uint16 // topic alias on this connection; 0: none
	known bool   // the client knows the alias: it stands for the topic
}

// encodePublish appends the PUBLISH packet.
func encodePublish(buf *bytes.Buffer, version byte, o outgoing, now instant) error {
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
		p.TopicAlias, p.TopicAliasFlag = o.alias, o.alias > 0
		if o.known {
			pk.TopicName = ""
		}
		if m.Expiry != 0 {
			left := (m.Expiry - now + instant(time.Second) - 1) / instant(time.Second)
			p.MessageExpiryInterval = uint32(min(max(1, left), math.MaxUint32)) // [MQTT-3.3.2-6]; more once a clock was set back
		}
	}
	return pk.PublishEncode(buf)
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

// stored returns an expiry as it was stored. One by a clock that was not set is
// none once the clock is: nobody knows how much of the time is left, and a message
// too many is better than one too few.
func (t instant) stored(now instant) instant {
	if t < clockSet && now >= clockSet {
		return 0
	}
	return t
}

// unmarshalMessage reads a message of the store.
func unmarshalMessage(data []byte, now instant) (*message, error) {
	m := new(message)
	if err := unmarshal(data, m); err != nil {
		return nil, err
	}
	if m.ExpirySeconds != 0 {
		m.Expiry, m.ExpirySeconds = ofSeconds(m.ExpirySeconds), 0
	}
	m.Expiry = m.Expiry.stored(now)
	return m, nil
}

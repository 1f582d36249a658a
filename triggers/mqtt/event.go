package mqtt

import (
	"crypto/rand"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/oklog/ulid/v2"

	"github.com/edgefn/edgefn/functions"
)

// MaxID is how many bytes an event's own id may have. A longer one is no id.
const MaxID = 256

// Message is an MQTT message as it was received, from whatever broker.
type Message struct {
	Topic    string
	Payload  []byte
	QoS      byte // 0, 1 or 2
	Retain   bool // it was a retained message when the subscription was made
	Dup      bool // its sender may have sent it before
	PacketID uint16

	// What MQTT 5 says of it; over 3.1.1 all of that is zero.
	functions.Properties
	UTF8 bool // the payload is UTF-8, as its payload format indicator says
}

// Event makes the event of a message. The result shares m's payload. broker is
// the broker's name in the node's config.
//
// The id is the text or number that t.ID points to in the payload; ownID tells
// that there was one. Where t.ID is empty, or leads to nothing that can be an
// id (see MaxID), a new id is made: a ULID, so that ids sort by time.
func Event(broker string, t functions.Trigger, m Message, now time.Time) (e functions.Event, ownID bool) {
	e = functions.Event{
		Type:    functions.TypeMQTT,
		Source:  "mqtt://" + broker,
		Subject: m.Topic,
		Time:    now,
		Extensions: map[string]string{
			functions.ExtMQTTQoS:    strconv.Itoa(int(m.QoS)),
			functions.ExtMQTTRetain: strconv.FormatBool(m.Retain),
			functions.ExtMQTTDup:    strconv.FormatBool(m.Dup),
		},
		Data: m.Payload,
	}
	addProperties(&e, m)
	if t.ID != "" {
		if id, ok := lookup(m.Payload, t.ID); ok && usableID(id) {
			e.ID = id
			return e, true
		}
	}
	e.ID = ulid.MustNew(ulid.Timestamp(now), rand.Reader).String()
	return e, false
}

// usableID reports whether id can name an event: CloudEvents 1.0 asks for a
// text that is not empty and has no control characters.
func usableID(id string) bool {
	if id == "" || len(id) > MaxID || !utf8.ValidString(id) {
		return false
	}
	for _, r := range id {
		if unicode.IsControl(r) {
			return false
		}
	}
	return true
}

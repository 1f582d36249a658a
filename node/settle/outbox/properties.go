package outbox

import (
	"fmt"
	"time"

	"github.com/edgefn/edgefn/functions"
)

// propertiesRecord is the properties of a message as they are stored.
type propertiesRecord struct {
	ContentType   string                   `cbor:"content_type,omitempty"`
	ResponseTopic string                   `cbor:"response_topic,omitempty"`
	Correlation   []byte                   `cbor:"correlation,omitempty"`
	User          []functions.UserProperty `cbor:"user,omitempty"`
	Expiry        functions.Expiry         `cbor:"expiry"`

	// Start and Up tell the time of storing to the run of the node that stored it,
	// whatever its clock says since: Up is how long it had run by then.
	Start string        `cbor:"start,omitempty"`
	Up    time.Duration `cbor:"up,omitempty"`
}

func (o *Outbox) propertiesRecord(p functions.Properties) *propertiesRecord {
	if p.None() {
		return nil
	}
	r := &propertiesRecord{ContentType: p.ContentType, ResponseTopic: p.ResponseTopic, Correlation: p.Correlation, User: p.User}
	if !p.Expires.IsZero() {
		now := time.Now()
		r.Expiry, r.Start, r.Up = functions.StoreExpiry(p.Expires, now), o.start, now.Sub(o.began)
	}
	return r
}

// properties is the inverse of propertiesRecord. What an earlier run has stored has
// what was left of its time when this one began.
func (o *Outbox) properties(r *propertiesRecord) functions.Properties {
	if r == nil {
		return functions.Properties{}
	}
	p := functions.Properties{ContentType: r.ContentType, ResponseTopic: r.ResponseTopic, Correlation: r.Correlation, User: r.User}
	switch {
	case r.Expiry == functions.Expiry{}:
	case r.Start == o.start:
		p.Expires = o.began.Add(r.Up + r.Expiry.Left)
	default:
		p.Expires = r.Expiry.Restore(o.began)
	}
	return p
}

// expired tells of messages that were not sent, of which m is the first.
func (o *Outbox) expired(function string, m functions.Publish, n int) {
	text := fmt.Sprintf("a message to broker %q, topic %q, has expired and is not sent", m.Broker, m.Topic)
	if n > 1 {
		text = fmt.Sprintf("%d messages to broker %q have expired and are not sent; the first was to topic %q", n, m.Broker, m.Topic)
	}
	o.sink.Note(function, "warning", text)
}

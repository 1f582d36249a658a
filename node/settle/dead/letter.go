package dead

import (
	"fmt"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/wire"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// Out says that a letter is a message or an event that its function sent and that
// nobody takes. Of a message Event has the topic as its subject.
type Out struct {
	Broker   string // of a message
	QoS      byte
	Retain   bool
	Function string // of an event

	functions.Properties // of a message
}

// Letter is an event that could not be handled.
type Letter struct {
	ID       string    // begins with its time; Add gives it
	Trigger  string    // that the event came by; empty: it was invoked
	Time     time.Time // when it was dead-lettered; Add gives it
	Attempts int
	Failure  functions.Failure // of the last attempt
	Event    functions.Event
	OwnID    bool // the event's id is its sender's
	Bytes    int  // of the event's data as it came
	Cut      bool // Event.Data is only the beginning: it cannot be run again
	Out      *Out // where it was to go; nil: it came to the function

	key string
}

// Key is where the letter is in the store, for a transaction that settles its
// event and so deletes it. Delete then brings the count in line.
func (l *Letter) Key() string { return l.key }

// record is a letter as it is stored.
type record struct {
	Trigger  string         `cbor:"trigger"`
	TimeNS   int64          `cbor:"time_ns"`
	Attempts int            `cbor:"attempts"`
	Kind     string         `cbor:"kind"`
	Message  string         `cbor:"message"`
	Detail   string         `cbor:"detail"`
	Bytes    int            `cbor:"bytes"`
	Cut      bool           `cbor:"cut"`
	OwnID    bool           `cbor:"own_id"`
	Event    map[string]any `cbor:"event"`

	OutBroker   string `cbor:"out_broker,omitempty"`
	OutQoS      uint8  `cbor:"out_qos,omitempty"`
	OutRetain   bool   `cbor:"out_retain,omitempty"`
	OutFunction string `cbor:"out_function,omitempty"`

	OutContentType   string                   `cbor:"out_content_type,omitempty"`
	OutResponseTopic string                   `cbor:"out_response_topic,omitempty"`
	OutCorrelation   []byte                   `cbor:"out_correlation,omitempty"`
	OutUser          []functions.UserProperty `cbor:"out_user,omitempty"`
	OutLeft          time.Duration            `cbor:"out_left,omitempty"` // until it expires, from when it is sent again; 0: it never does
}

func encode(l *Letter) ([]byte, error) {
	r := record{
		Trigger: l.Trigger, TimeNS: l.Time.UnixNano(), Attempts: l.Attempts,
		Kind: string(l.Failure.Kind), Message: l.Failure.Message, Detail: l.Failure.Detail,
		Bytes: l.Bytes, Cut: l.Cut, OwnID: l.OwnID, Event: wire.EventMap(&l.Event),
	}
	if o := l.Out; o != nil {
		r.OutBroker, r.OutQoS, r.OutRetain, r.OutFunction = o.Broker, o.QoS, o.Retain, o.Function
		r.OutContentType, r.OutResponseTopic, r.OutCorrelation, r.OutUser = o.ContentType, o.ResponseTopic, o.Correlation, o.User
		if !o.Expires.IsZero() {
			r.OutLeft = max(time.Until(o.Expires), time.Second)
		}
	}
	return durable.Encode(r)
}

func decode(function string, e store.Entry) (Letter, error) {
	id, _, _ := durable.SplitSized(e.Key, Prefix+function+"/")
	var r record
	if err := durable.Decode(e.Value, &r); err != nil {
		return Letter{}, fmt.Errorf("read dead letter %s: %w", id, err)
	}
	ev, err := wire.MapEvent(r.Event)
	if err != nil {
		return Letter{}, fmt.Errorf("read dead letter %s: %w", id, err)
	}
	l := Letter{
		ID: id, Trigger: r.Trigger, Time: time.Unix(0, r.TimeNS).UTC(), Attempts: r.Attempts,
		Failure: functions.Failure{Kind: functions.FailureKind(r.Kind), Message: r.Message, Detail: r.Detail},
		Event:   ev, OwnID: r.OwnID, Bytes: r.Bytes, Cut: r.Cut, key: e.Key,
	}
	if r.OutBroker != "" || r.OutFunction != "" {
		l.Out = &Out{Broker: r.OutBroker, QoS: r.OutQoS, Retain: r.OutRetain, Function: r.OutFunction}
		l.Out.ContentType, l.Out.ResponseTopic, l.Out.Correlation, l.Out.User = r.OutContentType, r.OutResponseTopic, r.OutCorrelation, r.OutUser
		if r.OutLeft > 0 {
			l.Out.Expires = time.Now().Add(r.OutLeft)
		}
	}
	return l, nil
}

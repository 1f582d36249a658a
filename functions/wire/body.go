package wire

import (
	"fmt"
	"time"

	"github.com/edgefn/edgefn/functions"
)

// Hello is an instance's first frame: its handler is loaded.
type Hello struct {
	V       uint   `cbor:"v"`
	Runtime string `cbor:"runtime"` // "python 3.11.2"
	SDK     string `cbor:"sdk"`     // the SDK's own version
}

// Check returns ErrVersion with what to do if the instance cannot be spoken to.
func (h Hello) Check() error {
	if h.V == Version || h.V == Version-1 {
		return nil
	}
	return fmt.Errorf("%w: the instance speaks version %d, this node speaks %d and the one before: build the function again with an edgefn of the node's version", ErrVersion, h.V, Version)
}

// EventBody is the body of an event frame.
type EventBody struct {
	Event   map[string]any `cbor:"event"`
	Context Context        `cbor:"context"`
}

// Context is what an invocation knows of itself.
type Context struct {
	Invocation string `cbor:"invocation"`
	Function   string `cbor:"function"`
	Version    string `cbor:"version"`
	Trigger    string `cbor:"trigger"`
	Attempt    int    `cbor:"attempt"`
	DeadlineMS int64  `cbor:"deadline_ms"`
	MaxFrame   int    `cbor:"max_frame,omitempty"` // bytes; absent: MaxFrame + Overhead
}

// Result is the body of a result frame.
type Result struct {
	Data            []byte `cbor:"data"` // null: no output
	DataContentType string `cbor:"datacontenttype"`
}

// Failure is the body of a failure frame. Kind is one of raised, rejected, load,
// result.
type Failure struct {
	Kind         string `cbor:"kind"`
	Message      string `cbor:"message"`
	Detail       string `cbor:"detail"`
	RetryAfterMS int64  `cbor:"retry_after_ms,omitempty"` // of raised: the handler asks for the next attempt no sooner
}

// Outcome returns the failure of an invocation that ended with f. What an
// instance has no say in is not taken from it: a kind that it cannot know of
// itself is raised, and the time it asks for is brought into 0 to
// functions.MaxRetryAfter.
func (f Failure) Outcome() *functions.Failure {
	out := &functions.Failure{Kind: functions.FailRaised, Message: f.Message, Detail: f.Detail}
	switch kind := functions.FailureKind(f.Kind); kind {
	case functions.FailRejected, functions.FailResult:
		out.Kind = kind
	default:
		ms := min(max(f.RetryAfterMS, 0), functions.MaxRetryAfter.Milliseconds())
		out.RetryAfter = time.Duration(ms) * time.Millisecond
	}
	return out
}

// Call is the body of get, list, put, delete, publish, invoke and of the calls
// of devices.
type Call struct {
	Function string `cbor:"function,omitempty"`
	Key      string `cbor:"key,omitempty"`
	Prefix   string `cbor:"prefix,omitempty"`
	Value    []byte `cbor:"value,omitempty"`
	Broker   string `cbor:"broker,omitempty"`
	Topic    string `cbor:"topic,omitempty"`
	Data     []byte `cbor:"data,omitempty"`
	QoS      uint8  `cbor:"qos,omitempty"`
	Retain   bool   `cbor:"retain,omitempty"`
	Type     string `cbor:"type,omitempty"`
	Subject  string `cbor:"subject,omitempty"`
	ID       string `cbor:"id,omitempty"`
	Device   string `cbor:"device,omitempty"`
	On       bool   `cbor:"on,omitempty"`
	MS       int64  `cbor:"ms,omitempty"`

	ContentType   string                   `cbor:"content_type,omitempty"`
	ResponseTopic string                   `cbor:"response_topic,omitempty"`
	Correlation   []byte                   `cbor:"correlation,omitempty"`
	ExpiryS       int64                    `cbor:"expiry_s,omitempty"`
	User          []functions.UserProperty `cbor:"user,omitempty"`
}

// Properties returns the properties of the message of a publish that is made now,
// or why there can be none like them.
func (c *Call) Properties(now time.Time) (functions.Properties, error) {
	p := functions.Properties{ContentType: c.ContentType, ResponseTopic: c.ResponseTopic, Correlation: c.Correlation, User: c.User}
	if c.ExpiryS < 0 || c.ExpiryS > functions.MaxExpiry {
		return p, fmt.Errorf("expiry is %d s: 1 to %d are possible", c.ExpiryS, int64(functions.MaxExpiry))
	}
	if c.ExpiryS > 0 {
		p.Expires = now.Add(time.Duration(c.ExpiryS) * time.Second)
	}
	return p, p.Check()
}

// Reply is the body of ok and error.
type Reply struct {
	Found   bool     `cbor:"found,omitempty"`
	Value   []byte   `cbor:"value,omitempty"`
	Keys    []string `cbor:"keys,omitempty"`
	ID      string   `cbor:"id,omitempty"`
	On      bool     `cbor:"on,omitempty"`
	Message string   `cbor:"message,omitempty"`
}

// Log is the body of a log frame. Level is debug, info, warning or error.
type Log struct {
	Level string `cbor:"level"`
	Text  string `cbor:"text"`
}

// EventMap returns an event as a map under CloudEvents attribute names.
func EventMap(e *functions.Event) map[string]any {
	m := make(map[string]any, 8+len(e.Extensions))
	for k, v := range e.Extensions {
		m[k] = v
	}
	m["specversion"] = "1.0"
	m["id"], m["type"], m["source"] = e.ID, e.Type, e.Source
	if e.Subject != "" {
		m["subject"] = e.Subject
	}
	if !e.Time.IsZero() {
		m["time"] = e.Time.UTC().Format(time.RFC3339Nano)
	}
	if e.DataContentType != "" {
		m["datacontenttype"] = e.DataContentType
	}
	if !e.Expires.IsZero() {
		m[functions.ExtExpiryTime] = e.Expires.UTC().Format(time.RFC3339Nano)
	}
	m["data"] = e.Data
	return m
}

// MapEvent is the inverse of EventMap. Attributes that are neither text nor
// bytes are refused.
func MapEvent(m map[string]any) (functions.Event, error) {
	var e functions.Event
	for k, v := range m {
		if k == "data" {
			b, ok := v.([]byte)
			if !ok && v != nil {
				return e, fmt.Errorf("%w: event data is %T, not bytes", ErrFrame, v)
			}
			e.Data = b
			continue
		}
		s, ok := v.(string)
		if !ok {
			return e, fmt.Errorf("%w: event attribute %q is %T, not text", ErrFrame, k, v)
		}
		switch k {
		case "specversion":
		case "id":
			e.ID = s
		case "type":
			e.Type = s
		case "source":
			e.Source = s
		case "subject":
			e.Subject = s
		case "datacontenttype":
			e.DataContentType = s
		case "time", functions.ExtExpiryTime:
			t, err := time.Parse(time.RFC3339Nano, s)
			if err != nil {
				return e, fmt.Errorf("%w: event attribute %q is %q: %v", ErrFrame, k, s, err) //nolint:errorlint // text for people
			}
			if k == "time" {
				e.Time = t
			} else {
				e.Expires = t
			}
		default:
			if e.Extensions == nil {
				e.Extensions = map[string]string{}
			}
			e.Extensions[k] = s
		}
	}
	return e, nil
}

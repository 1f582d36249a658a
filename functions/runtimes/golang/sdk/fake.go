package edgefn

import (
	"context"
	"encoding/json"
	"fmt"
	"sort"
	"strings"
	"sync"
	"time"
)

// Fake stands in for the node in a test of a handler:
//
//	var node edgefn.Fake
//	got, err := handle(node.Context(t.Context(), edgefn.Invocation{}), edgefn.Event{Data: []byte("28.5")})
//
// It grants everything and keeps what the handler did. Its fields are read once
// the handler has returned, and may be set before.
type Fake struct {
	State     map[string][]byte            // the function's own state
	Others    map[string]map[string][]byte // other functions' state, by name
	Published []Message
	Invoked   []Invoked
	Lines     map[string]bool               // what is on, by name, of the lines that the handler has not commanded
	Sensors   map[string]map[string]float64 // what sensors measure, by name; one without an entry does not work
	Commanded []LineCommand                 // of lines, in order
	Logged    []string                      // "level: text"

	mu sync.Mutex
}

// Message is a message that a handler published.
type Message struct {
	Broker string // empty: the function's default
	Topic  string
	Data   []byte
	QoS    byte
	Retain bool

	// Of MQTT 5.
	ContentType    string
	ResponseTopic  string
	Correlation    []byte
	Expiry         time.Duration // 0: never
	UserProperties [][2]string   // names and values
}

// Invoked is an event that a handler handed to another function.
type Invoked struct {
	Function string
	Event    Event
}

// LineCommand is what a handler had a line do.
type LineCommand struct {
	Line string
	Do   string        // set, pulse or release
	On   bool          // of a set
	For  time.Duration // of a pulse
}

// Context returns a context for a handler, with info as its Info.
func (f *Fake) Context(parent context.Context, info Invocation) context.Context {
	return withNode(parent, f, info)
}

func (f *Fake) call(kind string, body map[string]any) (map[string]any, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	text := func(key string) string { s, _ := body[key].(string); return s }
	data, _ := body["data"].([]byte)
	space := f.space(text("function"), kind)
	switch kind {
	case "get":
		v, found := space[text("key")]
		return map[string]any{"found": found, "value": v}, nil
	case "list":
		keys := []string{}
		for k := range space {
			if strings.HasPrefix(k, text("prefix")) {
				keys = append(keys, k)
			}
		}
		sort.Strings(keys)
		items := make([]any, len(keys))
		for i, k := range keys {
			items[i] = k
		}
		return map[string]any{"keys": items}, nil
	case "put":
		v, _ := body["value"].([]byte)
		space[text("key")] = append([]byte{}, v...)
	case "delete":
		delete(space, text("key"))
	case "publish":
		qos, _ := body["qos"].(byte)
		retain, _ := body["retain"].(bool)
		expiry, _ := body["expiry_s"].(int64)
		if expiry < 0 {
			return nil, fmt.Errorf("%w: a message expires after 1 s or more", ErrRefused)
		}
		correlation, _ := body["correlation"].([]byte)
		m := Message{
			Broker: text("broker"), Topic: text("topic"), Data: data, QoS: qos, Retain: retain,
			ContentType: text("content_type"), ResponseTopic: text("response_topic"), Correlation: correlation, Expiry: time.Duration(expiry) * time.Second,
		}
		user, _ := body["user"].([]any)
		for _, u := range user {
			pair, _ := u.([]any)
			name, _ := pair[0].(string)
			value, _ := pair[1].(string)
			m.UserProperties = append(m.UserProperties, [2]string{name, value})
		}
		f.Published = append(f.Published, m)
	case "invoke":
		e := Event{ID: text("id"), Type: text("type"), Subject: text("subject"), Data: data}
		if e.ID == "" {
			e.ID = fmt.Sprintf("fake-%d", len(f.Invoked)+1)
		}
		if e.Type == "" {
			e.Type = "edgefn.invoke"
		}
		f.Invoked = append(f.Invoked, Invoked{text("function"), e})
		return map[string]any{"id": e.ID}, nil
	default:
		return f.device(kind, text("device"), body)
	}
	return map[string]any{}, nil
}

// device answers a call about a line or a sensor.
func (f *Fake) device(kind, name string, body map[string]any) (map[string]any, error) {
	on, _ := body["on"].(bool)
	ms, _ := body["ms"].(int64)
	switch kind {
	case "set_line":
		f.Commanded = append(f.Commanded, LineCommand{Line: name, Do: "set", On: on})
	case "pulse_line":
		if ms < 1 || ms > time.Minute.Milliseconds() {
			return nil, fmt.Errorf("%w: a pulse takes 1 ms to 1 min, not %d ms", ErrRefused, ms)
		}
		f.Commanded = append(f.Commanded, LineCommand{Line: name, Do: "pulse", For: time.Duration(ms) * time.Millisecond})
	case "release_line":
		f.Commanded = append(f.Commanded, LineCommand{Line: name, Do: "release"})
	case "read_line":
		return map[string]any{"on": f.level(name)}, nil
	case "read_sensor":
		reading, works := f.Sensors[name]
		if !works {
			return nil, fmt.Errorf("%w: the Fake's Sensors have no %q", ErrRefused, name)
		}
		b, err := json.Marshal(reading)
		return map[string]any{"value": b}, err
	}
	return map[string]any{}, nil
}

// level reports whether a line is on: as it was last commanded, or by Lines.
func (f *Fake) level(name string) bool {
	for i := len(f.Commanded) - 1; i >= 0; i-- {
		if c := f.Commanded[i]; c.Line == name {
			if c.Do == "release" {
				break
			}
			return c.On // which a pulse is not any more
		}
	}
	return f.Lines[name]
}

// space returns the state of a function for a call of a kind that is about
// state.
func (f *Fake) space(function, kind string) map[string][]byte {
	switch kind {
	case "get", "list", "put", "delete":
	default:
		return nil
	}
	if function == "" {
		if f.State == nil {
			f.State = map[string][]byte{}
		}
		return f.State
	}
	if f.Others == nil {
		f.Others = map[string]map[string][]byte{}
	}
	if f.Others[function] == nil {
		f.Others[function] = map[string][]byte{}
	}
	return f.Others[function]
}

func (f *Fake) log(level, text string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Logged = append(f.Logged, level+": "+text)
	return nil
}

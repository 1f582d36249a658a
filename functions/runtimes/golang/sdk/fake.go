package edgefn

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"sync"
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
	Logged    []string // "level: text"

	mu sync.Mutex
}

// Message is a message that a handler published.
type Message struct {
	Broker string // empty: the function's default
	Topic  string
	Data   []byte
	QoS    byte
	Retain bool
}

// Invoked is an event that a handler handed to another function.
type Invoked struct {
	Function string
	Event    Event
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
		f.Published = append(f.Published, Message{text("broker"), text("topic"), data, qos, retain})
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
	}
	return map[string]any{}, nil
}

// space returns the state of a function for a call of a kind that is about
// state.
func (f *Fake) space(function, kind string) map[string][]byte {
	if kind == "publish" || kind == "invoke" {
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

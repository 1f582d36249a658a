package edgefn

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Errors of calls.
var (
	// ErrNotFound is returned for a key that has no value.
	ErrNotFound = errors.New("key not found")
	// ErrRefused is returned for a call that the node did not accept: it is not
	// granted in edgefn.yaml, or not valid, or the device does not work. The
	// error's text says which.
	ErrRefused = errors.New("refused")
	// ErrOver is returned for a call after the handler has returned.
	ErrOver = errors.New("the invocation is over: its handler has returned")
	// ErrNoInvocation is returned for a context that does not come from Run or
	// from a Fake.
	ErrNoInvocation = errors.New("this context is not the one that the handler was given")
)

// Invocation is what an invocation knows of itself.
type Invocation struct {
	ID       string // which its log lines carry
	Function string // the function's name
	Version  string // digest of the running version
	Trigger  string // name of the trigger that the event came by; empty if it was invoked
	Attempt  int    // 1 the first time that this event is handled, then 2, 3 ...
}

// node answers the calls of one invocation.
type node interface {
	call(kind string, body map[string]any) (map[string]any, error)
	log(level, text string) error
}

// handle is what a context carries.
type handle struct {
	node node
	info Invocation
	log  *slog.Logger
}

type handleKey struct{}

func withNode(ctx context.Context, n node, info Invocation) context.Context {
	return context.WithValue(ctx, handleKey{}, &handle{n, info, slog.New(&logHandler{node: n})})
}

func call(ctx context.Context, kind string, body map[string]any) (map[string]any, error) {
	h, ok := ctx.Value(handleKey{}).(*handle)
	if !ok {
		return nil, ErrNoInvocation
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return h.node.call(kind, body)
}

// Info returns what the invocation of ctx knows of itself; nothing if ctx is of
// none.
func Info(ctx context.Context) Invocation {
	if h, ok := ctx.Value(handleKey{}).(*handle); ok {
		return h.info
	}
	return Invocation{}
}

// Log returns a logger of the function's log, with every level on. For a context
// of no invocation it is slog.Default.
func Log(ctx context.Context) *slog.Logger {
	if h, ok := ctx.Value(handleKey{}).(*handle); ok {
		return h.log
	}
	return slog.Default()
}

// Space is the state of a function: text keys with bytes as values, which
// outlive the invocation. Reads see what this invocation wrote. What it wrote
// takes place, all at once, when the handler has returned without an error.
type Space struct {
	ctx      context.Context //nolint:containedctx // a Space is a view of the context's invocation, made per use
	function string
}

// State returns the function's own state.
func State(ctx context.Context) Space { return Space{ctx: ctx} }

// Of returns the state of another function, which edgefn.yaml must grant.
func (s Space) Of(function string) Space { return Space{s.ctx, function} }

// Get returns the value of key. It is ErrNotFound if there is none.
func (s Space) Get(key string) ([]byte, error) {
	answer, err := call(s.ctx, "get", s.body("key", key))
	if err != nil {
		return nil, fmt.Errorf("get state %q: %w", key, err)
	}
	if found, _ := answer["found"].(bool); !found {
		return nil, fmt.Errorf("get state %q: %w", key, ErrNotFound)
	}
	value, _ := answer["value"].([]byte)
	if value == nil {
		value = []byte{}
	}
	return value, nil
}

// Put writes the value of key.
func (s Space) Put(key string, value []byte) error {
	body := s.body("key", key)
	body["value"] = value
	if _, err := call(s.ctx, "put", body); err != nil {
		return fmt.Errorf("put state %q: %w", key, err)
	}
	return nil
}

// Delete removes key; a key that is not there is no error.
func (s Space) Delete(key string) error {
	if _, err := call(s.ctx, "delete", s.body("key", key)); err != nil {
		return fmt.Errorf("delete state %q: %w", key, err)
	}
	return nil
}

// List returns the keys that begin with prefix, in order.
func (s Space) List(prefix string) ([]string, error) {
	answer, err := call(s.ctx, "list", s.body("prefix", prefix))
	if err != nil {
		return nil, fmt.Errorf("list state %q: %w", prefix, err)
	}
	items, _ := answer["keys"].([]any)
	keys := make([]string, 0, len(items))
	for _, item := range items {
		if k, ok := item.(string); ok {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

func (s Space) body(name, value string) map[string]any {
	return map[string]any{"function": s.function, name: value}
}

// PublishOption is a choice about a message.
type PublishOption func(map[string]any)

// QoS sets a message's quality of service: 0, 1 or 2. It is 1 without it.
func QoS(q byte) PublishOption { return func(m map[string]any) { m["qos"] = q } }

// Retain has the broker keep the message for subscribers to come.
func Retain() PublishOption { return func(m map[string]any) { m["retain"] = true } }

// Broker names the broker that the message goes to. Without it, it is that of
// the function's output, or the embedded one.
func Broker(name string) PublishOption { return func(m map[string]any) { m["broker"] = name } }

// ContentType says what the data is: a media type. It and the options below are
// MQTT 5's, and left out where a receiver or a broker speaks 3.1.1.
func ContentType(mediaType string) PublishOption {
	return func(m map[string]any) { m["content_type"] = mediaType }
}

// ResponseTopic says where an answer is expected.
func ResponseTopic(topic string) PublishOption {
	return func(m map[string]any) { m["response_topic"] = topic }
}

// Correlation is what the answer carries, so that it is known what it answers.
func Correlation(data []byte) PublishOption {
	return func(m map[string]any) { m["correlation"] = data }
}

// Expiry is the time after which nobody gets the message any more, rounded up to a
// whole second.
func Expiry(d time.Duration) PublishOption {
	return func(m map[string]any) {
		if m["expiry_s"] = int64((d + time.Second - 1) / time.Second); d <= 0 {
			m["expiry_s"] = int64(-1) // which is refused: 0 would be no expiry
		}
	}
}

// UserProperty adds a name and a value that the applications agree on. A name may
// be there several times.
func UserProperty(name, value string) PublishOption {
	return func(m map[string]any) {
		list, _ := m["user"].([]any)
		m["user"] = append(list, []any{name, value})
	}
}

// ErrNoReply is returned by Reply for an event that asks for no answer: it has no
// extension mqttresponsetopic, which only a message of MQTT 5 can have.
var ErrNoReply = errors.New("the event asks for no answer: it has no mqttresponsetopic")

// Reply answers an event: it publishes to its response topic, with its correlation
// data, at the broker that it came from. The sender chose that topic: edgefn.yaml
// must grant it as any other (grants: publish).
func Reply(ctx context.Context, e Event, data any, opts ...PublishOption) error {
	topic := e.Extensions["mqttresponsetopic"]
	if topic == "" {
		return ErrNoReply
	}
	var own []PublishOption
	if asked := e.Extensions["mqttcorrelation"]; asked != "" {
		correlation, err := base64.StdEncoding.DecodeString(asked)
		if err != nil {
			return fmt.Errorf("reply: mqttcorrelation of the event: %w", err)
		}
		own = append(own, Correlation(correlation))
	}
	if broker, ok := strings.CutPrefix(e.Source, "mqtt://"); ok {
		own = append(own, Broker(broker))
	}
	return Publish(ctx, topic, data, append(own, opts...)...)
}

// Publish publishes an MQTT message once the handler has returned without an
// error. []byte and string are sent as they are, anything else as JSON; nil is
// an empty message. The topic must be granted in edgefn.yaml (grants: publish).
func Publish(ctx context.Context, topic string, data any, opts ...PublishOption) error {
	b, _, err := payload(data, "data")
	if err != nil {
		return fmt.Errorf("publish to %q: %w", topic, err)
	}
	body := map[string]any{"topic": topic, "data": b, "qos": byte(1)}
	for _, o := range opts {
		o(body)
	}
	if _, err := call(ctx, "publish", body); err != nil {
		return fmt.Errorf("publish to %q: %w", topic, err)
	}
	return nil
}

// InvokeOption is a choice about an event for another function.
type InvokeOption func(map[string]any)

// Type sets the event's type. It is "edgefn.invoke" without it.
func Type(t string) InvokeOption { return func(m map[string]any) { m["type"] = t } }

// Subject sets the event's subject.
func Subject(s string) InvokeOption { return func(m map[string]any) { m["subject"] = s } }

// ID sets the event's id. It is a new one without it.
func ID(id string) InvokeOption { return func(m map[string]any) { m["id"] = id } }

// Invoke hands an event to another function once the handler has returned
// without an error, and does not wait for that function. It returns the event's
// id. Data is as for Publish. The function must be granted in edgefn.yaml
// (grants: invoke).
func Invoke(ctx context.Context, function string, data any, opts ...InvokeOption) (id string, err error) {
	b, _, err := payload(data, "data")
	if err != nil {
		return "", fmt.Errorf("invoke %s: %w", function, err)
	}
	body := map[string]any{"function": function, "data": b}
	for _, o := range opts {
		o(body)
	}
	answer, err := call(ctx, "invoke", body)
	if err != nil {
		return "", fmt.Errorf("invoke %s: %w", function, err)
	}
	id, _ = answer["id"].(string)
	return id, nil
}

package edgefn

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/wire"
)

// The codec agrees with the node's, both ways.
func TestCodecAgreesWithWire(t *testing.T) {
	body := map[string]any{
		"key": "k\u00fc", "value": []byte{0, 255}, "qos": byte(2), "retain": true, "data": []byte{}, "function": "f",
		"topic": strings.Repeat("t", 300), "id": "", "device": "relay", "on": true, "ms": int64(-1000),
	}
	c := &conn{rw: &bytes.Buffer{}, limit: defaultLimit}
	if err := c.write("publish", 1<<40, body); err != nil {
		t.Fatal(err)
	}
	f, err := wire.NewConn(c.rw, wire.MaxFrame).Read()
	if err != nil {
		t.Fatal(err)
	}
	var call wire.Call
	if err := f.Into(&call); err != nil {
		t.Fatal(err)
	}
	want := wire.Call{
		Key: "k\u00fc", Value: []byte{0, 255}, QoS: 2, Retain: true, Data: []byte{}, Function: "f", Topic: strings.Repeat("t", 300),
		Device: "relay", On: true, MS: -1000,
	}
	if diff := cmp.Diff(want, call); diff != "" || f.Kind != wire.KindPublish || f.ID != 1<<40 {
		t.Errorf("%s %d (-want +got):\n%s", f.Kind, f.ID, diff)
	}

	e := functions.Event{
		ID: "1", Type: "t", Source: "s", Subject: "\u2603", Time: time.Unix(1, 2).UTC(), DataContentType: "c",
		Extensions: map[string]string{"mqttqos": "1"}, Data: bytes.Repeat([]byte{7}, 70000),
	}
	rw := &bytes.Buffer{}
	if err := wire.NewConn(rw, wire.MaxFrame).Write(wire.KindEvent, 9, wire.EventBody{Event: wire.EventMap(&e)}); err != nil {
		t.Fatal(err)
	}
	got, err := (&conn{rw: rw}).read()
	if err != nil {
		t.Fatal(err)
	}
	attributes, _ := got.body["event"].(map[string]any)
	if diff := cmp.Diff(Event(e), eventOf(attributes)); diff != "" || got.id != 9 {
		t.Errorf("%d (-want +got):\n%s", got.id, diff)
	}
}

func TestParseFrameRefuses(t *testing.T) {
	for _, text := range []string{
		"", "83", "8361610", "a0", "8261" + "6100", "8301" + "00a0", "83616120a0", "8361610080", "83616100a000",
		"836161009f", "83616100c100", "83616100a1" + "0101", "83616100fa00000000", "9bffffffffffffffff", "5bffffffffffffffff",
		"83616100" + strings.Repeat("a16161", 30) + "a0",
	} {
		b, err := hex.DecodeString(text + strings.Repeat("0", len(text)%2))
		if err != nil {
			t.Fatal(err)
		}
		if f, err := parseFrame(b); !errors.Is(err, errFrame) {
			t.Errorf("%s: got %+v, %v, want errFrame", text, f, err)
		}
	}
}

// FuzzParseFrame: whatever is read is what the node's decoder reads.
func FuzzParseFrame(f *testing.F) {
	for _, body := range []any{wire.Reply{Found: true, Value: []byte("v"), Keys: []string{"a"}}, wire.EventBody{Event: map[string]any{"id": "1"}}} {
		b, err := wire.Encode(wire.KindOK, 3, body)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[4:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseFrame(b)
		if err != nil {
			return
		}
		again := appendValue(nil, []any{got.kind, got.id, encodable(got.body)})
		second, err := parseFrame(again)
		if err != nil {
			t.Fatalf("%x is read and %x, which says the same, is not: %v", b, again, err)
		}
		if second.kind != strings.ToValidUTF8(got.kind, "\uFFFD") || second.id != got.id {
			t.Fatalf("got %+v, then %+v", got, second)
		}
	})
}

// encodable replaces the null that is read and never sent.
func encodable(v any) any {
	switch v := v.(type) {
	case nil:
		return []byte(nil)
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = encodable(item)
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for k, item := range v {
			out[k] = encodable(item)
		}
		return out
	}
	return v
}

// start serves a handler over a pipe and returns the node's end, past hello.
func start(t *testing.T, h Handler, once bool) (*wire.Conn, <-chan error) {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- serve(theirs, h, once)
		_ = theirs.Close()
	}()
	t.Cleanup(func() { _ = ours.Close() })
	c := wire.NewConn(ours, 1<<30)
	f, err := c.Read()
	if err != nil {
		t.Fatal(err)
	}
	var hello wire.Hello
	if err := errors.Join(f.Into(&hello), hello.Check()); err != nil || !strings.HasPrefix(hello.Runtime, "go 1.") {
		t.Fatalf("hello %+v, %v", hello, err)
	}
	return c, done
}

// invoke hands over an event and returns what comes back.
func invoke(t *testing.T, c *wire.Conn, about wire.Context) wire.Frame {
	t.Helper()
	if err := c.Write(wire.KindEvent, 5, wire.EventBody{Event: map[string]any{"id": "1", "data": []byte("x")}, Context: about}); err != nil {
		t.Fatal(err)
	}
	f, err := c.Read()
	if err != nil {
		t.Fatal(err)
	}
	if f.ID != 5 {
		t.Errorf("answer of %d, want 5", f.ID)
	}
	return f
}

func TestServe(t *testing.T) {
	tests := []struct {
		name    string
		handler Handler
		kind    wire.Kind
		says    []string // of the body, as text
	}{
		{"text", func(context.Context, Event) (any, error) { return "hi", nil }, wire.KindResult, []string{"hi", "text/plain"}},
		{"raw JSON", func(context.Context, Event) (any, error) { return []int{1}, nil }, wire.KindResult, []string{"[1]", "application/json"}},
		{"an error of two lines", func(context.Context, Event) (any, error) { return nil, errors.New("a\nb") }, wire.KindFailure, []string{"raised", "a b"}},
		{"a panic of nothing", func(context.Context, Event) (any, error) { panic("") }, wire.KindFailure, []string{"raised", "panic:", "sdk_test.go"}},
		{"a nil dereference", func(context.Context, Event) (any, error) { var p *Event; return p.ID, nil }, wire.KindFailure, []string{"nil pointer", "sdk_test.go"}},
		{"a long error", func(context.Context, Event) (any, error) { return nil, errors.New(strings.Repeat("x", 1<<20)) }, wire.KindFailure, []string{"xxx ..."}},
		{"no JSON", func(context.Context, Event) (any, error) { return func() {}, nil }, wire.KindFailure, []string{"result of type func() cannot be sent"}},
		{"too large", func(context.Context, Event) (any, error) { return make([]byte, 600), nil }, wire.KindFailure, []string{"result is too large: 6", "at most 500"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, done := start(t, tt.handler, true)
			limit := 500
			if tt.kind == wire.KindFailure && tt.name != "too large" {
				limit = 100000
			}
			f := invoke(t, c, wire.Context{DeadlineMS: 60000, MaxFrame: limit})
			if f.Kind != tt.kind {
				t.Errorf("got %s, want %s", f.Kind, tt.kind)
			}
			for _, w := range tt.says {
				if !bytes.Contains(f.Body, []byte(w)) {
					t.Errorf("answer %q does not say %q", f.Body, w)
				}
			}
			if bytes.Contains(f.Body, []byte("run.go")) {
				t.Errorf("answer shows the SDK's own frames:\n%s", f.Body)
			}
			if err := <-done; err != nil {
				t.Errorf("serve: %v", err)
			}
		})
	}
}

func TestServeUntilTheNodeCloses(t *testing.T) {
	n := 0
	c, done := start(t, func(ctx context.Context, e Event) (any, error) {
		n++
		if _, ok := ctx.Deadline(); !ok || e.Text() != "x" {
			return nil, errors.New("no deadline, or no data")
		}
		return nil, nil
	}, false)
	for range 3 {
		if f := invoke(t, c, wire.Context{DeadlineMS: 60000}); f.Kind != wire.KindResult {
			t.Fatalf("got %s %q", f.Kind, f.Body)
		}
	}
	if n != 3 {
		t.Errorf("the handler ran %d times, want 3", n)
	}
	select {
	case err := <-done:
		t.Errorf("serve ended: %v", err)
	default:
	}
}

func TestServeRefusesWhatIsNoEvent(t *testing.T) {
	c, done := start(t, nil, true)
	if err := c.Write(wire.KindOK, 1, wire.Reply{}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil || errors.Is(err, io.EOF) {
		t.Errorf("serve: %v, want an error that names the frame", err)
	}
}

func TestLogHandler(t *testing.T) {
	var node Fake
	log := Log(node.Context(t.Context(), Invocation{}))
	log.With("a", 1).WithGroup("g").With("b", "two words").Info("text", "c", slog.GroupValue(slog.Int("d", 4)), "e", errors.New("x=y"))
	log.Debug("plain")
	log.Error("when", "t", time.Unix(0, 0).UTC())
	want := []string{
		`info: text a=1 g.b="two words" g.c.d=4 g.e="x=y"`,
		"debug: plain",
		`error: when t="1970-01-01 00:00:00 +0000 UTC"`,
	}
	if diff := cmp.Diff(want, node.Logged); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNoInvocation(t *testing.T) {
	ctx := t.Context()
	if err := Publish(ctx, "t", "x"); !errors.Is(err, ErrNoInvocation) {
		t.Errorf("Publish: %v, want ErrNoInvocation", err)
	}
	if _, err := State(ctx).Get("k"); !errors.Is(err, ErrNoInvocation) {
		t.Errorf("Get: %v, want ErrNoInvocation", err)
	}
	if Info(ctx) != (Invocation{}) || Log(ctx) != slog.Default() {
		t.Error("a context of no invocation has one")
	}
	var node Fake
	over, cancel := context.WithCancel(node.Context(ctx, Invocation{}))
	cancel()
	if err := Publish(over, "t", "x"); !errors.Is(err, context.Canceled) || len(node.Published) > 0 {
		t.Errorf("Publish of a context that is done: %v, %v", err, node.Published)
	}
}

func TestCallRefusesTextThatIsNoUTF8(t *testing.T) {
	l := &link{c: &conn{rw: &bytes.Buffer{}, limit: defaultLimit}}
	ctx := withNode(t.Context(), l, Invocation{})
	if err := State(ctx).Put("k\xff", nil); err == nil || !strings.Contains(err.Error(), "not UTF-8") {
		t.Errorf("got %v, want an error about UTF-8", err)
	}
	if err := Publish(ctx, "t", "x", UserProperty("k", "v\xff")); err == nil || !strings.Contains(err.Error(), "not UTF-8") {
		t.Errorf("got %v, want an error about UTF-8", err)
	}
	if l.c.calls != 0 {
		t.Error("it was sent")
	}
}

func TestFakeMessages(t *testing.T) {
	var node Fake
	ctx := node.Context(t.Context(), Invocation{})
	asks := Event{Source: "mqtt://plant", Extensions: map[string]string{"mqttresponsetopic": "answer/1", "mqttcorrelation": "AP8="}}
	for _, err := range []error{
		Publish(ctx, "ask", "x", ResponseTopic("answer"), Correlation([]byte("7")), Expiry(1500*time.Millisecond), UserProperty("a", "1"), UserProperty("a", "2")),
		Reply(ctx, asks, []byte("y"), ContentType("text/csv"), QoS(0)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want := []Message{
		{Topic: "ask", Data: []byte("x"), QoS: 1, ResponseTopic: "answer", Correlation: []byte("7"), Expiry: 2 * time.Second, UserProperties: [][2]string{{"a", "1"}, {"a", "2"}}},
		{Broker: "plant", Topic: "answer/1", Data: []byte("y"), ContentType: "text/csv", Correlation: []byte{0, 0xff}},
	}
	if !reflect.DeepEqual(node.Published, want) {
		t.Errorf("got %+v, want %+v", node.Published, want)
	}
	if err := Reply(ctx, Event{Source: "mqtt://plant"}, "x"); !errors.Is(err, ErrNoReply) {
		t.Errorf("reply to nobody: %v, want %v", err, ErrNoReply)
	}
	asks.Extensions["mqttcorrelation"] = "?"
	if err := Reply(ctx, asks, "x"); err == nil {
		t.Error("a correlation that is no base64 is taken")
	}
	for _, d := range []time.Duration{0, -time.Second} {
		if err := Publish(ctx, "a", "x", Expiry(d)); !errors.Is(err, ErrRefused) {
			t.Errorf("an expiry of %v: %v, want %v", d, err, ErrRefused)
		}
	}
	if len(node.Published) != 2 {
		t.Errorf("%d messages, want 2", len(node.Published))
	}
}

func TestFakeSpaces(t *testing.T) {
	var node Fake
	s := State(node.Context(t.Context(), Invocation{}))
	for _, err := range []error{s.Put("b", []byte("1")), s.Put("a", nil), s.Of("other").Put("c", nil), s.Delete("b"), s.Delete("b")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	keys, err := s.List("")
	if err != nil || !reflect.DeepEqual(keys, []string{"a"}) {
		t.Errorf("keys %q, %v", keys, err)
	}
	if _, ok := node.Others["other"]["c"]; !ok || len(node.State) != 1 {
		t.Errorf("spaces %v, %v", node.State, node.Others)
	}
	if _, err := s.Get("b"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get: %v, want ErrNotFound", err)
	}
}

func TestFakeDevices(t *testing.T) {
	node := Fake{Lines: map[string]bool{"door": true}, Sensors: map[string]map[string]float64{"greenhouse": {"temperature_C": 25.1}}}
	ctx := node.Context(t.Context(), Invocation{})
	door, relay := Line(ctx, "door"), Line(ctx, "relay")
	steps := []struct {
		do          func() error
		door, relay bool // what is read behind it
	}{
		{func() error { return nil }, true, false},
		{func() error { return relay.Set(true) }, true, true},
		{func() error { return relay.Pulse(1500 * time.Millisecond) }, true, false},
		{func() error { return relay.Set(true) }, true, true},
		{func() error { return door.Set(false) }, false, true},
		{relay.Release, false, false},
		{door.Release, true, false},
	}
	for i, s := range steps {
		if err := s.do(); err != nil {
			t.Errorf("step %d: %v", i, err)
		}
		gotDoor, err1 := door.Read()
		gotRelay, err2 := relay.Read()
		if err := errors.Join(err1, err2); err != nil || gotDoor != s.door || gotRelay != s.relay {
			t.Errorf("step %d: door %v, relay %v, %v, want %v, %v", i, gotDoor, gotRelay, err, s.door, s.relay)
		}
	}
	want := []LineCommand{
		{Line: "relay", Do: "set", On: true},
		{Line: "relay", Do: "pulse", For: 1500 * time.Millisecond},
		{Line: "relay", Do: "set", On: true},
		{Line: "door", Do: "set"},
		{Line: "relay", Do: "release"},
		{Line: "door", Do: "release"},
	}
	for _, d := range []time.Duration{-time.Second, 0, time.Microsecond, time.Minute + time.Millisecond} {
		if err := relay.Pulse(d); !errors.Is(err, ErrRefused) {
			t.Errorf("pulse of %v: %v, want ErrRefused", d, err)
		}
	}
	if diff := cmp.Diff(want, node.Commanded); diff != "" || node.State != nil {
		t.Errorf("state %v, commands (-want +got):\n%s", node.State, diff)
	}
	if got, err := Sensor(ctx, "greenhouse").Read(); err != nil || got["temperature_C"] != 25.1 {
		t.Errorf("greenhouse: %v, %v", got, err)
	}
	if _, err := Sensor(ctx, "soil").Read(); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "soil") {
		t.Errorf("soil: %v, want ErrRefused", err)
	}
}

// A reading that is none is an error and not an empty one.
func TestSensorRefusesWhatIsNoReading(t *testing.T) {
	for _, value := range []string{"", "{", "[1]", `{"temperature_C":"warm"}`} {
		ours, theirs := net.Pipe()
		done := make(chan error, 1)
		go func() {
			c := wire.NewConn(ours, wire.MaxFrame)
			f, err := c.Read()
			done <- errors.Join(err, c.Write(wire.KindOK, f.ID, wire.Reply{Value: []byte(value)}))
		}()
		ctx := withNode(t.Context(), &link{c: &conn{rw: theirs, limit: defaultLimit}}, Invocation{})
		if got, err := Sensor(ctx, "greenhouse").Read(); !errors.Is(err, errFrame) {
			t.Errorf("reading %q: %v, %v, want errFrame", value, got, err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = ours.Close()
		_ = theirs.Close()
	}
}

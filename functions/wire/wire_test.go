package wire_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/wire"
)

// pipe is both ends of a connection in memory: what is written is read back.
type pipe struct{ bytes.Buffer }

func TestRoundTrip(t *testing.T) {
	tests := []struct {
		name string
		kind wire.Kind
		id   uint64
		body any
		into any
	}{
		{"hello", wire.KindHello, 0, wire.Hello{V: wire.Version, Runtime: "python 3.11.2", SDK: "1"}, &wire.Hello{}},
		{"event", wire.KindEvent, 7, wire.EventBody{
			Event:   map[string]any{"id": "1", "data": []byte{0, 1, 255}},
			Context: wire.Context{Invocation: "i", Function: "f", Version: "v", Trigger: "t", Attempt: 2, DeadlineMS: 5000, MaxFrame: 99},
		}, &wire.EventBody{}},
		{"result", wire.KindResult, math.MaxUint64, wire.Result{Data: []byte("28.5"), DataContentType: "text/plain"}, &wire.Result{}},
		{"empty result", wire.KindResult, 1, wire.Result{Data: []byte{}}, &wire.Result{}},
		{"no result", wire.KindResult, 1, wire.Result{}, &wire.Result{}},
		{"failure", wire.KindFailure, 1, wire.Failure{Kind: "raised", Message: "m", Detail: "d"}, &wire.Failure{}},
		{"retry", wire.KindFailure, 1, wire.Failure{Kind: "raised", Message: "m", RetryAfterMS: math.MaxInt64}, &wire.Failure{}},
		{"call", wire.KindPublish, 3, wire.Call{
			Function: "f", Key: "k", Prefix: "p", Value: []byte("v"), Broker: "b",
			Topic: "t", Data: []byte("d"), QoS: 2, Retain: true, Type: "y", Subject: "s", ID: "i",
			Device: "d", On: true, MS: math.MinInt64,
		}, &wire.Call{}},
		{"reply", wire.KindOK, 3, wire.Reply{Found: true, Value: []byte("v"), Keys: []string{"a", "b"}, ID: "i", On: true, Message: "m"}, &wire.Reply{}},
		{"log", wire.KindLog, 0, wire.Log{Level: "info", Text: "läuft ☃"}, &wire.Log{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn := wire.NewConn(&pipe{}, wire.MaxFrame)
			if err := conn.Write(tt.kind, tt.id, tt.body); err != nil {
				t.Fatal(err)
			}
			f, err := conn.Read()
			if err != nil {
				t.Fatal(err)
			}
			if f.Kind != tt.kind || f.ID != tt.id {
				t.Errorf("got %s %d, want %s %d", f.Kind, f.ID, tt.kind, tt.id)
			}
			if err := f.Into(tt.into); err != nil {
				t.Fatal(err)
			}
			want := tt.body
			got := reflect.ValueOf(tt.into).Elem().Interface()
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
			if _, err := conn.Read(); !errors.Is(err, io.EOF) {
				t.Errorf("read behind the last frame: %v, want io.EOF", err)
			}
		})
	}
}

// The bytes of a frame are fixed: an SDK in an image outlives the node that
// built it.
func TestEncodeGolden(t *testing.T) {
	tests := []struct {
		name string
		kind wire.Kind
		id   uint64
		body any
		want string
	}{
		{"hello", wire.KindHello, 0, wire.Hello{V: 1, Runtime: "go", SDK: "1"}, "0000001d" + "83" + "6568656c6c6f" + "00" + "a3" + "617601" + "6373646b6131" + "6772756e74696d6562676f"},
		{"result", wire.KindResult, 1, wire.Result{}, "00000021" + "83" + "66726573756c74" + "01" + "a2" + "6464617461f6" + "6f64617461636f6e74656e747479706560"},
		{"hello of version 2", wire.KindHello, 0, wire.Hello{V: 2, Runtime: "go", SDK: "2"}, "0000001d" + "83" + "6568656c6c6f" + "00" + "a3" + "617602" + "6373646b6132" + "6772756e74696d6562676f"},
		{"set_line", wire.KindSetLine, 1, wire.Call{Device: "relay", On: true}, "0000001d" + "83" + "687365745f6c696e65" + "01" + "a2" + "626f6ef5" + "666465766963656572656c6179"},
		{"pulse_line", wire.KindPulseLine, 2, wire.Call{Device: "relay", MS: 200}, "00000020" + "83" + "6a70756c73655f6c696e65" + "02" + "a2" + "626d7318c8" + "666465766963656572656c6179"},
		{"read_line's answer", wire.KindOK, 3, wire.Reply{On: true}, "0000000a" + "83" + "626f6b" + "03" + "a1" + "626f6ef5"},
		{"failure", wire.KindFailure, 1, wire.Failure{Kind: "raised", Message: "m"}, "00000029" + "83" + "676661696c757265" + "01" + "a3" + "646b696e6466726169736564" + "6664657461696c60" + "676d657373616765616d"},
		{"rejection", wire.KindFailure, 1, wire.Failure{Kind: "rejected", Message: "m"}, "0000002b" + "83" + "676661696c757265" + "01" + "a3" + "646b696e646872656a6563746564" + "6664657461696c60" + "676d657373616765616d"},
		{"retry", wire.KindFailure, 1, wire.Failure{Kind: "raised", Message: "m", RetryAfterMS: 30000}, "0000003b" + "83" + "676661696c757265" + "01" + "a4" + "646b696e6466726169736564" + "6664657461696c60" + "676d657373616765616d" + "6e72657472795f61667465725f6d73197530"},
		{"log", wire.KindLog, 0, wire.Log{Level: "info", Text: "hi"}, "0000001a" + "83" + "636c6f67" + "00" + "a2" + "6474657874626869" + "656c6576656c64696e666f"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, err := wire.Encode(tt.kind, tt.id, tt.body)
			if err != nil {
				t.Fatal(err)
			}
			if got := hex.EncodeToString(b); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestCutFrames(t *testing.T) {
	whole, err := wire.Encode(wire.KindLog, 0, wire.Log{Level: "info", Text: "hello"})
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		_, err := wire.NewConn(&pipe{*bytes.NewBuffer(whole[:n:n])}, wire.MaxFrame).Read()
		if n == 0 {
			if !errors.Is(err, io.EOF) || errors.Is(err, wire.ErrFrame) {
				t.Errorf("nothing to read: %v, want io.EOF", err)
			}
			continue
		}
		if !errors.Is(err, wire.ErrFrame) {
			t.Errorf("cut after %d of %d bytes: %v, want ErrFrame", n, len(whole), err)
		}
	}
}

func TestLimits(t *testing.T) {
	const limit = 100
	b, err := wire.Encode(wire.KindLog, 0, wire.Log{Text: ""})
	if err != nil {
		t.Fatal(err)
	}
	room := limit - (len(b) - 4) - 1 // a text over 23 bytes takes one more byte of head

	p := &pipe{}
	conn := wire.NewConn(p, limit)
	if err := conn.Write(wire.KindLog, 0, wire.Log{Text: strings.Repeat("x", room+1)}); !errors.Is(err, wire.ErrTooLong) {
		t.Errorf("write over the limit: %v, want ErrTooLong", err)
	}
	if p.Len() != 0 {
		t.Errorf("a refused frame left %d bytes on the connection", p.Len())
	}
	if err := conn.Write(wire.KindLog, 0, wire.Log{Text: strings.Repeat("x", room)}); err != nil {
		t.Errorf("write at the limit: %v", err)
	}
	if _, err := conn.Read(); err != nil {
		t.Errorf("read at the limit: %v", err)
	}

	// The length alone decides: nothing is allocated for it or read.
	for _, n := range []uint32{limit + 1, 1 << 31, math.MaxUint32} {
		head := binary.BigEndian.AppendUint32(nil, n)
		if _, err := wire.NewConn(&pipe{*bytes.NewBuffer(head)}, limit).Read(); !errors.Is(err, wire.ErrTooLong) {
			t.Errorf("a length of %d: %v, want ErrTooLong", n, err)
		}
	}
}

// The length of a frame is a claim: a peer that announces a large one and
// sends nothing costs no memory.
func TestAnnouncedLengthIsNotAllocated(t *testing.T) {
	const limit = 64 << 20
	head := binary.BigEndian.AppendUint32(nil, limit)
	allocated := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := wire.NewConn(&pipe{*bytes.NewBuffer(bytes.Clone(head))}, limit).Read(); !errors.Is(err, wire.ErrFrame) {
				b.Fatal(err)
			}
		}
	}).AllocedBytesPerOp()
	if allocated > 1<<20 {
		t.Errorf("reading a cut frame that announces %d bytes allocates %d", limit, allocated)
	}
}

func TestDecodeRefuses(t *testing.T) {
	deep := strings.Repeat("81", 40) + "00"
	tests := []struct{ name, hex string }{
		{"nothing", ""},
		{"not CBOR", "ff"},
		{"a map", "a0"},
		{"two elements", "82" + "6161" + "00"},
		{"four elements", "84" + "6161" + "00" + "a0" + "00"},
		{"kind is a number", "83" + "01" + "00" + "a0"},
		{"id is negative", "83" + "6161" + "20" + "a0"},
		{"id is text", "83" + "6161" + "6161" + "a0"},
		{"bytes behind it", "83" + "6161" + "00" + "a0" + "00"},
		{"kind is not UTF-8", "83" + "61ff" + "00" + "a0"},
		{"indefinite length", "9f" + "6161" + "00" + "a0" + "ff"},
		{"a tag", "83" + "6161" + "00" + "c1" + "00"},
		{"nested deeply", "83" + "6161" + "00" + deep},
		{"an array of 2^32 elements", "83" + "6161" + "00" + "9a" + "ffffffff"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, err := hex.DecodeString(tt.hex)
			if err != nil {
				t.Fatal(err)
			}
			if f, err := wire.Decode(b); !errors.Is(err, wire.ErrFrame) {
				t.Errorf("got %+v, %v, want ErrFrame", f, err)
			}
		})
	}
}

func TestIntoRefuses(t *testing.T) {
	tests := []struct {
		name string
		body any
		into any
	}{
		{"text for bytes", map[string]any{"value": 1}, &wire.Call{}},
		{"a number for text", map[string]any{"key": 1}, &wire.Call{}},
		{"a large QoS", map[string]any{"qos": 300}, &wire.Call{}},
		{"a number for on", map[string]any{"on": 1}, &wire.Call{}},
		{"a time that does not fit", map[string]any{"ms": uint64(math.MaxUint64)}, &wire.Call{}},
		{"a retry that does not fit", map[string]any{"kind": "raised", "retry_after_ms": uint64(math.MaxUint64)}, &wire.Failure{}},
		{"a fraction of a millisecond", map[string]any{"kind": "raised", "retry_after_ms": 1.5}, &wire.Failure{}},
		{"an array", []int{1}, &wire.Result{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, err := wire.Encode(wire.KindPut, 1, tt.body)
			if err != nil {
				t.Fatal(err)
			}
			f, err := wire.Decode(b[4:])
			if err != nil {
				t.Fatal(err)
			}
			if err := f.Into(tt.into); !errors.Is(err, wire.ErrFrame) {
				t.Errorf("got %v, want ErrFrame", err)
			}
		})
	}
}

// An instance says what it likes: the node believes the kinds that are its to
// tell and bounds the time.
func TestFailureOutcome(t *testing.T) {
	day := (24 * time.Hour).Milliseconds()
	tests := []struct {
		kind      string
		ms        int64
		want      functions.FailureKind
		wantAfter time.Duration
	}{
		{"raised", 0, functions.FailRaised, 0},
		{"raised", 30000, functions.FailRaised, 30 * time.Second},
		{"raised", day, functions.FailRaised, functions.MaxRetryAfter},
		{"raised", day + 1, functions.FailRaised, functions.MaxRetryAfter},
		{"raised", math.MaxInt64, functions.FailRaised, functions.MaxRetryAfter},
		{"raised", -1, functions.FailRaised, 0},
		{"raised", math.MinInt64, functions.FailRaised, 0},
		{"rejected", 0, functions.FailRejected, 0},
		{"rejected", 30000, functions.FailRejected, 0},
		{"result", 30000, functions.FailResult, 0},
		{"payload", 0, functions.FailRaised, 0},
		{"transient", 0, functions.FailRaised, 0},
		{"", 0, functions.FailRaised, 0},
		{"of version 9", 0, functions.FailRaised, 0},
	}
	for _, tt := range tests {
		got := wire.Failure{Kind: tt.kind, Message: "m", Detail: "d", RetryAfterMS: tt.ms}.Outcome()
		want := &functions.Failure{Kind: tt.want, Message: "m", Detail: "d", RetryAfter: tt.wantAfter}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q, %d ms (-want +got):\n%s", tt.kind, tt.ms, diff)
		}
	}
}

func TestHelloCheck(t *testing.T) {
	for _, v := range []uint{1, 2} { // an instance of version 1 asks for no devices
		if err := (wire.Hello{V: v}).Check(); err != nil {
			t.Errorf("version %d: %v", v, err)
		}
	}
	for _, v := range []uint{0, 3, 1 << 30} {
		if err := (wire.Hello{V: v}).Check(); !errors.Is(err, wire.ErrVersion) || !strings.Contains(err.Error(), "build the function again") {
			t.Errorf("version %d: %v, want ErrVersion and what to do", v, err)
		}
	}
}

func TestMapEventRefuses(t *testing.T) {
	tests := []map[string]any{
		{"data": "text"},
		{"id": 1},
		{"id": nil},
		{"extension": []byte("x")},
		{"time": "yesterday"},
		{"expirytime": "tomorrow"},
	}
	for _, m := range tests {
		if e, err := wire.MapEvent(m); !errors.Is(err, wire.ErrFrame) {
			t.Errorf("MapEvent(%v) = %+v, %v, want ErrFrame", m, e, err)
		}
	}
}

func TestEventRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String()
		want := functions.Event{
			ID: text.Draw(t, "id"), Type: text.Draw(t, "type"), Source: text.Draw(t, "source"),
			Subject: text.Draw(t, "subject"), DataContentType: text.Draw(t, "datacontenttype"),
			Data:       rapid.SliceOf(rapid.Byte()).Draw(t, "data"),
			Extensions: rapid.MapOf(rapid.StringMatching(`x[a-z0-9]{1,19}`), text).Draw(t, "extensions"),
		}
		if rapid.Bool().Draw(t, "has a time") {
			// RFC 3339 has years of four digits.
			want.Time = time.Unix(rapid.Int64Range(-62135596799, 253402300799).Draw(t, "s"), rapid.Int64Range(0, 999999999).Draw(t, "ns")).UTC()
		}
		if rapid.Bool().Draw(t, "expires") {
			want.Expires = time.Unix(rapid.Int64Range(0, 253402300799).Draw(t, "expires at"), rapid.Int64Range(0, 999999999).Draw(t, "and ns")).UTC()
		}
		b, err := wire.Encode(wire.KindEvent, 1, wire.EventBody{Event: wire.EventMap(&want)})
		if err != nil {
			t.Fatal(err)
		}
		f, err := wire.Decode(b[4:])
		if err != nil {
			t.Fatal(err)
		}
		var body wire.EventBody
		if err := f.Into(&body); err != nil {
			t.Fatal(err)
		}
		got, err := wire.MapEvent(body.Event)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// FuzzDecode feeds what an instance may send. Whatever decodes must be bounded
// and must encode again to a frame that says the same.
func FuzzDecode(f *testing.F) {
	for _, body := range []any{
		wire.Hello{V: 1, Runtime: "python 3.11", SDK: "1"},
		wire.Result{Data: []byte("x")},
		wire.Call{Function: "f", Key: "k", Value: []byte{0}, Topic: "a/b", QoS: 1, Retain: true},
		wire.EventBody{Event: wire.EventMap(&functions.Event{ID: "1", Time: time.Unix(1, 2), Data: []byte("d"), Extensions: map[string]string{"a": "b"}})},
		wire.Reply{Found: true, Keys: []string{"a"}},
		wire.Failure{Kind: "rejected", Message: "m", Detail: "d"},
		wire.Failure{Kind: "raised", RetryAfterMS: math.MinInt64},
		wire.Call{Device: "relay", On: true, MS: 200},
		wire.Call{
			Topic: "a", ContentType: "text/plain", ResponseTopic: "b", Correlation: []byte{0xff}, ExpiryS: math.MinInt64,
			User: []functions.UserProperty{{Name: "a", Value: "b"}, {}},
		},
		wire.EventBody{Event: wire.EventMap(&functions.Event{ID: "1", Expires: time.Unix(1, 2)})},
		wire.Reply{On: true, Value: []byte(`{"temperature_C":25.1}`)},
	} {
		b, err := wire.Encode(wire.KindPut, 1, body)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[4:])
	}
	f.Add([]byte{0x83, 0x61, 0x61, 0x00, 0x9a, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := wire.Decode(b)
		if err != nil {
			if !errors.Is(err, wire.ErrFrame) {
				t.Fatalf("error %v is not ErrFrame", err)
			}
			return
		}
		for _, into := range []any{&wire.Hello{}, &wire.EventBody{}, &wire.Result{}, &wire.Failure{}, &wire.Call{}, &wire.Reply{}, &wire.Log{}} {
			if err := frame.Into(into); err != nil {
				if !errors.Is(err, wire.ErrFrame) {
					t.Fatalf("error %v is not ErrFrame", err)
				}
				continue
			}
			if c, ok := into.(*wire.Call); ok {
				if p, err := c.Properties(time.Unix(0, 0)); err == nil && (p.Size() > functions.MaxProperties || len(p.User) > functions.MaxUserProperties || p.Expires.After(time.Unix(functions.MaxExpiry, 0))) {
					t.Fatalf("properties that are too large: %+v", p)
				}
			}
			if b, ok := into.(*wire.Failure); ok {
				if after := b.Outcome().RetryAfter; after < 0 || after > functions.MaxRetryAfter {
					t.Fatalf("the next attempt is put off by %v", after)
				}
			}
			if e, ok := into.(*wire.EventBody); ok {
				if _, err := wire.MapEvent(e.Event); err != nil {
					continue
				}
			}
			again, err := wire.Encode(frame.Kind, frame.ID, into)
			if err != nil {
				t.Fatalf("encode what was decoded: %v", err)
			}
			second, err := wire.Decode(again[4:])
			if err != nil {
				t.Fatalf("decode what was encoded: %v", err)
			}
			if second.Kind != frame.Kind || second.ID != frame.ID {
				t.Fatalf("got %s %d, want %s %d", second.Kind, second.ID, frame.Kind, frame.ID)
			}
			fresh := reflect.New(reflect.TypeOf(into).Elem()).Interface()
			if err := second.Into(fresh); err != nil {
				t.Fatalf("decode the body of what was encoded: %v", err)
			}
			if diff := cmp.Diff(into, fresh, cmpopts.EquateEmpty(), cmpopts.EquateNaNs()); diff != "" {
				t.Fatalf("(-first +second):\n%s", diff)
			}
		}
	})
}

// An SDK of an earlier version knows nothing of properties, and neither does a node
// of an earlier version: each leaves out what it does not know.
func TestPublishOfAnotherVersion(t *testing.T) {
	decode := func(body any, into any) {
		t.Helper()
		b, err := wire.Encode(wire.KindPublish, 1, body)
		if err != nil {
			t.Fatal(err)
		}
		f, err := wire.Decode(b[4:])
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Into(into); err != nil {
			t.Fatal(err)
		}
	}
	var c wire.Call
	decode(map[string]any{"topic": "a", "data": []byte("x"), "qos": 1, "of a later version": []any{1}}, &c)
	if diff := cmp.Diff(wire.Call{Topic: "a", Data: []byte("x"), QoS: 1}, c); diff != "" {
		t.Errorf("of an older SDK (-want +got):\n%s", diff)
	}
	var old struct {
		Topic string `cbor:"topic"`
	}
	decode(wire.Call{Topic: "a", ContentType: "text/plain", User: []functions.UserProperty{{Name: "a"}}}, &old)
	if old.Topic != "a" {
		t.Errorf("an older node reads %+v", old)
	}
}

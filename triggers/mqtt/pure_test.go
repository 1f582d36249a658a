package mqtt

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/triggers/mqtt/replay"
)

func TestLookup(t *testing.T) {
	// The document and the pointers of RFC 6901, section 5, where they lead to
	// a text or a number.
	const doc = `{"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, "k\"l": 6, " ": 7, "m~n": 8,
		"o": {"p": {"q": "deep"}}, "big": 12345678901234567890, "e": -1.50e3, "t": true, "z": null, "~1": "tilde"}`
	for _, c := range []struct {
		doc, pointer, want string
		ok                 bool
	}{
		{doc, "/foo/0", "bar", true},
		{doc, "/foo/1", "baz", true},
		{doc, "/", "0", true},
		{doc, "/a~1b", "1", true},
		{doc, "/c%d", "2", true},
		{doc, "/e^f", "3", true},
		{doc, "/g|h", "4", true},
		{doc, `/i\j`, "5", true},
		{doc, `/k"l`, "6", true},
		{doc, "/ ", "7", true},
		{doc, "/m~0n", "8", true},
		{doc, "/~01", "tilde", true},
		{doc, "/o/p/q", "deep", true},
		{doc, "/big", "12345678901234567890", true},
		{doc, "/e", "-1.50e3", true},
		{`"all"`, "", "all", true},
		{` 7 `, "", "7", true},
		{doc, "", "", false},
		{doc, "foo", "", false},
		{doc, "/foo", "", false},
		{doc, "/foo/2", "", false},
		{doc, "/foo/-", "", false},
		{doc, "/foo/00", "", false},
		{doc, "/foo/+1", "", false},
		{doc, "/foo/99999999999999999999", "", false},
		{doc, "/t", "", false},
		{doc, "/z", "", false},
		{doc, "/o/p/q/r", "", false},
		{doc, "/none", "", false},
		{`{"a":1} x`, "/a", "", false},
		{`{"a":1`, "/a", "", false},
		{"", "/a", "", false},
	} {
		got, ok := lookup([]byte(c.doc), c.pointer)
		if got != c.want || ok != c.ok {
			t.Errorf("lookup(%.20q, %q) = %q, %t; want %q, %t", c.doc, c.pointer, got, ok, c.want, c.ok)
		}
	}
}

func FuzzLookup(f *testing.F) {
	f.Add([]byte(`{"a":[{"b":"c"}]}`), "/a/0/b")
	f.Add([]byte(`[[[[1]]]]`), "/0/0/0/0")
	f.Add([]byte(`{"~":"x"}`), "/~0")
	f.Fuzz(func(t *testing.T, doc []byte, pointer string) {
		v, ok := lookup(doc, pointer)
		if !ok && v != "" {
			t.Errorf("lookup(%q, %q) = %q without ok", doc, pointer, v)
		}
		e, own := Event("b", functions.Trigger{ID: pointer}, Message{Payload: doc}, time.Unix(1, 0))
		if e.ID == "" || len(e.ID) > MaxID || own && e.ID != v {
			t.Errorf("event has the id %q, own %t", e.ID, own)
		}
	})
}

func TestEventID(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		name, pointer, data, id string
		own                     bool
	}{
		{"none asked for", "", `{"id":"x"}`, "", false},
		{"text", "/id", `{"id":"x"}`, "x", true},
		{"number", "/id", `{"id":42}`, "42", true},
		{"missing", "/id", `{}`, "", false},
		{"empty", "/id", `{"id":""}`, "", false},
		{"line end in it", "/id", `{"id":"a\nb"}`, "", false},
		{"no JSON", "/id", "21.5", "", false},
		{"as long as may be", "/id", `{"id":"` + strings.Repeat("x", MaxID) + `"}`, strings.Repeat("x", MaxID), true},
		{"too long", "/id", `{"id":"` + strings.Repeat("x", MaxID+1) + `"}`, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := Message{Topic: "a/b", Payload: []byte(c.data), QoS: 1, Retain: true, Dup: true, PacketID: 7}
			e, own := Event("plant", functions.Trigger{ID: c.pointer}, m, at)
			if own != c.own || own && e.ID != c.id {
				t.Errorf("id %q, own %t; want %q, %t", e.ID, own, c.id, c.own)
			}
			other, _ := Event("plant", functions.Trigger{ID: c.pointer}, m, at)
			if !own && (len(e.ID) != 26 || e.ID == other.ID) {
				t.Errorf("made-up ids %q and %q; want two ULIDs", e.ID, other.ID)
			}
			e.ID = ""
			want := functions.Event{
				Type: functions.TypeMQTT, Source: "mqtt://plant", Subject: "a/b", Time: at, Data: []byte(c.data),
				Extensions: map[string]string{"mqttqos": "1", "mqttretain": "true", "mqttdup": "true"},
			}
			if diff := cmp.Diff(want, e); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestClientID(t *testing.T) {
	long := strings.Repeat("x", 63)
	ids := map[string]string{}
	for _, names := range [][3]string{
		{"gw1", "fan", "readings"},
		{"gw1", "fan", "reading"},
		{"gw1-fan", "", "readings"},
		{"gw1", "fan-readings", ""},
		{long, long, "a"},
		{long, long, "b"},
		{"gw.1", "fan", "r"},
		{"gw-1", "fan", "r"},
		{"gw_1", "fan", "r"},
		{"ü", "ü", "ü"},
	} {
		id := ClientID(names[0], names[1], names[2])
		if again := ClientID(names[0], names[1], names[2]); again != id {
			t.Errorf("%q: %s, then %s", names, id, again)
		}
		if other, ok := ids[id]; ok {
			t.Errorf("%q and %s share %s", names, other, id)
		}
		ids[id] = fmt.Sprint(names)
		if len(id) > 64 || strings.Trim(id, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-") != "" {
			t.Errorf("%q: %q is longer than 64 bytes or has other characters", names, id)
		}
	}
	if id := ClientID("gw1", "fan", "readings"); !strings.HasPrefix(id, "edgefn-gw1-fan-readings-") {
		t.Errorf("%s is not readable", id)
	}
}

func TestBackoff(t *testing.T) {
	b := Backoff{}.withDefaults()
	for _, c := range []struct {
		failures int
		r        float64
		want     time.Duration
	}{
		{1, 0, 250 * time.Millisecond},
		{1, 0.5, 375 * time.Millisecond},
		{2, 0, 500 * time.Millisecond},
		{5, 0, 4 * time.Second},
		{8, 0, 30 * time.Second},
		{1 << 30, 0.999999, time.Minute},
	} {
		got := b.wait(c.failures, c.r)
		if d := got - c.want; d < -time.Millisecond || d > time.Millisecond {
			t.Errorf("wait(%d, %g) = %s, want %s", c.failures, c.r, got, c.want)
		}
	}
	n := 0
	for _, c := range []struct {
		lasted time.Duration
		want   int
	}{{0, 1}, {time.Second, 2}, {19 * time.Second, 3}, {20 * time.Second, 1}, {0, 2}} {
		if n = b.failures(n, c.lasted); n != c.want {
			t.Errorf("after %s: %d failures, want %d", c.lasted, n, c.want)
		}
	}
}

func TestBrokerValidate(t *testing.T) {
	for _, c := range []struct {
		name   string
		broker Broker
		addr   string
		want   []string // parts of the error; none: valid
	}{
		{"plain", Broker{URL: "mqtt://host"}, "host:1883", nil},
		{"tcp", Broker{URL: "tcp://10.0.0.1:1884/"}, "10.0.0.1:1884", nil},
		{"tls", Broker{URL: "mqtts://host", CAFile: "a", CertFile: "b", KeyFile: "c"}, "host:8883", nil},
		{"ssl", Broker{URL: "ssl://[::1]:1", Username: "u", PasswordFile: "p"}, "[::1]:1", nil},
		{"version", Broker{URL: "mqtt://host", Version: "5"}, "host:1883", nil},
		{"old version", Broker{URL: "mqtt://host", Version: "3.1.1"}, "host:1883", nil},
		{"any version", Broker{URL: "mqtt://host", Version: "auto"}, "host:1883", nil},
		{"no version", Broker{URL: "mqtt://host", Version: "4"}, "", []string{"brokers.plant.version", "use auto, 3.1.1 or 5"}},
		{"no url", Broker{}, "", []string{"brokers.plant.url", "missing"}},
		{"no scheme", Broker{URL: "host:1883"}, "", []string{"brokers.plant.url", "use mqtt or mqtts"}},
		{"other scheme", Broker{URL: "ws://host"}, "", []string{`scheme "ws"`}},
		{"no host", Broker{URL: "mqtt://:1883"}, "", []string{"names no host"}},
		{"port", Broker{URL: "mqtt://host:0"}, "", []string{"no valid port"}},
		{"port too high", Broker{URL: "mqtt://host:65536"}, "", []string{"no valid port"}},
		{"path", Broker{URL: "mqtt://host/x"}, "", []string{"more than a host and a port"}},
		{"user", Broker{URL: "mqtt://u:secret@host"}, "", []string{"username and password_file"}},
		{"control", Broker{URL: "mqtt://ho\x01st"}, "", []string{"brokers.plant.url"}},
		{
			"all at once",
			Broker{URL: "mqtt://host", CAFile: "a", CertFile: "b", PasswordFile: "p"},
			"",
			[]string{"brokers.plant.ca", "brokers.plant.cert", "brokers.plant.key", "brokers.plant.username", "write mqtts://"},
		},
		{"key alone", Broker{URL: "mqtts://host", KeyFile: "a"}, "", []string{"brokers.plant.cert: is missing"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.broker.Name = "plant"
			err := c.broker.Validate()
			if (err == nil) != (c.want == nil) {
				t.Fatalf("Validate: %v, want %q", err, c.want)
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
				if strings.Contains(err.Error(), "secret") {
					t.Errorf("%q tells the password", err)
				}
			}
			if addr, _, _ := c.broker.address(); c.want == nil && addr != c.addr {
				t.Errorf("address %s, want %s", addr, c.addr)
			}
		})
	}
	if err := (Broker{URL: "mqtt://h"}).Validate(); err == nil {
		t.Error("a broker without a name is valid")
	}
}

func FuzzScanner(f *testing.F) {
	f.Add([]byte{0x20, 2, 1, 0, 0x62, 2, 1, 2, 0x30, 3, 0, 1, 'a'}, uint8(1), false)
	f.Add([]byte{0x90, 4, 0, 1, 1, 1}, uint8(2), false)
	f.Add([]byte{0x30, 0xff, 0xff, 0xff, 0xff}, uint8(3), false)
	f.Add([]byte{0x20, 3, 0, 0, 0, 0x62, 3, 1, 2, 0, 0xe0, 0, 0x40, 0x81, 0x80, 4}, uint8(1), true)
	f.Fuzz(func(t *testing.T, stream []byte, chunk uint8, five bool) {
		// However the stream is cut, the same packets are seen.
		scan := func(size int) (seen []string, err error) {
			s := scanner{five: five, watch: func(kind byte, body []byte) {
				if !five && len(body) != 2 {
					t.Errorf("packet of type %d with %d bytes reported", kind, len(body))
				}
				seen = append(seen, fmt.Sprintf("%d %d", kind, body))
			}}
			for rest := stream; len(rest) > 0 && err == nil; {
				n := min(size, len(rest))
				err = s.write(rest[:n])
				rest = rest[n:]
				if five && s.remain > maxIncoming && err == nil && s.state == scanBody {
					t.Errorf("a packet of %d bytes is let through", s.remain)
				}
			}
			return seen, err
		}
		whole, err1 := scan(len(stream) + 1)
		parts, err2 := scan(int(chunk) + 1)
		if diff := cmp.Diff(whole, parts); diff != "" || errors.Is(err1, errBadPacket) != errors.Is(err2, errBadPacket) {
			t.Errorf("whole: %v; in parts: %v\n%s", err1, err2, diff)
		}
	})
}

func TestScannerFollowsLongPackets(t *testing.T) {
	var seen []string
	s := scanner{watch: func(kind byte, body []byte) { seen = append(seen, fmt.Sprintf("%d %d", kind, body)) }}
	long := append([]byte{0x30, 0x80, 0x80, 0x01}, make([]byte, 16384)...)
	for _, p := range [][]byte{{0x20, 2, 1, 0}, long, {0xd0, 0}, {0x62}, {2, 1}, {2, 0x90, 3, 0, 1, 0x80}, {0x62, 2, 3, 4}} {
		if err := s.write(p); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"2 [1 0]", "6 [1 2]", "6 [3 4]"}, seen); diff != "" {
		t.Error(diff)
	}
}

// A broker that reuses packet ids at once, sends messages of equal content, and
// whose connection breaks anywhere: every message is handled, and those of QoS
// 2 once.
func TestWindowLosesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type outgoing struct {
			n        int // which message it is
			qos      byte
			sent     bool // on this connection
			dup      bool
			received bool // PUBREC has arrived; PUBREL is due
		}
		type work struct {
			h *held
			n int
		}
		var (
			w        = newWindow()
			conn     = uint64(1)
			up       = true
			inflight = map[uint16]*outgoing{}
			backlog  []*outgoing
			working  []work
			handled  = map[int]int{}
			kind     = map[int]byte{}
			total    int
		)
		// The acknowledgement arrives at the broker, unless the network loses it.
		acknowledge := func(h *held, arrives bool) {
			if !up || !w.acknowledge(h, conn) || !arrives {
				return
			}
			if o := inflight[h.id]; o.qos == 1 {
				delete(inflight, h.id)
			} else {
				o.received = true
			}
		}
		breakDown := func() {
			up = false
			for _, o := range inflight {
				o.dup = o.dup || o.sent
				o.sent = false
			}
		}
		send := func(id uint16, arrives bool) {
			o := inflight[id]
			o.sent = true
			if !arrives {
				return
			}
			h, v := w.look(Message{Topic: "t", QoS: o.qos, Dup: o.dup, PacketID: id}, 1, conn, func() {})
			switch v {
			case verdictNew:
				w.add(h)
				working = append(working, work{h, o.n})
			case verdictAgain:
				acknowledge(h, true)
			case verdictRepeat:
			}
		}
		// sendAll sends what is due; stop says when the network goes down.
		sendAll := func(stop func() bool) {
			for id := uint16(1); id <= 5 && up; id++ {
				o := inflight[id]
				if o == nil && len(backlog) > 0 {
					o = backlog[0]
					backlog, inflight[id] = backlog[1:], o
				}
				if o == nil {
					continue
				}
				arrives := !stop()
				switch {
				case o.received:
					if arrives { // PUBREL, and its PUBCOMP
						w.release(id)
						delete(inflight, id)
					}
				case !o.sent:
					send(id, arrives)
				}
				if !arrives {
					breakDown()
				}
			}
		}
		settle := func(i int, arrives bool) {
			x := working[i]
			working = append(working[:i], working[i+1:]...)
			handled[x.n]++
			x.h.settled = true
			acknowledge(x.h, arrives)
			if !arrives && up {
				breakDown()
			}
		}
		coin := func(label string) func() bool {
			return func() bool { return rapid.IntRange(0, 5).Draw(t, label) == 0 }
		}
		t.Repeat(map[string]func(*rapid.T){
			"publish": func(t *rapid.T) {
				total++
				o := &outgoing{n: total, qos: rapid.ByteRange(1, 2).Draw(t, "qos")}
				kind[total] = o.qos
				backlog = append(backlog, o)
			},
			"send": func(*rapid.T) { sendAll(coin("breaks")) },
			"settle": func(t *rapid.T) {
				if len(working) > 0 {
					settle(rapid.IntRange(0, len(working)-1).Draw(t, "which"), !coin("lost")())
				}
			},
			"break": func(*rapid.T) { breakDown() },
			"connect": func(*rapid.T) {
				if !up {
					up, conn = true, conn+1
				}
			},
		})
		for range total*3 + 3 { // peace: everything comes to its end
			if !up {
				up, conn = true, conn+1
			}
			sendAll(func() bool { return false })
			for len(working) > 0 {
				settle(0, true)
			}
		}
		for n := 1; n <= total; n++ {
			if handled[n] == 0 || kind[n] == 2 && handled[n] > 1 {
				t.Fatalf("message %d of QoS %d was handled %d times", n, kind[n], handled[n])
			}
		}
	})
}

func TestWindow(t *testing.T) {
	const digest = 1
	msg := Message{Topic: "t", QoS: 1, PacketID: 7}
	dup := msg
	dup.Dup = true
	two := msg
	two.QoS = 2
	other := dup
	other.Topic = "u"
	for _, c := range []struct {
		name   string
		first  Message
		before func(w *window, h *held)
		again  Message
		digest replay.Digest
		want   verdict
	}{
		{"sent again while in work", msg, nil, dup, digest, verdictRepeat},
		{"not marked as sent again", msg, nil, msg, digest, verdictNew},
		{"QoS 2 needs no mark", two, nil, two, digest, verdictRepeat},
		{"another QoS", two, nil, dup, digest, verdictNew},
		{"another topic", msg, nil, other, digest, verdictNew},
		{"another payload", msg, nil, dup, 2, verdictNew},
		{"settled with no connection", msg, func(w *window, h *held) { h.settled = true; w.acknowledge(h, 0) }, dup, digest, verdictAgain},
		{"acknowledged, perhaps in vain", msg, func(w *window, h *held) { h.settled = true; w.acknowledge(h, 1) }, dup, digest, verdictNew},
		{"QoS 2 acknowledged, perhaps in vain", two, func(w *window, h *held) { h.settled = true; w.acknowledge(h, 1) }, two, digest, verdictAgain},
		{"QoS 2 released", two, func(w *window, h *held) { h.settled = true; w.acknowledge(h, 1); w.release(7) }, two, digest, verdictNew},
		{"given back", msg, func(w *window, h *held) { w.letGo(h) }, dup, digest, verdictNew},
		{"session forgotten", msg, func(w *window, _ *held) { w.forget() }, dup, digest, verdictNew},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWindow()
			h, v := w.look(c.first, digest, 1, nil)
			if v != verdictNew {
				t.Fatalf("the first message: verdict %d", v)
			}
			w.add(h)
			if c.before != nil {
				c.before(w, h)
			}
			if _, v := w.look(c.again, c.digest, 2, nil); v != c.want {
				t.Errorf("verdict %d, want %d", v, c.want)
			}
		})
	}

	// A packet id that names another message by now is not acknowledged for the
	// one that had it before.
	w := newWindow()
	h, _ := w.look(msg, digest, 1, nil)
	w.add(h)
	successor, _ := w.look(msg, digest, 1, nil)
	w.add(successor)
	h.settled = true
	if w.acknowledge(h, 1) {
		t.Error("the old message's settling acknowledges the new one")
	}
	if w.letGo(h); !w.acknowledge(successor, 1) {
		t.Error("the new message is not acknowledged")
	}
}

package broker_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/edgefn/edgefn/triggers/mqtt/broker"
)

// fakeClock is a clock that a test sets.
type fakeClock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *fakeClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *fakeClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// phases of the second at which an interval begins, with no sweep and no whole
// second of the clock at its end.
var phases = []time.Duration{0, 500 * time.Millisecond, 999 * time.Millisecond}

func atPhase(t *testing.T, test func(t *testing.T, clock *fakeClock, s *server)) {
	for _, phase := range phases {
		t.Run(phase.String(), func(t *testing.T) {
			t.Parallel()
			clock := &fakeClock{t: time.Unix(1_790_000_000, int64(phase))}
			test(t, clock, start(t, broker.Config{Clock: clock.now}))
		})
	}
}

const (
	almost    = time.Second - time.Millisecond
	twoSweeps = 2200 * time.Millisecond // of the real clock
)

func expiry(seconds uint32) []byte { return binary.BigEndian.AppendUint32([]byte{2}, seconds) }

// A message is there for as long as it says, and not longer [MQTT-3.3.2-5]; what
// is left of it is told [MQTT-3.3.2-6].
func TestMessageExpiry(t *testing.T) {
	t.Parallel()
	atPhase(t, func(t *testing.T, clock *fakeClock, s *server) {
		keep := options{id: "sub", version: 5, keep: true, props: []byte{17, 0, 0, 0, 60}}
		sub := dial(t, s.Addr(), keep)
		sub.subscribe("x", 1)
		sub.goodbye()
		pub := dial(t, s.Addr(), options{id: "pub", version: 5})
		for pid, m := range map[uint16]publish{
			1: {topic: "x", payload: "short", props: expiry(1)},
			2: {topic: "x", payload: "long", props: expiry(10)},
			3: {topic: "kept", payload: "short", props: expiry(1), retain: true},
		} {
			m.qos, m.pid = 1, pid
			pub.publish(m)
			pub.wantAck(pPuback, pid)
		}
		clock.advance(almost)
		sub = dial(t, s.Addr(), keep)
		left := map[string]uint32{}
		for range 2 {
			m := sub.wantPublish()
			left[m.payload] = binary.BigEndian.Uint32(m.props[1:])
		}
		if left["short"] != 1 || left["long"] != 10 {
			t.Errorf("after %v there is left %v, want short 1 and long 10", almost, left)
		}
		sub.subscribe("kept", 0)
		if m := sub.wantPublish(); m.topic != "kept" {
			t.Errorf("got %+v", m)
		}
		sub.close()
		eventually(t, "it is away", func() bool { return s.Stats().Clients == 1 })
		pub.publish(publish{topic: "x", payload: "late", qos: 1, pid: 4, props: expiry(1)})
		pub.wantAck(pPuback, 4)
		clock.advance(time.Second)
		sub = dial(t, s.Addr(), keep)
		for range 2 { // what was sent does not expire any more [MQTT-4.3.3-7]
			if m := sub.wantPublish(); m.payload == "late" {
				t.Error("a message came after its time")
			}
		}
		sub.nothing()
		late := dial(t, s.Addr(), options{id: "late"})
		late.subscribe("kept", 0)
		late.nothing()
	})
}

func TestSessionExpiryIsNotEarly(t *testing.T) {
	t.Parallel()
	atPhase(t, func(t *testing.T, clock *fakeClock, s *server) {
		dial(t, s.Addr(), options{id: "c", version: 5, props: []byte{17, 0, 0, 0, 1}}).goodbye()
		eventually(t, "it is away", func() bool { return s.Stats().Clients == 0 })
		clock.advance(almost)
		time.Sleep(twoSweeps)
		if n := s.Stats().Sessions; n != 1 {
			t.Fatalf("%d sessions after %v, want 1", n, almost)
		}
		clock.advance(time.Millisecond)
		eventually(t, "the session expires", func() bool { return s.Stats().Sessions == 0 })
	})
}

// A will waits for its delay, or for the end of its session if that is sooner
// [MQTT-3.1.2-8].
func TestWillDelayIsNotEarly(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ session, delay byte }{{60, 1}, {1, 60}} {
		t.Run(fmt.Sprintf("session %d s, delay %d s", tc.session, tc.delay), func(t *testing.T) {
			atPhase(t, func(t *testing.T, clock *fakeClock, s *server) {
				sub := dial(t, s.Addr(), options{id: "sub"})
				sub.subscribe("will", 0)
				dial(t, s.Addr(), options{
					id: "c", version: 5, will: "died", props: []byte{17, 0, 0, 0, tc.session}, willProps: []byte{24, 0, 0, 0, tc.delay},
				}).close()
				eventually(t, "it is away", func() bool { return s.Stats().Clients == 1 })
				clock.advance(almost)
				time.Sleep(twoSweeps)
				sub.ping() // the next packet is no will
				clock.advance(time.Millisecond)
				if m := sub.wantPublish(); m.payload != "died" {
					t.Errorf("got %+v", m)
				}
			})
		})
	}
}

// The expiry interval of a will begins when it is published, not with CONNECT.
func TestWillExpiry(t *testing.T) {
	t.Parallel()
	clock := &fakeClock{t: time.Unix(1_790_000_000, 0)}
	s := start(t, broker.Config{Clock: clock.now})
	sub := dial(t, s.Addr(), options{id: "sub", version: 5})
	sub.subscribe("will", 0)
	c := dial(t, s.Addr(), options{id: "c", version: 5, will: "died", willFlags: 1 << 5, willProps: expiry(10)})
	clock.advance(time.Minute)
	c.close()
	if m := sub.wantPublish(); m.payload != "died" || !bytes.Equal(m.props, expiry(10)) {
		t.Errorf("got %+v", m)
	}
	clock.advance(10 * time.Second)
	late := dial(t, s.Addr(), options{id: "late"})
	late.subscribe("will", 0)
	late.nothing()
}

// DISCONNECT and every other end of a connection, and what becomes of the will.
func TestWillAndDisconnect(t *testing.T) {
	t.Parallel()
	s := start(t, broker.Config{})
	sub := dial(t, s.Addr(), options{id: "sub"})
	sub.subscribe("will", 0)
	for _, tc := range []struct {
		name      string
		version   byte
		send      []byte
		published bool
		reason    byte // that the client is told; 0: none
	}{
		{"3.1.1 DISCONNECT", 4, []byte{0xe0, 0}, false, 0},
		{"3.1.1 error of protocol", 4, []byte{0xc1, 0}, true, 0},
		{"DISCONNECT with no code", 5, []byte{0xe0, 0}, false, 0},
		{"DISCONNECT 0x00", 5, []byte{0xe0, 1, 0}, false, 0},
		{"DISCONNECT 0x00 and properties", 5, []byte{0xe0, 2, 0, 0}, false, 0},
		{"DISCONNECT 0x04", 5, []byte{0xe0, 1, 4}, true, 0},
		{"DISCONNECT 0x04 and properties", 5, []byte{0xe0, 2, 4, 0}, true, 0},
		{"DISCONNECT 0x80", 5, []byte{0xe0, 1, 0x80}, true, 0},
		{"DISCONNECT of a code for servers", 5, []byte{0xe0, 1, 0x8b}, true, 0x82},
		{"session expiry after none", 5, []byte{0xe0, 7, 0, 5, 17, 0, 0, 0, 5}, true, 0x82},
		{"error of protocol", 5, []byte{0xc1, 0}, true, 0x81},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := dial(t, s.Addr(), options{id: "c", version: tc.version, will: "died"})
			c.write(tc.send)
			if tc.reason != 0 {
				if p := c.want(pClose); p.body[0] != tc.reason {
					t.Errorf("DISCONNECT code %#x, want %#x", p.body[0], tc.reason)
				}
			}
			c.wantClosed()
			if tc.published {
				if m := sub.wantPublish(); m.payload != "died" {
					t.Errorf("got %+v", m)
				}
				return
			}
			sub.nothing()
		})
	}
}

// DISCONNECT can change how long a session is kept, from a time to none too.
func TestDisconnectChangesSessionExpiry(t *testing.T) {
	t.Parallel()
	clock := &fakeClock{t: time.Unix(1_790_000_000, 0)}
	s := start(t, broker.Config{Clock: clock.now})
	o := options{id: "c", version: 5, keep: true, props: []byte{17, 0, 0, 0, 60}}
	c := dial(t, s.Addr(), o)
	c.write([]byte{0xe0, 7, 0, 5, 17, 0, 0, 0, 5})
	c.wantClosed()
	eventually(t, "it is away", func() bool { return s.Stats().Clients == 0 })
	clock.advance(5 * time.Second)
	eventually(t, "the session expires", func() bool { return s.Stats().Sessions == 0 })
	c = dial(t, s.Addr(), o)
	c.write([]byte{0xe0, 7, 0, 5, 17, 0, 0, 0, 0})
	c.wantClosed()
	eventually(t, "the session ends", func() bool { return s.Stats().Sessions == 0 })
}

package broker_test

import (
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edgefn/edgefn/triggers"
	"github.com/edgefn/edgefn/triggers/mqtt/broker"
)

// send publishes numbered messages and waits for their acknowledgements.
func (c *client) send(topic string, qos byte, from, to int) {
	c.t.Helper()
	for i := from; i < to; i++ {
		pid := uint16(i%60000 + 1)
		c.publish(publish{topic: topic, payload: numbered(i), qos: qos, pid: pid})
		switch qos {
		case 1:
			c.wantAck(pPuback, pid)
		case 2:
			c.wantAck(pPubrec, pid)
			c.ack(pPubrel, pid)
			c.wantAck(pPubcomp, pid)
		}
	}
}

// collect takes numbered messages in order and acknowledges them to the end.
func (c *client) collect(from, to int) {
	c.t.Helper()
	for open := 0; from < to || open > 0; {
		p, ok := c.next()
		if !ok {
			c.t.Fatalf("connection ended before message %d", from)
		}
		switch p.kind() {
		case pPublish:
			m := c.parse(p)
			if m.payload != numbered(from) {
				c.t.Fatalf("message %q came, want %q", m.payload, numbered(from))
			}
			from++
			if m.qos == 1 {
				c.ack(pPuback, m.pid)
			}
			if m.qos == 2 {
				c.ack(pPubrec, m.pid)
				open++
			}
		case pPubrel:
			c.ack(pPubcomp, binary.BigEndian.Uint16(p.body))
			open--
		default:
			c.t.Fatalf("packet of type %d came", p.kind())
		}
	}
}

func TestQueuedMessagesSurviveRestart(t *testing.T) {
	for qos := byte(1); qos <= 2; qos++ {
		t.Run(fmt.Sprint("qos ", qos), func(t *testing.T) {
			const n = 450
			s := start(t, broker.Config{})
			sub := dial(t, s.Addr(), options{id: "offline", keep: true})
			sub.subscribe("x/#", qos)
			sub.goodbye()
			pub := dial(t, s.Addr(), options{id: "sensor"})
			pub.send("x/1", qos, 0, n)
			s = s.again(t)
			if got := s.Stats().Queued; got != n {
				t.Errorf("%d messages queued after the restart, want %d", got, n)
			}
			sub, present, _ := connect(t, s.Addr(), options{id: "offline", keep: true})
			if !present {
				t.Fatal("session is gone after a restart")
			}
			sub.collect(0, n)
			sub.ping()
			// The subscription survived as well, and what was acknowledged is gone.
			pub = dial(t, s.Addr(), options{id: "sensor"})
			pub.send("x/2", qos, n, n+1)
			sub.collect(n, n+1)
			sub.ping()
			eventually(t, "queue is empty", func() bool { return s.Stats().Queued == 0 })
			s = s.again(t)
			sub = dial(t, s.Addr(), options{id: "offline", keep: true})
			sub.nothing()
		})
	}
}

func TestUnacknowledgedIsSentAgainWithItsPacketID(t *testing.T) {
	s := start(t, broker.Config{})
	sub := dial(t, s.Addr(), options{id: "sub", keep: true})
	sub.subscribe("x", 2)
	pub := dial(t, s.Addr(), options{id: "pub"})
	pub.send("x", 1, 0, 5) // so that packet ids are not those of a new session
	sub.collect(0, 5)
	pub.send("x", 1, 0, 1)
	pub.send("x", 2, 1, 3)
	var got []publish
	for range 3 {
		got = append(got, sub.wantPublish())
	}
	sub.ack(pPubrec, got[2].pid)
	sub.wantAck(pPubrel, got[2].pid)
	sub.close()
	check := func() {
		t.Helper()
		for i, want := range got[:2] {
			m := sub.wantPublish()
			if want.dup = true; fmt.Sprint(m) != fmt.Sprint(want) {
				t.Errorf("message %d: got %+v, want %+v", i, m, want)
			}
		}
		sub.wantAck(pPubrel, got[2].pid) // never the message again [MQTT-4.3.3-6]
	}
	sub = dial(t, s.Addr(), options{id: "sub", keep: true})
	check()
	s = s.again(t)
	sub = dial(t, s.Addr(), options{id: "sub", keep: true})
	check()
	sub.ack(pPubcomp, got[2].pid)
	sub.ack(pPuback, got[0].pid)
	sub.ack(pPubcomp, got[1].pid) // not before PUBREC, but it ends the message
	sub.ping()
	if n := s.Stats().Queued; n != 0 {
		t.Errorf("%d messages left", n)
	}
}

func TestNeverSentHasNoDup(t *testing.T) {
	s := start(t, broker.Config{})
	sub := dial(t, s.Addr(), options{id: "sub", keep: true})
	sub.subscribe("x", 1)
	sub.goodbye()
	eventually(t, "the client is away", func() bool { return s.Stats().Clients == 0 })
	dial(t, s.Addr(), options{id: "pub"}).send("x", 1, 0, 1)
	s = s.again(t)
	if m := dial(t, s.Addr(), options{id: "sub", keep: true}).wantPublish(); m.dup {
		t.Error("a message that was never sent has DUP") // [MQTT-3.3.1-1]
	}
}

// A client that publishes and subscribes, so that both directions use the same
// packet ids at the same time.
func TestCollidingPacketIDs(t *testing.T) {
	for qos := byte(1); qos <= 2; qos++ {
		t.Run(fmt.Sprint("qos ", qos), func(t *testing.T) {
			const n, window = 3000, 20
			sk := newSink(nil)
			s := start(t, broker.Config{Sink: sk})
			s.Bind([]triggers.Binding{bind("f", "echo", 2)})
			c := dial(t, s.Addr(), options{id: "both"})
			c.subscribe("echo", qos)
			sent, acked, received := 0, 0, 0
			inUse := map[uint16]bool{}
			for acked < n || received < n {
				for sent < n && len(inUse) < window {
					pid := uint16(sent%window + 1)
					if inUse[pid] {
						break
					}
					inUse[pid] = true
					c.publish(publish{topic: "echo", payload: numbered(sent), qos: qos, pid: pid})
					sent++
				}
				p, ok := c.next()
				if !ok {
					t.Fatal("connection ended")
				}
				switch p.kind() {
				case pPublish:
					m := c.parse(p)
					if m.payload != numbered(received) {
						t.Fatalf("message %q came, want %q", m.payload, numbered(received))
					}
					received++
					if qos == 1 {
						c.ack(pPuback, m.pid)
					} else {
						c.ack(pPubrec, m.pid)
					}
				case pPubrel:
					c.ack(pPubcomp, binary.BigEndian.Uint16(p.body))
				case pPubrec:
					c.ack(pPubrel, binary.BigEndian.Uint16(p.body))
				case pPuback, pPubcomp:
					pid := binary.BigEndian.Uint16(p.body)
					if !inUse[pid] {
						t.Fatalf("packet id %d acknowledged twice", pid)
					}
					delete(inUse, pid)
					acked++
				}
			}
			if got := len(sk.wait(t, n)); got != n {
				t.Errorf("%d events, want %d", got, n)
			}
		})
	}
}

func TestFullQueueDropsTheOldest(t *testing.T) {
	s := start(t, broker.Config{MaxQueue: 10})
	sub := dial(t, s.Addr(), options{id: "offline", keep: true})
	sub.subscribe("x", 1)
	sub.goodbye()
	dial(t, s.Addr(), options{id: "pub"}).send("x", 1, 0, 25)
	if st := s.Stats(); st.Queued != 10 || st.Dropped != 15 {
		t.Errorf("%d queued, %d dropped; want 10, 15", st.Queued, st.Dropped)
	}
	s = s.again(t)
	sub = dial(t, s.Addr(), options{id: "offline", keep: true})
	sub.collect(15, 25)
	sub.nothing()
}

func TestFullQueueByBytes(t *testing.T) {
	s := start(t, broker.Config{MaxQueueBytes: 10_000})
	sub := dial(t, s.Addr(), options{id: "offline", keep: true})
	sub.subscribe("x", 1)
	sub.goodbye()
	pub := dial(t, s.Addr(), options{id: "pub"})
	for i := range 20 {
		pub.publish(publish{topic: "x", payload: strings.Repeat("x", 1000), qos: 1, pid: uint16(i + 1)})
		pub.wantAck(pPuback, uint16(i+1))
	}
	if st := s.Stats(); st.QueuedBytes > 10_000 || st.Queued < 5 {
		t.Errorf("%d messages of %d bytes queued, bound is 10000", st.Queued, st.QueuedBytes)
	}
}

func TestCleanSessionForgets(t *testing.T) {
	s := start(t, broker.Config{})
	sub := dial(t, s.Addr(), options{id: "sub", keep: true})
	sub.subscribe("x", 1)
	sub.goodbye()
	pub := dial(t, s.Addr(), options{id: "pub"})
	pub.send("x", 1, 0, 3)
	sub, present, _ := connect(t, s.Addr(), options{id: "sub"})
	if present {
		t.Error("a clean session was there before") // [MQTT-3.2.2-1]
	}
	pub.send("x", 1, 3, 4)
	sub.nothing()
	sub.goodbye()
	s = s.again(t)
	_, present, _ = connect(t, s.Addr(), options{id: "sub", keep: true})
	if present {
		t.Error("session came back after a restart")
	}
}

func TestSessionExpires(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	now := time.Now()
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	advance := func(d time.Duration) { mu.Lock(); now = now.Add(d); mu.Unlock() }
	s := start(t, broker.Config{Clock: clock, SessionExpiry: time.Hour})
	v3 := dial(t, s.Addr(), options{id: "v3", keep: true})
	v3.subscribe("x", 1)
	v3.goodbye()
	// Session expiry interval 60 s.
	v5 := dial(t, s.Addr(), options{id: "v5", version: 5, props: []byte{17, 0, 0, 0, 60}})
	v5.subscribe("x", 1)
	v5.close()
	eventually(t, "clients are away", func() bool { return s.Stats().Clients == 0 })
	advance(61 * time.Second)
	eventually(t, "short session expires", func() bool { return s.Stats().Sessions == 1 })
	advance(time.Hour)
	eventually(t, "long session expires", func() bool { return s.Stats().Sessions == 0 })
	if n := s.Stats().Subscriptions; n != 0 {
		t.Errorf("%d subscriptions left", n)
	}
	s = s.again(t)
	if n := s.Stats().Sessions; n != 0 {
		t.Errorf("%d sessions after a restart", n)
	}
}

func TestTakeover(t *testing.T) {
	s := start(t, broker.Config{})
	first := dial(t, s.Addr(), options{id: "one", keep: true, version: 5, props: []byte{17, 0, 0, 0, 60}})
	first.subscribe("x", 1)
	second, present, _ := connect(t, s.Addr(), options{id: "one", keep: true, version: 5, props: []byte{17, 0, 0, 0, 60}})
	if !present {
		t.Error("session is gone")
	}
	if p := first.want(pClose); p.body[0] != 0x8e {
		t.Errorf("DISCONNECT code %#x, want 0x8e", p.body[0])
	}
	first.wantClosed()
	dial(t, s.Addr(), options{id: "pub"}).send("x", 1, 0, 1)
	second.collect(0, 1)
}

func TestMaxSessions(t *testing.T) {
	s := start(t, broker.Config{MaxSessions: 2})
	for i := range 2 {
		dial(t, s.Addr(), options{id: numbered(i), keep: true}).goodbye()
	}
	if _, _, code := connect(t, s.Addr(), options{id: "third", keep: true}); code != 3 {
		t.Errorf("CONNACK code %d, want 3", code)
	}
	if _, present, code := connect(t, s.Addr(), options{id: numbered(0), keep: true}); code != 0 || !present {
		t.Errorf("known session: code %d, present %v", code, present)
	}
}

func TestRetained(t *testing.T) {
	s := start(t, broker.Config{})
	pub := dial(t, s.Addr(), options{id: "pub"})
	for i := range 20 {
		pub.publish(publish{topic: fmt.Sprintf("r/%d", i), payload: numbered(i), qos: 1, pid: uint16(i + 1), retain: true})
		pub.wantAck(pPuback, uint16(i+1))
	}
	pub.publish(publish{topic: "r/0", qos: 1, pid: 1, retain: true}) // cleared
	pub.wantAck(pPuback, 1)
	pub.publish(publish{topic: "r/1", payload: "newer", qos: 1, pid: 1, retain: true})
	pub.wantAck(pPuback, 1)
	for round := range 2 {
		sub := dial(t, s.Addr(), options{id: "sub"})
		sub.subscribe("r/+", 1)
		got := map[string]string{}
		for range 19 {
			m := sub.wantPublish()
			if !m.retain {
				t.Errorf("round %d: %s has no retain flag", round, m.topic)
			}
			got[m.topic] = m.payload
			sub.ack(pPuback, m.pid)
		}
		sub.nothing()
		if len(got) != 19 || got["r/1"] != "newer" || got["r/19"] != numbered(19) {
			t.Errorf("round %d: got %v", round, got)
		}
		s = s.again(t)
	}
}

func TestWill(t *testing.T) {
	t.Parallel()
	sk := newSink(nil)
	s := start(t, broker.Config{Sink: sk})
	s.Bind([]triggers.Binding{bind("f", "will", 1)})
	sub := dial(t, s.Addr(), options{id: "sub"})
	sub.subscribe("will", 1)
	const qos1retain = 1<<3 | 1<<5
	dial(t, s.Addr(), options{id: "a", will: "polite", willFlags: qos1retain}).goodbye()
	sub.nothing()
	dial(t, s.Addr(), options{id: "b", will: "died", willFlags: qos1retain}).close()
	if m := sub.wantPublish(); m.payload != "died" || m.qos != 1 {
		t.Errorf("got %+v", m)
	}
	if d := sk.wait(t, 1)[0]; string(d.Event.Data) != "died" {
		t.Errorf("event has %q", d.Event.Data)
	}
	late := dial(t, s.Addr(), options{id: "late"})
	late.subscribe("will", 0)
	if m := late.wantPublish(); !m.retain || m.payload != "died" {
		t.Errorf("retained will: got %+v", m)
	}
	// A client that falls silent.
	dial(t, s.Addr(), options{id: "c", will: "silent", keepAlive: 1})
	if m := sub.wantPublish(); m.payload != "silent" {
		t.Errorf("got %+v", m)
	}
}

func TestSharedSubscription(t *testing.T) {
	s := start(t, broker.Config{})
	var members []*client
	for i := range 3 {
		c := dial(t, s.Addr(), options{id: fmt.Sprint("worker", i)})
		c.subscribe("$share/workers/jobs/#", 1)
		members = append(members, c)
	}
	plain := dial(t, s.Addr(), options{id: "plain"})
	plain.subscribe("jobs/+", 1)
	dial(t, s.Addr(), options{id: "pub"}).send("jobs/1", 1, 0, 9)
	plain.collect(0, 9)
	seen := map[string]int{}
	for _, c := range members {
		for range 3 {
			m := c.wantPublish()
			seen[m.payload]++
			c.ack(pPuback, m.pid)
		}
		c.ping()
	}
	if len(seen) != 9 {
		t.Errorf("9 messages went to three members as %v", seen)
	}
}

func TestV5Properties(t *testing.T) {
	s := start(t, broker.Config{})
	sub := dial(t, s.Addr(), options{id: "sub", version: 5, props: []byte{33, 0, 1}}) // receive maximum 1
	sub.write(sub.subscribePacket("x", 1, 11, 42))                                    // subscription identifier 42
	sub.want(pSuback)
	pub := dial(t, s.Addr(), options{id: "pub", version: 5})
	props := append([]byte{3}, str("text/plain")...)                    // content type
	props = append(append(props, 8), str("reply")...)                   // response topic
	props = append(append(props, 9), str("id")...)                      // correlation data
	props = append(append(append(props, 38), str("k")...), str("v")...) // user property
	for pid := range uint16(2) {
		pub.publish(publish{topic: "x", payload: "1", qos: 1, pid: pid + 1, props: props})
		pub.wantAck(pPuback, pid+1)
	}
	m := sub.wantPublish()
	for _, want := range []string{"\x03\x00\x0atext/plain", "\x08\x00\x05reply", "\x09\x00\x02id", "\x26\x00\x01k\x00\x01v", "\x0b\x2a"} {
		if !strings.Contains(string(m.props), want) {
			t.Errorf("properties %q lack %q", m.props, want)
		}
	}
	sub.nothing() // its receive maximum
	sub.ack(pPuback, m.pid)
	sub.wantPublish()

	// Topic alias, inbound.
	pub.publish(publish{topic: "x", payload: "a", props: []byte{35, 0, 1}})
	pub.publish(publish{topic: "", payload: "b", props: []byte{35, 0, 1}})
	for _, want := range []string{"a", "b"} {
		if m := sub.wantPublish(); m.topic != "x" || m.payload != want {
			t.Errorf("got %+v, want payload %q", m, want)
		}
	}
	// No local.
	both := dial(t, s.Addr(), options{id: "both", version: 5})
	both.write(both.subscribePacket("own", 1|4))
	both.want(pSuback)
	both.publish(publish{topic: "own", qos: 1, pid: 1})
	both.wantAck(pPuback, 1)
	both.nothing()
}

// What an idle broker writes, and what $SYS would.
func TestIdleWritesNothing(t *testing.T) {
	t.Parallel()
	s := start(t, broker.Config{})
	c := dial(t, s.Addr(), options{id: "sub", keep: true})
	c.subscribe("$SYS/#", 1)
	before := s.Stats()
	if before.DiskBytesWritten == 0 || before.Commits == 0 {
		t.Errorf("the session is on disk with %d bytes in %d commits", before.DiskBytesWritten, before.Commits)
	}
	time.Sleep(2500 * time.Millisecond) // two and a half sweeps
	c.nothing()
	if after := s.Stats(); after.DiskBytesWritten != before.DiskBytesWritten {
		t.Errorf("idle broker wrote %d bytes", after.DiskBytesWritten-before.DiskBytesWritten)
	}
}

// TestSessionOfAnUnsetClock keeps what was left in 1970: a session, and messages
// that had a day to live.
func TestSessionOfAnUnsetClock(t *testing.T) {
	now := time.Unix(1000, 0)
	var mu sync.Mutex
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	s := start(t, broker.Config{Clock: clock})
	sub := dial(t, s.Addr(), options{id: "sub", keep: true})
	sub.subscribe("x", 1)
	sub.goodbye()
	eventually(t, "client is away", func() bool { return s.Stats().Clients == 0 })
	pub := dial(t, s.Addr(), options{id: "pub", version: 5})
	pub.publish(publish{topic: "x", payload: "queued", qos: 1, pid: 1, retain: true, props: []byte{2, 0, 1, 0x51, 0x80}})
	pub.wantAck(pPuback, 1)
	mu.Lock()
	now = time.Now()
	mu.Unlock()
	s = s.again(t)
	time.Sleep(1200 * time.Millisecond) // a sweep
	sub = dial(t, s.Addr(), options{id: "sub", keep: true})
	if m := sub.wantPublish(); m.payload != "queued" {
		t.Errorf("got %+v", m)
	}
	if got := retainedNow(t, s, "x"); got["x"] != "queued" {
		t.Errorf("retained: %v", got)
	}
}

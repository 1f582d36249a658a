package broker_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edgefn/edgefn/triggers/mqtt/broker"
)

// retainedNow returns the payloads of the retained messages by topic, as a new
// subscriber gets them.
func retainedNow(t *testing.T, s *server, filter string) map[string]string {
	t.Helper()
	c := dial(t, s.Addr(), options{id: "reader"})
	defer c.goodbye()
	c.subscribe(filter, 0)
	got := map[string]string{}
	for {
		select {
		case p := <-c.packets:
			m := c.parse(p)
			got[m.topic] = m.payload
		case <-time.After(moment):
			return got
		}
	}
}

func TestRetainedIsRefused(t *testing.T) {
	for name, cfg := range map[string]broker.Config{
		"count": {MaxRetained: 2},
		"bytes": {MaxRetainedBytes: 2 * (256 + 3 + 1000)},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, cfg)
			large := strings.Repeat("x", 1000)
			c := dial(t, s.Addr(), options{id: "new", version: 5})
			watcher := dial(t, s.Addr(), options{id: "watcher"})
			watcher.subscribe("r/#", 0)
			for i, topic := range []string{"r/1", "r/2"} {
				c.publish(publish{topic: topic, payload: large, qos: 1, retain: true, pid: uint16(i + 1)})
				c.wantAck(pPuback, uint16(i+1))
				watcher.wantPublish()
			}
			c.publish(publish{topic: "r/3", payload: large, qos: 1, retain: true, pid: 3})
			if p := c.want(pPuback); len(p.body) < 3 || p.body[2] != 0x97 {
				t.Errorf("PUBACK % x, want code 0x97", p.body)
			}
			c.publish(publish{topic: "r/3", payload: large, qos: 2, retain: true, pid: 3})
			if p := c.want(pPubrec); len(p.body) < 3 || p.body[2] != 0x97 {
				t.Errorf("PUBREC % x, want code 0x97", p.body)
			}
			old := dial(t, s.Addr(), options{id: "old"})
			old.publish(publish{topic: "r/3", payload: large, qos: 1, retain: true, pid: 1})
			old.wantClosed() // there is no other word for it
			watcher.nothing()
			c.publish(publish{topic: "r/1", payload: strings.Repeat("y", 1000), qos: 1, retain: true, pid: 4})
			c.wantAck(pPuback, 4)
			watcher.wantPublish()
			c.publish(publish{topic: "r/3", payload: large, retain: true}) // of QoS 0: not retained, but delivered
			watcher.wantPublish()
			got := retainedNow(t, s, "r/#")
			if len(got) != 2 || got["r/1"][0] != 'y' || got["r/2"][0] != 'x' {
				t.Errorf("retained: %v", got)
			}
		})
	}
}

// TestRetainedIsNeverAnOldOne sends a QoS 0 message that does not fit in place of
// an older one.
func TestRetainedIsNeverAnOldOne(t *testing.T) {
	s := start(t, broker.Config{MaxRetainedBytes: 2000})
	c := dial(t, s.Addr(), options{id: "c"})
	c.publish(publish{topic: "x", payload: "old", qos: 1, retain: true, pid: 1})
	c.wantAck(pPuback, 1)
	c.publish(publish{topic: "x", payload: strings.Repeat("n", 3000), retain: true})
	c.ping()
	if got := retainedNow(t, s, "x"); len(got) != 0 {
		t.Errorf("retained: %v", got)
	}
}

func TestRetainedDropsTheOldest(t *testing.T) {
	s := start(t, broker.Config{MaxRetained: 3, RetainedFull: broker.DropOldest})
	c := dial(t, s.Addr(), options{id: "c"})
	for i, topic := range []string{"1", "2", "3", "1", "4"} {
		c.publish(publish{topic: topic, payload: numbered(i), qos: 1, retain: true, pid: uint16(i + 1)})
		c.wantAck(pPuback, uint16(i+1))
	}
	for range 2 {
		if got := retainedNow(t, s, "#"); len(got) != 3 || got["1"] != numbered(3) || got["3"] == "" || got["4"] == "" {
			t.Errorf("retained: %v", got)
		}
		s = s.again(t)
	}
	c = dial(t, s.Addr(), options{id: "c"}) // the order has outlived the restarts
	c.publish(publish{topic: "5", payload: "new", qos: 1, retain: true, pid: 1})
	c.wantAck(pPuback, 1)
	if got := retainedNow(t, s, "#"); len(got) != 3 || got["3"] != "" || got["5"] != "new" {
		t.Errorf("retained: %v", got)
	}
}

// TestRetainedOfQoS0 changes a message of QoS 0 often: it is written once.
func TestRetainedOfQoS0(t *testing.T) {
	s := start(t, broker.Config{})
	c := dial(t, s.Addr(), options{id: "c"})
	for i := range 100 {
		c.publish(publish{topic: "x", payload: numbered(i), retain: true})
	}
	c.publish(publish{topic: "y", payload: "acknowledged", qos: 1, retain: true, pid: 1})
	c.wantAck(pPuback, 1)
	c.publish(publish{topic: "y", payload: "later", retain: true})
	c.ping()
	if n := s.Stats().Commits; n != 1 {
		t.Errorf("%d commits, want 1", n)
	}
	s = s.again(t) // what waits is written at the end
	if got := retainedNow(t, s, "#"); got["x"] != numbered(99) || got["y"] != "later" {
		t.Errorf("retained: %v", got)
	}
}

// TestLongTopics has topics and filters that are longer than a key of the store.
func TestLongTopics(t *testing.T) {
	s := start(t, broker.Config{})
	long := strings.Repeat("t", 40_000)
	sub := dial(t, s.Addr(), options{id: "sub", keep: true})
	sub.subscribe(long+"/1", 1)
	sub.subscribe(long+"/2", 1)
	sub.write(frame(0xa2, append([]byte{0, 9}, str(long+"/2")...)))
	sub.want(pUnsuback)
	sub.goodbye()
	c := dial(t, s.Addr(), options{id: "c"})
	c.publish(publish{topic: long + "/1", payload: "one", qos: 1, retain: true, pid: 1})
	c.wantAck(pPuback, 1)
	c.publish(publish{topic: long + "/2", payload: "two", qos: 1, retain: true, pid: 2})
	c.wantAck(pPuback, 2)
	c.publish(publish{topic: long + "/2", qos: 1, retain: true, pid: 3})
	c.wantAck(pPuback, 3)
	s = s.again(t)
	if got := retainedNow(t, s, "#"); len(got) != 1 || got[long+"/1"] != "one" {
		t.Errorf("%d retained messages", len(got))
	}
	sub = dial(t, s.Addr(), options{id: "sub", keep: true})
	if m := sub.wantPublish(); m.payload != "one" {
		t.Errorf("got %s", m.payload)
	}
	sub.ack(pPuback, 1)
	sub.nothing()
}

// TestAllSessionsTogether fills the room of all sessions: one takes no more than
// is left for others.
func TestAllSessionsTogether(t *testing.T) {
	const each = 256 + 1 + 999
	s := start(t, broker.Config{MaxQueuedBytes: 30 * each})
	for _, id := range []string{"a", "b", "c"} {
		sub := dial(t, s.Addr(), options{id: id, keep: true})
		sub.subscribe(id, 1)
		sub.goodbye()
	}
	pub := dial(t, s.Addr(), options{id: "pub"})
	pid := uint16(0)
	send := func(topic string, n int) {
		for range n {
			pid++
			pub.publish(publish{topic: topic, payload: strings.Repeat("x", 999), qos: 1, pid: pid})
			pub.wantAck(pPuback, pid)
		}
	}
	send("a", 40)
	if st := s.Stats(); st.Queued != 15 || st.Dropped != 25 {
		t.Errorf("%d queued, %d dropped; want 15 and 25", st.Queued, st.Dropped)
	}
	send("b", 40)
	send("c", 3)
	st := s.Stats()
	if st.Queued != 15+8+3 || st.QueuedBytes != int64(st.Queued*each) {
		t.Errorf("%d queued of %d bytes; want 26", st.Queued, st.QueuedBytes)
	}
	for _, id := range []string{"a", "b", "c"} {
		dial(t, s.Addr(), options{id: id}) // clean
	}
	send("a", 15)
	if st := s.Stats(); st.Queued != 0 {
		t.Errorf("%d queued", st.Queued)
	}
}

func TestQueueRefuses(t *testing.T) {
	s := start(t, broker.Config{MaxQueue: 2, QueueFull: broker.Refuse})
	sub := dial(t, s.Addr(), options{id: "away", keep: true})
	sub.subscribe("x", 1)
	sub.goodbye()
	pub := dial(t, s.Addr(), options{id: "pub", version: 5})
	for pid := range uint16(2) {
		pub.publish(publish{topic: "x", payload: numbered(int(pid)), qos: 1, pid: pid + 1})
		pub.wantAck(pPuback, pid+1)
	}
	pub.publish(publish{topic: "x", payload: "more", qos: 1, retain: true, pid: 3})
	if p := pub.want(pPuback); len(p.body) < 3 || p.body[2] != 0x97 {
		t.Errorf("PUBACK % x, want code 0x97", p.body)
	}
	if got := retainedNow(t, s, "x"); len(got) != 0 {
		t.Errorf("retained: %v", got)
	}
	sub = dial(t, s.Addr(), options{id: "away", keep: true})
	sub.collect(0, 2)
	sub.nothing()
}

// TestManyFilters sends the same filter very often, and more filters than one
// client may have, with many retained messages.
func TestManyFilters(t *testing.T) {
	s := start(t, broker.Config{})
	c := dial(t, s.Addr(), options{id: "c"})
	const retained = 600
	for i := range retained {
		c.publish(publish{topic: numbered(i), payload: "r", retain: true})
	}
	c.ping()
	for _, tc := range []struct {
		name    string
		filter  func(int) string
		n       int
		refused int // of n, at the end
		want    int // messages
	}{
		{"one", func(int) string { return "#" }, 5000, 0, retained},
		{"many", func(i int) string { return "none/" + numbered(i) }, 1500, 500, 0},
		{"long", func(i int) string { return numbered(i) + strings.Repeat("/long", 100) }, 1000, 1000 - 519, 0},
		{"deep", func(i int) string { return strings.Repeat("/", 128) }, 1, 1, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sub := dial(t, s.Addr(), options{id: tc.name})
			body := []byte{0, 1}
			for i := range tc.n {
				body = append(append(body, str(tc.filter(i))...), 0)
			}
			sub.write(frame(0x82, body))
			codes := sub.want(pSuback).body[2:]
			refused := 0
			for i, code := range codes {
				if code == 0x80 {
					refused++
				}
				if (code == 0x80) != (i >= tc.n-tc.refused) {
					t.Fatalf("code %d is %#x; %d of %d are to be refused", i, code, tc.refused, tc.n)
				}
			}
			if len(codes) != tc.n {
				t.Errorf("%d codes, want %d", len(codes), tc.n)
			}
			for range tc.want {
				sub.wantPublish()
			}
			sub.nothing()
		})
	}
}

// TestRetainedOrLive changes retained messages while a client subscribes: each
// value comes once.
func TestRetainedOrLive(t *testing.T) {
	s := start(t, broker.Config{})
	c := dial(t, s.Addr(), options{id: "c"})
	const topics, rounds = 300, 20
	send := func(round int) {
		for i := range topics {
			c.publish(publish{topic: "t/" + numbered(i), payload: numbered(round), retain: true})
		}
	}
	send(0)
	c.ping()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for round := range rounds {
			send(round + 1)
		}
	}()
	sub := dial(t, s.Addr(), options{id: "sub"})
	sub.subscribe("t/#", 0)
	<-done
	last := map[string]string{}
	for len(last) < topics || slices.ContainsFunc(slices.Collect(maps.Values(last)), func(v string) bool { return v != numbered(rounds) }) {
		m := sub.wantPublish()
		if last[m.topic] != "" && m.payload <= last[m.topic] {
			t.Fatalf("%s: %s after %s", m.topic, m.payload, last[m.topic])
		}
		last[m.topic] = m.payload
	}
	sub.nothing()
}

// TestPacketSize sends a packet that is larger than the config takes.
func TestPacketSize(t *testing.T) {
	s := start(t, broker.Config{MaxPacket: 2000})
	c := dial(t, s.Addr(), options{id: "c", version: 5})
	c.publish(publish{topic: "x", payload: strings.Repeat("x", 1900), qos: 1, pid: 1})
	c.wantAck(pPuback, 1)
	c.publish(publish{topic: "x", payload: strings.Repeat("x", 2000), qos: 1, pid: 2})
	if p := c.want(pClose); p.body[0] != 0x95 {
		t.Errorf("DISCONNECT code %#x, want 0x95", p.body[0])
	}
}

// TestFullForLargeMessages has sessions with nothing in their queues, and no room
// left in all: each has a small message, none a large one.
func TestFullForLargeMessages(t *testing.T) {
	s := start(t, broker.Config{MaxQueuedBytes: 100_000})
	for _, id := range []string{"a", "b", "c"} {
		sub := dial(t, s.Addr(), options{id: id, keep: true})
		sub.subscribe("x", 1)
		sub.goodbye()
	}
	pub := dial(t, s.Addr(), options{id: "pub"})
	for i, size := range []int{60_000, 200_000, 100} {
		pub.publish(publish{topic: "x", payload: strings.Repeat("x", size), qos: 1, pid: uint16(i + 1)})
		pub.wantAck(pPuback, uint16(i+1))
	}
	if st := s.Stats(); st.QueuedBytes > 100_000+3*4<<10 || st.Queued < 3 {
		t.Errorf("%d messages of %d bytes wait", st.Queued, st.QueuedBytes)
	}
}

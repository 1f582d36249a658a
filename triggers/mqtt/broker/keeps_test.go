package broker_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/edgefn/edgefn/triggers"
	"github.com/edgefn/edgefn/triggers/mqtt/broker"
)

// TestMoreRetainedThanTheQueueTakes subscribes to more than fits: the reader goes
// on, and pings are answered.
func TestMoreRetainedThanTheQueueTakes(t *testing.T) {
	s := start(t, broker.Config{MaxQueue: 4})
	p := dial(t, s.Addr(), options{id: "p"})
	for i := range 8 {
		p.publish(publish{topic: "r/" + numbered(i), payload: "x", qos: 1, retain: true, pid: uint16(i + 1)})
		p.wantAck(pPuback, uint16(i+1))
	}
	c := dial(t, s.Addr(), options{id: "c"})
	c.subscribe("r/#", 1)
	c.write([]byte{0xc0, 0})
	for {
		k, ok := c.next()
		if !ok {
			t.Fatal("the connection ended")
		}
		if k.kind() == pPingresp {
			return
		}
		c.ack(pPuback, c.parse(k).pid)
	}
}

// TestRemovalOfRetainedIsOnDisk removes a message with QoS 0, which is written
// later, and then with QoS 1, which is not acknowledged before.
func TestRemovalOfRetainedIsOnDisk(t *testing.T) {
	s := start(t, broker.Config{})
	p := dial(t, s.Addr(), options{id: "p"})
	p.publish(publish{topic: "x", payload: "old", qos: 1, retain: true, pid: 1})
	p.wantAck(pPuback, 1)
	p.publish(publish{topic: "x", retain: true})
	p.publish(publish{topic: "x", retain: true, qos: 1, pid: 2})
	p.wantAck(pPuback, 2)
	file, err := os.ReadFile(filepath.Join(s.cfg.Dir, "broker.db"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir() // as a crash would leave it
	if err := os.WriteFile(filepath.Join(dir, "broker.db"), file, 0o600); err != nil {
		t.Fatal(err)
	}
	if n := start(t, broker.Config{Dir: dir}).Stats().Retained; n != 0 {
		t.Errorf("%d retained messages", n)
	}
}

// TestEndedSessionLeavesNothingReceived settles a QoS 2 message after its session
// has ended: the next session of that client knows nothing of it.
func TestEndedSessionLeavesNothingReceived(t *testing.T) {
	sk := holding()
	s := start(t, broker.Config{Sink: sk})
	s.Bind([]triggers.Binding{bind("f", "x", 2)})
	day := []byte{17, 0, 1, 0x51, 0x80}
	message := publish{topic: "x", payload: "on", qos: 2, pid: 1}
	c := dial(t, s.Addr(), options{id: "c", version: 5, props: day})
	c.publish(message)
	first := sk.wait(t, 1)[0]
	c.close()
	c = dial(t, s.Addr(), options{id: "c", version: 5, props: day}) // clean start: another session
	first.Settle(nil)
	time.Sleep(moment)
	c.goodbye()
	next := newSink(nil)
	s.cfg.Sink = next
	s = s.again(t)
	s.Bind([]triggers.Binding{bind("f", "x", 2)})
	c = dial(t, s.Addr(), options{id: "c", version: 5, keep: true, props: day})
	c.publish(message)
	c.wantAck(pPubrec, 1)
	next.wait(t, 1)
}

// TestAliasThatMakesAMessageTooLarge sends one that fits as it is.
func TestAliasThatMakesAMessageTooLarge(t *testing.T) {
	s := start(t, broker.Config{})
	m := publish{topic: "topic/long", payload: strings.Repeat("x", 20)}
	const size = 2 + 2 + 10 + 1 + 20
	sub := dial(t, s.Addr(), options{id: "sub", version: 5, props: []byte{34, 0, 8, 39, 0, 0, 0, size}})
	sub.subscribe("topic/+", 0)
	pub := dial(t, s.Addr(), options{id: "pub"})
	for range 2 {
		pub.publish(m)
		if got := sub.wantPublish(); got.topic != m.topic || got.payload != m.payload {
			t.Errorf("got %+v", got)
		}
	}
	m.payload += "x"
	pub.publish(m)
	sub.nothing()
}

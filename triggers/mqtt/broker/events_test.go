package broker_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/triggers"
	"github.com/edgefn/edgefn/triggers/mqtt/broker"
)

func TestMessageBecomesEvent(t *testing.T) {
	for _, version := range []byte{4, 5} {
		for qos := range byte(3) {
			t.Run(fmt.Sprintf("v%d qos %d", version, qos), func(t *testing.T) {
				sk := newSink(nil)
				s := start(t, broker.Config{Sink: sk, Name: "local"})
				s.Bind([]triggers.Binding{bind("fan", "greenhouse/+/temperature", 2)})
				c := dial(t, s.Addr(), options{id: "sensor", version: version})
				c.publish(publish{topic: "greenhouse/1/temperature", payload: "28.5", qos: qos, pid: 7})
				switch qos {
				case 1:
					c.wantAck(pPuback, 7)
				case 2:
					c.wantAck(pPubrec, 7)
					c.ack(pPubrel, 7)
					c.wantAck(pPubcomp, 7)
				}
				d := sk.wait(t, 1)[0]
				if d.Function != "fan" || d.Trigger != "mqtt" || d.OwnID != (qos == 2) {
					t.Errorf("delivery to %s/%s with OwnID %v", d.Function, d.Trigger, d.OwnID)
				}
				got := map[string]string{
					"type": d.Event.Type, "source": d.Event.Source, "subject": d.Event.Subject, "data": string(d.Event.Data),
				}
				maps.Copy(got, d.Event.Extensions)
				want := map[string]string{
					"type": "edgefn.mqtt.message", "source": "mqtt://local", "subject": "greenhouse/1/temperature",
					"data": "28.5", "mqttqos": fmt.Sprint(qos), "mqttretain": "false", "mqttdup": "false",
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Error(diff)
				}
				c.publish(publish{topic: "greenhouse/1/humidity", payload: "60", qos: 1, pid: 8})
				c.wantAck(pPuback, 8)
				sk.never(t, 1)
			})
		}
	}
}

func TestAckWithheldUntilSettled(t *testing.T) {
	for qos, ack := range map[byte]byte{1: pPuback, 2: pPubrec} {
		t.Run(fmt.Sprint("qos ", qos), func(t *testing.T) {
			sk := holding()
			s := start(t, broker.Config{Sink: sk})
			s.Bind([]triggers.Binding{bind("a", "x/#", 2), bind("b", "x/+", 2)})
			watcher := dial(t, s.Addr(), options{id: "watcher"})
			watcher.subscribe("x/#", 0)
			c := dial(t, s.Addr(), options{id: "sensor"})
			for pid := range uint16(3) {
				c.publish(publish{topic: "x/1", payload: numbered(int(pid)), qos: qos, pid: pid + 1})
			}
			ds := sk.wait(t, 6)
			for i := range 3 { // subscribers do not wait for functions
				if m := watcher.wantPublish(); m.payload != numbered(i) {
					t.Errorf("subscriber got %q, want %q", m.payload, numbered(i))
				}
			}
			c.nothing()
			c.ping()
			byData := map[string][]triggers.Delivery{}
			for _, d := range ds {
				byData[string(d.Event.Data)] = append(byData[string(d.Event.Data)], d)
			}
			byData[numbered(2)][0].Settle(nil)
			c.nothing() // the other function still has it
			byData[numbered(2)][1].Settle(nil)
			c.wantAck(ack, 3) // in whatever order messages finish
			for _, pid := range []uint16{1, 2} {
				for _, d := range byData[numbered(int(pid)-1)] {
					d.Settle(nil)
				}
				c.wantAck(ack, pid)
			}
			watcher.nothing() // once
		})
	}
}

func TestFullFunctionHoldsBackOnlyItsOwn(t *testing.T) {
	release := make(chan struct{})
	sk := newSink(func(ctx context.Context, d triggers.Delivery) error {
		if d.Event.Subject == "slow" {
			select {
			case <-release:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		d.Settle(nil)
		return nil
	})
	s := start(t, broker.Config{Sink: sk})
	s.Bind([]triggers.Binding{bind("f", "+", 2), bind("g", "g/+", 2)})
	slow := dial(t, s.Addr(), options{id: "slow"})
	for i := range 500 {
		slow.publish(publish{topic: "slow", payload: numbered(i), qos: 1, pid: uint16(i + 1)})
	}
	slow.ping() // read past all of them, nothing acknowledged
	quick := dial(t, s.Addr(), options{id: "quick"})
	quick.publish(publish{topic: "quick", payload: "q", qos: 1, pid: 1})
	quick.wantAck(pPuback, 1)
	slow.publish(publish{topic: "g/other", payload: "o", qos: 1, pid: 501})
	slow.wantAck(pPuback, 501)
	close(release)
	for i := range 500 {
		slow.wantAck(pPuback, uint16(i+1))
	}
	n := 0
	for _, d := range sk.deliveries() {
		if d.Event.Subject == "slow" {
			if string(d.Event.Data) != numbered(n) {
				t.Fatalf("event %d is %s: out of order", n, d.Event.Data)
			}
			n++
		}
	}
}

func TestUnsettledMessageComesAgain(t *testing.T) {
	t.Parallel()
	for qos, ack := range map[byte]byte{1: pPuback, 2: pPubrec} {
		t.Run(fmt.Sprint("qos ", qos), func(t *testing.T) {
			sk := holding()
			s := start(t, broker.Config{Sink: sk})
			s.Bind([]triggers.Binding{bind("f", "x", 2)})
			watcher := dial(t, s.Addr(), options{id: "watcher"})
			watcher.subscribe("x", 1)
			c := dial(t, s.Addr(), options{id: "sensor", keep: true})
			m := publish{topic: "x", payload: "1", qos: qos, pid: 5}
			c.publish(m)
			first := sk.wait(t, 1)[0]
			first.Settle(errTest)
			c.wantClosed() // with no acknowledgement, so that the client sends again
			watcher.wantPublish()

			c, present, _ := connect(t, s.Addr(), options{id: "sensor", keep: true})
			if !present {
				t.Error("session is gone")
			}
			m.dup = true
			c.publish(m)
			second := sk.wait(t, 2)[1]
			if qos == 2 && (second.Event.ID != first.Event.ID || !second.OwnID) {
				t.Errorf("repeat has id %q, the first had %q", second.Event.ID, first.Event.ID)
			}
			second.Settle(nil)
			c.wantAck(ack, 5)
			watcher.nothing() // it has had the message
		})
	}
}

func TestRepeatInWorkIsOneMessage(t *testing.T) {
	for qos, ack := range map[byte]byte{1: pPuback, 2: pPubrec} {
		t.Run(fmt.Sprint("qos ", qos), func(t *testing.T) {
			sk := holding()
			s := start(t, broker.Config{Sink: sk})
			s.Bind([]triggers.Binding{bind("f", "x", 2)})
			m := publish{topic: "x", payload: "1", qos: qos, pid: 5}
			c := dial(t, s.Addr(), options{id: "sensor", keep: true})
			c.publish(m)
			sk.wait(t, 1)
			again := m
			again.dup = true
			c.publish(again)
			c.ping()
			c.close()
			c = dial(t, s.Addr(), options{id: "sensor", keep: true})
			c.publish(again)
			c.ping()
			sk.never(t, 1)
			sk.deliveries()[0].Settle(nil)
			c.wantAck(ack, 5) // on the connection that asked last
			c.nothing()

			// Settled while the client is away.
			m.pid, m.payload = 6, "2"
			c.publish(m)
			d := sk.wait(t, 2)[1]
			c.close()
			eventually(t, "client is away", func() bool { return s.Stats().Clients == 0 })
			d.Settle(nil)
			c = dial(t, s.Addr(), options{id: "sensor", keep: true})
			m.dup = true
			c.publish(m)
			c.wantAck(ack, 6)
			sk.never(t, 2)
			if got := s.Stats().Repeats; got != 3 {
				t.Errorf("%d repeats counted, want 3", got)
			}
		})
	}
}

// A device that begins with packet id 1 again after each reboot, in a session
// that the broker kept.
func TestReusedPacketIDIsAnotherMessage(t *testing.T) {
	for qos, ack := range map[byte]byte{1: pPuback, 2: pPubrec} {
		t.Run(fmt.Sprint("qos ", qos), func(t *testing.T) {
			sk := holding()
			s := start(t, broker.Config{Sink: sk})
			s.Bind([]triggers.Binding{bind("f", "x", 2)})
			c := dial(t, s.Addr(), options{id: "sensor", keep: true})
			c.publish(publish{topic: "x", payload: "before", qos: qos, pid: 1})
			sk.wait(t, 1)
			c.close()
			c = dial(t, s.Addr(), options{id: "sensor", keep: true})
			c.publish(publish{topic: "x", payload: "after", qos: qos, pid: 1})
			ds := sk.wait(t, 2)
			if diff := cmp.Diff([]string{"before", "after"}, data(ds)); diff != "" {
				t.Error(diff)
			}
			if ds[0].Event.ID == ds[1].Event.ID {
				t.Error("two messages have one event id")
			}
			ds[0].Settle(nil)
			c.nothing() // that was not this message
			ds[1].Settle(nil)
			c.wantAck(ack, 1)
		})
	}
}

func TestSameContentWithQoS1IsDeliveredEachTime(t *testing.T) {
	sk := newSink(nil)
	s := start(t, broker.Config{Sink: sk})
	s.Bind([]triggers.Binding{bind("f", "x", 1)})
	c := dial(t, s.Addr(), options{id: "sensor", keep: true})
	for range 5 {
		c.publish(publish{topic: "x", payload: "22.5", qos: 1, pid: 1})
		c.wantAck(pPuback, 1)
	}
	sk.wait(t, 5)
}

func TestQoS2IsOnce(t *testing.T) {
	sk := newSink(nil)
	s := start(t, broker.Config{Sink: sk})
	bound := []triggers.Binding{bind("f", "x", 2)}
	s.Bind(bound)
	watcher := dial(t, s.Addr(), options{id: "watcher", keep: true})
	watcher.subscribe("x", 1)
	watcher.goodbye()
	m := publish{topic: "x", payload: "1", qos: 2, pid: 9}
	c := dial(t, s.Addr(), options{id: "sensor", keep: true})
	c.publish(m)
	c.wantAck(pPubrec, 9)
	c.close()

	m.dup = true
	s = s.again(t)
	s.Bind(bound)
	c, present, _ := connect(t, s.Addr(), options{id: "sensor", keep: true})
	if !present {
		t.Error("session is gone after a restart")
	}
	for range 2 { // the packet id survived
		c.publish(m)
		c.wantAck(pPubrec, 9)
	}
	sk.never(t, 1)
	c.ack(pPubrel, 9)
	c.wantAck(pPubcomp, 9)
	c.ack(pPubrel, 9)
	c.wantAck(pPubcomp, 9) // a lost PUBCOMP

	// Released, the packet id and even the content may be used for another message.
	s = s.again(t)
	s.Bind(bound)
	c = dial(t, s.Addr(), options{id: "sensor", keep: true})
	m.dup = false
	c.publish(m)
	c.wantAck(pPubrec, 9)
	ds := sk.wait(t, 2)
	if ds[0].Event.ID == ds[1].Event.ID {
		t.Error("two messages have one event id")
	}
	watcher = dial(t, s.Addr(), options{id: "watcher", keep: true})
	for range 2 {
		w := watcher.wantPublish()
		watcher.ack(pPuback, w.pid)
	}
	watcher.nothing()
}

// The node died after the function's effects and before PUBREC: the repeat
// after the restart has the same event id, so that the node finds out.
func TestQoS2EventIDIsTheSameAfterRestart(t *testing.T) {
	sk := holding()
	s := start(t, broker.Config{Sink: sk})
	bound := []triggers.Binding{bind("f", "x", 2)}
	s.Bind(bound)
	m := publish{topic: "x", payload: "1", qos: 2, pid: 9}
	c := dial(t, s.Addr(), options{id: "sensor", keep: true})
	c.publish(m)
	first := sk.wait(t, 1)[0]
	s = s.again(t)
	s.Bind(bound)
	c = dial(t, s.Addr(), options{id: "sensor", keep: true})
	m.dup = true
	c.publish(m)
	second := sk.wait(t, 2)[1]
	if first.Event.ID != second.Event.ID || !first.OwnID || !second.OwnID {
		t.Errorf("ids %q and %q, own %v and %v", first.Event.ID, second.Event.ID, first.OwnID, second.OwnID)
	}
	first.Settle(nil) // late, of a broker that has ended: no harm
	second.Settle(nil)
	c.wantAck(pPubrec, 9)
}

func TestUnboundFunctionHoldsNothingBack(t *testing.T) {
	block := make(chan struct{})
	sk := newSink(func(_ context.Context, d triggers.Delivery) error {
		<-block
		d.Settle(nil)
		return nil
	})
	s := start(t, broker.Config{Sink: sk})
	s.Bind([]triggers.Binding{bind("f", "x", 1)})
	c := dial(t, s.Addr(), options{id: "sensor"})
	for pid := range uint16(10) {
		c.publish(publish{topic: "x", payload: "1", qos: 1, pid: pid + 1})
	}
	c.ping()
	sk.wait(t, 1)
	s.Bind(nil)
	close(block)
	for pid := range uint16(10) {
		c.wantAck(pPuback, pid+1)
	}
	sk.never(t, 1)
}

func TestReceiveMaximum(t *testing.T) {
	const maximum = 1024
	t.Run("v5 is told and disconnected", func(t *testing.T) {
		sk := holding()
		s := start(t, broker.Config{Sink: sk})
		s.Bind([]triggers.Binding{bind("f", "x", 1)})
		c := dial(t, s.Addr(), options{id: "sensor", version: 5})
		for i := range maximum {
			c.publish(publish{topic: "x", qos: 1, pid: uint16(i + 1)})
		}
		c.ping()
		c.publish(publish{topic: "x", qos: 1, pid: maximum + 1})
		if p := c.want(pClose); p.body[0] != 0x93 {
			t.Errorf("DISCONNECT code %#x, want 0x93", p.body[0])
		}
	})
	t.Run("v5 room returns with each acknowledgement", func(t *testing.T) {
		s := start(t, broker.Config{Sink: newSink(nil)})
		s.Bind([]triggers.Binding{bind("f", "x", 2)})
		c := dial(t, s.Addr(), options{id: "sensor", version: 5})
		for i := range 3 * maximum {
			pid := uint16(i%maximum + 1)
			c.publish(publish{topic: "x", payload: numbered(i), qos: 2, pid: pid})
			c.wantAck(pPubrec, pid)
			c.ack(pPubrel, pid)
			c.wantAck(pPubcomp, pid)
		}
	})
	t.Run("v4 is read on", func(t *testing.T) {
		sk := holding()
		s := start(t, broker.Config{Sink: sk})
		s.Bind([]triggers.Binding{bind("f", "x", 1)})
		c := dial(t, s.Addr(), options{id: "sensor"})
		for i := range maximum + 100 {
			c.publish(publish{topic: "x", qos: 1, pid: uint16(i + 1)})
		}
		c.ping()
		for i, d := range sk.wait(t, maximum+100) {
			d.Settle(nil)
			c.wantAck(pPuback, uint16(i+1))
		}
	})
}

// TestMoreThanIsTaken sends more than a client may have in work. Its pings are
// answered, and it comes to send the rest again.
func TestMoreThanIsTaken(t *testing.T) {
	sk := holding()
	s := start(t, broker.Config{Sink: sk})
	s.Bind([]triggers.Binding{bind("f", "x", 1)})
	c := dial(t, s.Addr(), options{id: "sensor", keep: true})
	const n, taken = 12, 9 // of 900 kB, 8 MiB at most
	large := strings.Repeat("x", 900<<10)
	for i := range n {
		c.publish(publish{topic: "x", payload: numbered(i) + large, qos: 1, pid: uint16(i + 1)})
	}
	c.ping()
	c.publish(publish{topic: "x", payload: "small", qos: 1, pid: n + 1}) // must not overtake
	c.ping()
	for i, d := range sk.wait(t, taken) {
		d.Settle(nil)
		c.wantAck(pPuback, uint16(i+1))
	}
	c.wantClosed()
	c = dial(t, s.Addr(), options{id: "sensor", keep: true})
	for i := taken; i < n; i++ {
		c.publish(publish{topic: "x", payload: numbered(i) + large, qos: 1, pid: uint16(i + 1), dup: true})
	}
	for i, d := range sk.wait(t, n)[taken:] {
		if got := string(d.Event.Data[:5]); got != numbered(taken+i) {
			t.Errorf("event %s, want %s", got, numbered(taken+i))
		}
		d.Settle(nil)
		c.wantAck(pPuback, uint16(taken+i+1))
	}
}

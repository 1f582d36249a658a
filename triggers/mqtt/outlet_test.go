package mqtt

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	packets5 "github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho/session/state"
)

func TestLimitsCheck(t *testing.T) {
	small := limits{known: true, packet: 130, retain: true, qos: 2}
	for _, c := range []struct {
		name   string
		limits limits
		m      outgoing
		ok     bool
	}{
		{"anything", unknown, outgoing{topic: "a", data: make([]byte, 1<<20), qos: 2, retain: true}, true},
		{"largest of all", unknown, outgoing{topic: "a", data: make([]byte, maxRemaining-6), qos: 1}, true},
		{"larger than any", unknown, outgoing{topic: "a", data: make([]byte, maxRemaining-5), qos: 1}, false},
		{"fits", small, outgoing{topic: "a", data: make([]byte, 121), qos: 1}, true}, // 2 + 2+1 + 2 + 1 + 121 = 129; 127 in one byte of length
		{"a byte more needs another of length", small, outgoing{topic: "a", data: make([]byte, 122), qos: 1}, false},
		{"no packet id", small, outgoing{topic: "a", data: make([]byte, 123)}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.limits.check(c.m)
			if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrRefused) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// pipe5 is a link5 to a broker made of a function: it gets the first byte and
// the length of each packet after CONNECT and returns what to answer.
func pipe5(t *testing.T, answer func(head byte) []byte) *outlet {
	t.Helper()
	near, far := net.Pipe()
	go func() {
		defer func() { _ = far.Close() }()
		buf := make([]byte, 1<<16)
		for first := true; ; first = false {
			n, err := far.Read(buf) // the link writes a packet at a time
			if err != nil || n == 0 {
				return
			}
			out := []byte{0x20, 3, 0, 0, 0}
			if !first {
				out = answer(buf[0])
			}
			if _, err := far.Write(out); len(out) > 0 && err != nil {
				return
			}
		}
	}()
	l, lim, err := handshake5(t.Context(), linkConfig{broker: Broker{Name: "plant"}.endpoint(nil), clientID: "c", clean: true, keepAlive: time.Minute}, "", near)
	if err != nil {
		t.Fatal(err)
	}
	return newOutlet(l, lim, 2)
}

// A broker that takes messages and does not acknowledge one loses the
// connection, and every message in flight is told.
func TestSilentBrokerOfMQTT5(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := pipe5(t, func(head byte) []byte {
			if head>>4 == 12 {
				return []byte{0xd0, 0}
			}
			return nil
		})
		before := time.Now()
		errs := make(chan error, 3)
		for range 2 {
			go func() { errs <- o.send(t.Context(), outgoing{topic: "a", qos: 1}) }()
		}
		synctest.Wait()
		go func() { errs <- o.send(t.Context(), outgoing{topic: "waits", qos: 1}) }()
		var got []error
		for range 3 {
			got = append(got, <-errs)
		}
		if passed := time.Since(before); passed < ackTimeout || passed > ackTimeout+3*time.Second {
			t.Errorf("told after %s", passed)
		}
		hungUp := func(err error) bool { return errors.Is(err, ErrHungUp) }
		never := func(err error) bool { return errors.Is(err, ErrOffline) }
		if n := slices.IndexFunc(got, never); n < 0 || slices.ContainsFunc(slices.Delete(slices.Clone(got), n, n+1), func(err error) bool { return !hungUp(err) }) {
			t.Errorf("got %v; want ErrHungUp for the two in flight and ErrOffline for the third, which was not sent", got)
		}
		o.close()
	})
}

// A broker that stops reading holds nobody for ever, not even at the end.
func TestDeafBrokerOfMQTT5(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deaf := make(chan struct{})
		o := pipe5(t, func(head byte) []byte {
			if head>>4 == 12 { // the first ping: from there on nothing is read
				<-deaf
			}
			return nil
		})
		if err := o.send(t.Context(), outgoing{topic: "a", qos: 1}); !errors.Is(err, ErrHungUp) {
			t.Errorf("got %v, want ErrHungUp", err)
		}
		o.close()
		close(deaf)
	})
}

func TestClosedFromThisSide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := pipe5(t, func(byte) []byte { return nil })
		errs := make(chan error, 1)
		go func() { errs <- o.send(t.Context(), outgoing{topic: "a", qos: 2}) }()
		synctest.Wait()
		o.close()
		if err := <-errs; !errors.Is(err, ErrOffline) || errors.Is(err, ErrHungUp) {
			t.Errorf("got %v, want ErrOffline", err)
		}
	})
}

// A PUBREC that was read just before the connection was lost has nobody to be
// answered to; the library alone would write its PUBREL to nil.
func TestPubrecMeetsTheEnd(t *testing.T) {
	s := &session{State: state.NewInMemory()}
	if err := s.ConAckReceived(io.Discard, &packets5.Connect{}, &packets5.Connack{}); err != nil {
		t.Fatal(err)
	}
	if err := s.ConnectionLost(nil); err != nil {
		t.Fatal(err)
	}
	p := &packets5.ControlPacket{Content: &packets5.Pubrec{PacketID: 1}, FixedHeader: packets5.FixedHeader{Type: packets5.PUBREC}}
	if err := s.PacketReceived(p, nil); err != nil {
		t.Error(err)
	}
}

// Whatever a broker sends: no panic, no endless wait, and a message is
// acknowledged only by an acknowledgement.
func FuzzBrokerOfMQTT5(f *testing.F) {
	ok := []byte{0x20, 3, 0, 0, 0}
	f.Add(ok, []byte{0x40, 2, 0, 1})
	f.Add(ok, []byte{0x40, 4, 0, 1, 0x97, 0})
	f.Add(ok, []byte{0x50, 2, 0, 1, 0x70, 2, 0, 1})
	f.Add([]byte{0x20, 11, 0, 0, 8, 0x24, 1, 0x25, 0, 0x21, 0, 1, 0x28}, []byte{0xe0, 0})
	f.Add([]byte{0x20, 8, 0, 0, 5, 0x15, 0, 2, 'a', 'b'}, []byte{0xf0, 2, 0, 0})
	f.Add(ok, []byte{0x32, 7, 0, 1, 'a', 0, 9, 0, 'x', 0x34, 7, 0, 1, 'a', 0, 8, 0, 'x', 0x62, 2, 0, 8})
	f.Add(ok, []byte{0x50, 2, 0, 7, 0x62, 2, 0, 9, 0x40, 2, 0, 1})
	f.Fuzz(func(t *testing.T, connack, rest []byte) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		near, far := net.Pipe()
		served := make(chan struct{})
		go func() {
			defer close(served)
			buf := make([]byte, 1<<12)
			_, _ = far.Read(buf)
			_, _ = far.Write(connack)
			go func() { _, _ = io.Copy(io.Discard, far) }()
			_, _ = far.Write(rest)
			_ = far.Close()
		}()
		l, lim, err := handshake5(ctx, linkConfig{broker: Broker{Name: "plant"}.endpoint(nil), clientID: "c", clean: true, keepAlive: time.Minute}, "", near)
		if err == nil {
			o := newOutlet(l, lim, 2)
			err := o.send(ctx, outgoing{topic: "a", data: []byte("x"), qos: 2})
			if ctx.Err() != nil {
				t.Errorf("no end: %v", err)
			}
			o.close()
		} else if ctx.Err() != nil {
			t.Errorf("no end: %v", err)
		}
		_ = near.Close()
		<-served
	})
}

package broker_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/edgefn/edgefn/triggers"
	"github.com/edgefn/edgefn/triggers/mqtt/broker"
)

// A subscriber that does not read, of each kind, delays nobody and is thrown out.
func TestStalledSubscriberBlocksNobody(t *testing.T) {
	for qos := range byte(2) {
		t.Run(fmt.Sprint("qos ", qos), func(t *testing.T) {
			s := start(t, broker.Config{WriteTimeout: 500 * time.Millisecond})
			nc := dialRaw(t, s.Addr())
			_ = nc.(*net.TCPConn).SetReadBuffer(4096)
			c := &client{t: t, nc: nc, version: 4}
			c.write(connectPacket(options{id: "stalled", version: 4}))
			c.write(c.subscribePacket("x", qos))
			eventually(t, "it has subscribed", func() bool { return s.Stats().Subscriptions == 1 })

			other := dial(t, s.Addr(), options{id: "other"})
			other.subscribe("x", 0)
			pub := dial(t, s.Addr(), options{id: "pub"})
			payload := strings.Repeat("x", 100_000)
			var slowest time.Duration
			for i := range 300 { // 30 MB: more than any socket buffers
				begun := time.Now()
				pub.publish(publish{topic: "x", payload: payload, qos: 1, pid: uint16(i + 1)})
				pub.wantAck(pPuback, uint16(i+1))
				slowest = max(slowest, time.Since(begun))
				other.wantPublish()
			}
			if slowest > 400*time.Millisecond {
				t.Errorf("a publisher waited %v", slowest)
			}
			begun := time.Now()
			eventually(t, "the stalled client is thrown out", func() bool { return s.Stats().Clients == 2 })
			if d := time.Since(begun); d > 5*time.Second {
				t.Errorf("the stalled client was kept for %v", d)
			}
		})
	}
}

// A client that asks for answers and does not read them.
func TestClientThatOnlyPings(t *testing.T) {
	s := start(t, broker.Config{WriteTimeout: time.Second})
	c := &client{t: t, nc: dialRaw(t, s.Addr()), version: 4}
	c.write(connectPacket(options{id: "pings", version: 4}))
	pings := make([]byte, 1<<20)
	for i := range pings {
		pings[i] = []byte{0xc0, 0}[i%2]
	}
	for range 200 {
		_ = c.nc.SetWriteDeadline(time.Now().Add(patience))
		if _, err := c.nc.Write(pings); err != nil {
			return // thrown out
		}
	}
	t.Error("200 MB of pings with unread answers were taken")
}

// heap is what is allocated at the moment, garbage excluded.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestAnnouncedSizeIsNotAllocated(t *testing.T) {
	s := start(t, broker.Config{})
	for name, head := range map[string][]byte{
		"CONNECT of 256 MiB": {0x10, 0xff, 0xff, 0xff, 0x7f},
		"CONNECT of 200 KiB": {0x10, 0xc0, 0xb8, 0x0c},
		"PUBLISH of 256 MiB": {0x30, 0xff, 0xff, 0xff, 0x7f},
		"PUBLISH of 4 MiB":   {0x30, 0xff, 0xff, 0xff, 0x01},
	} {
		t.Run(name, func(t *testing.T) {
			before := heap()
			for i := range 4 {
				nc := dialRaw(t, s.Addr())
				if head[0] != 0x10 {
					_, _ = nc.Write(connectPacket(options{id: fmt.Sprint("c", i), version: 4}))
					_, _ = io.ReadFull(nc, make([]byte, 4))
				}
				_, _ = nc.Write(append(head, 0, 4))
			}
			time.Sleep(moment)
			if grown := heap() - before; grown > 2<<20 {
				t.Errorf("4 announcements took %d bytes", grown)
			}
		})
	}
}

func TestTooLargePacketIsRefused(t *testing.T) {
	sk := newSink(nil)
	s := start(t, broker.Config{Sink: sk})
	s.Bind([]triggers.Binding{bind("f", "x", 1)})
	c := dial(t, s.Addr(), options{id: "c", version: 5})
	// Over what functions take: an event all the same.
	c.publish(publish{topic: "x", payload: strings.Repeat("x", 2<<20), qos: 1, pid: 1})
	c.wantAck(pPuback, 1)
	if d := sk.wait(t, 1)[0]; len(d.Event.Data) != 2<<20 {
		t.Errorf("event has %d bytes", len(d.Event.Data))
	}
	if n := s.Stats().Oversized; n != 1 {
		t.Errorf("%d oversized payloads counted, want 1", n)
	}
	_, _ = c.nc.Write(c.publishPacket(publish{topic: "x", payload: strings.Repeat("x", 4<<20), qos: 1, pid: 2}))
	if p := c.want(pClose); p.body[0] != 0x95 {
		t.Errorf("DISCONNECT code %#x, want 0x95", p.body[0])
	}
	sk.never(t, 1)
}

func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	s := start(t, broker.Config{MaxClients: 3, ConnectTimeout: time.Second})
	first := dial(t, s.Addr(), options{id: "first"})
	silent := []net.Conn{dialRaw(t, s.Addr()), dialRaw(t, s.Addr())}
	over := dialRaw(t, s.Addr())
	_ = over.SetReadDeadline(time.Now().Add(patience))
	if _, err := over.Read(make([]byte, 1)); err == nil {
		t.Error("a fourth connection was served")
	}
	begun := time.Now()
	for _, nc := range silent { // who says nothing goes
		_ = nc.SetReadDeadline(time.Now().Add(patience))
		if _, err := nc.Read(make([]byte, 1)); err == nil || time.Since(begun) > 5*time.Second {
			t.Errorf("a silent connection was kept for %v: %v", time.Since(begun), err)
		}
	}
	first.ping()
	eventually(t, "there is room again", func() bool {
		nc, err := net.Dial("tcp", s.Addr())
		if err != nil {
			return false
		}
		defer func() { _ = nc.Close() }()
		_ = nc.SetDeadline(time.Now().Add(time.Second))
		_, _ = nc.Write(connectPacket(options{id: "late", version: 4}))
		p, err := readFrame(bufio.NewReader(nc))
		return err == nil && p.kind() == pConnack
	})
	if s.Stats().Refused == 0 {
		t.Error("no refused connection counted")
	}
}

// CONNECT a byte at a time does not extend the deadline.
func TestSlowConnect(t *testing.T) {
	s := start(t, broker.Config{ConnectTimeout: 300 * time.Millisecond})
	nc := dialRaw(t, s.Addr())
	begun := time.Now()
	for _, b := range connectPacket(options{id: strings.Repeat("x", 900), version: 4}) {
		if _, err := nc.Write([]byte{b}); err != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if d := time.Since(begun); d > 5*time.Second {
		t.Errorf("the connection was kept for %v", d)
	}
}

func TestKeepAlive(t *testing.T) {
	t.Parallel()
	s := start(t, broker.Config{})
	t.Run("enforced", func(t *testing.T) {
		c := dial(t, s.Addr(), options{id: "silent", keepAlive: 1})
		begun := time.Now()
		c.wantClosed()
		if d := time.Since(begun); d < time.Second || d > 6*time.Second {
			t.Errorf("disconnected after %v, want 1.5 s", d)
		}
	})
	t.Run("told on v5", func(t *testing.T) {
		c := dial(t, s.Addr(), options{id: "silent5", version: 5, keepAlive: 1})
		begun := time.Now()
		if p := c.want(pClose); p.body[0] != 0x8d {
			t.Errorf("DISCONNECT code %#x, want 0x8d", p.body[0])
		}
		if d := time.Since(begun); d < time.Second || d > 6*time.Second {
			t.Errorf("disconnected after %v, want 1.5 s", d)
		}
	})
	t.Run("forced on v5", func(t *testing.T) {
		nc := dialRaw(t, s.Addr())
		_, _ = nc.Write(connectPacket(options{id: "v5", version: 5}))
		p, err := readFrame(bufio.NewReader(nc))
		if err != nil || !strings.Contains(string(p.body), "\x13\x01\x2c") {
			t.Errorf("CONNACK %x (%v) has no server keep-alive of 300 s", p.body, err)
		}
	})
}

// A denied publish does not close the connection, whatever the version.
func TestReservedTopicIsDenied(t *testing.T) {
	for _, version := range []byte{4, 5} {
		t.Run(fmt.Sprint("v", version), func(t *testing.T) {
			s := start(t, broker.Config{})
			sub := dial(t, s.Addr(), options{id: "sub"})
			sub.subscribe("$SYS/#", 0)
			c := dial(t, s.Addr(), options{id: "c", version: version})
			c.publish(publish{topic: "$SYS/x", qos: 0})
			c.publish(publish{topic: "$SYS/x", qos: 1, pid: 1})
			p := c.wantAck(pPuback, 1)
			if version == 5 && (len(p.body) < 3 || p.body[2] != 0x87) {
				t.Errorf("PUBACK %x, want code 0x87", p.body)
			}
			c.publish(publish{topic: "$SYS/x", qos: 2, pid: 2})
			c.wantAck(pPubrec, 2)
			c.ack(pPubrel, 2)
			c.wantAck(pPubcomp, 2)
			c.ping()
			sub.nothing()
		})
	}
}

func TestProtocolViolations(t *testing.T) {
	s := start(t, broker.Config{})
	publishTo := func(topic string) []byte { return frame(0x30, append(str(topic), "x"...)) }
	for name, data := range map[string][]byte{
		"second CONNECT":         connectPacket(options{id: "again", version: 4}),
		"wildcard topic":         publishTo("a/#"),
		"empty topic":            publishTo(""),
		"NUL in topic":           publishTo("a\x00b"),
		"topic not UTF-8":        publishTo("a\xff"),
		"QoS 3":                  frame(0x36, append(str("x"), 0, 1)),
		"packet id 0":            frame(0x32, append(str("x"), 0, 0)),
		"SUBSCRIBE of no filter": frame(0x82, []byte{0, 1}),
		"SUBSCRIBE QoS 3":        frame(0x82, append(append([]byte{0, 1}, str("x")...), 3)),
		"SUBSCRIBE flags":        frame(0x80, append(append([]byte{0, 1}, str("x")...), 1)),
		"endless length":         {0x30, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00},
		"reserved type":          {0xf0, 0},
		"CONNACK from a client":  frame(0x20, []byte{0, 0}),
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, s.Addr(), options{id: "bad"})
			c.write(data)
			c.wantClosed()
		})
	}
	t.Run("v5 SUBSCRIBE cut before its options", func(t *testing.T) { // mochi's decoder panics
		c := dial(t, s.Addr(), options{id: "bad", version: 5})
		c.write(frame(0x82, append([]byte{0, 1, 0}, str("x")...)))
		if p := c.want(pClose); p.body[0] != 0x81 {
			t.Errorf("DISCONNECT code %#x, want 0x81", p.body[0])
		}
	})
	t.Run("invalid filter", func(t *testing.T) {
		c := dial(t, s.Addr(), options{id: "filter"})
		for _, f := range []string{"a/#/b", "a+", "$share/g", "$share//x", "$share/+/x"} {
			c.write(c.subscribePacket(f, 1))
			if p := c.want(pSuback); p.body[2] != 0x80 {
				t.Errorf("%q: SUBACK code %#x, want 0x80", f, p.body[2])
			}
		}
		c.ping()
	})
	for name, tc := range map[string]struct {
		o    options
		code byte
	}{
		"unknown version":         {options{id: "x", version: 7}, 1},
		"no id, kept session":     {options{version: 4, keep: true}, 2},
		"long id":                 {options{id: strings.Repeat("x", 1025), version: 4}, 2},
		"v5 authentication":       {options{id: "x", version: 5, props: append([]byte{21}, str("K")...)}, 0x8c},
		"v3.1.1 no id is allowed": {options{version: 4}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, code := connect(t, s.Addr(), tc.o); code != tc.code {
				t.Errorf("CONNACK code %#x, want %#x", code, tc.code)
			}
		})
	}
}

// FuzzListener sends bytes as a new connection and as one that is connected.
// The broker must stay up and serve others.
func FuzzListener(f *testing.F) {
	connectV4, connectV5 := connectPacket(options{id: "f", version: 4}), connectPacket(options{id: "f", version: 5})
	c5 := &client{version: 5}
	f.Add(byte(0), connectV4)
	f.Add(byte(0), connectV5)
	f.Add(byte(0), connectPacket(options{id: "f", version: 5, will: "w", user: "u", pass: "p", props: []byte{17, 0, 0, 0, 9}}))
	f.Add(byte(4), (&client{version: 4}).publishPacket(publish{topic: "x", payload: "y", qos: 1, pid: 1}))
	f.Add(byte(5), c5.publishPacket(publish{topic: "x", payload: "y", qos: 2, pid: 1, props: []byte{35, 0, 1}}))
	f.Add(byte(5), c5.subscribePacket("$share/g/x/#", 1, 11, 1))
	f.Add(byte(5), frame(0x82, append([]byte{0, 1, 0}, str("x")...)))
	f.Add(byte(4), []byte{0x62, 2, 0, 1, 0x50, 2, 0, 1, 0x70, 2, 0, 1, 0x40, 2, 0, 1})
	f.Add(byte(5), []byte{0xe0, 7, 4, 5, 17, 0, 0, 0, 1})

	b, err := broker.New(broker.Config{Addr: "127.0.0.1:0", Dir: f.TempDir(), Sink: newSink(nil)})
	if err != nil {
		f.Fatal(err)
	}
	if err := b.Listen(); err != nil {
		f.Fatal(err)
	}
	b.Bind([]triggers.Binding{bind("f", "#", 2)})
	done := make(chan error, 1)
	ctx, cancel := contextOf(f)
	go func() { done <- b.Run(ctx) }()
	f.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.Error(err)
		}
	})
	f.Fuzz(func(t *testing.T, version byte, data []byte) {
		nc, err := net.Dial("tcp", b.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = nc.Close() }()
		_ = nc.SetDeadline(time.Now().Add(6 * time.Second))
		switch version {
		case 4:
			_, _ = nc.Write(connectV4)
		case 5:
			_, _ = nc.Write(connectV5)
		}
		_, _ = nc.Write(data)
		_ = nc.(*net.TCPConn).CloseWrite()
		begun := time.Now()
		_, _ = io.Copy(io.Discard, nc) // until the broker has had enough
		if d := time.Since(begun); d > 5*time.Second {
			stacks := make([]byte, 1<<20)
			t.Errorf("the broker kept the connection for %v\n%s", d, stacks[:runtime.Stack(stacks, true)])
		}
	})
}

// A client that is still sending gets to read why it was disconnected.
func TestReasonReachesAClientThatStillSends(t *testing.T) {
	t.Parallel()
	s := start(t, broker.Config{})
	more := bytes.Repeat([]byte{0xc0, 0}, 100_000)
	for name, tc := range map[string]struct{ first, want []byte }{
		"error of protocol": {append(connectPacket(options{id: "c", version: 5}), 0xc1, 0), []byte{0xe0, 2, 0x81, 0}},
		"refusal":           {v5.connect(3, "c", nil), []byte{0x20, 3, 0, 0x81, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			nc := dialRaw(t, s.Addr())
			_ = nc.SetDeadline(time.Now().Add(patience))
			for _, data := range [][]byte{tc.first, more} {
				if _, err := nc.Write(data); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(moment)
			got, err := io.ReadAll(nc)
			if err != nil || !bytes.HasSuffix(got, tc.want) {
				t.Errorf("got %x and %v, want %x at the end", got, err, tc.want)
			}
		})
	}
}

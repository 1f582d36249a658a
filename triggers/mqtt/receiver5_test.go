package mqtt

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	packets5 "github.com/eclipse/paho.golang/packets"
	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/triggers/mqtt/replay"
)

// heard is a watcher that keeps what it hears.
type heard struct {
	present  []bool
	messages []string
	acks     []func()
	pubrels  []uint16
	gone     int
}

func (h *heard) accepted(present, _ bool) { h.present = append(h.present, present) }
func (h *heard) receive(m Message, how replay.Kind, ack func()) {
	h.messages = append(h.messages, fmt.Sprintf("%s %s QoS %d retain %v dup %v id %d, %d", m.Topic, m.Payload, m.QoS, m.Retain, m.Dup, m.PacketID, how))
	h.acks = append(h.acks, ack)
}
func (h *heard) released(id uint16) { h.pubrels = append(h.pubrels, id) }
func (h *heard) lost()              { h.gone++ }

// far is the broker's end of a connection: what it reads, and what it writes.
type far struct {
	net.Conn
	in *bufio.Reader
}

// expect reads a packet and wants its bytes.
func (f far) expect(t *testing.T, want ...byte) {
	t.Helper()
	head, body, err := readPacket(f.in)
	got := append([]byte{head, byte(len(body))}, body...)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("the broker got % x, %v; want % x", got, err, want)
	}
}

func (f far) send(t *testing.T, p ...byte) {
	t.Helper()
	if _, err := f.Write(p); err != nil {
		t.Fatal(err)
	}
}

// opened makes a receiver5 over a pipe, with the given properties in its CONNACK.
func opened(t *testing.T, h *heard, properties ...byte) (*receiver5, far) {
	t.Helper()
	near, other := net.Pipe()
	f := far{other, bufio.NewReader(other)}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if _, _, err := readPacket(f.in); err == nil {
			_, _ = f.Write(append([]byte{0x20, byte(3 + len(properties)), 1, 0, byte(len(properties))}, properties...))
		}
	}()
	cfg := linkConfig{broker: Broker{Name: "plant"}.endpoint(nil), clientID: "c", keepAlive: 20 * time.Second, watcher: h, window: 7}
	l, err := open5(t.Context(), cfg, "", near)
	if err != nil {
		t.Fatal(err)
	}
	<-answered
	t.Cleanup(func() {
		_ = f.Close()
		l.close()
	})
	return l, f
}

func TestReceive5(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &heard{}
		l, f := opened(t, h)
		granted := make(chan string, 1)
		subscribe := func() {
			qos, err := l.subscribe(t.Context(), "a/#", 1)
			granted <- fmt.Sprint(qos, " ", err)
		}
		go subscribe()
		// The same filter twice: QoS 1, flag as published (8), retained messages not
		// to be sent (0x20) the second time; identifiers 1 and 2.
		f.expect(t, 0x82, 11, 0, 1, 2, 0x0b, 1, 0, 3, 'a', '/', '#', 0x09)
		f.expect(t, 0x82, 11, 0, 2, 2, 0x0b, 2, 0, 3, 'a', '/', '#', 0x29)
		f.send(t, 0x90, 4, 0, 1, 0, 1)
		f.send(t, 0x90, 4, 0, 2, 0, 0)
		if g := <-granted; g != "0 <nil>" {
			t.Errorf("granted %s, want 0", g)
		}

		f.send(t, 0x33, 9, 0, 1, 'a', 0, 7, 2, 0x0b, 1, 'x') // QoS 1, retain, by the first subscription
		f.send(t, 0x3c, 9, 0, 1, 'a', 0, 8, 2, 0x0b, 2, 'y') // QoS 2, dup
		f.send(t, 0x31, 7, 0, 1, 'a', 2, 0x0b, 2, 'z')       // QoS 0, retain
		f.send(t, 0x30, 5, 0, 1, 'a', 0, 'q')                // no identifier
		f.send(t, 0x31, 5, 0, 1, 'a', 0, 'r')                // no identifier, retain
		f.send(t, 0x30, 7, 0, 1, 'a', 2, 0x0b, 1, 'w')       // by the first subscription, no retain
		f.send(t, 0x62, 2, 0, 8)
		f.expect(t, 0x70, 3, 0, 8, 0)
		synctest.Wait()
		if diff := cmp.Diff([]string{
			"a x QoS 1 retain true dup false id 7, 3", "a y QoS 2 retain false dup true id 8, 1",
			"a z QoS 0 retain false dup false id 0, 2", "a q QoS 0 retain false dup false id 0, 0",
			"a r QoS 0 retain true dup false id 0, 3", "a w QoS 0 retain false dup false id 0, 0",
		}, h.messages); diff != "" {
			t.Errorf("messages (-want +got):\n%s", diff)
		}
		go h.acks[1]() // in whatever order
		f.expect(t, 0x50, 3, 0, 8, 0)
		go h.acks[0]()
		f.expect(t, 0x40, 4, 0, 7, 0, 0)

		// A refusal leaves nothing behind for the next try.
		go subscribe()
		f.expect(t, 0x82, 11, 0, 3, 2, 0x0b, 1, 0, 3, 'a', '/', '#', 0x09)
		f.expect(t, 0x82, 11, 0, 4, 2, 0x0b, 2, 0, 3, 'a', '/', '#', 0x29)
		f.send(t, 0x90, 9, 0, 3, 5, 0x1f, 0, 2, 'n', 'o', 0x87)
		f.send(t, 0x90, 4, 0, 4, 0, 0x87)
		if g := <-granted; !strings.Contains(g, "refused") || !strings.Contains(g, `"a/#" (0x87, Not authorized`) || !strings.Contains(g, `("no")`) {
			t.Errorf("refused: %s", g)
		}

		f.expect(t, 0xc0, 0) // after 20 s
		f.send(t, 0xd0, 0)
		go l.close()
		f.expect(t, 0xe0, 2, 0, 0)
		_ = f.Close()
		synctest.Wait()
		if h.gone != 1 || !cmp.Equal(h.present, []bool{true}) || !cmp.Equal(h.pubrels, []uint16{8}) {
			t.Errorf("%+v", h)
		}
	})
}

// A connection ends with the reason that is known best.
func TestEndsOfReceive5(t *testing.T) {
	for _, c := range []struct {
		name       string
		properties []byte // of the CONNACK
		ends       func(t *testing.T, f far)
		want       string
	}{
		{"taken over", nil, func(t *testing.T, f far) { f.send(t, 0xe0, 1, 0x8e) }, "0x8e, Session taken over"},
		{"goodbye without a reason", nil, func(t *testing.T, f far) { f.send(t, 0xe0, 0) }, "0x00"},
		{"closed", nil, func(_ *testing.T, f far) { _ = f.Close() }, "EOF"},
		{"no answer to a ping", nil, func(t *testing.T, f far) {
			start := time.Now()
			f.expect(t, 0xc0, 0)
			if d := time.Since(start); d != 20*time.Second {
				t.Errorf("the first ping came after %s", d)
			}
		}, "did not answer a ping within 10s"},
		{"a keep-alive of the broker's", []byte{0x13, 0, 3}, func(t *testing.T, f far) {
			start := time.Now()
			f.expect(t, 0xc0, 0)
			if d := time.Since(start); d != 3*time.Second {
				t.Errorf("the first ping came after %s", d)
			}
		}, "did not answer a ping"},
		{"a broker that does not read", nil, func(t *testing.T, f far) { f.send(t, 0x62, 2, 0, 8) }, "timeout"},
		{"two codes for one filter", nil, func(t *testing.T, f far) { f.send(t, 0x90, 5, 0, 1, 0, 1, 1) }, "SUBACK for one filter"},
		{"a code of no meaning", nil, func(t *testing.T, f far) { f.send(t, 0x90, 4, 0, 1, 0, 3) }, "SUBACK for one filter"},
		{"QoS 3", nil, func(t *testing.T, f far) { f.send(t, 0x36, 6, 0, 1, 'a', 0, 1, 0) }, "QoS 3"},
		{"no topic", nil, func(t *testing.T, f far) { f.send(t, 0x30, 3, 0, 0, 0) }, "without a topic"},
		{"no packet id", nil, func(t *testing.T, f far) { f.send(t, 0x32, 6, 0, 1, 'a', 0, 0, 0) }, "packet id"},
		{"endless length", nil, func(t *testing.T, f far) { f.send(t, 0x30, 0xff, 0xff, 0xff, 0xff) }, "four bytes"},
		{"a packet for brokers", nil, func(t *testing.T, f far) { f.send(t, 0xc0, 0) }, "its type is 12"},
		{"an unknown type", nil, func(t *testing.T, f far) { f.send(t, 0x00, 0) }, "its type is 0"},
		{"cut short", nil, func(t *testing.T, f far) { f.send(t, 0x32, 3, 0, 9, 'a') }, "no valid MQTT"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &heard{}
				l, f := opened(t, h, c.properties...)
				c.ends(t, f)
				<-l.ended()
				l.close()
				_ = f.Close()
				if err := l.reason(); err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("ended with %v, want %q", err, c.want)
				}
				if h.gone != 1 {
					t.Errorf("the watcher was told %d times", h.gone)
				}
			})
		})
	}
}

// What a broker may answer to CONNECT.
func TestHandshakeOfReceive5(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer []byte // nil hangs up
		is     error
		want   string
	}{
		{"3.1.1 only", []byte{0x20, 2, 0, 1}, errVersion, "does not speak MQTT 5"},
		{"not this version", []byte{0x20, 3, 0, 0x84, 0}, errVersion, "does not speak MQTT 5"},
		{"hangs up", nil, errUnanswered, "did not answer CONNECT"},
		{"not allowed", []byte{0x20, 3, 0, 0x87, 0}, errRefused, "brokers.plant.username"},
		{"no such id", []byte{0x20, 3, 0, 0x85, 0}, errRefused, `the client id "c"`},
		{"busy, with words", []byte{0x20, 9, 0, 0x89, 6, 0x1f, 0, 3, 'b', 'a', 'd'}, nil, `0x89, Server busy`},
		{"something else", []byte{0xd0, 0}, errBadPacket, "in answer to CONNECT"},
		{"nonsense", []byte{0x20, 4, 0, 0, 9, 9}, errBadPacket, "packet of type 2"},
		{"rubbish", []byte{0x20, 1, 0}, errUnanswered, "no valid MQTT"},
		{"nothing", []byte{}, errUnanswered, "timeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, other := net.Pipe()
				go func() {
					head, body, err := readPacket(other)
					// Clean start off, 20 s, 7 in flight, a session without an end.
					want := append([]byte("\x00\x04MQTT\x05\x00\x00\x14\x08\x21\x00\x07\x11\xff\xff\xff\xff"), 0, 1, 'c')
					if err != nil || head != 0x10 || !bytes.Equal(body, want) {
						t.Errorf("CONNECT %x % x, %v; want % x", head, body, err, want)
					}
					switch {
					case c.answer == nil:
						_ = other.Close()
					case len(c.answer) > 0:
						_, _ = other.Write(c.answer)
					}
				}()
				h := &heard{}
				cfg := linkConfig{broker: Broker{Name: "plant"}.endpoint(nil), clientID: "c", keepAlive: 20 * time.Second, watcher: h, window: 7}
				_, err := open5(t.Context(), cfg, "", near)
				if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("error %v, want %q", err, c.want)
				}
				if len(h.present) > 0 {
					t.Error("the watcher was told that it was accepted")
				}
				_ = other.Close()
			})
		})
	}
	t.Run("given up", func(t *testing.T) {
		near, other := net.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			_, _, _ = readPacket(other)
			cancel()
		}()
		cfg := linkConfig{broker: Broker{Name: "plant"}.endpoint(nil), clientID: "c", keepAlive: time.Second, watcher: &heard{}}
		if _, err := open5(ctx, cfg, "", near); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		_ = other.Close()
	})
}

// No bytes of a broker bring the node down, and none cost more memory than they are.
func FuzzReceive5(f *testing.F) {
	for _, p := range [][]byte{
		{0x33, 9, 0, 1, 'a', 0, 7, 2, 0x0b, 1, 'x'},
		{0x90, 4, 0, 1, 0, 1},
		{0x62, 2, 0, 8},
		{0xe0, 0},
		{0xe0, 1, 0x8e},
		{0x20, 3, 0, 0, 0},
		{0x30, 0xff, 0xff, 0xff, 0x7f, 1},
		{0x30, 8, 0, 1, 'a', 0x84, 0x80, 0x80, 0x80, 0x00},
	} {
		f.Add(p)
	}
	l := &receiver5{ending: newEnding(), watcher: ignore{}, subacks: make(chan *packets5.Suback, 2), pong: make(chan struct{}, 1)}
	l.conn = newConn(discard{}, nil, func() {})
	f.Fuzz(func(t *testing.T, p []byte) {
		r := bytes.NewReader(p)
		for {
			head, body, err := readPacket(r)
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, errBadPacket) {
					t.Fatal(err)
				}
				return
			}
			cp, err := decode5(head, body)
			if err != nil {
				if !errors.Is(err, errBadPacket) {
					t.Fatal(err)
				}
				return
			}
			if m, ok := cp.Content.(*packets5.Publish); ok && (m.Topic == "" || m.QoS > 2) {
				t.Fatalf("taken: %+v", m)
			}
			_ = l.take(cp)
			select {
			case <-l.subacks:
			default:
			}
		}
	})
}

// discard is a connection that takes everything.
type discard struct{ net.Conn }

func (discard) Write(p []byte) (int, error)      { return len(p), nil }
func (discard) SetWriteDeadline(time.Time) error { return nil }

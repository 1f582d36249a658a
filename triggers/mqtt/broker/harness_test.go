package broker_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/triggers"
	"github.com/edgefn/edgefn/triggers/mqtt/broker"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("BROKER_TEST_CHILD"); dir != "" {
		runChild(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

const (
	patience = 20 * time.Second       // for what must happen
	moment   = 150 * time.Millisecond // for what must not
)

// sink takes deliveries; settle decides what becomes of each. nil: settled at once.
type sink struct {
	mu     sync.Mutex
	got    []triggers.Delivery
	handle func(ctx context.Context, d triggers.Delivery) error
	more   chan struct{}
}

func newSink(handle func(context.Context, triggers.Delivery) error) *sink {
	return &sink{handle: handle, more: make(chan struct{}, 1)}
}

// holding returns a sink that settles nothing by itself.
func holding() *sink {
	return newSink(func(context.Context, triggers.Delivery) error { return nil })
}

func (s *sink) Deliver(ctx context.Context, d triggers.Delivery) error {
	s.mu.Lock()
	s.got = append(s.got, d)
	s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
	if s.handle == nil {
		d.Settle(nil)
		return nil
	}
	return s.handle(ctx, d)
}

func (s *sink) deliveries() []triggers.Delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

// wait returns the deliveries once there are n.
func (s *sink) wait(t *testing.T, n int) []triggers.Delivery {
	t.Helper()
	deadline := time.After(patience)
	for {
		if got := s.deliveries(); len(got) >= n {
			return got
		}
		select {
		case <-s.more:
		case <-deadline:
			t.Fatalf("%d events came, want %d", len(s.deliveries()), n)
		}
	}
}

// never fails the test when more than n events come within a moment.
func (s *sink) never(t *testing.T, n int) {
	t.Helper()
	time.Sleep(moment)
	if got := s.deliveries(); len(got) != n {
		t.Fatalf("%d events came, want %d: %+v", len(got), n, got)
	}
}

func data(ds []triggers.Delivery) (out []string) {
	for _, d := range ds {
		out = append(out, string(d.Event.Data))
	}
	return out
}

// server is a broker that runs.
type server struct {
	*broker.Broker
	cfg  broker.Config
	stop func()
}

func start(t *testing.T, cfg broker.Config) *server {
	t.Helper()
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.Sink == nil {
		cfg.Sink = newSink(nil)
	}
	b, err := broker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	var once sync.Once
	s := &server{Broker: b, cfg: cfg}
	s.stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("Run: %v", err)
				}
			case <-time.After(patience):
				t.Error("Run does not return")
			}
		})
	}
	t.Cleanup(s.stop)
	return s
}

// again stops the broker and starts another one on its folder.
func (s *server) again(t *testing.T) *server {
	t.Helper()
	s.stop()
	return start(t, s.cfg)
}

func bind(function, topic string, qos byte) triggers.Binding {
	return triggers.Binding{Function: function, Trigger: functions.Trigger{
		Name: "mqtt", MQTT: &functions.MQTTTrigger{Topic: topic, QoS: qos, Broker: functions.LocalBroker},
	}}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// packet is a packet as it came over the wire.
type packet struct {
	head byte
	body []byte
}

func (p packet) kind() byte { return p.head >> 4 }

const (
	pConnack  = 2
	pPublish  = 3
	pPuback   = 4
	pPubrec   = 5
	pPubrel   = 6
	pPubcomp  = 7
	pSuback   = 9
	pUnsuback = 11
	pPingresp = 13
	pClose    = 14
)

// publish is a PUBLISH taken apart.
type publish struct {
	topic   string
	payload string
	qos     byte
	dup     bool
	retain  bool
	pid     uint16
	props   []byte
}

// client is a raw MQTT client: it sends what the test says and answers nothing
// by itself.
type client struct {
	t       *testing.T
	nc      net.Conn
	br      *bufio.Reader
	version byte
	packets chan packet // closed when the connection ends
}

type options struct {
	id        string
	version   byte // default 4
	keep      bool // clean session, or clean start, off
	keepAlive uint16
	props     []byte // of CONNECT, version 5
	will      string // payload, to topic "will"
	willFlags byte
	willProps []byte // version 5
	user      string
	pass      string
}

func str(s string) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...) }

func frame(head byte, body []byte) []byte {
	out := []byte{head}
	for n := len(body); ; {
		b := byte(n % 128)
		if n /= 128; n > 0 {
			out = append(out, b|0x80)
			continue
		}
		return append(append(out, b), body...)
	}
}

func connectPacket(o options) []byte {
	flags := byte(0)
	if !o.keep {
		flags |= 2
	}
	body := append(str("MQTT"), o.version, 0)
	body = binary.BigEndian.AppendUint16(body, o.keepAlive)
	if o.version == 5 {
		body = append(append(body, byte(len(o.props))), o.props...)
	}
	body = append(body, str(o.id)...)
	if o.will != "" {
		flags |= 4 | o.willFlags
		if o.version == 5 {
			body = append(append(body, byte(len(o.willProps))), o.willProps...)
		}
		body = append(append(body, str("will")...), str(o.will)...)
	}
	if o.user != "" {
		flags |= 0xc0
		body = append(append(body, str(o.user)...), str(o.pass)...)
	}
	body[7] = flags
	return frame(0x10, body)
}

func dialRaw(t *testing.T, addr string) net.Conn {
	t.Helper()
	nc, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	return nc
}

// connect connects and returns the client and what CONNACK said.
func connect(t *testing.T, addr string, o options) (c *client, present bool, code byte) {
	t.Helper()
	if o.version == 0 {
		o.version = 4
	}
	c = &client{t: t, nc: dialRaw(t, addr), version: o.version, packets: make(chan packet, 100000)}
	c.start(connectPacket(o))
	p := c.want(pConnack)
	return c, p.body[0] == 1, p.body[1]
}

// start sends CONNECT and begins to read.
func (c *client) start(connect []byte) {
	c.t.Helper()
	c.br = bufio.NewReader(c.nc)
	c.write(connect)
	go c.read()
}

func dial(t *testing.T, addr string, o options) *client {
	t.Helper()
	c, _, code := connect(t, addr, o)
	if code != 0 {
		t.Fatalf("CONNACK code %#x", code)
	}
	return c
}

func (c *client) read() {
	defer close(c.packets)
	for {
		p, err := readFrame(c.br)
		if err != nil {
			return
		}
		c.packets <- p
	}
}

func readFrame(br *bufio.Reader) (p packet, err error) {
	if p.head, err = br.ReadByte(); err != nil {
		return p, err
	}
	n, err := binary.ReadUvarint(br) // the same encoding
	if err != nil {
		return p, err
	}
	p.body = make([]byte, n)
	_, err = io.ReadFull(br, p.body)
	return p, err
}

func (c *client) write(data []byte) {
	c.t.Helper()
	_ = c.nc.SetWriteDeadline(time.Now().Add(patience))
	if _, err := c.nc.Write(data); err != nil {
		c.t.Errorf("write: %v", err)
	}
}

// sentReasons are the codes that a server's packets have in MQTT 5
// [MQTT-3.2.2-8] [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.6.2-1] [MQTT-3.7.2-1]
// [MQTT-3.14.2-1].
var sentReasons = map[byte][]byte{
	pConnack: {
		0, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95, 0x97, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9f,
	},
	pPuback:  {0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99},
	pPubrec:  {0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99},
	pPubrel:  {0, 0x92},
	pPubcomp: {0, 0x92},
	pClose: {
		0, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8d, 0x8e, 0x8f, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
		0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2,
	},
}

// reason returns the reason code of a packet to an MQTT 5 client.
func (c *client) reason(p packet) (code byte, ok bool) {
	if c.version != 5 {
		return 0, false
	}
	at := 2
	switch p.kind() {
	case pConnack:
		at = 1
	case pClose:
		at = 0
	case pPuback, pPubrec, pPubrel, pPubcomp:
	default:
		return 0, false
	}
	if len(p.body) <= at {
		return 0, false
	}
	return p.body[at], true
}

// next returns the next packet; ok is false when the connection has ended.
func (c *client) next() (p packet, ok bool) {
	c.t.Helper()
	select {
	case p, ok = <-c.packets:
		if code, has := c.reason(p); ok && has && !slices.Contains(sentReasons[p.kind()], code) {
			c.t.Errorf("packet of type %d has code %#x, which it does not have in MQTT 5", p.kind(), code)
		}
		return p, ok
	case <-time.After(patience):
		c.t.Fatal("no packet came")
	}
	return p, false
}

func (c *client) want(kind byte) packet {
	c.t.Helper()
	p, ok := c.next()
	if !ok {
		c.t.Fatalf("connection ended, want a packet of type %d", kind)
	}
	if p.kind() != kind {
		c.t.Fatalf("packet of type %d came (%x), want type %d", p.kind(), p.body, kind)
	}
	return p
}

// wantAck waits for an acknowledgement of a packet id.
func (c *client) wantAck(kind byte, pid uint16) packet {
	c.t.Helper()
	p := c.want(kind)
	if got := binary.BigEndian.Uint16(p.body); got != pid {
		c.t.Fatalf("packet of type %d has packet id %d, want %d", kind, got, pid)
	}
	return p
}

func (c *client) wantClosed() {
	c.t.Helper()
	for {
		p, ok := c.next()
		if !ok {
			return
		}
		if p.kind() != pClose {
			c.t.Fatalf("packet of type %d came, want the end of the connection", p.kind())
		}
	}
}

// nothing fails the test when a packet comes within a moment.
func (c *client) nothing() {
	c.t.Helper()
	select {
	case p, ok := <-c.packets:
		if !ok {
			c.t.Fatal("connection ended")
		}
		c.t.Fatalf("packet of type %d came: %x", p.kind(), p.body)
	case <-time.After(moment):
	}
}

func (c *client) wantPublish() publish {
	c.t.Helper()
	return c.parse(c.want(pPublish))
}

func (c *client) parse(p packet) publish {
	c.t.Helper()
	m := publish{qos: p.head >> 1 & 3, dup: p.head&8 != 0, retain: p.head&1 != 0}
	n := int(binary.BigEndian.Uint16(p.body))
	m.topic = string(p.body[2 : 2+n])
	rest := p.body[2+n:]
	if m.qos > 0 {
		m.pid = binary.BigEndian.Uint16(rest)
		rest = rest[2:]
	}
	if c.version == 5 {
		n, k := binary.Uvarint(rest)
		m.props, rest = rest[k:k+int(n)], rest[k+int(n):]
	}
	m.payload = string(rest)
	return m
}

func (c *client) publishPacket(m publish) []byte {
	head := byte(0x30) | m.qos<<1
	if m.dup {
		head |= 8
	}
	if m.retain {
		head |= 1
	}
	body := str(m.topic)
	if m.qos > 0 {
		body = binary.BigEndian.AppendUint16(body, m.pid)
	}
	if c.version == 5 {
		body = append(append(body, byte(len(m.props))), m.props...)
	}
	return frame(head, append(body, m.payload...))
}

func (c *client) publish(m publish) {
	c.t.Helper()
	c.write(c.publishPacket(m))
}

// ack sends PUBACK, PUBREC, PUBREL or PUBCOMP.
func (c *client) ack(kind byte, pid uint16) {
	c.t.Helper()
	head := kind << 4
	if kind == pPubrel {
		head |= 2
	}
	c.write(frame(head, binary.BigEndian.AppendUint16(nil, pid)))
}

func (c *client) subscribePacket(filter string, options byte, props ...byte) []byte {
	body := []byte{0xff, 0xfe}
	if c.version == 5 {
		body = append(append(body, byte(len(props))), props...)
	}
	return frame(0x82, append(append(body, str(filter)...), options))
}

func (c *client) subscribe(filter string, qos byte) {
	c.t.Helper()
	c.write(c.subscribePacket(filter, qos))
	if p := c.want(pSuback); p.body[len(p.body)-1] != qos {
		c.t.Fatalf("SUBACK code %#x, want %d", p.body[len(p.body)-1], qos)
	}
}

func (c *client) ping() {
	c.t.Helper()
	c.write([]byte{0xc0, 0})
	c.want(pPingresp)
}

// close ends the connection with no word.
func (c *client) close() {
	_ = c.nc.Close()
	for range c.packets {
	}
}

// goodbye says DISCONNECT and waits until the broker has taken it: it closes
// the connection then [MQTT-3.14.4-2].
func (c *client) goodbye() {
	c.write([]byte{0xe0, 0})
	_ = c.nc.SetReadDeadline(time.Now().Add(10 * time.Second)) // a connection that is gone already ends the reader as well
	for range c.packets {
	}
	c.close()
}

var errTest = errors.New("not settled")

func numbered(n int) string { return fmt.Sprintf("m%04d", n) }

func contextOf(tb testing.TB) (context.Context, context.CancelFunc) {
	tb.Helper()
	return context.WithCancel(context.Background())
}

package broker

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/edgefn/edgefn/triggers/mqtt/broker/access"
	"github.com/edgefn/edgefn/triggers/mqtt/broker/packet"
)

// conn is one client's connection: a reader and a writer.
type conn struct {
	b    *Broker
	from *listener
	nc   net.Conn
	br   *bufio.Reader

	// Set by CONNECT.
	who       *access.Client
	since     time.Time
	s         *session
	version   byte
	keepAlive time.Duration // 0: off
	window    int           // QoS 1 and 2 messages in flight to the client
	maxSize   int           // largest packet that the client takes; 0: any
	expiry    int64         // session expiry that CONNECT asked for
	will      *will
	assigned  bool // the client id is ours
	denials   denials
	aliases   map[uint16]string // that the client set

	// Topic aliases that the client is sent; the writer's.
	maxAlias int
	aliasOf  map[string]uint16

	refused bool // CONNACK with a refusal was written
	greeted bool // CONNACK was queued; no DISCONNECT goes before it [MQTT-3.14.0-1]

	inbound int // unacknowledged messages from the client; guarded by s.mu

	wake     chan struct{} // capacity 1: the writer has something to do
	room     chan struct{} // capacity 1: the writer took something
	done     chan struct{} // closed by kill
	detached chan struct{} // closed once the session is free for another connection
	once     sync.Once
	code     byte // reason to tell the client, written before done is closed
	failing  atomic.Bool
	overran  atomic.Pointer[refusal] // the first message for which there was no room; nil: none

	mu          sync.Mutex
	control     []byte // encoded packets other than PUBLISH
	queue0      []outgoing
	queue0Bytes int64
}

func newConn(b *Broker, l *listener, nc net.Conn) *conn {
	return &conn{
		b: b, from: l, nc: nc, br: bufio.NewReaderSize(nc, 4096),
		wake: make(chan struct{}, 1), room: make(chan struct{}, 1),
		done: make(chan struct{}), detached: make(chan struct{}),
	}
}

// kill ends the connection; an MQTT 5 client is told the code unless it is 0.
// It never blocks and may be called under locks.
func (c *conn) kill(code byte) {
	c.once.Do(func() {
		c.code = code
		close(c.done)
		_ = c.nc.SetReadDeadline(time.Unix(1, 0))
		_ = c.nc.SetWriteDeadline(time.Now().Add(closeGrace))
	})
}

// unsettled notes that a message of this connection will not be acknowledged.
// The client sends it again only on a new connection, so this one ends soon.
func (c *conn) unsettled(err error) {
	if c.failing.CompareAndSwap(false, true) {
		c.b.cfg.Logger.Warn("mqtt message not settled; disconnecting its sender so that it sends again",
			keyClient, c.s.id, keyErr, err)
		time.AfterFunc(failureGrace, func() { c.kill(packets.ErrImplementationSpecificError.Code) })
	}
}

func (c *conn) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// send queues a packet other than PUBLISH. A client that makes the queue
// overflow does not read, and is disconnected; so is one that needs a packet
// larger than it takes. It reports whether the packet was queued.
func (c *conn) send(pk packets.Packet) bool {
	pk.ProtocolVersion = c.version
	data := packet.Encode(pk)
	if c.maxSize > 0 && len(data) > c.maxSize { // [MQTT-3.1.2-24]
		c.kill(packets.ErrPacketTooLarge.Code)
		return false
	}
	c.mu.Lock()
	full := len(c.control)+len(data) > controlBytes
	if !full {
		c.control = append(c.control, data...)
	}
	c.mu.Unlock()
	if full {
		c.kill(packets.ErrQuotaExceeded.Code)
		return false
	}
	c.signal()
	return true
}

func (c *conn) ack(kind byte, pid uint16, code byte) {
	c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: kind}, PacketID: pid, ReasonCode: code})
}

func (c *conn) puback(pid uint16)             { c.ack(packets.Puback, pid, 0) }
func (c *conn) pubrec(pid uint16, code byte)  { c.ack(packets.Pubrec, pid, code) }
func (c *conn) pubrel(pid uint16)             { c.ack(packets.Pubrel, pid, 0) }
func (c *conn) pubcomp(pid uint16, code byte) { c.ack(packets.Pubcomp, pid, code) }

// send0 queues a QoS 0 message and reports whether there was room.
func (c *conn) send0(o outgoing) bool {
	size := o.m.size()
	c.mu.Lock()
	full := len(c.queue0) > 0 && (len(c.queue0) >= queue0Count || c.queue0Bytes+size > queue0Bytes)
	if !full {
		c.queue0 = append(c.queue0, o)
		c.queue0Bytes += size
	}
	c.mu.Unlock()
	if !full {
		c.signal()
	}
	return !full
}

// serve runs the connection to its end.
func (c *conn) serve() {
	log := c.b.cfg.Logger.With(keyRemote, c.nc.RemoteAddr().String())
	_ = c.nc.SetDeadline(time.Now().Add(c.b.cfg.ConnectTimeout))
	present, ok := c.connect()
	if !ok {
		if c.s == nil {
			c.b.stats.refused.Add(1)
			if c.refused {
				linger(c.nc, closeGrace, lingerBytes)
			}
			_ = c.nc.Close()
			return
		}
		c.b.dropWill(c.will) // it belongs to a connection that was accepted
		c.will = nil
		c.kill(0)
	}
	if ok {
		// Before the writer: it must come first [MQTT-3.2.0-1].
		if c.greeted = c.send(c.connack(present)); !c.greeted {
			c.b.dropWill(c.will)
			c.will = nil
		}
	}
	var writer sync.WaitGroup
	writer.Go(c.write)
	goodbye := false
	if ok {
		log.Debug("mqtt client connected", keyClient, c.s.id)
		var err error
		goodbye, err = c.read()
		var pe *packet.Error
		switch {
		case errors.As(err, &pe):
			log.Info("mqtt client disconnected for an error of protocol", keyClient, c.s.id, keyErr, err)
			c.kill(pe.Code)
		case errors.Is(err, errKeepAlive):
			c.kill(packets.ErrKeepAliveTimeout.Code)
		default:
			c.kill(0)
		}
		log.Debug("mqtt client disconnected", keyClient, c.s.id, keyErr, err)
	}
	writer.Wait()
	c.b.detach(c, goodbye)
	if c.code != 0 && c.code != packets.ErrServerShuttingDown.Code {
		linger(c.nc, closeGrace, lingerBytes)
	}
	_ = c.nc.Close()
}

// errKeepAlive says that a client was silent for one and a half of its
// keep-alive [MQTT-3.1.2-22].
var errKeepAlive = errors.New("keep-alive timed out")

// read takes packets until the connection ends. goodbye tells that the client
// ended it normally, so that its will is discarded.
func (c *conn) read() (goodbye bool, err error) {
	for {
		var deadline time.Time
		if c.keepAlive > 0 {
			deadline = time.Now().Add(c.keepAlive + c.keepAlive/2)
		}
		_ = c.nc.SetReadDeadline(deadline)
		select {
		case <-c.done:
			return false, nil
		default:
		}
		waited := c.br.Buffered() == 0
		pk, err := packet.Read(c.br, c.version, c.b.cfg.MaxPacket)
		if waited && pk.FixedHeader.Type == packets.Publish {
			// Of connections that became readable at once the runtime wakes the
			// last one first. A SUBSCRIBE that another client sent before this
			// message gets its turn, so that its subscriber has the message.
			runtime.Gosched()
		}
		if err != nil {
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				return false, errKeepAlive
			}
			return false, err
		}
		if pk.FixedHeader.Type == packets.Disconnect {
			return c.disconnected(&pk)
		}
		if err := c.handle(&pk); err != nil {
			return false, err
		}
	}
}

func (c *conn) disconnected(pk *packets.Packet) (goodbye bool, err error) {
	if p := &pk.Properties; p.SessionExpiryIntervalFlag {
		if c.expiry == 0 && p.SessionExpiryInterval > 0 {
			return false, packet.Violation(packets.ErrProtocolViolationZeroNonZeroExpiry,
				"DISCONNECT asks to keep a session that CONNECT did not") // 3.14.2.2.2
		}
		c.s.mu.Lock()
		c.b.setExpiry(c.s, int64(p.SessionExpiryInterval), nil)
		c.s.mu.Unlock()
	}
	return pk.ReasonCode == packets.CodeDisconnect.Code, nil // [MQTT-3.14.4-3]
}

func (c *conn) handle(pk *packets.Packet) error {
	switch pk.FixedHeader.Type {
	case packets.Publish:
		return c.publish(pk)
	case packets.Puback:
		if c.s.qosOf(pk.PacketID) == 1 {
			c.s.acked(c.b, pk.PacketID)
		}
	case packets.Pubrec:
		switch {
		case c.s.qosOf(pk.PacketID) != 2:
			c.ack(packets.Pubrel, pk.PacketID, c.code5(packets.ErrPacketIdentifierNotFound))
		case pk.ReasonCode >= packets.ErrUnspecifiedError.Code:
			c.s.acked(c.b, pk.PacketID)
		default:
			c.s.release(c.b, pk.PacketID)
		}
	case packets.Pubcomp:
		if c.s.qosOf(pk.PacketID) == 2 {
			c.s.acked(c.b, pk.PacketID)
		}
	case packets.Pubrel:
		c.s.mu.Lock()
		defer c.s.mu.Unlock()
		if w := c.s.works[pk.PacketID]; w != nil && w.qos == 2 {
			w.released(c)
			return nil
		}
		c.pubcomp(pk.PacketID, c.code5(packets.ErrPacketIdentifierNotFound))
	case packets.Subscribe:
		return c.subscribe(pk)
	case packets.Unsubscribe:
		return c.unsubscribe(pk)
	case packets.Pingreq:
		c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingresp}})
	default:
		return packet.Violation(packets.ErrProtocolViolation, "unexpected packet of type %d", pk.FixedHeader.Type)
	}
	return nil
}

// code5 is a reason code for MQTT 5 clients, 0 for others.
func (c *conn) code5(code packets.Code) byte {
	if c.version == mqtt5 {
		return code.Code
	}
	return 0
}

// write sends what is queued until the connection is killed, then what is left
// of the control packets and the reason.
func (c *conn) write() {
	buf := new(bytes.Buffer)
	for {
		select {
		case <-c.done:
			c.writeLast()
			return
		case <-c.wake:
		}
		for c.fill(buf) {
			if err := c.flush(buf.Bytes()); err != nil {
				c.kill(0)
				return
			}
			select {
			case c.room <- struct{}{}:
			default:
			}
			if buf.Cap() > 1<<20 {
				buf = new(bytes.Buffer)
			}
			select {
			case <-c.done:
				c.writeLast()
				return
			default:
			}
		}
	}
}

// flush writes data; the client must take every 64 KiB within the write
// timeout.
func (c *conn) flush(data []byte) error {
	for len(data) > 0 {
		_ = c.nc.SetWriteDeadline(time.Now().Add(c.b.cfg.WriteTimeout))
		select {
		case <-c.done:
			_ = c.nc.SetWriteDeadline(time.Now().Add(closeGrace))
		default:
		}
		n, err := c.nc.Write(data[:min(len(data), 64<<10)])
		if err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

func (c *conn) writeLast() {
	c.mu.Lock()
	data := c.control
	c.control, c.queue0 = nil, nil
	c.mu.Unlock()
	if c.version == mqtt5 && c.code != 0 && c.greeted {
		last := packet.Encode(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Disconnect}, ProtocolVersion: mqtt5, ReasonCode: c.code,
		})
		if c.maxSize == 0 || len(last) <= c.maxSize {
			data = append(data, last...)
		}
	}
	if len(data) > 0 {
		_ = c.nc.SetWriteDeadline(time.Now().Add(closeGrace))
		_, _ = c.nc.Write(data)
	}
}

// fill encodes what may be sent now and reports whether there was anything.
func (c *conn) fill(buf *bytes.Buffer) bool {
	const atOnce = 64
	now := c.b.now()
	buf.Reset()
	c.mu.Lock()
	buf.Write(c.control)
	c.control = nil
	n := min(len(c.queue0), atOnce)
	batch := c.queue0[:n:n]
	c.queue0 = c.queue0[n:]
	for _, o := range batch {
		c.queue0Bytes -= o.m.size()
	}
	if len(c.queue0) == 0 {
		c.queue0 = nil
	}
	c.mu.Unlock()
	progress := buf.Len() > 0 || n > 0
	for _, o := range batch {
		if o.m.expired(now) && !o.retain {
			c.b.stats.expired.Add(1)
			continue
		}
		if c.mayReceive(o.m) {
			c.encode(buf, o, now)
		}
	}
	items := c.s.take(c.b, c.window, now)
	if !c.loadItems(items) {
		return false // the next connection gets them
	}
	for _, d := range items {
		if d.release {
			buf.Write(packet.Encode(packets.Packet{
				FixedHeader: packets.FixedHeader{Type: packets.Pubrel}, PacketID: d.pid, ProtocolVersion: c.version,
			}))
			continue
		}
		if d.m == nil || !c.mayReceive(d.m) || !c.encode(buf, d.outgoing, now) {
			c.s.discard(c.b, d.pid)
			c.b.stats.dropped.Add(1)
		}
	}
	return progress || len(items) > 0
}

// encode appends a PUBLISH, unless it is larger than the client takes
// [MQTT-3.1.2-25]. The first topics get aliases, as many as the client takes
// [MQTT-3.1.2-26]: devices hear few topics again and again.
func (c *conn) encode(buf *bytes.Buffer, o outgoing, now instant) bool {
	before := buf.Len()
	topic := o.m.Topic
	if o.alias, o.known = c.aliasOf[topic], c.aliasOf[topic] > 0; !o.known && len(c.aliasOf) < c.maxAlias && worthAlias(topic) {
		o.alias = uint16(len(c.aliasOf) + 1)
	}
	fits := func() bool {
		buf.Truncate(before)
		return encodePublish(buf, c.version, o, now) == nil && (c.maxSize == 0 || buf.Len()-before <= c.maxSize)
	}
	if !fits() {
		if o.alias == 0 || o.known {
			buf.Truncate(before)
			return false
		}
		if o.alias = 0; !fits() { // an alias that is told makes it longer
			buf.Truncate(before)
			return false
		}
	}
	if o.alias > 0 && !o.known {
		if c.aliasOf == nil {
			c.aliasOf = map[string]uint16{}
		}
		c.aliasOf[strings.Clone(topic)] = o.alias // not the memory of its packet
	}
	c.b.stats.sent.Add(1)
	return true
}

// worthAlias passes over topics that an alias, of three bytes, does not shorten,
// and over those that would take much memory for as long as the connection is.
func worthAlias(topic string) bool { return len(topic) > 3 && len(topic) <= 1024 }

// loadItems reads from disk the messages that left memory. It reports false when
// the disk does not give them, and ends the connection.
func (c *conn) loadItems(items []due) bool {
	var keys [][]byte
	for _, d := range items {
		if d.m == nil && !d.release {
			keys = append(keys, d.key)
		}
	}
	if len(keys) == 0 {
		return true
	}
	values, err := c.b.store.get(bucketQueue, keys)
	if err != nil {
		c.b.cfg.Logger.Error("mqtt broker cannot read queued messages", keyClient, c.s.id, keyErr, err)
		c.kill(packets.ErrImplementationSpecificError.Code)
		return false
	}
	n, now := 0, c.b.now()
	for i := range items {
		if items[i].m != nil || items[i].release {
			continue
		}
		var rec itemRecord
		if values[n] != nil && unmarshal(values[n], &rec) == nil {
			if m, err := unmarshalMessage(rec.Message, now); err == nil {
				items[i].m = m
			}
		}
		n++
	}
	return true
}

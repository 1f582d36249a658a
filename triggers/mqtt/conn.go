package mqtt

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"
)

// writeTimeout bounds every write: a broker that stops reading ends the
// connection.
const writeTimeout = 15 * time.Second

// Types of control packets that a scanner looks at (MQTT 3.1.1, table 2.1).
const (
	packetConnack = 2
	packetPublish = 3
	packetPubrel  = 6
	packetPubcomp = 7
	packetSuback  = 9
	packetPong    = 13
	packetGoodbye = 14
)

// errBadPacket is what a broker gets that sends what is no MQTT 3.1.1, or not
// the MQTT 5 that was asked for. The client libraries would panic or wait on it.
var errBadPacket = errors.New("the broker sent a packet that is no valid MQTT")

// conn is the network connection under the client library. It gives each write
// a deadline, reads through a buffer (the library reads headers byte by byte),
// knows first when the connection is gone, and sees the packets that the
// library keeps to itself.
type conn struct {
	net.Conn
	in   *bufio.Reader
	scan scanner
	bad  error       // what the scanner objects to; for good
	gone atomic.Bool // a read or a write failed, or it was closed
	lost func()      // called once when gone becomes true
}

// newConn wraps nc. watch is called from the reading goroutine before the
// library sees the packet; with nil nobody looks at the packets. lost is called
// from any goroutine, once.
func newConn(nc net.Conn, watch func(kind byte, body []byte), lost func()) *conn {
	return &conn{Conn: nc, in: bufio.NewReaderSize(nc, 8<<10), scan: scanner{watch: watch}, lost: lost}
}

func (c *conn) fail() {
	if c.gone.CompareAndSwap(false, true) {
		c.lost()
	}
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	if c.bad != nil {
		return 0, c.bad
	}
	n, err := c.in.Read(p)
	if err == nil && c.scan.watch != nil {
		if c.bad = c.scan.write(p[:n]); c.bad != nil {
			n, err = 0, c.bad // io.ReadFull takes no notice of an error that comes with enough bytes
		}
	}
	if err != nil {
		c.fail()
	}
	return n, err
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	err := c.SetWriteDeadline(time.Now().Add(writeTimeout))
	n := 0
	if err == nil {
		n, err = c.Conn.Write(p)
	}
	if err != nil {
		c.fail()
	}
	return n, err
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.fail()
	return c.Conn.Close()
}

// scanner follows the packets in a stream of bytes (MQTT 3.1.1, section 2.2; 5,
// section 2.1) and keeps of each no more than its first bytes.
type scanner struct {
	watch func(kind byte, body []byte) // the first bytes of a CONNACK or a PUBREL; in 3.1.1 that is all of it
	five  bool                         // MQTT 5, to one who only publishes

	kind   byte
	state  scanState
	shift  uint
	remain int     // bytes of the packet still to come
	body   [4]byte // its first bytes
	have   int
}

type scanState int

const (
	scanHeader scanState = iota
	scanLength
	scanBody
)

// write takes the next bytes. After an error the stream is of no more use.
func (s *scanner) write(p []byte) error {
	for len(p) > 0 {
		switch s.state {
		case scanHeader:
			*s = scanner{watch: s.watch, five: s.five, kind: p[0] >> 4, state: scanLength}
			if s.kind == packetPublish && p[0]&0x06 == 0x06 { // [MQTT-3.3.1-4]
				return fmt.Errorf("%w: a message with QoS 3", errBadPacket)
			}
			p = p[1:]
		case scanLength:
			s.remain |= int(p[0]&0x7f) << s.shift
			s.shift += 7
			more := p[0]&0x80 != 0
			p = p[1:]
			if more && s.shift > 21 { // four bytes at most [MQTT 3.1.1, section 2.2.3]
				return fmt.Errorf("%w: its length has more than four bytes", errBadPacket)
			}
			if !more {
				if err := s.begin(); err != nil {
					return err
				}
			}
		case scanBody:
			n := min(len(p), s.remain)
			s.have += copy(s.body[s.have:], p[:n])
			p, s.remain = p[n:], s.remain-n
			if s.remain == 0 {
				s.end()
			}
		}
	}
	return nil
}

func (s *scanner) begin() error {
	check := s.check311
	if s.five {
		check = s.check5
	}
	if err := check(); err != nil {
		return err
	}
	s.state = scanBody
	if s.remain == 0 {
		s.end()
	}
	return nil
}

func (s *scanner) check311() error {
	want := 0
	switch s.kind {
	case packetConnack, packetPubrel:
		want = 2
	case packetSuback:
		want = 3 // we subscribe to one filter at a time
	}
	if want != 0 && s.remain != want {
		return fmt.Errorf("%w: a packet of type %d has %d bytes, not %d", errBadPacket, s.kind, s.remain, want)
	}
	return nil
}

// check5 refuses what the library of MQTT 5 would allocate without bound for,
// or what nobody asked for.
func (s *scanner) check5() error {
	switch {
	case s.remain > maxIncoming:
		return fmt.Errorf("%w: a packet of type %d has %d bytes, more than the %d that were allowed", errBadPacket, s.kind, s.remain, maxIncoming)
	case s.kind == packetConnack && s.remain < 2:
		return fmt.Errorf("%w: a CONNACK of %d bytes", errBadPacket, s.remain)
	case (s.kind < packetConnack || s.kind > packetPubcomp) && s.kind != packetPong && s.kind != packetGoodbye:
		return fmt.Errorf("%w: its type is %d", errBadPacket, s.kind)
	}
	return nil
}

func (s *scanner) end() {
	if s.kind == packetConnack || s.kind == packetPubrel {
		s.watch(s.kind, s.body[:s.have])
	}
	s.state = scanHeader
}

package broker

import (
	"bufio"
	"io"
	"net"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Bounds on telling clients that there is no room for them.
const (
	turnedAwayAtOnce = 64              // connections
	turnAwayTime     = 2 * time.Second // until CONNECT and its answer are through
	turnedBytes      = 64 << 10        // that are read and thrown away
)

// count counts a connection in unless the broker is full. The first of many
// for which there is no room is logged, until a tenth of the room is free again.
func (b *Broker) count(c *conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state != running {
		return false
	}
	if len(b.conns) >= b.cfg.MaxClients {
		if !b.full {
			b.full = true
			b.cfg.Logger.Warn("mqtt broker is full: more clients are turned away until some leave; raise mqtt.max_clients if that is too few",
				"max_clients", b.cfg.MaxClients, keyRemote, c.nc.RemoteAddr().String())
		}
		return false
	}
	b.conns[c] = struct{}{}
	b.wg.Add(1)
	return true
}

// uncount takes a connection out that ended.
func (b *Broker) uncount(c *conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, c)
	if len(b.conns) <= b.cfg.MaxClients-max(1, b.cfg.MaxClients/10) {
		b.full = false
	}
	b.wg.Done()
}

// turnAway tells a client for which there is no room so, in the words of its
// version of the protocol. Few are told at the same time; the next one keeps
// its caller waiting until there is room for it, which is a moment.
func (b *Broker) turnAway(nc net.Conn) {
	b.stats.refused.Add(1)
	b.turned <- struct{}{}
	b.away.Go(func() {
		defer func() { <-b.turned }()
		tellFull(nc)
	})
}

// tellFull reads a CONNECT, answers it and closes the connection.
func tellFull(nc net.Conn) {
	_ = nc.SetDeadline(time.Now().Add(turnAwayTime))
	if version, err := peekVersion(bufio.NewReaderSize(nc, 64)); err == nil {
		(&conn{nc: nc, version: version}).refuse(packets.ErrQuotaExceeded)
		linger(nc, closeGrace, turnedBytes)
	}
	_ = nc.Close()
}

// peekVersion reads a CONNECT as far as the version of the protocol.
func peekVersion(r *bufio.Reader) (version byte, err error) {
	head, err := r.Peek(2)
	if err != nil || head[0]>>4 != packets.Connect {
		return 0, io.ErrUnexpectedEOF
	}
	n := 1
	for ; n < 5; n++ { // the length [MQTT-1.5.5-1]
		if head, err = r.Peek(n + 1); err != nil {
			return 0, err
		}
		if head[n]&0x80 == 0 {
			break
		}
	}
	n++
	if head, err = r.Peek(n + 2); err != nil {
		return 0, err
	}
	name := int(head[n])<<8 | int(head[n+1])
	if name != len("MQTT") && name != len("MQIsdp") {
		return 0, io.ErrUnexpectedEOF
	}
	n += 2 + name
	if head, err = r.Peek(n + 1); err != nil {
		return 0, err
	}
	return head[n], nil
}

// linger ends a connection so that its last packet arrives: closed with bytes
// unread, TCP would take it back.
func linger(nc net.Conn, d time.Duration, bytes int64) {
	if w, ok := nc.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite()
		_ = nc.SetReadDeadline(time.Now().Add(d))
		_, _ = io.CopyN(io.Discard, nc, bytes)
	}
}

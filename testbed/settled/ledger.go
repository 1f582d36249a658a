package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

// ledger is a publisher's store of messages that are not acknowledged yet, and
// outlives the connections that it is lent to. paho deletes an outgoing message
// from its store when PUBACK or PUBCOMP came and at no other time; its tokens
// cannot be asked, for they complete when a message is sent again, too.
type ledger struct {
	acked func(payload []byte) // called for each message once; may not call the ledger

	mu       sync.Mutex
	order    []string // keys, oldest first: the order in which paho sends them again
	messages map[string]packets.ControlPacket
	payloads map[string][]byte // of outgoing messages: QoS 2 replaces the message by its PUBREL
}

var _ mqtt.Store = (*ledger)(nil)

func newLedger(acked func([]byte)) *ledger {
	return &ledger{acked: acked, messages: map[string]packets.ControlPacket{}, payloads: map[string][]byte{}}
}

// outgoing is how paho's keys of outgoing packets begin.
const outgoing = "o."

// Put implements mqtt.Store.
func (l *ledger) Put(key string, m packets.ControlPacket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.messages[key]; !ok {
		l.order = append(l.order, key)
	}
	l.messages[key] = m
	if p, ok := m.(*packets.PublishPacket); ok && strings.HasPrefix(key, outgoing) {
		l.payloads[key] = p.Payload
	}
}

// Get implements mqtt.Store.
func (l *ledger) Get(key string) packets.ControlPacket {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.messages[key]
}

// All implements mqtt.Store.
func (l *ledger) All() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.order)
}

// Del implements mqtt.Store. At no time is a message neither outstanding nor
// acknowledged.
func (l *ledger) Del(key string) {
	l.mu.Lock()
	payload, ok := l.payloads[key]
	l.mu.Unlock()
	if ok {
		l.acked(payload)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.messages, key)
	delete(l.payloads, key)
	if i := slices.Index(l.order, key); i >= 0 {
		l.order = slices.Delete(l.order, i, i+1)
	}
}

// Open implements mqtt.Store.
func (*ledger) Open() {}

// Close implements mqtt.Store: a connection ends, the ledger does not.
func (*ledger) Close() {}

// Reset implements mqtt.Store. paho calls it for clean sessions only.
func (*ledger) Reset() {}

// outstanding is how many messages are not acknowledged.
func (l *ledger) outstanding() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.payloads)
}

// has reports whether a message of that payload is not acknowledged.
func (l *ledger) has(payload []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.payloads {
		if string(p) == string(payload) {
			return true
		}
	}
	return false
}

// release has PUBREL sent again from now on, not the message.
func (l *ledger) release(id uint16) {
	pk := packets.NewControlPacket(packets.Pubrel).(*packets.PubrelPacket)
	pk.MessageID = id
	key := fmt.Sprintf("%s%d", outgoing, id)
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.messages[key]; ok {
		l.messages[key] = pk
	}
}

// releases is a publisher's connection. paho 1.5 does not keep that it has sent
// PUBREL, and sends the PUBLISH again on its next connection, which a broker
// has to take for another message [MQTT-4.3.3-1]. So the ledger learns it here,
// before it is on the wire.
type releases struct {
	net.Conn
	ledger *ledger
}

// Write implements net.Conn. paho writes a PUBREL in one call.
func (c releases) Write(b []byte) (int, error) {
	if len(b) == 4 && b[0]>>4 == packets.Pubrel {
		c.ledger.release(binary.BigEndian.Uint16(b[2:]))
	}
	return c.Conn.Write(b)
}

// dial opens the connection of a publisher.
func (l *ledger) dial(u *url.URL, o mqtt.ClientOptions) (net.Conn, error) {
	nc, err := net.DialTimeout("tcp", u.Host, o.ConnectTimeout)
	if err != nil {
		return nil, err
	}
	return releases{nc, l}, nil
}

// pause is how long a client waits before it connects again.
const pause = 100 * time.Millisecond

// clientOptions are those of every client here: a persistent session, messages
// in order, and a connection that is not made again behind our back.
func clientOptions(addr, id string, store mqtt.Store) *mqtt.ClientOptions {
	return mqtt.NewClientOptions().AddBroker("tcp://" + addr).SetClientID(id).SetStore(store).
		SetCleanSession(false).SetOrderMatters(true).SetAutoReconnect(false).SetConnectRetry(false).
		SetConnectTimeout(5 * time.Second).SetWriteTimeout(2 * time.Second).SetKeepAlive(30 * time.Second)
}

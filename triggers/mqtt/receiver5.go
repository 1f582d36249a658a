package mqtt

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"time"

	packets5 "github.com/eclipse/paho.golang/packets"
	paho5 "github.com/eclipse/paho.golang/paho"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/triggers/mqtt/replay"
)

// Identifiers of the two subscriptions of a receiver5.
const (
	replayID = 1 // asks for retained messages
	liveID   = 2 // asks for none
)

// maxBurst bounds what is allocated at once on a broker's word; a longer packet
// takes more as it comes.
const maxBurst = 64 << 10

// receiver5 is one connection over MQTT 5, for receiving: it is made, it ends,
// and is not used again. It is made of paho's codec and not of its client, which
// acknowledges in the order of arrival only, every 50 ms.
//
// It asks for the same filter twice: first for the retained messages, with one
// subscription identifier, and at once again with another, which replaces the
// first subscription [MQTT-3.8.4-3]. Both ask that the retain flag of what is
// published stay as it was. So it is known of each message whether it is a replay,
// and of one that was just published whether it is retained. A message that is
// published between the two requests passes for a replay if it is retained.
//
// Mosquitto up to 2.0 changes the identifier but not the options of a subscription
// that it has: a session that was made over 3.1.1 goes on without the flag. See
// Topics.Believe.
type receiver5 struct {
	ending
	conn    *conn
	watcher watcher
	subIDs  bool // the broker has subscription identifiers

	writing sync.Mutex // held while a packet is written

	subscribing sync.Mutex
	packetID    uint16                // of the newest SUBSCRIBE; guarded by subscribing
	subacks     chan *packets5.Suback // capacity 2: all that are waited for at a time

	pong  chan struct{} // capacity 1
	loops sync.WaitGroup
}

var _ receiver = (*receiver5)(nil)

// receive5 opens a receiver5. It returns once the broker has accepted it;
// messages may have been received by then.
func receive5(ctx context.Context, cfg linkConfig) (*receiver5, error) {
	password, nc, err := cfg.dial(ctx)
	if err != nil {
		return nil, err
	}
	return open5(ctx, cfg, password, nc)
}

func open5(ctx context.Context, cfg linkConfig, password string, nc net.Conn) (*receiver5, error) {
	l := &receiver5{
		ending: newEnding(), watcher: cfg.watcher,
		conn:    newConn(nc, nil, cfg.watcher.lost),
		subacks: make(chan *packets5.Suback, 2), pong: make(chan struct{}, 1),
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() }) // this ends the handshake
	ca, err := l.handshake(cfg, password)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		_ = l.conn.Close() // its error adds nothing
		return nil, err
	}
	keepAlive := cfg.keepAlive
	if v := ca.Properties.ServerKeepAlive; v != nil { // [MQTT-3.1.2-21]
		keepAlive = time.Duration(*v) * time.Second
	}
	l.subIDs = ca.Properties.SubIDAvailable == nil || *ca.Properties.SubIDAvailable != 0
	l.watcher.accepted(ca.SessionPresent, true)
	l.loops.Go(l.read)
	if keepAlive > 0 {
		l.loops.Go(func() { l.ping(keepAlive) })
	}
	return l, nil
}

func (l *receiver5) handshake(cfg linkConfig, password string) (*packets5.Connack, error) {
	if err := l.conn.SetReadDeadline(time.Now().Add(connackTimeout)); err != nil {
		return nil, cfg.failed(err)
	}
	cp := packets5.NewControlPacket(packets5.CONNECT)
	c := cp.Content.(*packets5.Connect)
	c.ClientID, c.CleanStart, c.KeepAlive = cfg.clientID, cfg.clean, uint16(cfg.keepAlive/time.Second)
	c.Username, c.UsernameFlag = cfg.broker.Username, cfg.broker.Username != ""
	c.Password, c.PasswordFlag = []byte(password), cfg.broker.PasswordFile != ""
	c.Properties.SessionExpiryInterval = new(uint32(0xffffffff)) // none, as in 3.1.1 [MQTT 5, section 3.1.2.11.2]
	if cfg.window > 0 {
		c.Properties.ReceiveMaximum = new(cfg.window)
	}
	if err := l.write(cp); err != nil {
		return nil, cfg.failed(fmt.Errorf("%w: %w", errUnanswered, err))
	}
	kind, body, err := readPacket(l.conn)
	switch {
	case err != nil:
		return nil, cfg.failed(fmt.Errorf("%w: %w", errUnanswered, err))
	case kind>>4 != packetConnack:
		return nil, cfg.failed(fmt.Errorf("%w: a packet of type %d in answer to CONNECT", errBadPacket, kind>>4))
	case len(body) < 2:
		return nil, cfg.failed(fmt.Errorf("%w: %w: a CONNACK of %d bytes", errUnanswered, errBadPacket, len(body)))
	case len(body) == 2: // one of MQTT 3.1.1; in 5 it has three bytes or more
		return nil, fmt.Errorf("broker %q %w MQTT 5: %w", cfg.broker.Name, errRefused, errVersion)
	}
	p, err := decode5(kind, body)
	if err != nil {
		return nil, cfg.failed(err)
	}
	ca := p.Content.(*packets5.Connack)
	if ca.ReasonCode >= 0x80 {
		return nil, connack5Error(cfg, paho5.ConnackFromPacketConnack(ca))
	}
	return ca, l.conn.SetReadDeadline(time.Time{})
}

// read takes packets until the connection ends.
func (l *receiver5) read() {
	for {
		kind, body, err := readPacket(l.conn)
		if err == nil {
			var p *packets5.ControlPacket
			if p, err = decode5(kind, body); err == nil {
				err = l.take(p)
			}
		}
		if err != nil {
			l.end(err)
			_ = l.conn.Close() // wakes who waits
			return
		}
	}
}

// take handles a packet. After an error the connection is of no more use.
func (l *receiver5) take(p *packets5.ControlPacket) error {
	switch c := p.Content.(type) {
	case *packets5.Publish:
		l.watcher.receive(message5(c, time.Now()), l.retention(c), func() { l.acknowledge(c.QoS, c.PacketID) })
	case *packets5.Pubrel:
		l.watcher.released(c.PacketID)
		done := packets5.NewControlPacket(packets5.PUBCOMP)
		done.Content.(*packets5.Pubcomp).PacketID = c.PacketID
		return l.write(done)
	case *packets5.Suback:
		select {
		case l.subacks <- c:
		default: // it was not asked for
		}
	case *packets5.Pingresp:
		poke(l.pong)
	case *packets5.Disconnect:
		return &disconnectError{c.ReasonCode, words(c, c.Properties.ReasonString)}
	default:
		return fmt.Errorf("%w: its type is %d", errBadPacket, p.Type)
	}
	return nil
}

// message5 is a message as functions see it.
// message5 takes over what a PUBLISH says that came now.
func message5(p *packets5.Publish, now time.Time) Message {
	m := Message{
		Topic: p.Topic, Payload: p.Payload, QoS: p.QoS, Dup: p.Duplicate, PacketID: p.PacketID,
		Retain: p.Retain && subscriptionOf(p) != liveID,
	}
	said := p.Properties
	m.ContentType, m.ResponseTopic, m.Correlation = said.ContentType, said.ResponseTopic, said.CorrelationData
	for _, u := range said.User {
		m.User = append(m.User, functions.UserProperty{Name: u.Key, Value: u.Value})
	}
	if s := said.MessageExpiry; s != nil {
		m.Expires = now.Add(time.Duration(*s) * time.Second)
	}
	m.UTF8 = said.PayloadFormat != nil && *said.PayloadFormat == 1
	return m
}

func subscriptionOf(p *packets5.Publish) int {
	if p.Properties.SubscriptionIdentifier == nil {
		return 0
	}
	return *p.Properties.SubscriptionIdentifier
}

// retention tells what is known of a message. One without an identifier comes from
// a broker that has none, or from the queue of a session that was made over 3.1.1.
func (l *receiver5) retention(p *packets5.Publish) replay.Kind {
	switch live := subscriptionOf(p) == liveID; {
	case live && p.Retain:
		return replay.Retained
	case live:
		return replay.Plain
	case p.Retain:
		return replay.Replayed
	default:
		return replay.Unknown
	}
}

// acknowledge writes a PUBACK or PUBREC. A write that fails ends the connection.
func (l *receiver5) acknowledge(qos byte, id uint16) {
	kind := packets5.PUBACK
	if qos == 2 {
		kind = packets5.PUBREC
	}
	cp := packets5.NewControlPacket(kind)
	switch c := cp.Content.(type) {
	case *packets5.Puback:
		c.PacketID = id
	case *packets5.Pubrec:
		c.PacketID = id
	}
	if err := l.write(cp); err != nil {
		l.end(err)
	}
}

// write writes a packet in one piece.
func (l *receiver5) write(p *packets5.ControlPacket) error {
	var b bytes.Buffer
	if _, err := p.WriteTo(&b); err != nil {
		return err
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	_, err := l.conn.Write(b.Bytes())
	return err
}

// ping keeps the connection in use, and notices when the broker is gone.
func (l *receiver5) ping(every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-l.down:
			return
		}
		err := l.write(packets5.NewControlPacket(packets5.PINGREQ))
		if err == nil {
			timeout := time.NewTimer(pingTimeout)
			select {
			case <-l.pong:
				timeout.Stop()
				continue
			case <-timeout.C:
				err = fmt.Errorf("the broker did not answer a ping within %s", pingTimeout)
			case <-l.down:
				timeout.Stop()
				return
			}
		}
		l.end(err)
		_ = l.conn.Close() // ends read
		return
	}
}

// subscribe implements receiver.
func (l *receiver5) subscribe(ctx context.Context, filter string, qos byte) (granted byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, subackTimeout)
	defer cancel()
	l.subscribing.Lock()
	defer l.subscribing.Unlock()
	requests := []packets5.SubOptions{{Topic: filter, QoS: qos, RetainHandling: packets5.RetainSendOnSubscribe, RetainAsPublished: l.subIDs}}
	if l.subIDs {
		requests = append(requests, packets5.SubOptions{Topic: filter, QoS: qos, RetainHandling: packets5.RetainDoNotSend, RetainAsPublished: true})
	}
	for i, options := range requests {
		cp := packets5.NewControlPacket(packets5.SUBSCRIBE)
		s := cp.Content.(*packets5.Subscribe)
		l.packetID = l.packetID%math.MaxUint16 + 1
		s.PacketID, s.Subscriptions = l.packetID, []packets5.SubOptions{options}
		if l.subIDs {
			s.Properties.SubscriptionIdentifier = new([]int{replayID, liveID}[i])
		}
		if err := l.write(cp); err != nil {
			return 0, fmt.Errorf("subscribe to %q: connection lost: %w", filter, l.why(err))
		}
	}
	for range requests { // all are waited for, so that none is left for the next call
		select {
		case s := <-l.subacks:
			switch code := s.Reasons[0]; {
			case code < subackFailure:
				granted = code
			case err == nil:
				err = fmt.Errorf("the broker %w the subscription to %q (0x%02x, %s%s); do its access rules allow this user and client id to read there?",
					errRefused, filter, code, s.Reason(0), said(s.Properties.ReasonString))
			}
		case <-l.down:
			return 0, fmt.Errorf("subscribe to %q: connection lost: %w", filter, l.reason())
		case <-ctx.Done():
			return 0, fmt.Errorf("subscribe to %q: no answer from the broker: %w", filter, ctx.Err())
		}
	}
	return granted, err
}

// why is the reason of the connection's end, if there is one by now, or err.
func (l *receiver5) why(err error) error {
	if r := l.reason(); r != nil {
		return r
	}
	return err
}

// close says goodbye where that is possible and ends the link. The broker keeps
// the session, unless it is a clean one.
func (l *receiver5) close() {
	select {
	case <-l.down:
	default:
		// What was written arrives only if the broker ends the connection: closing
		// one with something unread in it resets it.
		if l.write(packets5.NewControlPacket(packets5.DISCONNECT)) == nil {
			timeout := time.NewTimer(quiesce)
			select {
			case <-l.down:
			case <-timeout.C:
			}
			timeout.Stop()
		}
	}
	l.end(errClosed)
	_ = l.conn.Close() // may be closed already
	l.loops.Wait()
}

// readPacket reads a packet: its first byte and what comes after its length.
func readPacket(r io.Reader) (head byte, body []byte, err error) {
	var b [1]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, nil, err
	}
	head = b[0]
	size := 0
	for shift := 0; ; shift += 7 {
		if shift > 21 {
			return 0, nil, fmt.Errorf("%w: its length has more than four bytes", errBadPacket)
		}
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return 0, nil, err
		}
		size |= int(b[0]&0x7f) << shift
		if b[0]&0x80 == 0 {
			break
		}
	}
	var buf bytes.Buffer
	buf.Grow(min(size, maxBurst))
	if _, err := io.CopyN(&buf, r, int64(size)); err != nil {
		return 0, nil, err
	}
	return head, buf.Bytes(), nil
}

// decode5 decodes a packet of MQTT 5 to one who receives.
func decode5(head byte, body []byte) (*packets5.ControlPacket, error) {
	p := packets5.NewControlPacket(head >> 4)
	if p == nil {
		return nil, fmt.Errorf("%w: its type is %d", errBadPacket, head>>4)
	}
	if c, ok := p.Content.(*packets5.Publish); ok {
		c.QoS, c.Duplicate, c.Retain = head>>1&3, head&8 != 0, head&1 != 0
		if c.QoS == 3 { // [MQTT-3.3.1-4]
			return nil, fmt.Errorf("%w: a message with QoS 3", errBadPacket)
		}
	}
	if p.Type == packets5.DISCONNECT && len(body) == 0 { // reason 0, which the codec does not know
		return p, nil
	}
	if err := p.Content.Unpack(bytes.NewBuffer(body)); err != nil {
		return nil, fmt.Errorf("%w: a packet of type %d: %w", errBadPacket, p.Type, err)
	}
	switch c := p.Content.(type) {
	case *packets5.Publish:
		if c.Topic == "" || c.QoS > 0 && c.PacketID == 0 { // no topic alias was allowed [MQTT-3.1.2-26]
			return nil, fmt.Errorf("%w: a message without a topic or a packet id", errBadPacket)
		}
	case *packets5.Suback:
		if len(c.Reasons) != 1 || c.Reasons[0] > 2 && c.Reasons[0] < subackFailure {
			return nil, fmt.Errorf("%w: a SUBACK for one filter with the codes %v", errBadPacket, c.Reasons)
		}
	}
	return p, nil
}

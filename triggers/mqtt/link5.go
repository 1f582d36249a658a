package mqtt

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	packets5 "github.com/eclipse/paho.golang/packets"
	paho5 "github.com/eclipse/paho.golang/paho"
	session5 "github.com/eclipse/paho.golang/paho/session"
	"github.com/eclipse/paho.golang/paho/session/state"

	"github.com/edgefn/edgefn/functions"
)

// maxIncoming bounds the packets that a broker may send over MQTT 5: it
// acknowledges, and nothing was subscribed to.
const maxIncoming = 64 << 10

// link5 is one connection over MQTT 5, for publishing: it is made, it ends, and
// is not used again.
type link5 struct {
	ending
	client *paho5.Client
	conn   *conn5
}

var _ wire = (*link5)(nil)

// connect5 opens a link5 and returns what the broker takes.
func connect5(ctx context.Context, cfg linkConfig) (*link5, limits, error) {
	password, nc, err := cfg.dial(ctx)
	if err != nil {
		return nil, limits{}, err
	}
	return handshake5(ctx, cfg, password, nc)
}

func handshake5(ctx context.Context, cfg linkConfig, password string, nc net.Conn) (*link5, limits, error) {
	l := &link5{ending: newEnding()}
	var connack atomic.Int32 // how many bytes it had, up to 4: the library does not know one of 3.1.1
	l.conn = newConn5(nc, func(kind byte, body []byte) {
		if kind == packetConnack {
			connack.CompareAndSwap(0, int32(len(body)))
		}
	})
	l.client = paho5.NewClient(paho5.ClientConfig{
		Conn:          l.conn,
		Session:       &session{State: state.NewInMemory()},
		AuthHandler:   noAuth{},
		PacketTimeout: ackTimeout,
		OnClientError: l.end,
		OnServerDisconnect: func(d *paho5.Disconnect) {
			l.end(&disconnectError{d.ReasonCode, words(&packets5.Disconnect{ReasonCode: d.ReasonCode}, d.Properties.ReasonString)})
		},
		OnPublishReceived: []func(paho5.PublishReceived) (bool, error){ // a broker may subscribe its clients by itself
			func(paho5.PublishReceived) (bool, error) { return true, nil },
		},
	})
	handshake, cancel := context.WithTimeout(ctx, connackTimeout)
	defer cancel()
	ca, err := l.client.Connect(handshake, &paho5.Connect{
		ClientID: cfg.clientID, CleanStart: true, KeepAlive: uint16(cfg.keepAlive / time.Second),
		Username: cfg.broker.Username, UsernameFlag: cfg.broker.Username != "",
		Password: []byte(password), PasswordFlag: cfg.broker.PasswordFile != "",
		Properties: &paho5.ConnectProperties{
			ReceiveMaximum: new(uint16(1)), MaximumPacketSize: new(uint32(maxIncoming)), RequestProblemInfo: true,
		},
	})
	if err == nil {
		return l, limitsOf(ca), nil
	}
	_ = nc.Close() // its error adds nothing
	switch {
	case ctx.Err() != nil:
		return nil, limits{}, ctx.Err()
	case connack.Load() == 2: // one of MQTT 3.1.1; there it has two bytes, in 5 three or more
		return nil, limits{}, fmt.Errorf("broker %q %w MQTT 5: %w", cfg.broker.Name, errRefused, errVersion)
	case ca != nil:
		return nil, limits{}, connack5Error(cfg, ca)
	case connack.Load() == 0:
		return nil, limits{}, cfg.failed(fmt.Errorf("%w: %w", errUnanswered, err))
	default:
		return nil, limits{}, cfg.failed(err)
	}
}

// connack5Error says why the broker did not accept the connection.
func connack5Error(cfg linkConfig, ca *paho5.Connack) error {
	err := errors.New(words(&packets5.Connack{ReasonCode: ca.ReasonCode}, ca.Properties.ReasonString))
	switch ca.ReasonCode {
	case packets5.ConnackBadUsernameOrPassword, packets5.ConnackNotAuthorized:
		return cfg.userRefused(err)
	case packets5.ConnackInvalidClientID:
		return cfg.idRefused(err)
	case packets5.ConnackUnsupportedProtocolVersion:
		return fmt.Errorf("broker %q %w MQTT 5: %w", cfg.broker.Name, errRefused, errVersion)
	default:
		return cfg.failed(err)
	}
}

// limitsOf reads what a CONNACK says; what it leaves out has the default of
// MQTT 5, section 3.2.2.3.
func limitsOf(ca *paho5.Connack) limits {
	l := unknown
	l.known = true
	l.retain = ca.Properties.RetainAvailable
	if v := ca.Properties.MaximumPacketSize; v != nil {
		l.packet = *v
	}
	if v := ca.Properties.MaximumQoS; v != nil {
		l.qos = min(*v, 2)
	}
	if v := ca.Properties.ReceiveMaximum; v != nil {
		l.inFlight = int(*v)
	}
	return l
}

// publish implements wire. The library waits for what will never come when the
// broker says goodbye first.
func (l *link5) publish(ctx context.Context, m outgoing) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-l.down:
			cancel()
		case <-ctx.Done():
		}
	}()
	r, err := l.client.Publish(ctx, &paho5.Publish{
		Topic: m.topic, Payload: m.data, QoS: m.qos, Retain: m.retain, Properties: publishProperties(m.Properties, time.Now()),
	})
	switch {
	case r != nil && r.ReasonCode >= 0x80:
		return l.answered(m.qos, r)
	case errors.Is(err, paho5.ErrInvalidArguments):
		return fmt.Errorf("%w: %w", ErrRefused, err)
	case errors.Is(err, session5.ErrNoConnection):
		return errNotSent
	case err != nil && l.reason() != nil:
		return l.reason()
	case err == nil && m.qos == 0 && l.conn.gone.Load(): // the library sees no error of a buffered write
		return errors.New("write failed")
	default:
		return err
	}
}

// publishProperties gives the properties of a message to the library; nil: it has
// none.
func publishProperties(p functions.Properties, now time.Time) *paho5.PublishProperties {
	if p.None() {
		return nil
	}
	out := &paho5.PublishProperties{ContentType: p.ContentType, ResponseTopic: p.ResponseTopic, CorrelationData: p.Correlation}
	for _, u := range p.User {
		out.User.Add(u.Name, u.Value)
	}
	if left := p.Interval(now); left > 0 {
		out.MessageExpiry = &left
	}
	return out
}

// answered tells what a reason code of 0x80 or more means for its message.
func (l *link5) answered(qos byte, r *paho5.PublishResponse) error {
	switch r.ReasonCode {
	case packets5.PubcompPacketIdentifierNotFound: // after a PUBREC that took the message
		return nil
	case packets5.PubackPacketIdentifierInUse: // nothing about the message: the broker's session is not ours
		err := errors.New("the broker has a session of an earlier connection")
		l.end(err)
		return err
	}
	var answer reasoner = &packets5.Puback{ReasonCode: r.ReasonCode}
	if qos == 2 {
		answer = &packets5.Pubrec{ReasonCode: r.ReasonCode}
	}
	return fmt.Errorf("%w: it answered %s", ErrRefused, words(answer, r.Properties.ReasonString))
}

// alive reports whether what is written now may arrive.
func (l *link5) alive() bool {
	select {
	case <-l.down:
		return false
	default:
		return !l.conn.gone.Load()
	}
}

// close implements wire.
func (l *link5) close() {
	if !l.alive() {
		_ = l.conn.Close() // may be closed by the client already
	}
	// The goodbye waits for the writes before it, but not for a broker that does
	// not read. Disconnect waits for the client's goroutines.
	late := time.AfterFunc(quiesce, func() { _ = l.conn.Close() })
	_ = l.client.Disconnect(&paho5.Disconnect{}) // the connection ends either way
	late.Stop()
	l.end(errClosed)
}

// conn5 is a conn for the library of MQTT 5: that one locks it over each packet
// and writes a packet in four pieces, which leave as one when it is unlocked.
type conn5 struct {
	*conn
	sync.Mutex
	out *bufio.Writer
}

func newConn5(nc net.Conn, watch func(kind byte, body []byte)) *conn5 {
	c := &conn5{conn: newConn(nc, watch, func() {})}
	c.scan.five = true
	c.out = bufio.NewWriter(c.conn)
	return c
}

// Write implements net.Conn. It is called with the lock held.
func (c *conn5) Write(p []byte) (int, error) { return c.out.Write(p) }

// Unlock implements sync.Locker. After a failed write the broker's last words
// may still be there to be read, but not for long.
func (c *conn5) Unlock() {
	if err := c.out.Flush(); err != nil {
		_ = c.SetReadDeadline(time.Now().Add(quiesce)) // fails where the connection is closed
	}
	c.Mutex.Unlock()
}

// session keeps the library from writing to a connection that is lost. Nothing
// else orders a PUBREC that was just read and the end of the connection, and the
// library would write the PUBREL to nil. It lives as long as its connection, so
// that nothing is sent again.
type session struct {
	*state.State

	mu   sync.Mutex
	lost bool
}

var _ session5.SessionManager = (*session)(nil)

// PacketReceived implements session.SessionManager.
func (s *session) PacketReceived(p *packets5.ControlPacket, to chan<- *packets5.Publish) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost {
		return nil
	}
	return s.State.PacketReceived(p, to)
}

// ConnectionLost implements session.SessionManager.
func (s *session) ConnectionLost(d *packets5.Disconnect) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = true
	return s.State.ConnectionLost(d)
}

// noAuth hears of an authentication that was not asked for; without it the
// library would panic. The scanner lets no AUTH through.
type noAuth struct{}

// Authenticate is never called.
func (noAuth) Authenticate(*paho5.Auth) *paho5.Auth { return &paho5.Auth{} }

// Authenticated is called for a CONNACK that names a method.
func (noAuth) Authenticated() {}

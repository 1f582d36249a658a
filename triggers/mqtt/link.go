package mqtt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/edgefn/edgefn/triggers/mqtt/replay"
)

const (
	connackTimeout = 10 * time.Second // from an open connection to CONNACK
	subackTimeout  = 20 * time.Second
	pingTimeout    = 10 * time.Second
	quiesce        = 500 * time.Millisecond // for acknowledgements and DISCONNECT to leave
	subackFailure  = 0x80                   // [MQTT-3.9.3-2]
)

var (
	// errRefused: the broker answered, and the answer is no. Trying again helps
	// only once somebody has changed something.
	errRefused = errors.New("refused")
	// errClosed: the link was closed from this side.
	errClosed = errors.New("connection closed")
)

// linkConfig says how to connect.
type linkConfig struct {
	broker    endpoint
	clientID  string
	clean     bool          // end the session of this client id and have none [MQTT-3.1.2-6]
	keepAlive time.Duration // whole seconds
	watcher   watcher       // nil for a link that receives nothing
	window    uint16        // messages of QoS 1 and 2 that may be unacknowledged; 3.1.1 has no word for it; 0: any
}

// watcher hears what happens on a link. Its methods must not block.
type watcher interface {
	// accepted comes first; present tells whether the broker has kept the
	// session, five whether MQTT 5 is spoken. The link itself may still be on its
	// way to connect's caller.
	accepted(present, five bool)
	// receive gets each message, from one goroutine, in order of arrival.
	receive(m Message, how replay.Kind, ack func())
	// released tells of a PUBREL.
	released(packetID uint16)
	// lost comes once, from any goroutine: nothing written from now on arrives.
	lost()
}

// ignore is the watcher of a link that receives nothing.
type ignore struct{}

func (ignore) accepted(bool, bool)                  {}
func (ignore) receive(Message, replay.Kind, func()) {}
func (ignore) released(uint16)                      {}
func (ignore) lost()                                {}

// link is one connection: it is made, it ends, and is not used again.
type link struct {
	ending
	client paho.Client
	conn   *conn
}

var (
	_ wire     = (*link)(nil)
	_ receiver = (*link)(nil)
)

// dial reads the password and opens the network connection.
func (c linkConfig) dial(ctx context.Context) (password string, nc net.Conn, err error) {
	password, err = c.broker.password()
	if err != nil {
		return "", nil, err
	}
	nc, err = c.broker.dial(ctx)
	if err != nil {
		return "", nil, c.failed(err)
	}
	return password, nc, nil
}

// connect opens a link. It returns once the broker has accepted it; messages
// may have been received by then.
func connect(ctx context.Context, cfg linkConfig) (*link, error) {
	password, nc, err := cfg.dial(ctx)
	if err != nil {
		return nil, err
	}
	w := cfg.watcher
	if w == nil {
		w = ignore{}
	}
	l := &link{ending: newEnding()}
	l.conn = newConn(nc, func(kind byte, body []byte) {
		switch {
		case kind == packetConnack && body[1] == packets.Accepted:
			w.accepted(body[0]&1 != 0, false) // [MQTT-3.2.2-2]
		case kind == packetPubrel:
			w.released(uint16(body[0])<<8 | uint16(body[1]))
		}
	}, w.lost)
	opts := paho.NewClientOptions().
		AddBroker("tcp://broker"). // not dialled: the connection is open
		SetCustomOpenConnectionFn(func(*url.URL, paho.ClientOptions) (net.Conn, error) { return l.conn, nil }).
		SetClientID(cfg.clientID).
		SetUsername(cfg.broker.Username).
		SetPassword(password).
		SetProtocolVersion(4). // 3.1.1, and no second try with 3.1
		SetCleanSession(cfg.clean).
		SetStore(noStore{}).
		SetOrderMatters(true).
		SetAutoAckDisabled(true).
		SetAutoReconnect(false).
		SetConnectRetry(false).
		SetResumeSubs(false).
		SetConnectTimeout(connackTimeout).
		SetKeepAlive(cfg.keepAlive).
		SetPingTimeout(pingTimeout).
		SetWriteTimeout(writeTimeout).
		SetConnectionLostHandler(func(_ paho.Client, err error) { l.end(err) }).
		SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) {
			how := replay.Unknown
			if m.Retained() {
				how = replay.Replayed // [MQTT-3.3.1-8]
			}
			w.receive(Message{
				Topic: m.Topic(), Payload: m.Payload(), QoS: m.Qos(),
				Retain: m.Retained(), Dup: m.Duplicate(), PacketID: m.MessageID(),
			}, how, m.Ack)
		})
	l.client = paho.NewClient(opts)
	token := l.client.Connect()
	select {
	case <-token.Done():
	case <-ctx.Done():
		_ = nc.Close() // this ends the handshake
		<-token.Done()
		l.close()
		return nil, ctx.Err()
	}
	if err := token.Error(); err != nil {
		_ = nc.Close() // its error adds nothing
		return nil, connackError(cfg, token, err)
	}
	return l, nil
}

// connackError says why the broker did not accept the connection.
func connackError(cfg linkConfig, token paho.Token, err error) error {
	var code byte
	if t, ok := token.(*paho.ConnectToken); ok {
		code = t.ReturnCode()
	}
	switch code {
	case packets.ErrRefusedBadUsernameOrPassword, packets.ErrRefusedNotAuthorised:
		return cfg.userRefused(err)
	case packets.ErrRefusedIDRejected:
		return cfg.idRefused(err)
	case packets.ErrRefusedBadProtocolVersion:
		return fmt.Errorf("broker %q %w MQTT 3.1.1 (%w)", cfg.broker.Name, errRefused, err)
	default:
		return cfg.failed(err)
	}
}

func (c linkConfig) userRefused(err error) error {
	user := fmt.Sprintf("user %q", c.broker.Username)
	if c.broker.Username == "" {
		user = "a client without a user name"
	}
	name := c.broker.Name
	return fmt.Errorf("broker %q %w %s (%w); check brokers.%s.username and password_file, and the broker's access rules", name, errRefused, user, err, name)
}

func (c linkConfig) idRefused(err error) error {
	return fmt.Errorf("broker %q %w the client id %q (%w); it may take only 23 letters and digits", c.broker.Name, errRefused, c.clientID, err)
}

func (c linkConfig) failed(err error) error {
	return fmt.Errorf("connect to broker %q at %s: %w", c.broker.Name, c.broker.URL, err)
}

// alive reports whether what is written now may arrive.
func (l *link) alive() bool {
	select {
	case <-l.down:
		return false
	default:
		return !l.conn.gone.Load()
	}
}

// close says goodbye where that is possible and ends the link. The broker
// publishes no will then and keeps the session, unless it is a clean one.
func (l *link) close() {
	if l.alive() {
		l.client.Disconnect(uint(quiesce / time.Millisecond))
	}
	l.end(errClosed)
	_ = l.conn.Close()      // may be closed by the client already
	l.client.Disconnect(50) // what is left of the client, if the goodbye did not get through
}

// subscribe implements receiver.
func (l *link) subscribe(ctx context.Context, filter string, qos byte) (granted byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, subackTimeout)
	defer cancel()
	token := l.client.Subscribe(filter, qos, nil)
	select {
	case <-token.Done():
	case <-l.down:
		return 0, fmt.Errorf("subscribe to %q: connection lost: %w", filter, l.reason())
	case <-ctx.Done():
		return 0, fmt.Errorf("subscribe to %q: no answer from the broker: %w", filter, ctx.Err())
	}
	if err := token.Error(); err != nil {
		if !l.alive() { // the token's error says only that; the reason follows
			wait, stop := context.WithTimeout(ctx, quiesce)
			defer stop()
			select {
			case <-l.down:
				err = fmt.Errorf("connection lost: %w", l.reason())
			case <-wait.Done():
			}
		}
		return 0, fmt.Errorf("subscribe to %q: %w", filter, err)
	}
	granted = subackFailure
	if t, ok := token.(*paho.SubscribeToken); ok {
		for _, code := range t.Result() { // one filter, one code
			granted = code
		}
	}
	if granted > 2 {
		return 0, fmt.Errorf("the broker %w the subscription to %q; its access rules do not allow this user or client id to read there", errRefused, filter)
	}
	return granted, nil
}

// publish implements wire. It blocks while the connection takes nothing, up to
// writeTimeout. Over MQTT 3.1.1 a broker cannot refuse a message in words.
func (l *link) publish(ctx context.Context, m outgoing) error {
	token := l.client.Publish(m.topic, m.qos, m.retain, m.data)
	select {
	case <-token.Done():
	case <-l.down:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-token.Done(): // an acknowledgement that came just before the end counts
		if errors.Is(token.Error(), paho.ErrNotConnected) {
			return errNotSent
		}
		return token.Error()
	default:
		return l.reason()
	}
}

// noStore keeps nothing: what was not acknowledged is sent again by the broker,
// and what was not published is kept by whoever publishes.
type noStore struct{}

var _ paho.Store = noStore{}

// Open implements paho.Store.
func (noStore) Open() {}

// Put implements paho.Store.
func (noStore) Put(string, packets.ControlPacket) {}

// Get implements paho.Store.
func (noStore) Get(string) packets.ControlPacket { return nil }

// All implements paho.Store.
func (noStore) All() []string { return nil }

// Del implements paho.Store.
func (noStore) Del(string) {}

// Close implements paho.Store.
func (noStore) Close() {}

// Reset implements paho.Store.
func (noStore) Reset() {}

// EndSession ends the session that a broker keeps for a client id: its
// subscription and the messages that wait in it. Nobody may use the id at the
// time. It is for a trigger that is removed.
func EndSession(ctx context.Context, b Broker, clientID string) error {
	if err := b.Validate(); err != nil {
		return err
	}
	cfg := linkConfig{broker: b.endpoint(nil), clientID: clientID, clean: true, keepAlive: 30 * time.Second}
	var l interface{ close() }
	var err error
	if b.Version == version5 {
		l, _, err = connect5(ctx, cfg)
	} else { // which brokers of MQTT 5 speak too
		l, err = connect(ctx, cfg)
	}
	if err != nil {
		return fmt.Errorf("end session %q: %w", clientID, err)
	}
	l.close()
	return nil
}

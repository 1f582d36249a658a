package mqtt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edgefn/edgefn/functions"
)

// What becomes of a message that is not acknowledged. Each error of Publish and
// PublishAlone is one of these.
var (
	// ErrOffline: there is no connection, or it ended for a reason that is known
	// and has nothing to do with the message. Publish it again.
	ErrOffline = errors.New("broker is not reachable")
	// ErrRefused: the broker takes no such message, and will not take it the
	// next time. The error's text says why.
	ErrRefused = errors.New("broker does not take the message")
	// ErrHungUp: the connection ended, or the broker did not answer in time,
	// while the message was sent and not acknowledged. It may have arrived, and
	// it may be what the broker hung up on, as brokers of MQTT 3.1.1 do with
	// messages that they do not take. From Publish it is a suspicion, which the
	// other messages in flight share; PublishAlone then tells.
	ErrHungUp = errors.New("connection ended before the broker acknowledged")
	// ErrNoAnswer: the context was done first; it wraps the context's error. The
	// message may yet arrive.
	ErrNoAnswer = errors.New("broker has not acknowledged in time")
)

// maxCarriedFailures bounds how far the back-off grows after connections that
// carried messages: what the broker hung up on may be a message, and each new one
// of its kind would make all others wait longer. It does grow, for it may also be
// another client with the same id.
const maxCarriedFailures = 4

// PublisherConfig configures a Publisher. Broker and ClientID are needed.
type PublisherConfig struct {
	Broker    Broker
	ClientID  string       // of its own: no Source and no other Publisher may use it
	Logger    *slog.Logger // nil discards
	KeepAlive time.Duration
	Backoff   Backoff
	// MaxInFlight is how many messages may wait for their acknowledgement at a
	// time; 0: 64. A broker may take fewer. Publish waits for its turn beyond that.
	MaxInFlight int
}

// Publisher publishes to one broker over one connection, with a clean session
// and no store: it sends a message once, and what is not acknowledged is its
// caller's to keep. Its methods are safe for concurrent use.
type Publisher struct {
	cfg     PublisherConfig
	log     *slog.Logger
	opener  *opener
	contest contest // Run's
	running atomic.Bool
	alone   chan struct{} // one place: PublishAlone waits for its turn
	stopped chan struct{} // closed when Run ends

	mu     sync.Mutex
	outlet *outlet // nil: offline
	limits limits  // of the newest connection
	state  string
	err    error
}

// NewPublisher makes a Publisher.
func NewPublisher(cfg PublisherConfig) (*Publisher, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.KeepAlive == 0 {
		cfg.KeepAlive = 30 * time.Second
	}
	if cfg.MaxInFlight <= 0 {
		cfg.MaxInFlight = 64
	}
	cfg.Backoff = cfg.Backoff.withDefaults()
	if err := errors.Join(cfg.Broker.Validate(), checkClient(cfg.ClientID, cfg.KeepAlive)); err != nil {
		return nil, fmt.Errorf("publisher to broker %q: %w", cfg.Broker.Name, err)
	}
	log := cfg.Logger.With("component", "mqtt", keyBroker, cfg.Broker.Name)
	return &Publisher{
		cfg: cfg, log: log, state: StateConnecting, limits: unknown,
		opener: &opener{
			broker: cfg.Broker.endpoint(log), keepAlive: cfg.KeepAlive, maxInFlight: cfg.MaxInFlight,
			negotiation: negotiation{version: cfg.Broker.Version, log: log},
		},
		contest: contest{backoff: cfg.Backoff},
		alone:   make(chan struct{}, 1), stopped: make(chan struct{}),
	}, nil
}

// Status tells the state, one of the State constants, and the last error. Once
// connected that is nil, or that another client has the same client id.
func (p *Publisher) Status() (state string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state, p.err
}

// Limits tells what the broker said it takes when it was connected to last:
// bytes of a whole packet (0: any), whether it retains messages, and the highest
// QoS. known is false where it said nothing, which is so over MQTT 3.1.1 and
// before the first connection. Publish goes by it.
func (p *Publisher) Limits() (maxPacket uint32, retain bool, maxQoS byte, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.limits.packet, p.limits.retain, p.limits.qos, p.limits.known
}

func (p *Publisher) set(o *outlet, state string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.outlet, p.state, p.err = o, state, err
	if o != nil {
		p.limits = o.limits
	}
}

// Run connects and stays connected until ctx is done; then it disconnects and
// returns nil. It runs once.
func (p *Publisher) Run(ctx context.Context) error {
	if !p.running.CompareAndSwap(false, true) {
		return errors.New("publisher was run before; make a new one")
	}
	p.stayConnected(ctx)
	p.set(nil, StateStopped, nil)
	close(p.stopped)
	p.alone <- struct{}{} // waits for a PublishAlone under way, and lets no other in
	return nil
}

func (p *Publisher) stayConnected(ctx context.Context) {
	failures := 0
	for {
		lasted, o, err := p.session(ctx)
		if ctx.Err() != nil {
			return
		}
		// What a broker hangs up on without a word may be a message, if there was one.
		if o != nil && (p.contest.on() || takenOver(err) || !o.used.Load()) {
			p.contest.ended(lasted, err)
		}
		failures = p.contest.failures(failures, lasted)
		switch {
		case o == nil:
		case p.contest.on():
			err = p.contest.err(p.cfg.Broker.Name, p.cfg.ClientID)
		case o.carried.Load():
			failures = min(failures, maxCarriedFailures)
		}
		state := StateOffline
		if errors.Is(err, errRefused) {
			state = StateRefused
		}
		p.set(nil, state, err)
		wait := p.cfg.Backoff.jittered(failures)
		p.log.Warn("no connection", keyErr, err, keyRetryIn, wait.Round(time.Millisecond).String())
		sleep(ctx, nil, wait)
	}
}

// session is one connection; o is nil where the broker did not accept it.
func (p *Publisher) session(ctx context.Context) (lasted time.Duration, o *outlet, err error) {
	o, err = p.opener.open(ctx, p.cfg.ClientID)
	if err != nil {
		return 0, nil, err
	}
	defer o.close()
	up := time.Now()
	p.set(o, StateConnected, p.contest.err(p.cfg.Broker.Name, p.cfg.ClientID))
	p.log.Info("connected")
	var calm <-chan time.Time
	if p.contest.on() {
		calm = time.After(p.contest.calm())
	}
	for {
		select {
		case <-ctx.Done():
			return 0, nil, ctx.Err()
		case <-o.ended():
			p.set(nil, StateOffline, o.reason())
			return time.Since(up), o, fmt.Errorf("connection to broker %q lost: %w", p.cfg.Broker.Name, o.reason())
		case <-calm:
			p.contest.over()
			p.set(o, StateConnected, nil)
			p.log.Info("no other client uses the client id any more", keyClient, p.cfg.ClientID)
		}
	}
}

// Publish sends a message and returns nil once the broker has acknowledged it
// (QoS 1: PUBACK, QoS 2: PUBCOMP) or, with QoS 0, once it is written. Otherwise
// its error is one of ErrOffline, which comes at once when there is no
// connection, ErrRefused, ErrHungUp and ErrNoAnswer. data must not change until
// the connection is through with it, which after an error may be later than
// Publish's return: give it a copy.
//
// Over MQTT 3.1.1 the message goes without its properties, since that protocol has
// none. One that has expired when its turn comes is not sent, which is no error.
// m.Broker is not looked at.
func (p *Publisher) Publish(ctx context.Context, m functions.Publish) error {
	out, err := newOutgoing(m)
	if err == nil {
		err = p.publish(ctx, out)
	}
	return p.tell(out, err)
}

// PublishAlone is Publish over a connection of its own, for a message that
// ErrHungUp has made suspect: while it is under way no other message can be
// what the broker hangs up on, and none suffers when it does. It returns
// ErrHungUp only when the broker had accepted that connection; a broker that
// does not is ErrOffline. One call at a time is served; others wait.
//
// The connection has the publisher's client id with "-alone" after it: a
// broker's rules for client ids must allow both.
func (p *Publisher) PublishAlone(ctx context.Context, m functions.Publish) error {
	out, err := newOutgoing(m)
	if err == nil {
		err = p.publishAlone(ctx, out)
	}
	return p.tell(out, err)
}

func newOutgoing(m functions.Publish) (outgoing, error) {
	out := outgoing{topic: m.Topic, data: m.Data, qos: m.QoS, retain: m.Retain, Properties: m.Properties}
	if err := errors.Join(functions.CheckTopic(m.Topic), m.Check()); err != nil {
		return out, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if m.QoS > 2 {
		return out, fmt.Errorf("%w: its QoS is %d; use 0, 1 or 2", ErrRefused, m.QoS)
	}
	return out, nil
}

func (p *Publisher) publish(ctx context.Context, m outgoing) error {
	p.mu.Lock()
	o, err := p.outlet, p.err
	p.mu.Unlock()
	if o == nil {
		return offline(err)
	}
	return o.send(ctx, m)
}

func (p *Publisher) publishAlone(ctx context.Context, m outgoing) error {
	if !p.running.Load() {
		return ErrOffline
	}
	select {
	case p.alone <- struct{}{}:
	case <-p.stopped:
		return ErrOffline
	case <-ctx.Done():
		return fmt.Errorf("%w: another message is sent alone before it: %w", ErrNoAnswer, ctx.Err())
	}
	defer func() { <-p.alone }()
	line, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-p.stopped:
			cancel()
		case <-line.Done():
		}
	}()
	err := p.overOwnLine(line, m)
	if err != nil && line.Err() != nil && ctx.Err() == nil { // Run has ended
		return ErrOffline
	}
	return err
}

func (p *Publisher) overOwnLine(ctx context.Context, m outgoing) error {
	o, err := p.opener.open(ctx, p.cfg.ClientID+"-alone")
	switch {
	case ctx.Err() != nil && err != nil:
		return fmt.Errorf("%w: %w", ErrNoAnswer, ctx.Err())
	case err != nil:
		return offline(err)
	}
	defer o.close()
	err = o.send(ctx, m)
	var d *disconnectError
	if errors.Is(err, ErrHungUp) && errors.As(err, &d) && d.refusal() {
		return fmt.Errorf("%w: %w", ErrRefused, d)
	}
	return err
}

// tell gives a fault the message's topic and the broker's name.
func (p *Publisher) tell(m outgoing, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("publish to %q at broker %q: %w", m.topic, p.cfg.Broker.Name, err)
}

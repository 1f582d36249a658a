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

// ErrOffline is returned by Publish when there is no connection, or when it was
// lost before the broker acknowledged. The message may or may not have arrived:
// publish it again.
var ErrOffline = errors.New("broker is not reachable")

// ErrNoAnswer is returned by Publish when its context was done before the
// broker acknowledged. The message may yet arrive: publish it again.
var ErrNoAnswer = errors.New("broker has not acknowledged in time")

// ackTimeout is how long a broker may take to acknowledge a message. Then the
// connection is given up, so that its place in flight is free again.
const ackTimeout = 30 * time.Second

// PublisherConfig configures a Publisher. Broker and ClientID are needed.
type PublisherConfig struct {
	Broker    Broker
	ClientID  string       // of its own: no Source and no other Publisher may use it
	Logger    *slog.Logger // nil discards
	KeepAlive time.Duration
	Backoff   Backoff
	// MaxInFlight is how many messages may wait for their acknowledgement at a
	// time; 0: 64. Publish waits for its turn beyond that.
	MaxInFlight int
}

// Publisher publishes to one broker over one connection, with a clean session
// and no store: what is not acknowledged is its caller's to keep. Its methods
// are safe for concurrent use.
type Publisher struct {
	cfg     PublisherConfig
	log     *slog.Logger
	running atomic.Bool
	slots   chan struct{} // MaxInFlight; Publish waits for a free one
	stopped chan struct{} // closed when Run ends

	mu    sync.Mutex
	link  *link // nil: offline
	state string
	err   error
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
	return &Publisher{
		cfg: cfg, state: StateConnecting, slots: make(chan struct{}, cfg.MaxInFlight), stopped: make(chan struct{}),
		log: cfg.Logger.With("component", "mqtt", keyBroker, cfg.Broker.Name),
	}, nil
}

// Status tells the state, one of the State constants, and the last error, nil
// once connected.
func (p *Publisher) Status() (state string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state, p.err
}

func (p *Publisher) set(l *link, state string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.link, p.state, p.err = l, state, err
}

// Run connects and stays connected until ctx is done; then it disconnects and
// returns nil. It runs once.
func (p *Publisher) Run(ctx context.Context) error {
	if !p.running.CompareAndSwap(false, true) {
		return errors.New("publisher was run before; make a new one")
	}
	failures := 0
	for ctx.Err() == nil {
		lasted, err := p.session(ctx)
		if ctx.Err() != nil {
			break
		}
		failures = p.cfg.Backoff.failures(failures, lasted)
		state := StateOffline
		if errors.Is(err, errRefused) {
			state = StateRefused
		}
		p.set(nil, state, err)
		wait := p.cfg.Backoff.jittered(failures)
		p.log.Warn("no connection", keyErr, err, "retry_in", wait.Round(time.Millisecond).String())
		sleep(ctx, nil, wait)
	}
	p.set(nil, StateStopped, nil)
	close(p.stopped)
	// Publishes under way end with their link; taking every slot waits for them.
	for range cap(p.slots) {
		p.slots <- struct{}{}
	}
	return nil
}

func (p *Publisher) session(ctx context.Context) (lasted time.Duration, err error) {
	l, err := connect(ctx, linkConfig{broker: p.cfg.Broker, clientID: p.cfg.ClientID, clean: true, keepAlive: p.cfg.KeepAlive})
	if err != nil {
		return 0, err
	}
	defer l.close()
	up := time.Now()
	p.set(l, StateConnected, nil)
	p.log.Info("connected")
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-l.down:
		p.set(nil, StateOffline, l.reason())
		return time.Since(up), fmt.Errorf("connection to broker %q lost: %w", p.cfg.Broker.Name, l.reason())
	}
}

// Publish sends a message and returns nil once the broker has acknowledged it
// (QoS 1: PUBACK, QoS 2: PUBCOMP) or, with QoS 0, once it is written. It fails
// with ErrOffline at once when there is no connection, and in any case when ctx
// is done. data must not change until the connection is through with it, which
// after an error may be later than Publish's return: give it a copy.
func (p *Publisher) Publish(ctx context.Context, topic string, data []byte, qos byte, retain bool) error {
	if err := functions.CheckTopic(topic); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	if qos > 2 {
		return fmt.Errorf("publish to %q: QoS is %d; use 0, 1 or 2", topic, qos)
	}
	if err := p.publish(ctx, topic, data, qos, retain); err != nil {
		return fmt.Errorf("publish to %q at broker %q: %w", topic, p.cfg.Broker.Name, err)
	}
	return nil
}

func (p *Publisher) publish(ctx context.Context, topic string, data []byte, qos byte, retain bool) error {
	if l, err := p.current(); l == nil {
		return offline(err)
	}
	select {
	case p.slots <- struct{}{}:
	case <-p.stopped:
		return ErrOffline
	case <-ctx.Done():
		return fmt.Errorf("%w: %d messages are in flight before it: %w", ErrNoAnswer, cap(p.slots), ctx.Err())
	}
	l, err := p.current()
	if l == nil {
		<-p.slots
		return offline(err)
	}
	done := make(chan error, 1)
	go func() { // it outlives this call only when ctx ends first, and never the link
		defer func() { <-p.slots }()
		done <- l.send(topic, data, qos, retain)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrNoAnswer, ctx.Err())
	}
}

func (p *Publisher) current() (*link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.link, p.err
}

func offline(err error) error {
	if err == nil {
		return ErrOffline
	}
	return fmt.Errorf("%w: %w", ErrOffline, err)
}

// send publishes and waits until the broker has it or the link has ended. The
// link ends when the broker does not answer.
func (l *link) send(topic string, data []byte, qos byte, retain bool) error {
	done, failed := l.publish(topic, data, qos, retain)
	timeout := time.NewTimer(ackTimeout)
	defer timeout.Stop()
	select {
	case <-done:
		if err := failed(); err != nil {
			return offline(err)
		}
		return nil
	case <-l.down:
		return offline(l.reason())
	case <-timeout.C:
		l.end(fmt.Errorf("the broker did not acknowledge a message within %s", ackTimeout))
		return offline(l.reason())
	}
}

package mqtt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edgefn/edgefn/triggers"
)

// Why a link was ended from this side, though nothing was wrong with it.
var (
	errResync = errors.New("connecting anew: the function has caught up and the broker shall send the rest")
	errLetGo  = errors.New("connecting anew: the node gave an event back unsettled and the broker shall send it again")
)

// maxWindow is how many messages of QoS 1 and 2 a broker of MQTT 5 is allowed to
// have unacknowledged. Mosquitto takes it in place of its own bound of 20.
const maxWindow = 256

// Source hands the messages of one trigger to the node. Its methods are safe
// for concurrent use.
type Source struct {
	cfg         SourceConfig
	log         *slog.Logger
	broker      endpoint
	negotiation negotiation
	running     atomic.Bool

	in      inbox
	contest contest // Run's

	mu    sync.Mutex
	state string
	err   error
}

// receiver is one connection to a broker that messages come in on, of whatever
// version of MQTT. A watcher gets them.
type receiver interface {
	// subscribe asks for a filter and returns the QoS that was granted. A refusal
	// is an errRefused.
	subscribe(ctx context.Context, filter string, qos byte) (granted byte, err error)
	// ended is closed once the connection has ended; reason then tells why.
	ended() <-chan struct{}
	reason() error
	// close says goodbye where that is possible, and leaves no goroutine. The
	// broker keeps the session.
	close()
}

// SourceStats counts since the Source was made.
type SourceStats struct {
	Connects  uint64 // connections that the broker accepted
	Delivered uint64 // events that the Sink took
	Repeats   uint64 // messages recognised as sent again
	Replays   uint64 // retained messages that came again and that the function has had
	Dropped   uint64 // QoS 0 messages dropped because too many waited
	NoID      uint64 // events without the id that the trigger asks for
}

// NewSource makes a Source. It reports every fault of cfg at once.
func NewSource(cfg SourceConfig) (*Source, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("trigger %q of function %q: %w", cfg.Binding.Trigger.Name, cfg.Binding.Function, err)
	}
	s := &Source{
		cfg: cfg, state: StateConnecting,
		log: cfg.Logger.With("component", "mqtt", keyBroker, cfg.Broker.Name,
			keyFunction, cfg.Binding.Function, keyTrigger, cfg.Binding.Trigger.Name),
	}
	s.broker, s.contest.backoff = cfg.Broker.endpoint(s.log), cfg.Backoff
	s.negotiation = negotiation{version: cfg.Broker.Version, log: s.log}
	s.in.init(cfg, s.log)
	return s, nil
}

// Status tells the state, one of the State constants, and why it is so: the
// last error, or nil once all is well.
func (s *Source) Status() (state string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.err
}

func (s *Source) set(state string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state, s.err = state, err
}

// Stats returns the counters.
func (s *Source) Stats() SourceStats { return s.in.snapshot() }

// Run connects, stays connected and hands events to the Sink until ctx is
// done. Then it takes no more, waits up to SourceConfig.Drain for what the Sink
// has taken to be settled, acknowledges it and returns nil. It runs once.
//
// An event that is settled after Run has returned is not acknowledged; the
// broker sends its message again in the next run.
func (s *Source) Run(ctx context.Context) error {
	if !s.running.CompareAndSwap(false, true) {
		return errors.New("source was run before; make a new one")
	}
	s.recall(ctx)
	var wg sync.WaitGroup
	delivered := make(chan struct{})
	wg.Go(func() {
		defer close(delivered)
		s.deliver(ctx)
	})
	stop := make(chan struct{})
	wg.Go(func() { s.in.acknowledge(stop) })
	wg.Go(func() { s.remember(ctx, stop) })
	s.stayConnected(ctx, delivered)
	close(stop)
	wg.Wait()
	s.set(StateStopped, nil)
	return nil
}

// stayConnected makes one connection after the other until ctx is done.
func (s *Source) stayConnected(ctx context.Context, delivered <-chan struct{}) {
	failures := 0
	for ctx.Err() == nil {
		up, err := s.session(ctx, delivered)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errResync) {
			s.log.Info("connecting anew", keyErr, err)
			continue
		}
		lasted := time.Duration(0)
		if !up.IsZero() {
			lasted = time.Since(up)
		}
		if !up.IsZero() && !errors.Is(err, errLetGo) {
			s.contest.ended(lasted, err)
		}
		failures = s.contest.failures(failures, lasted)
		state := StateOffline
		switch {
		case errors.Is(err, errRefused):
			state = StateRefused
		case s.contest.on() && !up.IsZero():
			state, err = StateContested, s.contest.err(s.cfg.Broker.Name, s.cfg.ClientID)
		}
		s.set(state, err)
		wait := s.cfg.Backoff.jittered(failures)
		s.log.Warn("no connection", keyErr, err, keyRetryIn, wait.Round(time.Millisecond).String())
		sleep(ctx, nil, wait)
	}
}

// session is one connection from dialling to its end. up is when it was
// accepted.
func (s *Source) session(ctx context.Context, delivered <-chan struct{}) (up time.Time, err error) {
	l, w, err := s.connect(ctx)
	if err != nil {
		return time.Time{}, err
	}
	defer l.close()
	up = time.Now()
	if err := s.subscribe(ctx, l); err != nil && ctx.Err() == nil {
		return up, err
	}
	var calm <-chan time.Time
	if ctx.Err() == nil {
		s.log.Info("subscribed", "topic", s.cfg.Binding.Trigger.MQTT.Topic)
		if s.contest.on() { // what Status tells of it stays until it is over
			calm = time.After(s.contest.calm())
			s.set(StateContested, s.contest.err(s.cfg.Broker.Name, s.cfg.ClientID))
		} else {
			s.set(StateConnected, nil)
		}
	}
	for {
		select {
		case <-ctx.Done():
			s.drain(l, delivered)
			return up, ctx.Err()
		case <-l.ended():
			return up, fmt.Errorf("connection to broker %q lost: %w", s.cfg.Broker.Name, l.reason())
		case <-w.resync:
			return up, errResync
		case <-w.gaveBack:
			// Others may come with it; and a node that stops ends us soon.
			sleep(ctx, l.ended(), s.cfg.Backoff.First)
			return up, errLetGo
		case <-calm:
			s.contest.over()
			s.set(StateConnected, nil)
			s.log.Info("no other client uses the client id any more", keyClient, s.cfg.ClientID)
		}
	}
}

// connect opens a connection, over MQTT 5 where the broker speaks it. The session
// is the same in both versions. w hears of that connection.
func (s *Source) connect(ctx context.Context) (r receiver, w *connection, err error) {
	cfg := linkConfig{
		broker: s.broker, clientID: s.cfg.ClientID, keepAlive: s.cfg.KeepAlive,
		window: uint16(min(s.cfg.MaxHeld, maxWindow)),
	}
	err = s.negotiation.connect(func() error {
		w = s.in.next()
		cfg.watcher = w
		l, err := receive5(ctx, cfg)
		if err == nil {
			r = l
		}
		return err
	}, func() error {
		w = s.in.next()
		cfg.watcher = w
		l, err := connect(ctx, cfg)
		if err == nil {
			r = l
		}
		return err
	})
	return r, w, err
}

// subscribe tries until the broker grants the subscription. A broker that
// restarted may have forgotten it, so it is asked for on each connection.
func (s *Source) subscribe(ctx context.Context, l receiver) error {
	t := s.cfg.Binding.Trigger.MQTT
	for refusals := 1; ; refusals++ {
		granted, err := l.subscribe(ctx, t.Topic, t.QoS)
		if err == nil {
			if granted < t.QoS {
				s.log.Warn("broker granted a lower QoS", "topic", t.Topic, "asked", t.QoS, "granted", granted)
			}
			return nil
		}
		err = fmt.Errorf("broker %q: %w", s.cfg.Broker.Name, err)
		if !errors.Is(err, errRefused) {
			return err
		}
		s.set(StateRefused, err)
		wait := s.cfg.Backoff.jittered(refusals)
		s.log.Warn("subscription refused", keyErr, err, keyRetryIn, wait.Round(time.Millisecond).String())
		sleep(ctx, l.ended(), wait)
		select {
		case <-l.ended():
			return err
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
	}
}

// drain waits until nothing of what the Sink has taken is unsettled or
// unacknowledged.
func (s *Source) drain(l receiver, delivered <-chan struct{}) {
	timeout := time.NewTimer(s.cfg.Drain)
	defer timeout.Stop()
	settled := s.in.settled
	for first := true; first || !s.in.idle(); first = false {
		wait := delivered
		if !first {
			wait = settled
		}
		select {
		case <-wait:
		case <-l.ended():
			return
		case <-timeout.C:
			s.log.Warn("stopped with events unsettled; the broker will send them again")
			return
		}
	}
}

// deliver hands over what is in the queue, in order, until ctx is done. The
// Sink holds it up while the function is full.
func (s *Source) deliver(ctx context.Context) {
	b := s.cfg.Binding
	for {
		it, ok := s.in.take(ctx)
		if !ok {
			return
		}
		e, own := Event(s.cfg.Broker.Name, b.Trigger, it.msg, s.cfg.Now())
		s.in.countID(own || b.Trigger.ID == "")
		d := triggers.Delivery{Function: b.Function, Trigger: b.Trigger.Name, Event: e, OwnID: own, Repeat: it.msg.Dup, Settle: s.in.settler(it)}
		if !s.handOver(ctx, d) {
			d.Settle(triggers.ErrStopped)
			return
		}
		s.in.countDelivered()
		s.log.Debug("delivered", "topic", e.Subject, "id", e.ID)
	}
}

// handOver tries until the Sink takes d; the order of messages allows no other
// in between. It returns false when ctx is done first.
func (s *Source) handOver(ctx context.Context, d triggers.Delivery) bool {
	again := Backoff{First: 100 * time.Millisecond, Max: 5 * time.Second}
	for n := 1; ; n++ {
		err := s.cfg.Sink.Deliver(ctx, d)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if n == 1 || n%12 == 0 { // about once a minute
			s.log.Warn("event not taken; trying again", keyErr, err)
		}
		sleep(ctx, nil, again.jittered(n))
	}
}

// sleep waits for d, for ctx or for stop, whichever comes first.
func sleep(ctx context.Context, stop <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-stop:
	case <-ctx.Done():
	}
}

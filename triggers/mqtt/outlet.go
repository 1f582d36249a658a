package mqtt

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edgefn/edgefn/functions"
)

// ackTimeout is how long a broker may take to acknowledge a message. Then the
// connection is given up, so that its place in flight is free again.
const ackTimeout = 30 * time.Second

// errNotSent: the connection had ended before anything of the message was sent.
var errNotSent = errors.New("connection closed before the message was sent")

// outgoing is a message on its way to a broker.
type outgoing struct {
	topic                string
	data                 []byte
	qos                  byte
	retain               bool
	functions.Properties // which MQTT 3.1.1 has no place for
}

// wire is one connection to a broker that messages go out on, of whatever
// version of MQTT. It sends each message once: it has no store and no second
// connection.
type wire interface {
	// publish returns nil once the broker has acknowledged m (QoS 0: once it is
	// written), an ErrRefused when the broker said no, an errNotSent, and another
	// error when nobody can tell. After the last two the wire is of no more use.
	// It returns soon after ctx is done or the wire has ended. Up to the
	// broker's receive maximum it may be called concurrently.
	publish(ctx context.Context, m outgoing) error
	// ended is closed once the connection has ended; reason then tells why.
	ended() <-chan struct{}
	reason() error
	// end gives the connection up because of err; the first reason counts.
	end(err error)
	// close says goodbye where that is possible, and leaves no goroutine.
	close()
}

// ending is how a connection ends: once, with a reason.
type ending struct {
	down chan struct{} // closed when it has ended

	mu  sync.Mutex
	err error // why; set before down is closed
}

func newEnding() ending { return ending{down: make(chan struct{})} }

// end marks the connection as ended because of err; the first reason counts.
func (e *ending) end(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err == nil {
		e.err = err
		close(e.down)
	}
}

// reason says why the connection ended.
func (e *ending) reason() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

func (e *ending) ended() <-chan struct{} { return e.down }

// outlet sends messages over one wire, no more at a time than the broker takes,
// and tells of each what became of it.
type outlet struct {
	wire
	limits  limits
	slots   chan struct{} // one for each message in flight; a message waits for a free one
	used    atomic.Bool   // a message went out, or may have
	carried atomic.Bool   // the broker has acknowledged a message
	closing atomic.Bool   // it was closed before it had ended: that is no message's doing
}

func newOutlet(w wire, l limits, maxInFlight int) *outlet {
	return &outlet{wire: w, limits: l, slots: make(chan struct{}, max(1, min(maxInFlight, l.inFlight)))}
}

// send sends a message. Its errors are those of Publisher.Publish.
func (o *outlet) send(ctx context.Context, m outgoing) error {
	if err := o.limits.check(m); err != nil {
		return err
	}
	select {
	case o.slots <- struct{}{}:
	case <-o.ended():
		return offline(o.reason())
	case <-ctx.Done():
		return fmt.Errorf("%w: %d messages are in flight before it: %w", ErrNoAnswer, cap(o.slots), ctx.Err())
	}
	select {
	case <-o.ended(): // select chooses at random when both are ready
		<-o.slots
		return offline(o.reason())
	default:
	}
	if m.Expired(time.Now()) {
		<-o.slots
		return nil
	}
	o.used.Store(true)
	done := make(chan error, 1)
	go func() { //nolint:contextcheck // it outlives this call only when ctx ends first, and never close
		defer func() { <-o.slots }()
		done <- o.deliver(m)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrNoAnswer, ctx.Err())
	}
}

// deliver publishes m and waits for what becomes of it. A broker that does not
// answer loses the connection.
func (o *outlet) deliver(m outgoing) error {
	ctx, cancel := context.WithTimeout(context.Background(), ackTimeout)
	defer cancel()
	err := o.publish(ctx, m)
	switch {
	case err == nil:
		if m.qos > 0 {
			o.carried.Store(true)
		}
		return nil
	case errors.Is(err, ErrRefused):
		return err
	case ctx.Err() != nil:
		o.end(fmt.Errorf("the broker did not acknowledge a message within %s", ackTimeout))
	default:
		o.await()
		o.end(err)
	}
	var d *disconnectError
	if o.closing.Load() || errors.Is(err, errNotSent) || errors.As(o.reason(), &d) && d.blameless() {
		return offline(o.reason())
	}
	return fmt.Errorf("%w: %w", ErrHungUp, o.reason())
}

// await gives the connection time to say why it ended: a message learns of it
// first, and knows less.
func (o *outlet) await() {
	timer := time.NewTimer(2 * quiesce)
	defer timer.Stop()
	select {
	case <-o.ended():
	case <-timer.C:
	}
}

// close ends the outlet and waits for the messages that are under way.
func (o *outlet) close() {
	select {
	case <-o.ended():
	default:
		o.closing.Store(true)
	}
	o.wire.close()
	for range cap(o.slots) {
		o.slots <- struct{}{}
	}
}

func offline(err error) error {
	if err == nil {
		return ErrOffline
	}
	return fmt.Errorf("%w: %w", ErrOffline, err)
}

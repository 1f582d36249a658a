package node

import (
	"context"
	"fmt"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/settle"
	"github.com/edgefn/edgefn/node/settle/outbox"
	"github.com/edgefn/edgefn/triggers"
)

// surroundings is the node as settling sees it.
type surroundings struct{ n *Node }

var _ settle.Surroundings = surroundings{}

// Publish implements outbox.Sink.
func (s surroundings) Publish(ctx context.Context, m functions.Publish) error {
	p, ok := s.n.publishers[m.Broker]
	if !ok {
		return fmt.Errorf("this node has no broker %q any more", m.Broker)
	}
	return p.Publish(ctx, m)
}

// PublishAlone implements outbox.Sink.
func (s surroundings) PublishAlone(ctx context.Context, m functions.Publish) error {
	p, ok := s.n.publishers[m.Broker]
	if !ok {
		return fmt.Errorf("this node has no broker %q any more", m.Broker)
	}
	return p.PublishAlone(ctx, m)
}

// Function implements outbox.Sink.
func (s surroundings) Function(name string) *functions.Function {
	d, ok := s.n.deployer.Lookup(name)
	if !ok {
		return nil
	}
	return d.Service().Spec()
}

// Call implements outbox.Sink. The event carries an id that stays.
func (s surroundings) Call(ctx context.Context, function string, e functions.Event, repeat bool, settled func(error)) error {
	d, ok := s.n.deployer.Lookup(function)
	if !ok {
		return outbox.ErrGone
	}
	return d.Service().Deliver(ctx, triggers.Delivery{Function: function, Event: e, OwnID: true, Repeat: repeat, Settle: settled})
}

// Drive implements outbox.Sink.
func (s surroundings) Drive(ctx context.Context, function string, e functions.Effect) error {
	err := s.n.devices.Drive(ctx, function, e)
	if err != nil && s.n.devices.Gone(e, err) {
		return goneError{err}
	}
	return err
}

// goneError is outbox.ErrGone in the words of the devices.
type goneError struct{ error }

func (e goneError) Is(target error) bool { return target == outbox.ErrGone }
func (e goneError) Unwrap() error        { return e.error }

// Note implements outbox.Sink.
func (s surroundings) Note(function, level, text string) {
	if d, ok := s.n.deployer.Lookup(function); ok {
		d.Service().Note(level, "", text)
	}
}

// HasBroker implements settle.Surroundings.
func (s surroundings) HasBroker(name string) bool { return s.n.hasBroker(name) }

// HasFunction implements settle.Surroundings.
func (s surroundings) HasFunction(name string) bool {
	_, ok := s.n.deployer.Lookup(name)
	return ok
}

// IsOutput implements settle.Surroundings.
func (s surroundings) IsOutput(line string) bool { return s.n.devices.IsOutput(line) }

// ReadLine implements settle.Surroundings.
func (s surroundings) ReadLine(ctx context.Context, line string) (bool, error) {
	return s.n.devices.ReadLine(ctx, line)
}

// ReadSensor implements settle.Surroundings.
func (s surroundings) ReadSensor(ctx context.Context, sensor string) ([]byte, error) {
	return s.n.devices.ReadSensor(ctx, sensor)
}

// hasBroker reports whether the node knows a broker by this name.
func (n *Node) hasBroker(name string) bool {
	_, ok := n.cfg.Brokers[name]
	return ok || (name == functions.LocalBroker && n.local != nil)
}

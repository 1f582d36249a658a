package triggers

import (
	"context"
	"errors"

	"github.com/edgefn/edgefn/functions"
)

// Errors that a Settle function or a Sink receives or returns.
var (
	// ErrStopped is returned by Deliver when the node takes no more events. The
	// event was not taken: its sender must keep it.
	ErrStopped = errors.New("node is stopping")
	// ErrOverloaded is returned when a function's queue is full and the source
	// asked not to wait.
	ErrOverloaded = errors.New("function is overloaded")
)

// Delivery is one event for one trigger of one function.
type Delivery struct {
	Function string // name of the function
	Trigger  string // name of the trigger in that function
	Event    functions.Event

	// OwnID says that the event carries an id of its sender's, found where the
	// trigger's ID points: it takes effect once. Otherwise Event.ID was made up
	// here, and a repeat of the message has another.
	OwnID bool

	// Repeat says that the sender has handed the event over before, as far as it
	// knows: an MQTT message with DUP set. It may be what ended the node then, so
	// its attempts are counted where the end of the node does not reach them.
	Repeat bool

	// Settle is called exactly once after Deliver returned nil, from any
	// goroutine, and must not block. A nil error means that the event is
	// settled: handled, or durably dead-lettered; tell the sender. Any other
	// error means that the node let go of the event without settling it (it is
	// stopping): the sender must not be told, so that it delivers again.
	Settle func(err error)
}

// Sink takes events. The node implements it.
type Sink interface {
	// Deliver hands over one event. It blocks while the function's queue is
	// full, until ctx is done. The order of calls for one subject is the order
	// in which that subject's events are handled.
	Deliver(ctx context.Context, d Delivery) error
}

// Binding is a trigger of a function that a source must serve.
type Binding struct {
	Function string
	Trigger  functions.Trigger
}

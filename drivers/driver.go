package drivers

import (
	"context"
	"time"
)

// Driver is a kind of hardware. Its methods are safe for concurrent use. Their
// errors wrap ErrUnknown, ErrBusy or ErrFault, and say what to do.
type Driver interface {
	// Find says which line s.Line means, in a form that is the same for all
	// names of one line.
	Find(s Spec) (string, error)
	// Input takes a line to read it. The caller closes it.
	Input(s Spec) (Input, error)
	// Output takes a line and drives it, in one step. The caller closes it.
	Output(s Spec, high bool) (Output, error)
	// Sensor prepares a sensor. That it does not answer is no error here, but a
	// bus that is not there is one. The caller closes it.
	Sensor(s Spec) (Sensor, error)
	// Bus returns the path of a bus's device file.
	Bus(name string) (string, error)
	// Discover lists what the machine has. Device is left empty.
	Discover(ctx context.Context) ([]Found, error)
	// Close lets go of what the driver itself holds, after all that it gave out
	// is closed.
	Close() error
}

// Input is a line that is read. Levels are of the voltage.
type Input interface {
	Read() (high bool, err error)
	// Watch calls f with each edge, one after the other, until stop is called.
	// It calls f with an error once, as the last, when the line is lost. One watch at a
	// time. stop returns when f has returned, so f must not wait for stop.
	Watch(w Watch, f func(RawEdge, error)) (stop func(), err error)
	// Blind says that the edges of Watch carry no sequence number.
	Blind() bool
	Close() error
}

// Watch says which edges of an input are watched.
type Watch struct {
	Rising, Falling bool
	Debounce        time.Duration // the level must hold this long; 0: none
}

// RawEdge is an edge as a driver saw it.
type RawEdge struct {
	Rising bool          // the voltage rose
	Seq    uint32        // of the watch's edges, from 1, wrapping; 0 where the input is blind
	Kernel time.Duration // CLOCK_MONOTONIC
	Time   time.Time
}

// Output is a line that is driven. Levels are of the voltage. Its methods are
// not called concurrently.
type Output interface {
	// Set drives the line, and takes it anew if it was lost.
	Set(high bool) error
	// Close lets go of the line. Which level it takes then is up to the chip's kernel
	// driver: some keep it, some make it an input.
	Close() error
}

// Sensor is read. Its methods are not called concurrently.
type Sensor interface {
	// Read measures, which takes as long as the device converts. The values may
	// be nonsense; see SensorType.Check.
	Read() (map[Quantity]float64, error)
	Close() error
}

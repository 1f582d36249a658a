package functions

import (
	"fmt"
	"slices"
	"time"
)

// Runtime names what runs a function's code.
type Runtime string

// The runtimes that a manifest may name.
const (
	Python Runtime = "python"
	Node   Runtime = "node"
	Go     Runtime = "go"
	Exec   Runtime = "exec"
)

// Runtimes lists every runtime, in the order that help texts show them.
var Runtimes = []Runtime{Python, Node, Go, Exec}

// Isolation says what a process of a function may see of earlier events.
type Isolation string

const (
	// PerInvocation gives each event a process of its own that is gone afterwards.
	PerInvocation Isolation = "invocation"
	// PerInstance lets one process handle many events, one at a time.
	PerInstance Isolation = "instance"
)

// Order says which events of a trigger may run at the same time.
type Order string

const (
	// OrderSubject handles the events of one subject one at a time, in order of arrival.
	OrderSubject Order = "subject"
	// OrderNone handles events as they come, in parallel.
	OrderNone Order = "none"
)

// Full says what a full dead-letter queue does.
type Full string

const (
	// FullStop stops taking events of the function until there is room.
	FullStop Full = "stop"
	// FullDropOldest makes room by removing the oldest dead letter.
	FullDropOldest Full = "drop_oldest"
)

// Function is one function as its author configured it: the decoded manifest.
// Its JSON form is what the store and the control API carry.
type Function struct {
	Name           string            `json:"name"`
	Runtime        Runtime           `json:"runtime"`
	RuntimeVersion string            `json:"runtime_version,omitempty"` // constraint such as ">=3.9"; empty: any
	Handler        []string          `json:"handler"`                   // python, node: one "module:function"; go: one package path; exec: argv
	Image          string            `json:"image,omitempty"`           // base of the root; empty: the node's own /usr
	Memory         int64             `json:"memory"`                    // bytes, hard limit per instance
	Timeout        time.Duration     `json:"timeout"`                   // wall time per invocation, nanoseconds in JSON
	Isolation      Isolation         `json:"isolation"`
	Scale          Scale             `json:"scale"`
	Env            map[string]string `json:"env,omitempty"`
	Secrets        []string          `json:"secrets,omitempty"`
	Triggers       []Trigger         `json:"triggers,omitempty"`
	Output         *MQTTOutput       `json:"output,omitempty"`
	Hold           time.Duration     `json:"hold"`
	Retry          Retry             `json:"retry"`
	Dead           Dead              `json:"dead"`
	Dedupe         bool              `json:"dedupe,omitempty"`
	Grants         Grants            `json:"grants"`
	Place          Place             `json:"place"`
	Loop           string            `json:"loop,omitempty"` // "allow" or empty
}

// Scale bounds the instances of a function on one node.
type Scale struct {
	Min   int           `json:"min"`   // spares kept when idle
	Max   int           `json:"max"`   // instances at most
	Idle  time.Duration `json:"idle"`  // after this long with no event, down to Min
	Queue int           `json:"queue"` // events waiting at most; a full queue is back-pressure
}

// Trigger binds a source of events to a function. Exactly one kind is set.
type Trigger struct {
	Name   string         `json:"name"`
	MQTT   *MQTTTrigger   `json:"mqtt,omitempty"`
	GPIO   *GPIOTrigger   `json:"gpio,omitempty"`
	Sensor *SensorTrigger `json:"sensor,omitempty"`
	Order  Order          `json:"order"`
	ID     string         `json:"id,omitempty"` // of mqtt: JSON pointer (RFC 6901) to the event's id in its data
}

// Kind names the trigger's source of events as a manifest does; empty: none is set.
func (t *Trigger) Kind() string {
	switch {
	case t.MQTT != nil:
		return "mqtt"
	case t.GPIO != nil:
		return "gpio"
	case t.Sensor != nil:
		return "sensor"
	}
	return ""
}

// MQTTTrigger subscribes to a topic filter at a broker.
type MQTTTrigger struct {
	Topic  string `json:"topic"`
	QoS    byte   `json:"qos"`
	Broker string `json:"broker"` // a name from the node's config; "local" is the embedded one
}

// EdgeKind says which edges of a line are events.
type EdgeKind string

// Edges of a line, by its logical level: an active-low line rises when its
// voltage falls.
const (
	EdgeRising  EdgeKind = "rising"
	EdgeFalling EdgeKind = "falling"
	EdgeBoth    EdgeKind = "both"
)

// GPIOTrigger listens to the edges of an input line.
type GPIOTrigger struct {
	Line     string        `json:"line"` // a name under devices: in the node's config
	Edge     EdgeKind      `json:"edge"`
	Debounce time.Duration `json:"debounce,omitempty"` // the level must hold this long; 0: none
	// Coalesce makes one event, the last, of the edges that come while one is
	// handled. Otherwise each edge is an event.
	Coalesce bool `json:"coalesce,omitempty"`
}

// SensorEvent says which of a sensor's events a trigger wants.
type SensorEvent string

// Events of a sensor.
const (
	SensorReading   SensorEvent = "reading"
	SensorFault     SensorEvent = "fault"     // it has stopped giving readings
	SensorRecovered SensorEvent = "recovered" // it gives readings again
)

// SensorTrigger reads a sensor.
type SensorTrigger struct {
	Device string        `json:"device"` // a name under devices: in the node's config
	Every  time.Duration `json:"every"`
	// Change makes an event of a reading only if a quantity has moved this much
	// since the last event, in the quantity's unit. Empty: each reading is one.
	Change map[string]float64 `json:"change,omitempty"`
	Events []SensorEvent      `json:"events"`
}

// MQTTOutput says where a function's result is published.
type MQTTOutput struct {
	Topic  string `json:"topic"`
	QoS    byte   `json:"qos"`
	Retain bool   `json:"retain,omitempty"`
	Broker string `json:"broker"`
}

// Retry is the schedule of attempts after a failure.
type Retry struct {
	Attempts int           `json:"attempts"` // at least 1, the first one included
	First    time.Duration `json:"first"`    // wait before the second attempt
	Max      time.Duration `json:"max"`      // longest wait
}

// Dead bounds a function's dead-letter queue.
type Dead struct {
	Count int           `json:"count"`
	Bytes int64         `json:"bytes"`
	Age   time.Duration `json:"age"`
	Full  Full          `json:"full"`
}

// Grants is all that a function may touch beside its own event and state.
type Grants struct {
	Publish []string `json:"publish,omitempty"` // topic filters
	State   []string `json:"state,omitempty"`   // other functions' state: NAME or NAME/PREFIX
	Connect []string `json:"connect,omitempty"` // host:port
	Invoke  []string `json:"invoke,omitempty"`  // functions that it may invoke

	Lines   []LineGrant `json:"lines,omitempty"`   // outputs it may drive, inputs it may read
	Sensors []string    `json:"sensors,omitempty"` // sensors it may read
	Buses   []string    `json:"buses,omitempty"`   // buses it may use raw: i2c-1, spi0.0
}

// LineGrant is a line that a function may use. An output has one holder, unless
// all of its holders state a priority, each another: the line then takes what
// the one with the lowest number commands, as in BACnet's priority array
// (ASHRAE 135, clause 19.2).
type LineGrant struct {
	Line     string `json:"line"`
	Priority int    `json:"priority,omitempty"` // 1 (highest) to MaxPriority; 0: alone
}

// MaxPriority is the lowest priority of a line's holder.
const MaxPriority = 16

// Place constrains the nodes that may run a function.
type Place struct {
	Spread int               `json:"spread"`
	Where  map[string]string `json:"where,omitempty"`
}

// Defaults returns a function with every optional field at its default.
func Defaults() Function {
	return Function{
		Memory:    64 << 20,
		Timeout:   5 * time.Second,
		Isolation: PerInvocation,
		Scale:     Scale{Min: 0, Max: 8, Idle: 5 * time.Minute, Queue: 1000},
		Hold:      time.Second,
		Retry:     Retry{Attempts: 5, First: time.Second, Max: time.Minute},
		Dead:      Dead{Count: 10000, Bytes: 64 << 20, Age: 30 * 24 * time.Hour, Full: FullStop},
		Place:     Place{Spread: 1},
	}
}

// LocalBroker is the name of the embedded broker.
const LocalBroker = "local"

// MayPublish reports whether the function may publish to topic.
func (f *Function) MayPublish(topic string) bool {
	return slices.ContainsFunc(f.Grants.Publish, func(filter string) bool { return TopicMatches(filter, topic) })
}

// MayUseState reports whether the function may read and write key in the state
// space of the function named owner. Its own space needs no grant.
func (f *Function) MayUseState(owner, key string) bool {
	if owner == "" || owner == f.Name {
		return true
	}
	for _, g := range f.Grants.State {
		name, prefix := g, ""
		for i := range len(g) {
			if g[i] == '/' {
				name, prefix = g[:i], g[i+1:]
				break
			}
		}
		if name == owner && len(key) >= len(prefix) && key[:len(prefix)] == prefix {
			return true
		}
	}
	return false
}

// MayInvoke reports whether the function may invoke the function named name.
func (f *Function) MayInvoke(name string) bool { return slices.Contains(f.Grants.Invoke, name) }

// MayUseLine reports whether the function may use the line named name.
func (f *Function) MayUseLine(name string) bool {
	return slices.ContainsFunc(f.Grants.Lines, func(g LineGrant) bool { return g.Line == name })
}

// MayReadSensor reports whether the function may read the sensor named name.
func (f *Function) MayReadSensor(name string) bool { return slices.Contains(f.Grants.Sensors, name) }

// Backoff returns how long to wait after the given number of failed attempts,
// doubling from First up to Max:
//
//	wait(n) = min(First * 2^(n-1), Max)
//
// ok is false when no attempt is left. The caller adds jitter.
func (r Retry) Backoff(failed int) (wait time.Duration, ok bool) {
	if failed >= r.Attempts {
		return 0, false
	}
	wait = r.First
	for range failed - 1 {
		wait *= 2
		if wait >= r.Max {
			return r.Max, true
		}
	}
	return min(wait, r.Max), true
}

// String names the function for messages.
func (f *Function) String() string { return fmt.Sprintf("function %q", f.Name) }

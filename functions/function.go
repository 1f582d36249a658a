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
	Name  string       `json:"name"`
	MQTT  *MQTTTrigger `json:"mqtt,omitempty"`
	Order Order        `json:"order"`
	ID    string       `json:"id,omitempty"` // JSON pointer (RFC 6901) to the event's id in its data
}

// MQTTTrigger subscribes to a topic filter at a broker.
type MQTTTrigger struct {
	Topic  string `json:"topic"`
	QoS    byte   `json:"qos"`
	Broker string `json:"broker"` // a name from the node's config; "local" is the embedded one
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
}

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

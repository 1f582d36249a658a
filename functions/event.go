package functions

import "time"

// Event is something that happened, with CloudEvents 1.0 attributes.
type Event struct {
	ID              string            // unique within Source
	Type            string            // such as "edgefn.mqtt.message"
	Source          string            // such as "mqtt://local"
	Subject         string            // the topic, the line, the path
	Time            time.Time         // when it happened; zero if the source has no clock
	DataContentType string            // media type of Data; empty if unknown
	Expires         time.Time         // when it is of no more use and is not to be run; zero: never
	Extensions      map[string]string // further attributes, lower-case letters and digits
	Data            []byte
}

// Types of events.
const (
	TypeMQTT      = "edgefn.mqtt.message"
	TypeEdge      = "edgefn.gpio.edge"
	TypeReading   = "edgefn.sensor.reading"
	TypeFault     = "edgefn.sensor.fault"
	TypeRecovered = "edgefn.sensor.recovered"
	TypeInvoke    = "edgefn.invoke"
	TypePublish   = "edgefn.mqtt.publish" // a message on its way out, among dead letters
)

// Extensions of an MQTT event. Those of MQTT 5 are there if the message has
// them.
const (
	ExtMQTTQoS    = "mqttqos"    // "0", "1" or "2"
	ExtMQTTRetain = "mqttretain" // "true" or "false"
	ExtMQTTDup    = "mqttdup"    // "true" or "false"

	ExtMQTTResponseTopic = "mqttresponsetopic" // where an answer is expected
	ExtMQTTCorrelation   = "mqttcorrelation"   // what the answer carries, in base64 (RFC 4648, section 4), as CloudEvents has binary values
	ExtMQTTProperties    = "mqttproperties"    // the user properties, in order, as a JSON array of arrays [name, value]
	ExtMQTTOmitted       = "mqttomitted"       // how many user properties are left out for their number or size
	ExtMQTTUser          = "mqttuser"          // begins the name of the attribute of one user property: mqttuserNAME
)

// ExtExpiryTime is when the event expires, in RFC 3339: CloudEvents' extension for
// that. Event.Expires has it.
const ExtExpiryTime = "expirytime"

// Result is what a successful invocation gave back.
type Result struct {
	Data            []byte // nil: no output message
	DataContentType string
	Effects         []Effect // in the order that the function asked for them
}

// Effect is something that an invocation asks the node to do once it has
// succeeded: one of Put, Delete, Publish, Invoke, SetLine, PulseLine or
// ReleaseLine.
type Effect interface{ effect() }

// Put writes a value in a function's state space.
type Put struct {
	Function string // the owner of the space
	Key      string // UTF-8, 1 to MaxKey bytes
	Value    []byte // up to MaxValue bytes
}

// Delete removes a key from a function's state space; a key that is not there is no error.
type Delete struct {
	Function string
	Key      string
}

// Publish sends an MQTT message.
type Publish struct {
	Broker string // a name from the node's config; empty: the function's output broker, or the embedded one
	Topic  string
	Data   []byte
	QoS    byte
	Retain bool
	Properties
}

// Invoke hands an event to another function, asynchronously.
type Invoke struct {
	Function string
	Event    Event
}

// SetLine commands an output line: on is its active level. It takes place at
// least once.
type SetLine struct {
	Line string
	On   bool
}

// PulseLine commands an output line on, and off again after a time. It takes
// place at most once, also across a crash.
type PulseLine struct {
	Line string
	For  time.Duration // 1 ms to MaxPulse
}

// ReleaseLine gives the function's command of an output line up: the line takes
// the value of the next holder, or its safe value.
type ReleaseLine struct{ Line string }

func (Put) effect()         {}
func (Delete) effect()      {}
func (Publish) effect()     {}
func (Invoke) effect()      {}
func (SetLine) effect()     {}
func (PulseLine) effect()   {}
func (ReleaseLine) effect() {}

// Bounds on what a function writes.
const (
	MaxKey     = 512       // bytes of a state key
	MaxValue   = 512 << 10 // bytes of a state value
	MaxEffects = 512       // effects of one invocation
	MaxTopic   = 65535     // bytes of a topic name [MQTT-1.5.4]
)

// MaxPulse is the longest pulse of a line.
const MaxPulse = time.Minute

// Usage is what an invocation cost, from the kernel's accounting.
type Usage struct {
	Wall       time.Duration // from hand-over to the instance until its answer
	CPU        time.Duration // of the whole process tree
	PeakMemory int64         // bytes, of the whole process tree
	Cold       bool          // the event had to wait for its instance to start
}

// LineOf is the line that an effect commands; empty: it commands none.
func LineOf(e Effect) string {
	switch e := e.(type) {
	case SetLine:
		return e.Line
	case PulseLine:
		return e.Line
	case ReleaseLine:
		return e.Line
	}
	return ""
}

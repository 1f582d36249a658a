package drivers

import (
	"errors"
	"time"
)

// Errors of Devices. What wraps them says which device, why, and what to do.
var (
	// ErrUnknown: the config names no such device, or not of that kind.
	ErrUnknown = errors.New("device is not known")
	// ErrHeld: another function holds the line.
	ErrHeld = errors.New("line is taken")
	// ErrNotHeld: the function commands a line that it does not hold, or holds
	// no longer.
	ErrNotHeld = errors.New("line is not held by the function")
	// ErrShared: another function listens to the line in a way that does not
	// go together with what is asked.
	ErrShared = errors.New("line is shared")
	// ErrBusy: something else on the machine uses the line.
	ErrBusy = errors.New("line is in use")
	// ErrFault: the device does not answer, or answers nonsense.
	ErrFault = errors.New("device does not work")
	// ErrClosed: the devices are not open yet, or not any more.
	ErrClosed = errors.New("devices are not open")
)

// Direction of a line.
type Direction string

// Directions of a line.
const (
	In  Direction = "in"
	Out Direction = "out"
)

// Pull is the bias of an input.
type Pull string

// Biases of an input; empty leaves it as it is.
const (
	PullUp   Pull = "up"
	PullDown Pull = "down"
	PullOff  Pull = "off"
)

// Level of a line in the config: of its voltage, active_low or not.
type Level string

// Levels of a line.
const (
	Low  Level = "low"
	High Level = "high"
)

// Spec is a device as the node's config names it. It is a line where Line is
// set, a sensor where Sensor is.
type Spec struct {
	Name  string `yaml:"-"`
	Where string `yaml:"-"` // FILE:LINE of it, for messages

	Line      string    `yaml:"line"`       // gpiochip:LABEL/OFFSET, a line's name, or periph's name of a pin
	Direction Direction `yaml:"direction"`  // empty: in
	Pull      Pull      `yaml:"pull"`       // of an input
	ActiveLow bool      `yaml:"active_low"` // on is the low level
	Initial   Level     `yaml:"initial"`    // of an output when the node starts; empty: safe
	Safe      Level     `yaml:"safe"`       // of an output that nobody commands; must be given

	Sensor  string `yaml:"sensor"`  // a type of Types
	Bus     string `yaml:"bus"`     // i2c-1, spi0.0
	Address uint16 `yaml:"address"` // on an I2C bus; 0: the type's usual one
	ID      string `yaml:"id"`      // of a 1-wire device, such as 28-0000075f1a2b
	Channel *int   `yaml:"channel"` // of a converter; nil: all of them
	// Reference is the voltage of a converter's reference pin; 0: 3.3 V. Only of
	// types that have such a pin.
	Reference float64 `yaml:"reference"`
}

// Quantity is what a sensor measures. Its key in JSON is Name_Unit, such as
// temperature_C.
type Quantity struct {
	Name string // temperature, humidity, pressure, voltage; with a number for one of several
	Unit string // C, rH (per cent), Pa, V
}

// Key is the quantity's name with its unit.
func (q Quantity) Key() string { return q.Name + "_" + q.Unit }

// Reading is what a sensor said at one moment.
type Reading struct {
	Time   time.Time
	Values map[Quantity]float64
}

// Edge is one change of an input's level.
type Edge struct {
	On   bool // the logical level after it: active_low is taken into account
	High bool // the level of the voltage after it
	// Opened is when the line began to be watched as it is now; Seq counts from
	// there. It changes when listeners come that want other edges, and what
	// happens in that moment is not seen.
	Opened time.Time
	Seq    uint64 // of the line's edges, from 1; of either direction if anybody listens to both
	// Lost counts edges since the one before it that this listener was given: those
	// that the kernel or this process had no room for. Where others listen to
	// both directions it may count an edge that this listener did not ask for.
	Lost uint64
	// Blind says that the pin is served in a way in which loss cannot be seen;
	// Lost counts only what was lost later.
	Blind     bool
	Coalesced uint64        // earlier edges that it stands for as well
	Kernel    time.Duration // when it happened: the kernel's CLOCK_MONOTONIC
	Time      time.Time     // the same by the wall clock
}

// EdgeOptions say which edges of a line a listener wants.
type EdgeOptions struct {
	Rising, Falling bool
	Debounce        time.Duration // the same for everybody who listens to the line
	Coalesce        bool          // an edge that finds one waiting takes its place
	Begun           func()        // called once, when edges are seen from now on; nil: nobody wants to know
}

// Lease is an output that a function holds.
type Lease struct {
	Line     string
	Priority int // 1 (highest) and up; 0: alone
}

// SampleKind says what a Sample is.
type SampleKind int

// Kinds of samples.
const (
	Read      SampleKind = iota // a reading
	Fault                       // the sensor has stopped giving readings
	Recovered                   // it gives them again; Reading is the first
)

// Sample is what a sensor's listener is given.
type Sample struct {
	Kind    SampleKind
	Reading Reading
	Err     error     // of a Fault: why
	Since   time.Time // of a Fault or Recovered: when it began
	Missed  int       // of a Recovered: readings that failed meanwhile
}

// Info is a device as `edgefn devices` shows it.
type Info struct {
	Name    string
	Kind    string // line or sensor
	What    string // in, out, or the sensor's type
	Where   string // what it is: "gpiochip:LABEL/17", "i2c-1 0x76"
	Holders []Holder
	State   string // ok, fault
	Value   string // on, off, or a reading; empty: none yet
	Time    time.Time
	Error   string // of the last failure; empty where it works
	Lost    uint64 // edges lost since it was opened
}

// Holder is a function that holds an output.
type Holder struct {
	Function string
	Priority int   // 0: alone
	Command  *bool // nil: it commands nothing
}

// Found is something that the system offers, configured or not.
type Found struct {
	Kind   string // line, i2c, spi, 1-wire
	Name   string // as a config would write it
	At     string // of a line: what Driver.Find says of it
	What   string // for people
	UsedBy string // its consumer; empty: free
	Config string // a line to paste below devices:
	Device string // the name that the config gives it; empty: none
}

package functionstest

import (
	"errors"
	"fmt"
	"time"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/wire"
)

// Devices that a harness provides, whatever stands for them.
const (
	Relay      = "relay"      // an output, which is off
	Door       = "door"       // an input, which is on
	Hatch      = "hatch"      // an input, which is off
	Greenhouse = "greenhouse" // a sensor, which measures Reading
	Soil       = "soil"       // a sensor that does not answer
	Reading    = `{"humidity_rH":41.25,"temperature_C":-3.5}`
)

// device answers a call about a line or a sensor.
func (i *Invocation) device(kind wire.Kind, c wire.Call) (wire.Reply, error) {
	if kind == wire.KindReadSensor {
		return i.sensor(c.Device)
	}
	if !i.f.MayUseLine(c.Device) {
		return wire.Reply{}, fmt.Errorf("line %s is not granted: add it to grants: lines", c.Device)
	}
	if kind == wire.KindReadLine {
		return wire.Reply{On: i.level(c.Device)}, nil
	}
	if c.Device != Relay {
		return wire.Reply{}, fmt.Errorf("line %s is an input: it can be read only", c.Device)
	}
	var e functions.Effect
	switch d := time.Duration(c.MS) * time.Millisecond; kind { //nolint:exhaustive // the other kinds are not of devices
	case wire.KindSetLine:
		e = functions.SetLine{Line: c.Device, On: c.On}
	case wire.KindPulseLine:
		if c.MS < 1 || d > functions.MaxPulse {
			return wire.Reply{}, fmt.Errorf("pulse of line %s is %d ms, 1 to %d are possible", c.Device, c.MS, functions.MaxPulse.Milliseconds())
		}
		e = functions.PulseLine{Line: c.Device, For: d}
	case wire.KindReleaseLine:
		e = functions.ReleaseLine{Line: c.Device}
	}
	i.effects = append(i.effects, e)
	return wire.Reply{}, nil
}

// level reports whether a line is on: as the invocation last commanded it, or as
// it is.
func (i *Invocation) level(line string) bool {
	if line != Relay {
		return line == Door
	}
	on := false
	for _, e := range i.effects {
		switch e := e.(type) {
		case functions.SetLine:
			on = e.On
		case functions.PulseLine, functions.ReleaseLine:
			on = false
		}
	}
	return on
}

func (i *Invocation) sensor(name string) (wire.Reply, error) {
	switch {
	case !i.f.MayReadSensor(name):
		return wire.Reply{}, fmt.Errorf("sensor %s is not granted: add it to grants: sensors", name)
	case name == Soil:
		return wire.Reply{}, errors.New("sensor soil does not work: no answer")
	}
	return wire.Reply{Value: []byte(Reading)}, nil
}

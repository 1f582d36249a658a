package sensor

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/edgefn/edgefn/drivers"
	"github.com/edgefn/edgefn/functions"
)

// Event makes the event of a sample. node and device are names: the node's, and
// the device's in its config. Its id is the same for all functions that listen
// to the sensor.
//
// A reading's data are its values, a fault's its error and since when, a
// recovery's both: the values, since when, and how many readings were missed.
func Event(node, device string, s drivers.Sample) functions.Event {
	e := functions.Event{Source: "sensor://" + node, Subject: device, DataContentType: "application/json"}
	values := map[string]any{}
	for q, v := range s.Reading.Values {
		values[q.Key()] = v
	}
	var kind string
	switch s.Kind {
	case drivers.Fault:
		e.Type, e.Time, kind = functions.TypeFault, s.Since, "fault"
		values = map[string]any{"error": s.Err.Error(), "since": stamp(s.Since)}
	case drivers.Recovered:
		e.Type, e.Time, kind = functions.TypeRecovered, s.Reading.Time, "recovered"
		values["since"], values["missed"] = stamp(s.Since), s.Missed
	default:
		e.Type, e.Time, kind = functions.TypeReading, s.Reading.Time, "reading"
	}
	e.ID = device + "-" + strconv.FormatInt(e.Time.UnixNano(), 10) + "-" + kind
	text, err := json.Marshal(values) // its keys are sorted
	if err != nil {
		panic(err) // finite numbers and texts
	}
	e.Data = text
	return e
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// filter passes what a trigger asks for.
type filter struct {
	trigger functions.SensorTrigger
	last    map[string]float64 // by quantity, of the last event that had a reading
}

// pass decides about a sample, and returns it as the trigger wants it.
func (f *filter) pass(s drivers.Sample) (drivers.Sample, bool) {
	switch s.Kind {
	case drivers.Fault:
		return s, f.wants(functions.SensorFault)
	case drivers.Recovered:
		if f.wants(functions.SensorRecovered) {
			f.keep(s.Reading)
			return s, true
		}
		s = drivers.Sample{Kind: drivers.Read, Reading: s.Reading}
	case drivers.Read:
	}
	if !f.wants(functions.SensorReading) || !f.moved(s.Reading) {
		return s, false
	}
	f.keep(s.Reading)
	return s, true
}

func (f *filter) wants(e functions.SensorEvent) bool { return slices.Contains(f.trigger.Events, e) }

// moved reports whether a quantity has moved far enough since the last event:
//
//	|value - last| >= change
//
// with room for the rounding of decimal fractions, so that steps of 0.1 count
// where change is 0.1. The first reading has always moved.
func (f *filter) moved(r drivers.Reading) bool {
	if len(f.trigger.Change) == 0 || f.last == nil {
		return true
	}
	for q, v := range r.Values {
		change, asked := f.trigger.Change[q.Name]
		last, known := f.last[q.Name]
		if asked && (!known || math.Abs(v-last) >= change-1e-9*max(1, math.Abs(v))) {
			return true
		}
	}
	return false
}

func (f *filter) keep(r drivers.Reading) {
	f.last = make(map[string]float64, len(r.Values))
	for q, v := range maps.All(r.Values) {
		f.last[q.Name] = v
	}
}

package functions

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"time"
)

// Bounds of triggers of devices.
const (
	MaxDebounce = 10 * time.Second
	MinEvery    = 10 * time.Millisecond
	MaxEvery    = 24 * time.Hour
)

var (
	deviceForm   = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
	busForm      = regexp.MustCompile(`^[a-z0-9][a-z0-9._:-]{0,62}$`)
	quantityForm = regexp.MustCompile(`^[a-z][a-z0-9]{0,31}$`)
)

// ValidDevice reports whether s can name a device.
func ValidDevice(s string) bool { return deviceForm.MatchString(s) }

func (c *check) device(name, field string) {
	if name == "" {
		c.add(field, "name one that stands under devices: in the node's config", "is missing")
	} else if !ValidDevice(name) {
		c.add(field, "use 1 to 63 lower-case letters, digits, hyphens and underscores", "%q is no name of a device", name)
	}
}

func (c *check) gpio(g *GPIOTrigger, field string) {
	c.device(g.Line, field+".line")
	oneOf(c, field+".edge", g.Edge, EdgeRising, EdgeFalling, EdgeBoth)
	c.duration(field+".debounce", g.Debounce, 0, MaxDebounce)
}

func (c *check) sensor(s *SensorTrigger, field string) {
	c.device(s.Device, field+".device")
	if s.Every == 0 {
		c.add(field+".every", "say how often it is read, such as every: 10s", "is missing")
	} else {
		c.duration(field+".every", s.Every, MinEvery, MaxEvery)
	}
	c.count(field+".change", len(s.Change))
	for _, q := range slices.Sorted(maps.Keys(s.Change)) {
		path := field + ".change." + q
		switch v := s.Change[q]; {
		case !quantityForm.MatchString(q):
			c.add(path, "write a quantity without its unit, such as temperature: 0.5", "%q is no name of a quantity", q)
		case !(v > 0) || math.IsInf(v, 0):
			c.add(path, "write how far it must move, more than 0, in the quantity's unit", "%v is no change", v)
		}
	}
	if len(s.Events) == 0 {
		c.add(field+".events", "name reading, fault or recovered", "is empty")
	}
	for i, e := range s.Events {
		path := fmt.Sprintf("%s.events[%d]", field, i)
		oneOf(c, path, e, SensorReading, SensorFault, SensorRecovered)
		if slices.Contains(s.Events[:i], e) {
			c.add(path, "remove one", "%q is named twice", string(e))
		}
	}
}

// devices checks the grants of lines, sensors and buses.
func (c *check) devices(g *Grants) {
	c.count("grants.lines", len(g.Lines))
	for i, l := range g.Lines {
		field := fmt.Sprintf("grants.lines[%d]", i)
		c.device(l.Line, field)
		if slices.ContainsFunc(g.Lines[:i], func(o LineGrant) bool { return o.Line == l.Line }) {
			c.add(field, "remove one", "%q is named twice", l.Line)
		}
		if l.Priority != 0 {
			c.integer(field+".priority", l.Priority, 1, MaxPriority)
		}
	}
	c.count("grants.sensors", len(g.Sensors))
	for i, s := range g.Sensors {
		field := fmt.Sprintf("grants.sensors[%d]", i)
		c.device(s, field)
		c.once(g.Sensors[:i], s, field)
	}
	c.count("grants.buses", len(g.Buses))
	for i, b := range g.Buses {
		field := fmt.Sprintf("grants.buses[%d]", i)
		if !busForm.MatchString(b) {
			c.add(field, "name a bus such as i2c-1 or spi0.0", "%q is no name of a bus", b)
		}
		c.once(g.Buses[:i], b, field)
	}
}

// once refuses an entry of a list that is among those before it.
func (c *check) once(before []string, s, field string) {
	if s != "" && slices.Contains(before, s) {
		c.add(field, "remove one", "%q is named twice", s)
	}
}

// oneDebounce refuses triggers of one line that debounce it differently: the
// kernel does it, once for the line.
func (c *check) oneDebounce(before []Trigger, t *Trigger, field string) {
	for i := range before {
		if o := before[i].GPIO; o != nil && o.Line == t.GPIO.Line && o.Debounce != t.GPIO.Debounce {
			c.add(field, "give both the same", "is %v, and triggers[%d] debounces line %q by %v", t.GPIO.Debounce, i, o.Line, o.Debounce)
			return
		}
	}
}

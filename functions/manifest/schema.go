package manifest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/edgefn/edgefn/functions"
)

// Defaults of a subscription and an output.
const defaultQoS = 1

// function decodes the whole document.
func (d *decoder) function(root *yaml.Node) *functions.Function {
	def := functions.Defaults()
	f := &def
	var handler *yaml.Node
	d.mapping(root, "", keys{
		"name":            stringTo(d, &f.Name),
		"runtime":         stringTo(d, &f.Runtime),
		"runtime_version": stringTo(d, &f.RuntimeVersion),
		"handler":         func(n *yaml.Node, _ string) { handler = n },
		"image":           stringTo(d, &f.Image),
		"memory":          d.size(&f.Memory),
		"timeout":         d.duration(&f.Timeout),
		"isolation":       stringTo(d, &f.Isolation),
		"scale": d.group(keys{
			"min":   integerTo(d, &f.Scale.Min, ""),
			"max":   integerTo(d, &f.Scale.Max, ""),
			"idle":  d.duration(&f.Scale.Idle),
			"queue": integerTo(d, &f.Scale.Queue, ""),
		}),
		"env":     d.textMap(&f.Env),
		"secrets": d.texts(&f.Secrets),
		"triggers": func(n *yaml.Node, field string) {
			d.list(n, field, func(n *yaml.Node, field string) {
				f.Triggers = append(f.Triggers, d.trigger(n, field, len(f.Triggers)))
			})
		},
		"output": func(n *yaml.Node, field string) { f.Output = d.output(n, field) },
		"hold":   d.duration(&f.Hold),
		"retry": d.group(keys{
			"attempts": integerTo(d, &f.Retry.Attempts, ""),
			"first":    d.duration(&f.Retry.First),
			"max":      d.duration(&f.Retry.Max),
		}),
		"dead": d.group(keys{
			"count": integerTo(d, &f.Dead.Count, ""),
			"bytes": d.size(&f.Dead.Bytes),
			"age":   d.duration(&f.Dead.Age),
			"full":  stringTo(d, &f.Dead.Full),
		}),
		"dedupe": d.boolean(&f.Dedupe),
		"grants": d.group(keys{
			"publish": d.texts(&f.Grants.Publish),
			"state":   d.texts(&f.Grants.State),
			"connect": d.texts(&f.Grants.Connect),
			"invoke":  d.texts(&f.Grants.Invoke),
			"lines": func(n *yaml.Node, field string) {
				d.list(n, field, func(n *yaml.Node, field string) { f.Grants.Lines = append(f.Grants.Lines, d.lineGrant(n, field)) })
			},
			"sensors": d.texts(&f.Grants.Sensors),
			"buses":   d.texts(&f.Grants.Buses),
		}),
		"place": d.group(keys{
			"spread": integerTo(d, &f.Place.Spread, ""),
			"where":  d.textMap(&f.Place.Where),
		}),
		"loop": stringTo(d, &f.Loop),
	})
	if handler != nil { // its form depends on the runtime, which may stand below it
		d.handler(handler, "handler", f)
	}
	return f
}

// group decodes a mapping with known keys.
func (d *decoder) group(known keys) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) { d.mapping(n, field, known) }
}

// later refuses a key that a later version serves.
func (d *decoder) later(message string) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) { d.fault(d.line(field), field, "remove it", "%s", message) }
}

// shell is what only a shell would understand in a handler.
const shell = "\"'`\\$|&;<>()*?[]{}~#\n"

// handler decodes one text or, for exec, an argument vector. A text for exec
// is split at blanks; what needs a shell must say so as a list.
func (d *decoder) handler(n *yaml.Node, field string, f *functions.Function) {
	if n.Kind == yaml.SequenceNode {
		d.texts(&f.Handler)(n, field)
		return
	}
	s, ok := d.text(n, field)
	if !ok {
		return
	}
	if f.Runtime != functions.Exec {
		f.Handler = []string{s}
		return
	}
	if strings.ContainsAny(s, shell) {
		d.at(n, field, `there is no shell: write a list, such as [sh, -c, "..."]`, "%q is no plain command", s)
		return
	}
	f.Handler = strings.Fields(s)
}

// laterTriggers are the kinds that a later version serves.
var laterTriggers = []string{"http", "cron", "state"}

// trigger decodes one entry of triggers.
func (d *decoder) trigger(n *yaml.Node, field string, index int) functions.Trigger {
	t := functions.Trigger{Order: functions.OrderSubject}
	named := false
	known := keys{
		"name": func(n *yaml.Node, field string) {
			named = true
			stringTo(d, &t.Name)(n, field)
		},
		"order": stringTo(d, &t.Order),
		"id":    stringTo(d, &t.ID),
		"mqtt": func(n *yaml.Node, field string) {
			t.MQTT = &functions.MQTTTrigger{QoS: defaultQoS, Broker: functions.LocalBroker}
			d.mapping(n, field, keys{
				"topic":  stringTo(d, &t.MQTT.Topic),
				"qos":    integerTo(d, &t.MQTT.QoS, "use 0, 1 or 2"),
				"broker": stringTo(d, &t.MQTT.Broker),
			})
		},
		"gpio": func(n *yaml.Node, field string) {
			t.GPIO = &functions.GPIOTrigger{}
			d.mapping(n, field, keys{
				"line":     stringTo(d, &t.GPIO.Line),
				"edge":     stringTo(d, &t.GPIO.Edge),
				"debounce": d.duration(&t.GPIO.Debounce),
				"coalesce": d.boolean(&t.GPIO.Coalesce),
			})
		},
		"sensor": func(n *yaml.Node, field string) {
			var events []string
			t.Sensor = &functions.SensorTrigger{}
			d.mapping(n, field, keys{
				"device": stringTo(d, &t.Sensor.Device),
				"every":  d.duration(&t.Sensor.Every),
				"change": d.numberMap(&t.Sensor.Change),
				"events": d.texts(&events),
			})
			if _, given := d.lines[field+".events"]; !given {
				events = []string{string(functions.SensorReading)}
			}
			for _, e := range events {
				t.Sensor.Events = append(t.Sensor.Events, functions.SensorEvent(e))
			}
		},
	}
	for _, kind := range laterTriggers {
		known[kind] = func(n *yaml.Node, kindField string) {
			d.later("this version serves mqtt, gpio and sensor triggers only")(n, kindField)
			d.silent[field] = true // do not ask for a source as well
		}
	}
	d.mapping(n, field, known)
	if !named {
		t.Name = fmt.Sprintf("%s-%d", cmp.Or(t.Kind(), "trigger"), index)
	}
	// A misspelt source is one fault, not two.
	if t.Kind() == "" && slices.ContainsFunc(d.faults, func(f Fault) bool { return parent(f.Field) == field }) {
		d.silent[field] = true
	}
	return t
}

// lineGrant decodes NAME or {line: NAME, priority: N}.
func (d *decoder) lineGrant(n *yaml.Node, field string) functions.LineGrant {
	var g functions.LineGrant
	if n.Kind == yaml.ScalarNode {
		stringTo(d, &g.Line)(n, field)
		return g
	}
	d.mapping(n, field, keys{
		"line": stringTo(d, &g.Line),
		"priority": func(n *yaml.Node, field string) {
			integerTo(d, &g.Priority, fmt.Sprintf("use 1, the highest, to %d", functions.MaxPriority))(n, field)
			if g.Priority == 0 && !d.failed[field] { // which a Function has for none
				d.at(n, field, "leave it out to hold the line alone", "0 is out of bounds: 1 to %d", functions.MaxPriority)
			}
		},
	})
	return g
}

// output decodes where the result goes; nil when that could not be decoded.
func (d *decoder) output(n *yaml.Node, field string) *functions.MQTTOutput {
	var o *functions.MQTTOutput
	d.mapping(n, field, keys{
		"mqtt": func(n *yaml.Node, field string) {
			o = &functions.MQTTOutput{QoS: defaultQoS, Broker: functions.LocalBroker}
			d.mapping(n, field, keys{
				"topic":  stringTo(d, &o.Topic),
				"qos":    integerTo(d, &o.QoS, "use 0, 1 or 2"),
				"retain": d.boolean(&o.Retain),
				"broker": stringTo(d, &o.Broker),
			})
		},
	})
	if o == nil && !d.failed[field] && len(n.Content) == 0 {
		d.at(n, field, "write mqtt: {topic: greenhouse/fan}, or remove the key", "says nothing")
	}
	return o
}

package functions

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

var badEscape = regexp.MustCompile(`~([^01]|$)`)

func (c *check) triggers(f *Function) {
	c.count("triggers", len(f.Triggers))
	for i := range f.Triggers {
		t := &f.Triggers[i]
		field := fmt.Sprintf("triggers[%d]", i)
		c.triggerName(f.Triggers[:i], t, field+".name")
		c.source(t, field)
		if t.GPIO != nil {
			c.oneDebounce(f.Triggers[:i], t, field+".gpio.debounce")
		}
		oneOf(c, field+".order", t.Order, OrderSubject, OrderNone)
		if t.ID != "" && t.Kind() != "" && t.MQTT == nil {
			c.add(field+".id", "remove it", "is not for a %s trigger: its events have ids of their own", t.Kind())
		} else if t.ID != "" && (!strings.HasPrefix(t.ID, "/") || badEscape.MatchString(t.ID)) {
			c.add(field+".id", `write it as in RFC 6901, such as "/msg_id"`, "%q is no JSON pointer", t.ID)
		}
	}
}

// source checks that a trigger has one source of events, and that it can be one.
func (c *check) source(t *Trigger, field string) {
	sources := 0
	if t.MQTT != nil {
		sources++
		c.subscription(t.MQTT, field+".mqtt")
	}
	if t.GPIO != nil {
		sources++
		c.gpio(t.GPIO, field+".gpio")
	}
	if t.Sensor != nil {
		sources++
		c.sensor(t.Sensor, field+".sensor")
	}
	switch {
	case sources == 0:
		c.add(field, "add a source such as mqtt: {topic: greenhouse/+/temperature}", "has no source of events")
	case sources > 1:
		c.add(field, "make a trigger of each", "has %d sources of events", sources)
	}
}

func (c *check) triggerName(before []Trigger, t *Trigger, field string) {
	switch {
	case t.Name == "":
		c.add(field, "", "is missing")
	case !ValidName(t.Name):
		c.add(field, "use 1 to 63 lower-case letters, digits and hyphens", "%q is no name of a trigger", t.Name)
	default:
		first := slices.IndexFunc(before, func(o Trigger) bool { return o.Name == t.Name })
		if first >= 0 {
			c.add(field, "give each a name of its own", "%q is the name of triggers[%d] too", t.Name, first)
		}
	}
}

func (c *check) subscription(m *MQTTTrigger, field string) {
	err := CheckFilter(m.Topic)
	if group, filter, shared := cutShare(m.Topic); shared && err == nil {
		if group == "" || strings.ContainsAny(group, "+#") {
			err = fmt.Errorf("topic filter %q: a shared subscription names its group without wildcards", m.Topic)
		} else {
			err = CheckFilter(filter)
		}
	}
	if err != nil {
		c.add(field+".topic", "write a topic filter such as greenhouse/+/temperature or plant/#", "%v", err)
	}
	c.qos(m.QoS, field+".qos")
	c.broker(m.Broker, field+".broker")
}

// cutShare splits $share/GROUP/FILTER, the form of a shared subscription.
// [MQTT5 4.8.2]
func cutShare(filter string) (group, rest string, shared bool) {
	s, ok := strings.CutPrefix(filter, "$share/")
	if !ok {
		return "", filter, false
	}
	group, rest, _ = strings.Cut(s, "/")
	return group, rest, true
}

func (c *check) qos(q byte, field string) {
	if q > 2 {
		c.add(field, "", "%d is no quality of service: 0, 1 or 2", q)
	}
}

func (c *check) broker(name, field string) {
	if !brokerForm.MatchString(name) {
		c.add(field, `use "local", the embedded broker, or a name under brokers: in the node's config`, "%q is no name of a broker", name)
	}
}

func (c *check) output(f *Function) {
	if f.Output == nil {
		return
	}
	if err := CheckTopic(f.Output.Topic); err != nil {
		c.add("output.mqtt.topic", "name one topic such as greenhouse/fan", "%v", err)
	}
	c.qos(f.Output.QoS, "output.mqtt.qos")
	c.broker(f.Output.Broker, "output.mqtt.broker")
}

// loop refuses a function that can trigger itself. Its output goes to one
// broker. What a publish grant covers may go to the embedded broker or to the
// output's, so it is held against every trigger.
func (c *check) loop(f *Function) {
	if f.Loop == LoopAllow {
		return
	}
	if f.Loop != "" {
		oneOf(c, "loop", f.Loop, LoopAllow)
	}
	const hint = "if that ends by itself, say loop: allow"
	for i := range f.Triggers {
		m := f.Triggers[i].MQTT
		if m == nil || CheckFilter(m.Topic) != nil {
			continue
		}
		_, filter, _ := cutShare(m.Topic)
		if o := f.Output; o != nil && o.Broker == m.Broker && CheckTopic(o.Topic) == nil && TopicMatches(filter, o.Topic) {
			c.add("output.mqtt.topic", "choose another topic; "+hint,
				"%q matches the function's own triggers[%d], %q: each result would start the function again", o.Topic, i, m.Topic)
		}
		for j, g := range f.Grants.Publish {
			if CheckFilter(g) == nil && FiltersOverlap(filter, g) {
				c.add(fmt.Sprintf("grants.publish[%d]", j), "narrow the filter; "+hint,
					"%q overlaps the function's own triggers[%d], %q: what it publishes could start it again", g, i, m.Topic)
			}
		}
	}
	if f.Name != "" && f.MayInvoke(f.Name) {
		c.add("grants.invoke", "remove it; "+hint, "%q is the function itself: it could start itself again", f.Name)
	}
}

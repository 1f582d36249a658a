package broker_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/triggers"
	"github.com/edgefn/edgefn/triggers/mqtt/broker"
)

// request has all the properties of a PUBLISH that reach a function.
func request() []byte {
	return slices.Concat(
		[]byte{1, 1},               // payload format indicator
		[]byte{2, 0, 0, 0, 60},     // message expiry interval
		[]byte{3}, str("text/csv"), // content type
		[]byte{8}, str("reply/1"), // response topic
		[]byte{9}, str("c\x00\xff"), // correlation data
		[]byte{38}, str("trace"), str("t-7"), // user properties
		[]byte{38}, str("Trace"), str("t-8"),
	)
}

func TestPropertiesReachFunctions(t *testing.T) {
	want := map[string]string{
		"datacontenttype": "text/csv", "mqttresponsetopic": "reply/1", "mqttcorrelation": "YwD/",
		"mqttusertrace": "t-7", "mqttproperties": `[["trace","t-7"],["Trace","t-8"]]`,
	}
	check := func(t *testing.T, d triggers.Delivery) {
		t.Helper()
		got := maps.Clone(d.Event.Extensions)
		for _, k := range []string{"mqttqos", "mqttretain", "mqttdup"} {
			delete(got, k)
		}
		got["datacontenttype"] = d.Event.DataContentType
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if left := time.Until(d.Event.Expires); left < 50*time.Second || left > 60*time.Second {
			t.Errorf("it expires in %v, want a minute", left)
		}
	}
	sk := newSink(nil)
	s := start(t, broker.Config{Sink: sk})
	s.Bind([]triggers.Binding{bind("live", "in/#", 2)})
	c := dial(t, s.Addr(), options{id: "sensor", version: 5})
	for qos := range byte(3) {
		c.publish(publish{topic: "in/1", payload: "a;b", qos: qos, pid: uint16(qos), retain: true, props: request()})
	}
	c.wantAck(pPuback, 1)
	c.wantAck(pPubrec, 2)
	for _, d := range sk.wait(t, 3) {
		check(t, d)
	}
	// A retained message has them too, over a restart.
	s = s.again(t)
	s.Bind([]triggers.Binding{bind("live", "in/#", 2), bind("new", "in/+", 1)})
	d := sk.wait(t, 4)[3]
	if d.Function != "new" || d.Event.Extensions[functions.ExtMQTTRetain] != "true" {
		t.Errorf("event for %s with %v, want the retained one for new", d.Function, d.Event.Extensions)
	}
	check(t, d)
}

func TestNoPropertiesBeforeMQTT5(t *testing.T) {
	sk := newSink(nil)
	s := start(t, broker.Config{Sink: sk})
	s.Bind([]triggers.Binding{bind("f", "in", 0)})
	c := dial(t, s.Addr(), options{id: "sensor"})
	c.publish(publish{topic: "in", payload: "1"})
	d := sk.wait(t, 1)[0]
	if len(d.Event.Extensions) != 3 || d.Event.DataContentType != "" || !d.Event.Expires.IsZero() {
		t.Errorf("event %+v, want nothing of MQTT 5 in it", d.Event)
	}
}

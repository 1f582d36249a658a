package broker_test

import (
	"bytes"
	"encoding/binary"
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

// What a function says of its message reaches subscribers of MQTT 5 and other
// functions; subscribers of 3.1.1 get the message without.
func TestPropertiesOfAFunctionsMessage(t *testing.T) {
	sk := newSink(nil)
	s := start(t, broker.Config{Sink: sk})
	s.Bind([]triggers.Binding{bind("next", "out/#", 2)})
	five, old := dial(t, s.Addr(), options{id: "five", version: 5}), dial(t, s.Addr(), options{id: "old"})
	five.subscribe("out/#", 1)
	old.subscribe("out/#", 1)
	m := functions.Publish{Topic: "out/1", Data: []byte("x"), QoS: 1, Properties: functions.Properties{
		ContentType: "text/csv", ResponseTopic: "ask", Correlation: []byte("c"), User: []functions.UserProperty{{Name: "tag", Value: "a"}},
		Expires: time.Now().Add(time.Hour),
	}}
	if err := s.Publish(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	got := five.wantPublish()
	want := slices.Concat([]byte{3}, str("text/csv"), []byte{8}, str("ask"), []byte{9}, str("c"), []byte{38}, str("tag"), str("a"))
	if i := bytes.IndexByte(got.props, 2); i < 0 || binary.BigEndian.Uint32(got.props[i+1:]) > 3600 || binary.BigEndian.Uint32(got.props[i+1:]) < 3590 {
		t.Errorf("properties %q have no expiry of an hour", got.props)
	} else if rest := slices.Delete(slices.Clone(got.props), i, i+5); !bytes.Equal(rest, want) {
		t.Errorf("properties %q, want %q", rest, want)
	}
	if got := old.wantPublish(); got.payload != "x" {
		t.Errorf("a subscriber of 3.1.1 got %+v", got)
	}
	d := sk.wait(t, 1)[0]
	if d.Event.DataContentType != "text/csv" || d.Event.Extensions["mqttresponsetopic"] != "ask" || d.Event.Extensions["mqttusertag"] != "a" {
		t.Errorf("event %+v", d.Event)
	}
	m.Expires = time.Now()
	if err := s.Publish(t.Context(), m); err != nil {
		t.Errorf("publish what has expired: %v", err)
	}
	sk.never(t, 1)
	if got := s.Stats().Expired; got != 1 {
		t.Errorf("%d expired, want 1", got)
	}
}

// An event that waits on disk for its function expires when it would have without.
func TestExpiryOfAWaitingEvent(t *testing.T) {
	sk := holding()
	s := start(t, broker.Config{Sink: sk})
	s.Bind([]triggers.Binding{bind("slow", "out", 1)})
	expires := time.Now().Add(time.Hour)
	if err := s.Publish(t.Context(), functions.Publish{Topic: "out", Data: []byte("1"), QoS: 1, Properties: functions.Properties{Expires: expires}}); err != nil {
		t.Fatal(err)
	}
	first := sk.wait(t, 1)[0].Event
	s = s.again(t)
	s.Bind([]triggers.Binding{bind("slow", "out", 1)})
	second := sk.wait(t, 2)[1]
	for name, e := range map[string]functions.Event{"at once": first, "from the disk": second.Event} {
		if off := e.Expires.Sub(expires).Abs(); off > 2*time.Second {
			t.Errorf("%s: it expires %v from when it should", name, off)
		}
	}
	second.Settle(nil)
}

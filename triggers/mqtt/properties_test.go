package mqtt

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	paho5 "github.com/eclipse/paho.golang/paho"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/edgefn/edgefn/functions"
)

func TestPropertiesOfAnEvent(t *testing.T) {
	user := func(names ...string) (out []functions.UserProperty) {
		for i, n := range names {
			out = append(out, functions.UserProperty{Name: n, Value: fmt.Sprint("v", i)})
		}
		return out
	}
	for _, tt := range []struct {
		name    string
		m       Message
		content string            // datacontenttype
		want    map[string]string // beside mqttqos, mqttretain and mqttdup
	}{
		{"none", Message{}, "", nil},
		{"all", Message{Properties: functions.Properties{
			ContentType: "application/json", ResponseTopic: "reply/1", Correlation: []byte("c-42"), User: user("trace"),
		}}, "application/json", map[string]string{
			"mqttresponsetopic": "reply/1", "mqttcorrelation": "Yy00Mg==", "mqttusertrace": "v0", "mqttproperties": `[["trace","v0"]]`,
		}},
		{"bytes of a correlation", Message{Properties: functions.Properties{Correlation: []byte{0xff, 0xfe, 0}}}, "", map[string]string{"mqttcorrelation": "//4A"}},
		{"UTF-8", Message{Payload: []byte("ü"), UTF8: true}, "text/plain; charset=utf-8", nil},
		{"UTF-8 that is none", Message{Payload: []byte{0xff}, UTF8: true}, "", nil},
		{"UTF-8 and a content type", Message{UTF8: true, Properties: functions.Properties{ContentType: "text/csv"}}, "text/csv", nil},
		{"control characters", Message{Properties: functions.Properties{
			ContentType: "a\nb", ResponseTopic: "a\x01", User: []functions.UserProperty{{Name: "k", Value: "a\n\u0085\u2028<"}},
		}}, "", map[string]string{"mqttproperties": `[["k","a\n\u0085\u2028<"]]`}},
		{"a response topic that cannot be published to", Message{Properties: functions.Properties{ResponseTopic: "a/#"}}, "", nil},
		{"names that no attribute has", Message{Properties: functions.Properties{User: user("Trace", "trace-id", "", "größe", "ok1", strings.Repeat("x", 65))}}, "", map[string]string{
			"mqttuserok1":    "v4",
			"mqttproperties": `[["Trace","v0"],["trace-id","v1"],["","v2"],["größe","v3"],["ok1","v4"],["` + strings.Repeat("x", 65) + `","v5"]]`,
		}},
		{"the same name again", Message{Properties: functions.Properties{User: user("tag", "tag")}}, "", map[string]string{
			"mqttusertag": "v0", "mqttproperties": `[["tag","v0"],["tag","v1"]]`,
		}},
		{"a name that sounds like another attribute", Message{Properties: functions.Properties{ResponseTopic: "r", User: user("qos", "properties")}}, "", map[string]string{
			"mqttresponsetopic": "r", "mqttuserqos": "v0", "mqttuserproperties": "v1", "mqttproperties": `[["qos","v0"],["properties","v1"]]`,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, _ := Event("local", functions.Trigger{}, tt.m, time.Unix(1, 0))
			for _, k := range []string{"mqttqos", "mqttretain", "mqttdup"} {
				delete(e.Extensions, k)
			}
			if len(e.Extensions) == 0 {
				e.Extensions = nil
			}
			if diff := cmp.Diff(tt.want, e.Extensions); diff != "" {
				t.Errorf("extensions (-want +got):\n%s", diff)
			}
			if e.DataContentType != tt.content {
				t.Errorf("datacontenttype %q, want %q", e.DataContentType, tt.content)
			}
		})
	}
}

func TestTooManyUserProperties(t *testing.T) {
	for _, tt := range []struct {
		name    string
		n, size int
		omitted string
	}{
		{"as many as may be", functions.MaxUserProperties, 10, ""},
		{"too many", functions.MaxUserProperties + 3, 10, "3"},
		{"too large", 40, 1000, "24"},
		{"one alone that is too large", 1, 60000, "1"},
	} {
		var m Message
		for i := range tt.n {
			m.User = append(m.User, functions.UserProperty{Name: fmt.Sprint("p", i), Value: strings.Repeat("v", tt.size)})
		}
		e, _ := Event("local", functions.Trigger{}, m, time.Unix(1, 0))
		if got := e.Extensions["mqttomitted"]; got != tt.omitted {
			t.Errorf("%s: %q are left out, want %q", tt.name, got, tt.omitted)
		}
		if got := len(e.Extensions[functions.ExtMQTTProperties]); got > maxUserBytes {
			t.Errorf("%s: mqttproperties has %d bytes", tt.name, got)
		}
	}
}

// Whatever a client sends, the attributes are text that CloudEvents allows, as
// small as is promised, and the list of user properties says what was sent.
func FuzzProperties(f *testing.F) {
	f.Add("application/json", "reply/1", []byte("c-42"), "trace", "t-7", uint8(1), true)
	f.Add("a\x00", "a/#", []byte{}, "", "\u0085\"\\\n", uint8(3), false)
	f.Add("\xff", "", []byte{0xff}, "\xff", "\xff", uint8(255), true)
	f.Fuzz(func(t *testing.T, content, response string, correlation []byte, name, value string, n uint8, isText bool) {
		m := Message{UTF8: isText, Payload: correlation, Properties: functions.Properties{ContentType: content, ResponseTopic: response, Correlation: correlation}}
		for range n {
			m.User = append(m.User, functions.UserProperty{Name: name, Value: value})
		}
		e, _ := Event("local", functions.Trigger{}, m, time.Unix(1, 0))
		for k, v := range e.Extensions {
			if strings.Trim(k, "abcdefghijklmnopqrstuvwxyz0123456789") != "" || strings.ContainsFunc(v, unicode.IsControl) || !utf8.ValidString(v) {
				t.Errorf("attribute %q is %q", k, v)
			}
		}
		if n == 0 {
			return
		}
		var list [][2]string
		if err := json.Unmarshal([]byte(e.Extensions[functions.ExtMQTTProperties]), &list); err != nil {
			t.Fatal(err)
		}
		omitted := 0
		_, _ = fmt.Sscan(e.Extensions[functions.ExtMQTTOmitted], &omitted)
		if len(list)+omitted != int(n) {
			t.Errorf("%d listed and %d left out of %d", len(list), omitted, n)
		}
		for _, p := range list {
			if utf8.ValidString(name+value) && p != [2]string{name, value} {
				t.Errorf("listed is %q, want %q and %q", p, name, value)
			}
		}
	})
}

// What is held against the largest packet that a broker takes is what the library
// writes.
func TestSizeOfAPacket(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringN(0, 40, 200)
		m := outgoing{topic: rapid.StringN(1, 40, 200).Draw(t, "topic"), data: make([]byte, rapid.IntRange(0, 300).Draw(t, "data")), qos: byte(rapid.IntRange(0, 2).Draw(t, "qos"))}
		m.ContentType, m.ResponseTopic = text.Draw(t, "content type"), text.Draw(t, "response topic")
		m.Correlation = []byte(text.Draw(t, "correlation"))
		for range rapid.IntRange(0, 3).Draw(t, "user") {
			m.User = append(m.User, functions.UserProperty{Name: text.Draw(t, "name"), Value: text.Draw(t, "value")})
		}
		now := time.Now()
		if rapid.Bool().Draw(t, "expires") {
			m.Expires = now.Add(time.Duration(rapid.Int64Range(-5, 1<<33).Draw(t, "in")) * time.Second)
		}
		p := &paho5.Publish{Topic: m.topic, Payload: m.data, QoS: m.qos, PacketID: 7, Properties: publishProperties(m.Properties, now)}
		var b bytes.Buffer
		if _, err := p.Packet().WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		if got, ok := (limits{}).size(m); !ok || got != uint64(b.Len()) {
			t.Errorf("%d bytes, want %d", got, b.Len())
		}
	})
}

func TestPublishProperties(t *testing.T) {
	now := time.Unix(1000, 0)
	if got := publishProperties(functions.Properties{}, now); got != nil {
		t.Errorf("of none: %+v", got)
	}
	for left, want := range map[time.Duration]uint32{time.Millisecond: 1, time.Second: 1, 1001 * time.Millisecond: 2, -time.Hour: 1, (functions.MaxExpiry + 5) * time.Second: functions.MaxExpiry} {
		got := publishProperties(functions.Properties{Expires: now.Add(left)}, now)
		if got.MessageExpiry == nil || *got.MessageExpiry != want {
			t.Errorf("%v left: %+v, want %d s", left, got, want)
		}
	}
	got := publishProperties(functions.Properties{ContentType: "a", ResponseTopic: "b", Correlation: []byte("c"), User: []functions.UserProperty{{Name: "d", Value: "e"}}}, now)
	want := &paho5.PublishProperties{ContentType: "a", ResponseTopic: "b", CorrelationData: []byte("c"), User: paho5.UserProperties{{Key: "d", Value: "e"}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

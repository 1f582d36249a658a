package mqtt

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

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

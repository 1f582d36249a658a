package functions_test

import (
	"strings"
	"testing"

	"github.com/edgefn/edgefn/functions"
)

func TestPropertiesCheck(t *testing.T) {
	user := func(n int, name, value string) (out []functions.UserProperty) {
		for range n {
			out = append(out, functions.UserProperty{Name: name, Value: value})
		}
		return out
	}
	for _, tt := range []struct {
		name string
		p    functions.Properties
		want string // what the error says; empty: none
	}{
		{"none", functions.Properties{}, ""},
		{"all", functions.Properties{
			ContentType: "application/json", ResponseTopic: "reply/1", Correlation: []byte{0, 0xff}, User: user(2, "Trace-Id", "ü"),
		}, ""},
		{"empty texts of a user property", functions.Properties{User: user(1, "", "")}, ""},
		{"as many as may be", functions.Properties{User: user(functions.MaxUserProperties, "a", "b")}, ""},
		{"too many", functions.Properties{User: user(functions.MaxUserProperties+1, "a", "b")}, "65 user properties, at most 64"},
		{"as large as may be", functions.Properties{Correlation: make([]byte, functions.MaxProperties)}, ""},
		{"too large", functions.Properties{ContentType: "x", Correlation: make([]byte, functions.MaxProperties)}, "32769 bytes, at most 32768"},
		{"content type with a NUL", functions.Properties{ContentType: "a\x00"}, "content type"},
		{"content type that is no text", functions.Properties{ContentType: "a\xff"}, "content type"},
		{"response topic with a wildcard", functions.Properties{ResponseTopic: "reply/+"}, "response topic"},
		{"name that is no text", functions.Properties{User: user(1, "\xff", "")}, "name of a user property"},
		{"value with a NUL", functions.Properties{User: user(1, "k", "\x00")}, `value of the user property "k"`},
	} {
		err := tt.p.Check()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

package functions_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/functions"
)

// valid is a function with nothing wrong.
func valid() functions.Function {
	f := functions.Defaults()
	f.Name, f.Runtime, f.Handler = "fan", functions.Python, []string{"main:handle"}
	f.Triggers = []functions.Trigger{trigger("mqtt-0", "greenhouse/+/temperature")}
	f.Output = &functions.MQTTOutput{Topic: "greenhouse/fan", QoS: 1, Broker: functions.LocalBroker}
	return f
}

func trigger(name, filter string) functions.Trigger {
	return functions.Trigger{
		Name: name, Order: functions.OrderSubject,
		MQTT: &functions.MQTTTrigger{Topic: filter, QoS: 1, Broker: functions.LocalBroker},
	}
}

func fields(faults []functions.Fault) []string {
	var out []string
	for _, f := range faults {
		out = append(out, f.Field)
	}
	return out
}

func TestValidateAcceptsTheDefaults(t *testing.T) {
	f := valid()
	if got := f.Validate(); len(got) > 0 {
		t.Errorf("Validate() = %v, want no faults", got)
	}
}

func TestValidate(t *testing.T) {
	tests := []struct {
		name   string
		change func(f *functions.Function)
		want   []string // fields at fault
	}{
		{"no name", func(f *functions.Function) { f.Name = "" }, []string{"name"}},
		{"name in capitals", func(f *functions.Function) { f.Name = "Fan" }, []string{"name"}},
		{"longest name", func(f *functions.Function) { f.Name = strings.Repeat("a", 63) }, nil},
		{"name too long", func(f *functions.Function) { f.Name = strings.Repeat("a", 64) }, []string{"name"}},
		{"name with a line end", func(f *functions.Function) { f.Name = "fan\n" }, []string{"name"}},
		{"no runtime", func(f *functions.Function) { f.Runtime = "" }, []string{"runtime"}},
		{"unknown runtime", func(f *functions.Function) { f.Runtime = "ruby" }, []string{"runtime"}},
		{"version constraint", func(f *functions.Function) { f.RuntimeVersion = ">=3.9, <4" }, nil},
		{"bad version constraint", func(f *functions.Function) { f.RuntimeVersion = "newest" }, []string{"runtime_version"}},
		{"image with a blank", func(f *functions.Function) { f.Image = "a b" }, []string{"image"}},
		{"memory too small", func(f *functions.Function) { f.Memory = 8<<20 - 1 }, []string{"memory"}},
		{"memory too large", func(f *functions.Function) { f.Memory = 4<<30 + 1 }, []string{"memory"}},
		{"least and most", func(f *functions.Function) { f.Memory, f.Timeout = 8<<20, time.Hour }, nil},
		{"timeout zero", func(f *functions.Function) { f.Timeout = 0 }, []string{"timeout"}},
		{"timeout too long", func(f *functions.Function) { f.Timeout = time.Hour + 1 }, []string{"timeout"}},
		{"isolation", func(f *functions.Function) { f.Isolation = "none" }, []string{"isolation"}},
		{"min over max", func(f *functions.Function) { f.Scale.Min, f.Scale.Max = 3, 2 }, []string{"scale.min"}},
		{"max over 256", func(f *functions.Function) { f.Scale.Max = 257 }, []string{"scale.max"}},
		{"queue", func(f *functions.Function) { f.Scale.Queue = 0 }, []string{"scale.queue"}},
		{"queue too long", func(f *functions.Function) { f.Scale.Queue = 100001 }, []string{"scale.queue"}},
		{"env", func(f *functions.Function) { f.Env = map[string]string{"A": "1", "EDGEFN_X": "", "9": "", "B": "\x00"} }, []string{"env.9", "env.B", "env.EDGEFN_X"}},
		{"secrets", func(f *functions.Function) { f.Secrets = []string{"db", "../x", ".x", "a/b", "db", "a.b"} }, []string{"secrets[1]", "secrets[2]", "secrets[3]", "secrets[4]"}},
		{"no attempts", func(f *functions.Function) { f.Retry.Attempts = 0 }, []string{"retry.attempts"}},
		{"first over max", func(f *functions.Function) { f.Retry.First = 2 * time.Minute }, []string{"retry.first"}},
		{"dead", func(f *functions.Function) { f.Dead = functions.Dead{} }, []string{"dead.count", "dead.bytes", "dead.age", "dead.full"}},
		{"spread", func(f *functions.Function) { f.Place.Spread = 0 }, []string{"place.spread"}},
		{"two triggers of one name", func(f *functions.Function) {
			f.Triggers = append(f.Triggers, trigger("mqtt-0", "other"))
		}, []string{"triggers[1].name"}},
		{"trigger without a source", func(f *functions.Function) { f.Triggers[0].MQTT = nil }, []string{"triggers[0]"}},
		{"bad filter", func(f *functions.Function) { f.Triggers[0].MQTT.Topic = "a/#/b" }, []string{"triggers[0].mqtt.topic"}},
		{"qos 3", func(f *functions.Function) { f.Triggers[0].MQTT.QoS, f.Output.QoS = 3, 3 }, []string{"triggers[0].mqtt.qos", "output.mqtt.qos"}},
		{"broker", func(f *functions.Function) { f.Triggers[0].MQTT.Broker = "mqtt://x" }, []string{"triggers[0].mqtt.broker"}},
		{"order", func(f *functions.Function) { f.Triggers[0].Order = "" }, []string{"triggers[0].order"}},
		{"id", func(f *functions.Function) { f.Triggers[0].ID = "/a~1b/0" }, nil},
		{"id without a slash", func(f *functions.Function) { f.Triggers[0].ID = "msg_id" }, []string{"triggers[0].id"}},
		{"id with a bad escape", func(f *functions.Function) { f.Triggers[0].ID = "/a~2" }, []string{"triggers[0].id"}},
		{"shared subscription", func(f *functions.Function) { f.Triggers[0].MQTT.Topic = "$share/site/a/+" }, nil},
		{"shared subscription without a filter", func(f *functions.Function) { f.Triggers[0].MQTT.Topic = "$share/site" }, []string{"triggers[0].mqtt.topic"}},
		{"output with a wildcard", func(f *functions.Function) { f.Output.Topic = "a/+" }, []string{"output.mqtt.topic"}},
		{"grants", func(f *functions.Function) {
			f.Grants = functions.Grants{
				Publish: []string{"alarms/#", "a#"},
				State:   []string{"weather", "weather/a/b", "Weather", "/x"},
				Connect: []string{"db.lan:5432", "[::1]:80", "10.0.0.1:80", "*.lan:80", "db.lan", "db.lan:0", "db.lan:65536", "a b:1", ":80", "300.1.1.1:80"},
				Invoke:  []string{"alarm", "Alarm"},
			}
		}, []string{
			"grants.publish[1]", "grants.state[2]", "grants.state[3]",
			"grants.connect[3]", "grants.connect[4]", "grants.connect[5]", "grants.connect[6]", "grants.connect[7]", "grants.connect[8]", "grants.connect[9]",
			"grants.invoke[1]",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := valid()
			tt.change(&f)
			got := f.Validate()
			if diff := cmp.Diff(tt.want, fields(got)); diff != "" {
				t.Errorf("fields at fault (-want +got):\n%s%v", diff, got)
			}
			for _, fault := range got {
				if fault.Message == "" {
					t.Errorf("%s: no message", fault.Field)
				}
			}
		})
	}
}

func TestValidateHandler(t *testing.T) {
	tests := []struct {
		runtime functions.Runtime
		handler []string
		ok      bool
	}{
		{functions.Python, []string{"main:handle"}, true},
		{functions.Python, []string{"pkg.mod:Class.method"}, true},
		{functions.Python, []string{"main"}, false},
		{functions.Python, []string{"main.py:handle:x"}, false},
		{functions.Python, []string{"../main:handle"}, false},
		{functions.Python, []string{"main:handle", "x"}, false},
		{functions.Python, nil, false},
		{functions.Node, []string{"main:handle"}, true},
		{functions.Node, []string{"src/main.mjs:handle"}, true},
		{functions.Node, []string{"../main:handle"}, false},
		{functions.Node, []string{"/main:handle"}, false},
		{functions.Node, []string{"main"}, false},
		{functions.Go, []string{"."}, true},
		{functions.Go, []string{"./cmd/fan"}, true},
		{functions.Go, []string{"example.com/fan/cmd"}, true},
		{functions.Go, []string{"../fan"}, false},
		{functions.Go, []string{"./..."}, false},
		{functions.Go, []string{"-toolexec=x"}, false},
		{functions.Go, []string{"x@latest"}, false},
		{functions.Go, []string{"/etc"}, false},
		{functions.Exec, []string{"./handle.sh", "--quiet", "a b"}, true},
		{functions.Exec, []string{" "}, false},
		{functions.Exec, []string{"sh", "\x00"}, false},
	}
	for _, tt := range tests {
		t.Run(string(tt.runtime)+" "+strings.Join(tt.handler, " "), func(t *testing.T) {
			f := valid()
			f.Runtime, f.Handler = tt.runtime, tt.handler
			if got := f.Validate(); (len(got) == 0) != tt.ok {
				t.Errorf("Validate() = %v, want ok %v", got, tt.ok)
			}
		})
	}
}

func TestValidateLoop(t *testing.T) {
	tests := []struct {
		name   string
		change func(f *functions.Function)
		want   []string
	}{
		{"output matches", func(f *functions.Function) { f.Output.Topic = "greenhouse/a/temperature" }, []string{"output.mqtt.topic"}},
		{"output matches at another broker", func(f *functions.Function) {
			f.Output.Topic, f.Output.Broker = "greenhouse/a/temperature", "plant"
		}, nil},
		{"grant overlaps", func(f *functions.Function) { f.Grants.Publish = []string{"alarms/#", "greenhouse/#"} }, []string{"grants.publish[1]"}},
		{"grant overlaps a trigger of another broker", func(f *functions.Function) {
			f.Triggers[0].MQTT.Broker, f.Grants.Publish = "plant", []string{"#"}
		}, []string{"grants.publish[0]"}},
		{"grant overlaps in one topic", func(f *functions.Function) { f.Grants.Publish = []string{"greenhouse/fan/+"} }, []string{"grants.publish[0]"}},
		{"shared subscription", func(f *functions.Function) {
			f.Triggers[0].MQTT.Topic, f.Output.Topic = "$share/g/a/+", "a/b"
		}, []string{"output.mqtt.topic"}},
		{"invokes itself", func(f *functions.Function) { f.Grants.Invoke = []string{"fan"} }, []string{"grants.invoke"}},
		{"allowed", func(f *functions.Function) {
			f.Loop, f.Output.Topic = functions.LoopAllow, "greenhouse/a/temperature"
			f.Grants = functions.Grants{Publish: []string{"#"}, Invoke: []string{"fan"}}
		}, nil},
		{"said otherwise", func(f *functions.Function) { f.Loop = "yes" }, []string{"loop"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := valid()
			tt.change(&f)
			got := f.Validate()
			if diff := cmp.Diff(tt.want, fields(got)); diff != "" {
				t.Errorf("fields at fault (-want +got):\n%s%v", diff, got)
			}
			for _, fault := range got {
				if !strings.Contains(fault.Hint, "allow") {
					t.Errorf("hint %q does not tell of loop: allow", fault.Hint)
				}
			}
		})
	}
}

func TestFaultString(t *testing.T) {
	got := functions.Fault{Field: "name", Message: "is missing", Hint: "add it"}.String()
	if want := "name: is missing; add it"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
}

package manifest_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/manifest"
)

const least = "name: fan\nruntime: python\nhandler: main:handle\n"

func TestSample(t *testing.T) {
	want := functions.Defaults()
	want.Name, want.Runtime, want.RuntimeVersion, want.Handler = "fan", functions.Python, ">=3.9", []string{"main:handle"}
	want.Env = map[string]string{"THRESHOLD": "28", "TZ": "Europe/Berlin"}
	want.Secrets = []string{"db-password"}
	want.Triggers = []functions.Trigger{
		{
			Name: "readings", Order: functions.OrderSubject, ID: "/msg_id",
			MQTT: &functions.MQTTTrigger{Topic: "greenhouse/+/temperature", QoS: 1, Broker: "local"},
		},
		{
			Name: "button", Order: functions.OrderSubject,
			GPIO: &functions.GPIOTrigger{Line: "door", Edge: functions.EdgeRising, Debounce: 10 * time.Millisecond},
		},
		{
			Name: "climate", Order: functions.OrderSubject,
			Sensor: &functions.SensorTrigger{
				Device: "greenhouse", Every: 10 * time.Second, Change: map[string]float64{"temperature": 0.5},
				Events: []functions.SensorEvent{functions.SensorReading},
			},
		},
	}
	want.Output = &functions.MQTTOutput{Topic: "greenhouse/fan", QoS: 1, Broker: "local"}
	want.Grants = functions.Grants{
		Publish: []string{"alarms/#"}, State: []string{"weather"}, Connect: []string{"db.lan:5432"}, Invoke: []string{"alarm"},
		Lines: []functions.LineGrant{{Line: "relay"}}, Sensors: []string{"greenhouse"}, Buses: []string{"i2c-1"},
	}
	got, err := manifest.Parse("sample.yaml", manifest.Sample)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Errorf("sample (-want +got):\n%s", diff)
	}
}

// The sample shows every key that there is.
func TestSampleIsComplete(t *testing.T) {
	var walk func(typ reflect.Type)
	walk = func(typ reflect.Type) {
		if k := typ.Kind(); k == reflect.Pointer || k == reflect.Slice {
			walk(typ.Elem())
		} else if k == reflect.Struct {
			for field := range typ.Fields() {
				key, _, _ := strings.Cut(field.Tag.Get("json"), ",")
				if !strings.Contains(string(manifest.Sample), key+":") {
					t.Errorf("the sample does not show %s", key)
				}
				walk(field.Type)
			}
		}
	}
	walk(reflect.TypeFor[functions.Function]())
}

func TestDefaults(t *testing.T) {
	got, err := manifest.Parse("edgefn.yaml", []byte(least+`
triggers:
  - mqtt: {topic: a/+}
  - {name: own, mqtt: {topic: b, qos: 0, broker: plant}, order: none}
  - mqtt: {topic: c}
output: {mqtt: {topic: out}}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := functions.Defaults()
	want.Name, want.Runtime, want.Handler = "fan", functions.Python, []string{"main:handle"}
	want.Triggers = []functions.Trigger{
		{Name: "mqtt-0", Order: functions.OrderSubject, MQTT: &functions.MQTTTrigger{Topic: "a/+", QoS: 1, Broker: "local"}},
		{Name: "own", Order: functions.OrderNone, MQTT: &functions.MQTTTrigger{Topic: "b", QoS: 0, Broker: "plant"}},
		{Name: "mqtt-2", Order: functions.OrderSubject, MQTT: &functions.MQTTTrigger{Topic: "c", QoS: 1, Broker: "local"}},
	}
	want.Output = &functions.MQTTOutput{Topic: "out", QoS: 1, Broker: "local"}
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDevices(t *testing.T) {
	got, err := manifest.Parse("edgefn.yaml", []byte(least+`
triggers:
  - mqtt: {topic: a}
  - gpio: {line: door, edge: both}
  - sensor: {device: greenhouse, every: 10s}
  - gpio: {line: float_switch, edge: falling, debounce: 0, coalesce: true}
    order: none
  - sensor:
      device: soil
      every: 1h
      change: {temperature: 1, humidity: 2.5}
      events: [recovered, fault, reading]
grants:
  lines: [door, {line: relay, priority: 16}, {line: pump}]
  sensors: [greenhouse, soil]
  buses: [i2c-1, spi0.0]
`))
	if err != nil {
		t.Fatal(err)
	}
	want := functions.Defaults()
	want.Name, want.Runtime, want.Handler = "fan", functions.Python, []string{"main:handle"}
	want.Triggers = []functions.Trigger{
		{Name: "mqtt-0", Order: functions.OrderSubject, MQTT: &functions.MQTTTrigger{Topic: "a", QoS: 1, Broker: "local"}},
		{Name: "gpio-1", Order: functions.OrderSubject, GPIO: &functions.GPIOTrigger{Line: "door", Edge: functions.EdgeBoth}},
		{Name: "sensor-2", Order: functions.OrderSubject, Sensor: &functions.SensorTrigger{
			Device: "greenhouse", Every: 10 * time.Second, Events: []functions.SensorEvent{functions.SensorReading},
		}},
		{Name: "gpio-3", Order: functions.OrderNone, GPIO: &functions.GPIOTrigger{Line: "float_switch", Edge: functions.EdgeFalling, Coalesce: true}},
		{Name: "sensor-4", Order: functions.OrderSubject, Sensor: &functions.SensorTrigger{
			Device: "soil", Every: time.Hour, Change: map[string]float64{"temperature": 1, "humidity": 2.5},
			Events: []functions.SensorEvent{functions.SensorRecovered, functions.SensorFault, functions.SensorReading},
		}},
	}
	want.Grants = functions.Grants{
		Lines:   []functions.LineGrant{{Line: "door"}, {Line: "relay", Priority: 16}, {Line: "pump"}},
		Sensors: []string{"greenhouse", "soil"}, Buses: []string{"i2c-1", "spi0.0"},
	}
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestValues(t *testing.T) {
	got, err := manifest.Parse("edgefn.yaml", []byte(`
handler: [./handle.sh, "--name", "a b"]
runtime: exec
name: 007
runtime_version: 3.10
memory: 16777216
timeout: 1h
hold: 0
scale: {idle: 1h30m}
env: {A: 0x10, B: yes, C: "", D: 3.50}
dead: {bytes: 1Gi, age: 400d12h, full: drop_oldest}
dedupe: true
loop: allow
place: {spread: 2, where: {zone: north}}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := functions.Defaults()
	want.Name, want.Runtime, want.RuntimeVersion = "007", functions.Exec, "3.10"
	want.Handler = []string{"./handle.sh", "--name", "a b"}
	want.Memory, want.Timeout, want.Hold, want.Scale.Idle = 16<<20, time.Hour, 0, 90*time.Minute
	want.Env = map[string]string{"A": "0x10", "B": "yes", "C": "", "D": "3.50"}
	want.Dead.Bytes, want.Dead.Age, want.Dead.Full = 1<<30, (400*24+12)*time.Hour, functions.FullDropOldest
	want.Dedupe, want.Loop = true, functions.LoopAllow
	want.Place = functions.Place{Spread: 2, Where: map[string]string{"zone": "north"}}
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestExecHandlerAsText(t *testing.T) {
	got, err := manifest.Parse("edgefn.yaml", []byte("name: x\nhandler: ./a.sh --fast  1\nruntime: exec\n"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"./a.sh", "--fast", "1"}, got.Handler); diff != "" {
		t.Error(diff)
	}
}

func TestFaults(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string
	}{
		{"unknown key", least + "memroy: 64Mi\n", []string{`f.yaml:4: memroy: is no known key; did you mean memory?`}},
		{"unknown key like nothing", least + "scale: {zzzzzz: 1}\n", []string{`f.yaml:4: scale.zzzzzz: is no known key; known keys: idle, max, min, queue`}},
		{"unknown key in a trigger", least + "triggers:\n  - mqtt:\n      topik: a\n      topic: b\n", []string{`f.yaml:6: triggers[0].mqtt.topik: is no known key; did you mean topic?`}},
		{"misspelt kind", least + "triggers:\n  - mqt: {topic: a}\n", []string{`f.yaml:5: triggers[0].mqt: is no known key; did you mean mqtt?`}},
		{"twice", least + "hold: 1s\nhold: 2s\n", []string{`f.yaml:5: hold: is there twice, first in line 4; remove one`}},
		{"later kinds", least + "triggers:\n  - http: {path: /}\n  - name: BAD\n    cron: {schedule: x}\n", []string{
			`f.yaml:5: triggers[0].http: this version serves mqtt, gpio and sensor triggers only; remove it`,
			`f.yaml:6: triggers[1].name: "BAD" is no name of a trigger; use 1 to 63 lower-case letters, digits and hyphens`,
			`f.yaml:7: triggers[1].cron: this version serves mqtt, gpio and sensor triggers only; remove it`,
		}},
		{"gpio trigger", least + "triggers:\n  - gpio:\n      line: door\n      edge: up\n      debounce: 11s\n  - gpio: {edge: rising, debounce: fast}\n  - gpio: {line: GPIO17}\n  - gpio:\n", []string{
			`f.yaml:7: triggers[0].gpio.edge: "up" is not known; use rising, falling or both`,
			`f.yaml:8: triggers[0].gpio.debounce: 11s is out of bounds: 0s to 10s`,
			`f.yaml:9: triggers[1].gpio.debounce: "fast" is no duration; write a number with a unit: 500ms, 5s, 1m, 2h or 30d`,
			`f.yaml:9: triggers[1].gpio.line: is missing; name one that stands under devices: in the node's config`,
			`f.yaml:10: triggers[2].gpio.line: "GPIO17" is no name of a device; use 1 to 63 lower-case letters, digits, hyphens and underscores`,
			`f.yaml:10: triggers[2].gpio.edge: is missing; use rising, falling or both`,
			`f.yaml:11: triggers[3].gpio: has no value; give it a mapping of keys to values, or remove the key`,
		}},
		{"two debounces of a line", least + "triggers:\n  - gpio: {line: door, edge: rising, debounce: 10ms}\n  - gpio:\n      line: door\n      edge: falling\n      debounce: 20ms\n  - gpio: {line: door, edge: both}\n", []string{
			`f.yaml:9: triggers[1].gpio.debounce: is 20ms, and triggers[0] debounces line "door" by 10ms; give both the same`,
			`f.yaml:10: triggers[2].gpio.debounce: is 0s, and triggers[0] debounces line "door" by 10ms; give both the same`,
		}},
		{"sensor trigger", least + "triggers:\n  - sensor:\n      device: greenhouse\n  - sensor: {device: soil, every: 5ms}\n  - sensor: {every: 48h}\n", []string{
			`f.yaml:5: triggers[0].sensor.every: is missing; say how often it is read, such as every: 10s`,
			`f.yaml:7: triggers[1].sensor.every: 5ms is out of bounds: 10ms to 24h0m0s`,
			`f.yaml:8: triggers[2].sensor.device: is missing; name one that stands under devices: in the node's config`,
			`f.yaml:8: triggers[2].sensor.every: 48h0m0s is out of bounds: 10ms to 24h0m0s`,
		}},
		{"change", least + "triggers:\n  - sensor:\n      device: greenhouse\n      every: 10s\n      change:\n        temperature: 0\n        humidity_rH: 1\n        pressure: -5\n        voltage: .inf\n        current: .nan\n        light: \"3\"\n  - sensor: {device: soil, every: 1m, change: 0.5}\n", []string{
			`f.yaml:9: triggers[0].sensor.change.temperature: 0 is no change; write how far it must move, more than 0, in the quantity's unit`,
			`f.yaml:10: triggers[0].sensor.change.humidity_rH: "humidity_rH" is no name of a quantity; write a quantity without its unit, such as temperature: 0.5`,
			`f.yaml:11: triggers[0].sensor.change.pressure: -5 is no change; write how far it must move, more than 0, in the quantity's unit`,
			`f.yaml:12: triggers[0].sensor.change.voltage: +Inf is no change; write how far it must move, more than 0, in the quantity's unit`,
			`f.yaml:13: triggers[0].sensor.change.current: NaN is no change; write how far it must move, more than 0, in the quantity's unit`,
			`f.yaml:14: triggers[0].sensor.change.light: is "3", expected a number`,
			`f.yaml:15: triggers[1].sensor.change: is "0.5", expected a mapping of keys to values`,
		}},
		{"events of a sensor", least + "triggers:\n  - sensor:\n      device: soil\n      every: 1m\n      events: [broken, fault, fault]\n  - sensor: {device: soil, every: 1m, events: []}\n  - sensor: {device: soil, every: 1m, events: fault}\n", []string{
			`f.yaml:8: triggers[0].sensor.events[0]: "broken" is not known; use reading, fault or recovered`,
			`f.yaml:8: triggers[0].sensor.events[2]: "fault" is named twice; remove one`,
			`f.yaml:9: triggers[1].sensor.events: is empty; name reading, fault or recovered`,
			`f.yaml:10: triggers[2].sensor.events: is "fault", expected a list`,
		}},
		{"two sources in one trigger", least + "triggers:\n  - mqtt: {topic: a}\n  - gpio: {line: door, edge: both}\n    sensor: {device: soil, every: 1m}\n", []string{
			`f.yaml:6: triggers[1]: has 2 sources of events; make a trigger of each`,
		}},
		{"id of an edge", least + "triggers:\n  - gpio: {line: door, edge: both}\n    id: /line_seq\n", []string{
			`f.yaml:6: triggers[0].id: is not for a gpio trigger: its events have ids of their own; remove it`,
		}},
		{"grants of devices", least + "grants:\n  lines:\n    - relay\n    - {line: relay, priority: 3}\n    - {line: pump, priority: 17}\n    - {line: lamp, priority: 0}\n    - {line: bell, priority: high}\n    - {priority: 1}\n    - {line: horn, prioritty: 1}\n    - Siren\n  sensors: [soil, soil, bme280@1]\n  buses: [i2c-1, /dev/i2c-1, i2c-1]\n", []string{
			`f.yaml:7: grants.lines[1]: "relay" is named twice; remove one`,
			`f.yaml:8: grants.lines[2].priority: 17 is out of bounds: 1 to 16`,
			`f.yaml:9: grants.lines[3].priority: 0 is out of bounds: 1 to 16; leave it out to hold the line alone`,
			`f.yaml:10: grants.lines[4].priority: is "high", expected a whole number`,
			`f.yaml:11: grants.lines[5]: is missing; name one that stands under devices: in the node's config`,
			`f.yaml:12: grants.lines[6].prioritty: is no known key; did you mean priority?`,
			`f.yaml:13: grants.lines[7]: "Siren" is no name of a device; use 1 to 63 lower-case letters, digits, hyphens and underscores`,
			`f.yaml:14: grants.sensors[1]: "soil" is named twice; remove one`,
			`f.yaml:14: grants.sensors[2]: "bme280@1" is no name of a device; use 1 to 63 lower-case letters, digits, hyphens and underscores`,
			`f.yaml:15: grants.buses[1]: "/dev/i2c-1" is no name of a bus; name a bus such as i2c-1 or spi0.0`,
			`f.yaml:15: grants.buses[2]: "i2c-1" is named twice; remove one`,
		}},
		{"trigger without source", least + "triggers:\n  - name: a\n", []string{`f.yaml:5: triggers[0]: has no source of events; add a source such as mqtt: {topic: greenhouse/+/temperature}`}},
		{"two of one name", least + "triggers:\n  - {name: a, mqtt: {topic: x}}\n  - name: a\n    mqtt: {topic: y}\n", []string{
			`f.yaml:6: triggers[1].name: "a" is the name of triggers[0] too; give each a name of its own`,
		}},
		{"invalid topic filter", least + "triggers:\n  - mqtt:\n      topic: a/#/b\n", []string{
			`f.yaml:6: triggers[0].mqtt.topic: topic filter "a/#/b": # must be the last level; write a topic filter such as greenhouse/+/temperature or plant/#`,
		}},
		{"loop", least + "triggers:\n  - mqtt: {topic: a}\noutput:\n  mqtt: {topic: a}\n", []string{
			`f.yaml:7: output.mqtt.topic: "a" matches the function's own triggers[0], "a": each result would start the function again; choose another topic; if that ends by itself, say loop: allow`,
		}},
		{"all at once", "nam: fan\nruntime: ruby\nmemory: 64MB\ntimeout: 5\nscale: {min: 9, max: x}\nsecrets: db\n", []string{
			`f.yaml:1: nam: is no known key; did you mean name?`,
			`f.yaml:1: name: is missing; add a line such as name: fan`,
			`f.yaml:1: handler: is missing; see the runtime's documentation for its form`,
			`f.yaml:2: runtime: "ruby" is not known; use python, node, go or exec`,
			`f.yaml:3: memory: "64MB" is no size; write a number of bytes, or one with Ki, Mi or Gi: 64Mi`,
			`f.yaml:4: timeout: "5" is no duration; write a number with a unit: 500ms, 5s, 1m, 2h or 30d`,
			`f.yaml:5: scale.max: is "x", expected a whole number`,
			`f.yaml:5: scale.min: 9 is more than max, which is 8; raise max or lower min`,
			`f.yaml:6: secrets: is "db", expected a list`,
		}},
		{"no value", least + "grants:\nimage:\n", []string{
			`f.yaml:4: grants: has no value; give it a mapping of keys to values, or remove the key`,
			`f.yaml:5: image: has no value; give it text, or remove the key`,
		}},
		{"wrong kinds", least + "env: [a]\nscale: 3\nimage: {a: b}\ndedupe: maybe\nsecrets: [{a: b}]\n", []string{
			`f.yaml:4: env: is a list, expected a mapping of keys to values`,
			`f.yaml:5: scale: is "3", expected a mapping of keys to values`,
			`f.yaml:6: image: is a mapping, expected text`,
			`f.yaml:7: dedupe: is "maybe", expected true or false`,
			`f.yaml:8: secrets[0]: is a mapping, expected text`,
		}},
		{"qos that does not fit", least + "triggers: [{mqtt: {topic: a, qos: 300}}]\n", []string{`f.yaml:4: triggers[0].mqtt.qos: 300 is no whole number that fits here; use 0, 1 or 2`}},
		{"qos 3", least + "triggers: [{mqtt: {topic: a, qos: 3}}]\n", []string{`f.yaml:4: triggers[0].mqtt.qos: 3 is no quality of service: 0, 1 or 2`}},
		{"negative duration", least + "hold: -1s\n", []string{`f.yaml:4: hold: "-1s" is no duration; write a number with a unit: 500ms, 5s, 1m, 2h or 30d`}},
		{"overflow", least + "hold: 99999d2540000h\nmemory: 9999999999Gi\n", []string{
			`f.yaml:4: hold: "99999d2540000h" is no duration; write a number with a unit: 500ms, 5s, 1m, 2h or 30d`,
			`f.yaml:5: memory: "9999999999Gi" is no size; write a number of bytes, or one with Ki, Mi or Gi: 64Mi`,
		}},
		{"empty output", least + "output: {}\n", []string{`f.yaml:4: output: says nothing; write mqtt: {topic: greenhouse/fan}, or remove the key`}},
		{"command line in a text", "name: x\nruntime: exec\nhandler: ./a.sh | cat\n", []string{`f.yaml:3: handler: "./a.sh | cat" is no plain command; there is no shell: write a list, such as [sh, -c, "..."]`}},
		{"empty", "", []string{`f.yaml: is empty; the least is name, runtime and handler`}},
		{"a list", "- a\n", []string{`f.yaml:1: is no mapping of keys to values; the least is name, runtime and handler`}},
		{"two documents", least + "---\na: b\n", []string{`f.yaml:4: has a second document; give each function a folder of its own`}},
		{"anchor and alias", "a: &x [1]\nb: *x\n", []string{
			`f.yaml:1: has an anchor (&x), which is not supported; write the value out where it is used`,
			`f.yaml:2: has an alias (*x), which is not supported; write the value out`,
		}},
		{"tag", "name: !!binary eA==\n", []string{`f.yaml:1: has a tag (!!binary), which is not supported; remove it`}},
		{"too large", strings.Repeat("#", manifest.MaxSize+1), []string{`f.yaml: is larger than 65536 bytes`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, err := manifest.Parse("f.yaml", []byte(tt.text))
			var e *manifest.Error
			if !errors.As(err, &e) || f != nil {
				t.Fatalf("Parse = %v, %v, want an *Error", f, err)
			}
			if diff := cmp.Diff(strings.Join(tt.want, "\n"), err.Error()); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSyntax(t *testing.T) {
	for text, want := range map[string]string{
		"name: fan\nruntime: [\n":        "f.yaml:2: is no YAML: ",
		"scale:\n\tmin: 1\n":             "f.yaml:2: is no YAML: found character that cannot start any token; indent with blanks, not tabs",
		"name: fan\nruntime: a\n b: c\n": "f.yaml:3: is no YAML: mapping values are not allowed",
	} {
		_, err := manifest.Parse("f.yaml", []byte(text))
		var e *manifest.Error
		if !errors.As(err, &e) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("Parse(%q) = %v, want an *Error %q", text, err, want)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	if _, err := manifest.Load(dir); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "edgefn init") {
		t.Errorf("Load of an empty folder = %v, want a hint", err)
	}
	file := filepath.Join(dir, manifest.FileName)
	if err := os.WriteFile(file, []byte(least), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := manifest.Load(dir)
	if err != nil || f.Name != "fan" {
		t.Errorf("Load = %v, %v", f, err)
	}
	if err := os.WriteFile(file, []byte(least+"x: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := manifest.Load(dir); err == nil || !strings.HasPrefix(err.Error(), file+":4: x: ") {
		t.Errorf("Load = %v, want a fault in %s, line 4", err, file)
	}
}

// Whatever the bytes, Parse ends, and what it accepts is valid.
func FuzzParse(f *testing.F) {
	f.Add(manifest.Sample)
	f.Add([]byte(least))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("name: {a: [b, ? c]}\n<<: x\n"))
	f.Add([]byte(least + "triggers: [{mqtt: {topic: a, qos: 9}}, {http: 1}, 3]\n"))
	f.Add([]byte(least + "triggers: [{gpio: {line: door, edge: both, debounce: 10ms}}, {sensor: {device: soil, every: 1m, change: {temperature: .nan}, events: [fault]}}]\n"))
	f.Add([]byte(least + "grants: {lines: [relay, {line: pump, priority: 3}, [x]], sensors: [soil], buses: [i2c-1]}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		fn, err := manifest.Parse("f.yaml", b)
		if err != nil {
			var e *manifest.Error
			if !errors.As(err, &e) || len(e.Faults) == 0 || fn != nil {
				t.Fatalf("Parse = %v, %v", fn, err)
			}
			return
		}
		if faults := fn.Validate(); len(faults) > 0 {
			t.Fatalf("accepted with %v", faults)
		}
	})
}

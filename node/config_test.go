package node_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/node"
	"github.com/edgefn/edgefn/triggers/mqtt"
	"github.com/edgefn/edgefn/triggers/mqtt/broker/access"
)

func TestSampleIsTheDefault(t *testing.T) {
	got, err := node.ParseConfig("sample.yaml", []byte(node.SampleConfig))
	if err != nil {
		t.Fatal(err)
	}
	want := node.Defaults()
	want.Store.Endpoints = []string{} // as the sample says it
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the sample differs from the defaults (-default +sample):\n%s", diff)
	}
	if err := got.Validate(); err != nil {
		t.Errorf("the sample is not valid: %v", err)
	}
}

// example is a line of the sample that is commented out and is no sentence.
var example = regexp.MustCompile(`^ *# +(- )?[a-z_]+:( |$)`)

// TestSampleExamples takes the examples of the sample out of their comments.
func TestSampleExamples(t *testing.T) {
	var lines []string
	for line := range strings.Lines(node.SampleConfig) {
		if example.MatchString(line) {
			line = strings.Replace(line, "# ", "", 1)
		}
		lines = append(lines, line)
	}
	got, err := node.ParseConfig("sample.yaml", []byte(strings.Join(lines, "")))
	if err != nil {
		t.Fatal(err)
	}
	want := mqtt.Broker{
		Name: "plant", URL: "mqtts://broker.plant.lan:8883",
		CAFile: "/etc/edgefn/plant-ca.crt", CertFile: "/etc/edgefn/plant-client.crt", KeyFile: "/etc/edgefn/plant-client.key",
		Username: "gateway", PasswordFile: "/etc/edgefn/plant-password", Version: "auto",
	}
	if diff := cmp.Diff(want, got.Brokers["plant"]); diff != "" {
		t.Errorf("broker (-want +got):\n%s", diff)
	}
	wantMQTT := node.MQTTConfig{
		MQTTListener: node.MQTTListener{
			Addr: "127.0.0.1:1883", PasswordFile: "/etc/edgefn/mqtt-passwords", CertFile: "/etc/edgefn/mqtt.crt", KeyFile: "/etc/edgefn/mqtt.key",
			ACL: []access.Rule{
				{User: "*", Publish: []string{"devices/%u/#"}, Subscribe: []string{"commands/%u/+", "news/#"}},
				{User: "operator", Publish: []string{"#"}, Subscribe: []string{"#"}},
			},
		},
		MQTTBounds: node.Defaults().MQTT.MQTTBounds, // which the sample names
		Listeners: []node.MQTTListener{{
			Addr: "192.168.1.10:8883", CertFile: "/etc/edgefn/mqtt.crt", KeyFile: "/etc/edgefn/mqtt.key",
			ClientCA: "/etc/edgefn/devices-ca.crt", ClientCert: "require", ACLFile: "/etc/edgefn/devices-acl.yaml",
		}, {
			Addr: "127.0.0.1:9001", WebSocket: true, Origins: []string{"https://panel.example"},
		}},
	}
	if diff := cmp.Diff(wantMQTT, got.MQTT); diff != "" {
		t.Errorf("mqtt (-want +got):\n%s", diff)
	}
	if got.Name != "gateway-1" || got.MQTT.CertFile != "/etc/edgefn/mqtt.crt" || got.Store.CAFile != "/etc/edgefn/etcd-ca.crt" || got.Store.KeyFile != "/etc/edgefn/etcd-client.key" {
		t.Errorf("got %+v", got)
	}
}

func TestConfigFaults(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string
	}{
		{"unknown keys, all at once", "nam: x\nmqtt:\n  lisen: off\nbrokers: {plant: {urll: x}}\n", []string{
			`edgefn.conf:1: unknown key "nam": do you mean "name"?`,
			`edgefn.conf:3: unknown key "mqtt.lisen": do you mean "listen"?`,
			`edgefn.conf:4: unknown key "brokers.plant.urll": do you mean "url"?`,
		}},
		{"far from any", "zzzzzzzzzzzz: 1\n", []string{"known are brokers, containerd"}},
		{"twice", "name: a\nname: b\n", []string{`edgefn.conf:2: "name" is already defined at line 1: remove one`}},
		{"device twice", "devices:\n  door: {line: GPIO17}\n  door: {line: GPIO18}\n", []string{`edgefn.conf:3: "door" is already defined at line 2`}},
		{"list of devices", "devices:\n  - door: {line: GPIO17}\n", []string{"edgefn.conf:2: devices: keys and values are expected"}},
		{"device types, all at once", "devices:\n  a: {sensor: bme280, address: \"0x76\"}\n  b: {line: GPIO4, active_low: 2}\n  c: {line: [GPIO4]}\n  d: {sensor: ads1115, channel: one}\n", []string{
			`edgefn.conf:2: a whole number, 0 to 0xffff and not in quotes, is expected here, not "0x76"`,
			`edgefn.conf:3: true or false is expected here, not "2"`,
			"edgefn.conf:4: a text is expected here",
			`edgefn.conf:5: a whole number is expected here, not "one"`,
		}},
		{"no mapping", "mqtt: 1883\n", []string{"edgefn.conf:1: mqtt: keys and values are expected"}},
		{"size", "max_event: 1 MB\n", []string{`edgefn.conf:1: "1 MB" is no size`}},
		{"type", "log: {files: many}\n", []string{`edgefn.conf:1: a whole number is expected here, not "many"`}},
		{"no yaml", "a: [\n", []string{"edgefn.conf:1: did not find"}},
		{"values, all at once", "name: Gate_1\ndata: here\nmax_event: 1Ki\nmqtt: {listen: 1883, tls: {cert: /does/not/exist}}\nbrokers: {local: {url: mqtt://h}, plant: {url: ftp://h}}\nlog: {files: 0}\nstore: {tls: {ca: /nowhere}}\n", []string{
			"name: ", "data: ", "max_event: ", "mqtt.listen: ", "mqtt.tls.key: ", "mqtt.tls.cert: ", "brokers.local: ", "brokers.plant.url: ", "log.files: ", "store.tls: ",
		}},
		{"bounds, all at once", "mqtt:\n  max_packet: 5Mi\n  max_sessions: 0\n  session_expiry: 0s\n  queue: {messages: 70000, bytes: 0, total: 8Gi, full: newest}\n  retained: {messages: 0, bytes: 2Gi, full: \"\"}\n", []string{
			"mqtt.max_packet: 5242880: 1024 to 4194304 are possible", "mqtt.max_sessions: ", "mqtt.session_expiry: 0s", "mqtt.queue.messages: ", "mqtt.queue.bytes: ",
			"mqtt.queue.total: ", `mqtt.queue.full: "newest": write refuse or oldest`, "mqtt.retained.messages: ", "mqtt.retained.bytes: ", `mqtt.retained.full: ""`,
		}},
		{"listeners, all at once", "mqtt:\n  max_clients: 0\n  max_logins: -1\n  listeners:\n    - {listen: 1883}\n    - {listen: \"0.0.0.0:1883\"}\n    - {listen: \":1884\", anonymous: true}\n    - {listen: \":1885\", password_file: /nowhere, tls: {client_cert: maybe, client_ca: /nowhere}, acl: [{user: a}], acl_file: /nowhere}\n    - {listen: \":1886\", anonymous: true, acl: [{user: anonymous, publish: [\"a/#/b\"]}]}\n    - {listen: \"127.0.0.1:1\", acl: []}\n", []string{
			"mqtt.max_clients: ", "mqtt.max_logins: ", "mqtt.listeners[0].listen: ", "mqtt.listeners[1].listen: other machines reach 0.0.0.0:1883", "mqtt.listeners[1].password_file",
			"mqtt.listeners[2].anonymous: ", "mqtt.listeners[3].password_file: ", "mqtt.listeners[3].tls.client_cert: ", "mqtt.listeners[3].tls.client_ca: ",
			"mqtt.listeners[3].acl_file: ", "use one of them", `mqtt.listeners[4].acl: rule 1, publish: topic filter "a/#/b"`, "mqtt.listeners[5].acl: has no rule",
		}},
		{"rules for nobody", "mqtt: {acl: [{user: a, publish: [x]}]}\n", []string{"mqtt.acl: is for users with a name", "mqtt.password_file"}},
		{"origins", "mqtt: {origins: [panel.example, \"*\", \"https://x/y\"]}\n", []string{"mqtt.origins[0]: ", "mqtt.origins[2]: ", "mqtt.origins: are for WebSocket"}},
		{"open to others", "mqtt: {listen: \":1883\"}\n", []string{"mqtt.listen: other machines reach :1883", "mqtt.password_file"}},
		{"off with listeners", "mqtt: {listen: off, listeners: [{listen: \"127.0.0.1:1\"}]}\n", []string{"edgefn.conf:1: mqtt.listen is off"}},
		{"keys of listeners", "mqtt:\n  acl:\n    - usr: a\n  listeners:\n    - tls: {crt: x}\n    - text\n", []string{
			`edgefn.conf:3: unknown key "mqtt.acl[0].usr": do you mean "user"?`, `edgefn.conf:5: unknown key "mqtt.listeners[0].tls.crt": do you mean "cert"?`,
			"edgefn.conf:6: mqtt.listeners[1]: keys and values are expected",
		}},
		{"no list of listeners", "mqtt:\n  listeners: {listen: x}\n", []string{"edgefn.conf:2: a list is expected here"}},
		{"run folder too long", "run: /" + strings.Repeat("r", 100) + "\n", []string{"run: ", "bytes too long for the sockets in it"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := node.ParseConfig("edgefn.conf", []byte(tt.text))
			if err == nil {
				err = c.Validate()
			}
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error does not say %q:\n%v", w, err)
				}
			}
		})
	}
}

func TestLoadConfig(t *testing.T) {
	name := filepath.Join(t.TempDir(), "edgefn.yaml")
	if err := os.WriteFile(name, []byte("name: gate\nmax_event: 512Ki\nmqtt: {listen: off}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := node.LoadConfig(name)
	if err != nil {
		t.Fatal(err)
	}
	want := node.Defaults()
	want.Name, want.MaxEvent, want.MQTT.Addr = "gate", 512<<10, node.Off
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	if _, err := node.LoadConfig(name + "x"); err == nil {
		t.Error("a file that is not there was read")
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(node.SampleConfig))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if c, err := node.ParseConfig("f", text); err == nil {
			_ = c.Validate() // must not panic
		}
	})
}

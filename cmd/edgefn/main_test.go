package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/edgefn/edgefn/cross"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/api/apitest"
	"github.com/edgefn/edgefn/node/backup"
	"github.com/edgefn/edgefn/node/doctor"
)

var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(mainCode(&fakeTools{runNode: stubbornNode}))
	}
	time.Local = time.UTC // times in golden files
	goleak.VerifyTestMain(m)
}

var now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// fakeTools stand in for the builder and the node.
type fakeTools struct {
	build    func(ctx context.Context, b buildRequest) (image, error)
	scaffold func(dir, name string, rt functions.Runtime) error
	runNode  func(ctx context.Context, cfg node.Config) error
	machine  func(status func(context.Context) (api.Status, error)) doctor.Machine
	safe     func(ctx context.Context, cfg node.Config) ([]string, error)
	backup   func(cfg node.Config, o api.BackupOptions, w io.Writer) error
	restore  func(cfg node.Config, r io.Reader, confirm func(i backup.Info, replaced string) error) (api.Restored, error)
}

func (f *fakeTools) Build(ctx context.Context, b buildRequest) (image, error) {
	return f.build(ctx, b)
}

func (f *fakeTools) Scaffold(dir, name string, rt functions.Runtime) error {
	return f.scaffold(dir, name, rt)
}

func (f *fakeTools) RunNode(ctx context.Context, cfg node.Config) error { return f.runNode(ctx, cfg) }

func (f *fakeTools) BackupData(_ context.Context, cfg node.Config, o api.BackupOptions, w io.Writer) error {
	return f.backup(cfg, o, w)
}

func (f *fakeTools) RestoreData(_ context.Context, cfg node.Config, r io.Reader, _ func(int64), confirm func(i backup.Info, replaced string) error) (api.Restored, error) {
	return f.restore(cfg, r, confirm)
}

func (f *fakeTools) Machine(status func(context.Context) (api.Status, error)) doctor.Machine {
	return f.machine(status)
}

func (f *fakeTools) Safe(ctx context.Context, cfg node.Config) ([]string, error) {
	return f.safe(ctx, cfg)
}

// fakeDigest is a digest of one digit.
func fakeDigest(digit byte) string { return "sha256:" + strings.Repeat(string(digit), 64) }

// fakeImage is an image of n bytes.
type fakeImage struct {
	n      int64
	err    error // of writing it
	closed int
}

func (i *fakeImage) Close() error {
	i.closed++
	return nil
}

func (i *fakeImage) Digest() string { return fakeDigest('f') }

// Blobs has a large one, and a small one.
func (i *fakeImage) Blobs() []cross.Blob {
	return []cross.Blob{{Digest: fakeDigest('a'), Size: i.n - 10}, {Digest: fakeDigest('b'), Size: 10}}
}

func (i *fakeImage) WriteTarWithout(w io.Writer, there map[string]bool) error {
	n := int64(0)
	for _, b := range i.Blobs() {
		if !there[b.Digest] {
			n += b.Size
		}
	}
	if _, err := io.CopyN(w, strings.NewReader(strings.Repeat("t", int(n))), n); err != nil {
		return err
	}
	return i.err
}

func (i *fakeImage) WriteLayout(dir string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "oci-layout"), nil, 0o600)
}

func (i *fakeImage) WriteTar(w io.Writer) error {
	return i.WriteTarWithout(w, nil)
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// session is a command line with a node behind it.
type session struct {
	t        *testing.T
	path     string // of the node's socket
	env      map[string]string
	terminal bool
	tools    *fakeTools
}

// open serves b and returns a session that talks to it.
func open(t *testing.T, b api.Backend) *session {
	t.Helper()
	return &session{t: t, path: apitest.Serve(t, b, api.Options{}), env: map[string]string{}, tools: &fakeTools{}}
}

type outcome struct {
	out, err string
	code     int
}

func (s *session) run(args ...string) outcome {
	s.t.Helper()
	return s.runWith(s.t.Context(), "", args...)
}

func (s *session) runWith(ctx context.Context, in string, args ...string) outcome {
	s.t.Helper()
	var out, errs buffer
	code := s.app(&out, &errs, in).run(ctx, args)
	return outcome{out.String(), errs.String(), code}
}

func (s *session) app(out, errs io.Writer, in string) *app {
	env := map[string]string{"EDGEFN_NODE": "unix://" + s.path}
	maps.Copy(env, s.env)
	return &app{
		in: strings.NewReader(in), out: out, err: errs,
		inTerm: s.terminal, outTerm: s.terminal, errTerm: s.terminal,
		getenv: func(k string) string { return env[k] },
		now:    func() time.Time { return now },
		slow:   time.Millisecond,
		tools:  s.tools,
	}
}

// want checks an outcome: out and err must contain those texts, and be empty
// where those are.
func (o outcome) want(t *testing.T, code int, out, errs string) {
	t.Helper()
	if o.code != code {
		t.Errorf("exit code %d, want %d", o.code, code)
	}
	for _, c := range []struct{ name, got, want string }{{"stdout", o.out, out}, {"stderr", o.err, errs}} {
		if !strings.Contains(c.got, c.want) || c.want == "" && c.got != "" {
			t.Errorf("%s %q, want %q", c.name, c.got, c.want)
		}
	}
}

// golden compares got with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (go test -update writes it)", err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got):\n%s", file, d)
	}
}

// backend is a node with two functions.
func backend() *apitest.Backend {
	f := functions.Defaults()
	f.Name, f.Runtime, f.RuntimeVersion, f.Handler = "fan", functions.Python, ">=3.9", []string{"main:handle"}
	f.Env = map[string]string{"TZ": "Europe/Berlin", "THRESHOLD": "28"}
	f.Secrets = []string{"db-password"}
	f.Output = &functions.MQTTOutput{Topic: "greenhouse/fan", QoS: 1, Broker: "local", Retain: true}
	f.Triggers = []functions.Trigger{
		{Name: "readings", Order: functions.OrderSubject, MQTT: &functions.MQTTTrigger{Topic: "greenhouse/+/temperature", QoS: 1, Broker: "local"}},
		{Name: "plant", Order: functions.OrderNone, MQTT: &functions.MQTTTrigger{Topic: "plant/#", QoS: 2, Broker: "plant"}},
		{Name: "button", Order: functions.OrderSubject, GPIO: &functions.GPIOTrigger{Line: "door", Edge: functions.EdgeRising, Debounce: 10 * time.Millisecond}},
		{Name: "climate", Order: functions.OrderSubject, Sensor: &functions.SensorTrigger{Device: "greenhouse", Every: 10 * time.Second, Change: map[string]float64{"temperature": 0.5}, Events: []functions.SensorEvent{functions.SensorReading, functions.SensorFault}}},
	}
	f.Grants = functions.Grants{
		Publish: []string{"greenhouse/#"}, Connect: []string{"db.lan:5432"},
		Lines: []functions.LineGrant{{Line: "door"}, {Line: "relay", Priority: 2}}, Sensors: []string{"greenhouse"}, Buses: []string{"i2c-1"},
	}
	fan := api.FunctionDetail{
		FunctionInfo: api.FunctionInfo{
			Name: "fan", Version: "sha256:0123456789abcdef", Runtime: functions.Python, State: "serving",
			Triggers: []string{"mqtt local greenhouse/+/temperature", "mqtt plant plant/#"}, Instances: 2, Queued: 1, Dead: 2,
			Deployed: now.Add(-3 * time.Hour),
		},
		Function: f,
		Versions: []api.VersionInfo{
			{Version: "sha256:0123456789abcdef", Deployed: now.Add(-3 * time.Hour), Active: true},
			{Version: "sha256:fedcba9876543210", Deployed: now.Add(-50 * time.Hour)},
		},
		Usage: api.Usage{
			Function: "fan", Invocations: 12345, Failures: 6, WallMS: 98765.4, CPUMS: 4321.5, MemoryMiBMS: 876543,
			Cold: 5, Warm: 12340, Since: now.Add(-50 * time.Hour),
		},
		Sources: []api.SourceInfo{{Trigger: "readings", State: "connected"}, {Trigger: "plant", State: "refused", Error: "not authorized"}},
	}
	g := functions.Defaults()
	g.Name, g.Runtime, g.Handler = "gauge", functions.Go, []string{"."}
	gauge := api.FunctionDetail{
		FunctionInfo: api.FunctionInfo{
			Name: "gauge", Version: "sha256:aaaaaaaaaaaaaaaaaaaaa", Runtime: functions.Go, State: "failing", Error: "exited: status 2\x1b[31m",
			Deployed: now.Add(-time.Minute),
		},
		Function: g,
		Usage:    api.Usage{Function: "gauge", Invocations: 3, WallMS: 1.234, CPUMS: 0.5, MemoryMiBMS: 12, Cold: 3, Since: now},
	}
	off := false
	return &apitest.Backend{
		Details: map[string]api.FunctionDetail{"fan": fan, "gauge": gauge},
		Hard: api.Devices{
			Devices: []api.Device{
				{Name: "door", Kind: "line", What: "in", Where: "gpiochip:pinctrl-bcm2711/17", State: "ok", Value: "off", Time: now.Add(-time.Minute), Lost: 3, Holders: []api.Holder{}, Listeners: []string{"fan"}},
				{Name: "relay", Kind: "line", What: "out", Where: "gpiochip:pinctrl-bcm2711/27", State: "ok", Value: "off", Time: now, Holders: []api.Holder{{Function: "fan", Priority: 2, Command: &off}, {Function: "gauge", Priority: 9}}, Listeners: []string{}},
				{Name: "greenhouse", Kind: "sensor", What: "bme280", Where: "i2c-1 0x76", State: "fault", Value: "25.08 C", Time: now.Add(-time.Hour), Error: "read greenhouse: nothing answers at address 0x76 of i2c-1", Holders: []api.Holder{}, Listeners: []string{"fan"}},
			},
			Found: []api.FoundDevice{
				{Kind: "line", Name: "gpiochip:pinctrl-bcm2711/4", What: "GPIO4", Config: `gpio4: {line: "gpiochip:pinctrl-bcm2711/4"}`},
				{Kind: "line", Name: "gpiochip:pinctrl-bcm2711/17", What: "GPIO17", UsedBy: "edgefn", Device: "door"},
				{Kind: "line", Name: "gpiochip:pinctrl-bcm2711/42", What: "LED", UsedBy: "led0"},
			},
		},
		Clients: []api.MQTTClient{
			{ID: "\x1b[31mlamp", Listener: "127.0.0.1:1883", Address: "127.0.0.1:50122", Version: "3.1.1", Since: now.Add(-time.Hour)},
			{ID: "pump-1", User: "pump", Listener: "192.168.1.10:8883", Address: "192.168.1.77:40001", Version: "5", Since: now.Add(-time.Minute), Subscriptions: 2, Queued: 17},
		},
		Lines: []api.LogLine{
			{Time: now.Add(-time.Hour), Level: "info", Function: "fan", Version: "sha256:0", Invocation: "i1", Stream: "stdout", Text: "hello"},
			{Time: now.Add(-time.Minute), Level: "warning", Function: "fan", Version: "sha256:0", Stream: "node", Text: "two\nlines\x1b]0;evil\a"},
		},
		Letters: []api.DeadLetter{
			{
				ID: "01A", Function: "fan", Trigger: "readings", Time: now.Add(-time.Hour), Attempts: 5,
				Failure: functions.Failure{Kind: functions.FailRaised, Message: "KeyError: 'celsius'", Detail: "Traceback:\n  line 3"},
				Event: api.EventInfo{
					ID: "e1", Type: functions.TypeMQTT, Source: "mqtt://local", Subject: "greenhouse/1/temperature",
					Extensions: map[string]string{"mqttqos": "1"}, Data: []byte(`{"fahrenheit": 80}`),
				},
				Bytes: 18,
			},
			{
				ID: "01B", Function: "fan", Trigger: "readings", Time: now.Add(-time.Minute), Attempts: 1, Cut: true, Bytes: 2 << 20,
				Failure: functions.Failure{Kind: functions.FailPayload, Message: "2 MiB is over the limit"},
				Event:   api.EventInfo{ID: "e2", Type: functions.TypeMQTT, Source: "mqtt://local", Data: []byte{0xff, 0xfe}},
			},
		},
		Node: api.Status{
			Node: "gw1", Version: "1.2.3", Ready: true, State: "ready", Started: now.Add(-26 * time.Hour), Platform: "linux/arm/v7", Functions: 2,
			Containerd: api.ComponentStatus{State: "up", Address: "/run/containerd/containerd.sock", Detail: "1.6.20"},
			Store:      api.ComponentStatus{State: "up", Detail: "1.2 MiB of 256 MiB"},
			Broker:     api.ComponentStatus{State: "up", Address: "127.0.0.1:1883"},
			Brokers:    map[string]api.ComponentStatus{"plant": {State: "down", Address: "mqtt://plant:1883", Detail: "connection refused"}},
			Runtimes:   map[string]string{"python": "3.11.2", "go": "", "exec": ""},
			Outbox: []api.OutboxQueue{{
				Function: "fan", To: "mqtt.plant", Waiting: 12, Bytes: 3 << 10, Oldest: now.Add(-3 * time.Minute), AgeS: 180, Error: "broker is not reachable",
			}},
			Flash:    api.Flash{Bytes: 24 << 20, KnownS: 23 * 3600, Daily: 500 << 20},
			Warnings: []string{"memory limits are not enforced: the memory controller is off"},
		},
	}
}

// Every command has help with an example, as it stands in the golden files.
func TestHelp(t *testing.T) {
	s := open(t, backend())
	paths := [][]string{{}}
	for _, c := range (&app{tools: s.tools}).root().Commands() {
		paths = append(paths, []string{c.Name()})
		for _, sub := range c.Commands() {
			paths = append(paths, []string{c.Name(), sub.Name()})
		}
	}
	if len(paths) < 20 {
		t.Fatalf("only %d commands", len(paths))
	}
	var all strings.Builder
	for _, p := range paths {
		o := s.run(append(p, "--help")...)
		o.want(t, 0, "Usage:", "")
		if !strings.Contains(o.out, "Examples:\n") {
			t.Errorf("%q has no example", p)
		}
		fmt.Fprintf(&all, "$ edgefn %s\n%s\n", strings.Join(append(p, "--help"), " "), o.out)
	}
	golden(t, "help.txt", all.String())
}

func TestTables(t *testing.T) {
	for name, args := range map[string][]string{
		"functions": {"functions"},
		"describe":  {"describe", "fan"},
		"usage":     {"usage"},
		"status":    {"status"},
		"devices":   {"devices"},
		"clients":   {"mqtt", "clients"},
		"logs":      {"logs", "fan"},
		"dead-list": {"dead", "list", "fan"},
		"dead-show": {"dead", "show", "fan", "01A"},
		"dead-cut":  {"dead", "show", "fan", "01B"},
		"deployed":  {"rollback", "fan"},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, backend())
			o := s.run(args...)
			if o.code != 0 {
				t.Errorf("exit code %d", o.code)
			}
			golden(t, name+".txt", o.out+"--- stderr\n"+o.err)
			if strings.ContainsAny(o.out+o.err, "\x1b\a") {
				t.Error("control characters of others reach the terminal")
			}
		})
	}
}

// On a terminal the same tables have colours, and stay in line.
func TestColour(t *testing.T) {
	s := open(t, backend())
	want := s.run("functions").out
	s.terminal = true
	got := s.run("functions").out
	if !strings.Contains(got, green+"serving"+reset) || !strings.Contains(got, red+"failing"+reset) {
		t.Errorf("no colours in %q", got)
	}
	bare := strings.NewReplacer(plain, "", red, "", green, "", yellow, "", reset, "").Replace(got)
	if d := cmp.Diff(want, bare); d != "" {
		t.Errorf("colours change the table:\n%s", d)
	}
	s.env["NO_COLOR"] = "1"
	if got := s.run("functions").out; got != want {
		t.Errorf("NO_COLOR is not heeded: %q", got)
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
	}{
		{&workError{errors.New("x")}, 1},
		{&workError{api.ErrRefused}, 1},
		{&workError{api.ErrOverloaded}, 1},
		{&workError{api.ErrStopping}, 1},
		{&workError{api.ErrFull}, 1},
		{&workError{api.ErrInvalid}, 2},
		{errors.New("cobra's"), 2},
		{&workError{configError(errors.New("x"))}, 2},
		{&workError{&functionError{name: "f"}}, 3},
		{&workError{api.ErrNotFound}, 4},
		{&workError{api.ErrTimeout}, 5},
		{&workError{context.DeadlineExceeded}, 5},
		{&workError{api.ErrUnreach}, 6},
		{&workError{context.Canceled}, 130},
		{nil, 0},
	} {
		a := &app{err: io.Discard, tools: &fakeTools{}}
		if got := a.report(a.root(), c.err); got != c.code {
			t.Errorf("%v: %d, want %d", c.err, got, c.code)
		}
	}
}

func TestMistakes(t *testing.T) {
	s := open(t, backend())
	for _, c := range []struct {
		args string
		code int
		err  string
	}{
		{"functoins", 2, "did you mean edgefn functions?"},
		{"state", 2, "needs a subcommand"},
		{"state gte fan k", 2, "did you mean edgefn state get?"},
		{"functions extra", 2, `takes no arguments, and not "extra"`},
		{"functions -o yaml", 2, "table or json"},
		{"functions --no-such", 2, "unknown flag: --no-such\nhint: see edgefn functions --help"},
		{"describe", 2, "edgefn describe needs NAME"},
		{"describe fan fan", 2, "no argument behind NAME"},
		{"describe nope", 4, `edgefn: function "nope": not found`},
		{"describe No_Pe", 2, "lower-case"},
		{"invoke nope", 4, "not found"},
		{"invoke fan --data @/nowhere/x", 2, "/nowhere/x"},
		{"invoke fan --timeout -1s", 2, "negative"},
		{"logs nope", 4, "not found"},
		{"logs fan --since tomorrow", 2, "neither a duration"},
		{"remove nope", 4, "not found"},
		{"rollback fan --to sha256:77", 4, "no version"},
		{"pause nope", 4, "not found"},
		{"pause fan --trigger button2", 4, `no trigger "button2"`},
		{"resume fan --trigger=", 2, "--trigger names no trigger"},
		{"state get fan", 2, "edgefn state get needs KEY"},
		{"state get fan nokey", 4, "not found"},
		{"state put fan k", 2, "needs TEXT"},
		{"dead retry fan", 2, "or --all"},
		{"dead retry fan 01A --all", 2, "not both"},
		{"dead show fan 99", 4, "not found"},
		{"usage nope", 4, "not found"},
		{"status --wait -1s", 2, "negative"},
		{"build", 2, "needs DIR"},
		{"build /nowhere", 2, "-o PATH is missing"},
		{"build /nowhere -o x", 2, "edgefn.yaml"},
		{"deploy /nowhere", 2, "edgefn.yaml"},
		{"deploy /nowhere --wait 0s", 2, "--wait"},
		{"init x", 2, "--runtime is missing"},
		{"init x --runtime cobol", 2, `"cobol" is not known: it is one of python, node, go, exec`},
		{"init Bad_Name --runtime go", 2, "--name"},
		{"completion tcsh", 2, "tcsh"},
		{"functions --node tcp://x", 2, "only unix:// and ssh://"},
		{"functions --node /nowhere.sock", 6, "is the node running?"},
		{"functions --node gateway", 6, "a gateway as ssh://gateway"},
		{"--node /nowhere.sock status", 6, "no such socket"},
		{"deploy /nowhere --node /nowhere.sock", 2, "edgefn.yaml"},
		{"node --node x", 2, "--run"},
		{"node --max-event many", 2, "--max-event"},
		{"node --log-level loud", 2, "--log-level"},
		{"node --data relative --mqtt nonsense", 2, "mqtt.listen"},
		{"node --config /nowhere.yaml", 2, "/nowhere.yaml"},
	} {
		t.Run(c.args, func(t *testing.T) {
			o := s.run(strings.Fields(c.args)...)
			o.want(t, c.code, "", c.err)
			if strings.Count(o.err, "edgefn: ") != 1 {
				t.Errorf("the error is not said once: %q", o.err)
			}
		})
	}
}

package functionstest

import (
	"embed"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/manifest"
	"github.com/edgefn/edgefn/functions/runtimes/golang"
)

//go:embed testdata
var testdata embed.FS

// Names that the fixtures' manifests grant and use.
const (
	OtherFunction   = "other" // whose state under "shared/" is granted
	InvokedFunction = "sink"  // which may be invoked
)

// Run runs the suite of one runtime.
func Run(t *testing.T, h Harness, r functions.Runtime) {
	t.Run("suite", func(t *testing.T) {
		s := deploy(t, h, r, "suite")
		for _, c := range cases {
			if c.skip[r] == "" {
				t.Run(c.name, func(t *testing.T) { c.run(t, s) })
			}
		}
	})
	if r != functions.Exec { // a program handles one event, whatever the isolation
		t.Run("instance", func(t *testing.T) { instance(t, h, r) })
	}
	t.Run("missing", func(t *testing.T) {
		f := refused(t, h, r, "missing")
		want := map[functions.Runtime][]string{
			functions.Python: {"handel", "main:handel", "main.py", "did you mean handle?"},
			functions.Node:   {"handel", "main:handel", "main.mjs", "did you mean handle?"},
			functions.Exec:   {"./handel.sh", "not there"},
			functions.Go:     {"cmd/handel"},
		}[r]
		for _, w := range want {
			if !strings.Contains(f.Message, w) {
				t.Errorf("message %q does not say %q", f.Message, w)
			}
		}
	})
	t.Run("broken", func(t *testing.T) {
		f := refused(t, h, r, "broken")
		if text := f.Message + f.Detail; !strings.Contains(text, "no such sensor: attic") && r != functions.Exec && r != functions.Go {
			t.Errorf("failure %q does not have the author's own error", text)
		}
		if r == functions.Exec && !strings.Contains(f.Message, "chmod +x") {
			t.Errorf("message %q does not say how to make it executable", f.Message)
		}
		if r == functions.Go && !strings.Contains(f.Message, "main.go:") {
			t.Errorf("message %q does not have the compiler's own error", f.Message)
		}
		trimmed(t, f.Detail)
	})
}

// subject is a function under test.
type subject struct {
	h  Harness
	f  *functions.Function
	fn Function
}

// fixture writes a fixture to a folder of its own and reads its manifest.
func fixture(t *testing.T, r functions.Runtime, name string) (string, *functions.Function) {
	t.Helper()
	from, err := fs.Sub(testdata, "testdata/"+string(r)+"/"+name)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, from); err != nil {
		t.Fatal(err)
	}
	if r == functions.Go { // not in testdata: the folder would be a module, which cannot be embedded
		mod := "module fixture\n\ngo 1.21\n\nrequire " + golang.Module + " " + golang.Require + "\n"
		if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(mod), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	scripts, _ := filepath.Glob(filepath.Join(dir, "*.sh"))
	for _, s := range scripts { // an embedded file has no mode
		mode := fs.FileMode(0o755)
		if name == "broken" {
			mode = 0o644
		}
		if err := os.Chmod(s, mode); err != nil {
			t.Fatal(err)
		}
	}
	f, err := manifest.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir, f
}

func deploy(t *testing.T, h Harness, r functions.Runtime, name string) *subject {
	t.Helper()
	dir, f := fixture(t, r, name)
	fn, fail := h.Deploy(t, dir, f)
	if fail != nil {
		t.Fatalf("%v\n%s", fail, fail.Detail)
	}
	return &subject{h, f, fn}
}

func refused(t *testing.T, h Harness, r functions.Runtime, name string) *functions.Failure {
	t.Helper()
	dir, f := fixture(t, r, name)
	_, fail := h.Deploy(t, dir, f)
	switch {
	case fail == nil:
		t.Fatal("it loads")
	case fail.Kind != functions.FailLoad:
		t.Fatalf("failure %v, want one of kind load", fail)
	}
	t.Logf("%s\n%s", fail.Message, fail.Detail)
	return fail
}

var eventTime = time.Date(2026, 2, 3, 4, 5, 6, 789123456, time.UTC)

// invoke hands over an event that asks the fixture for a case.
func (s *subject) invoke(t *testing.T, name string, data []byte) Outcome {
	t.Helper()
	return s.fn.Invoke(t, functions.Event{
		ID: "event-1", Type: name, Source: "test://suite", Subject: "gewächshaus/☃/temperature", Time: eventTime,
		DataContentType: "application/json", Extensions: map[string]string{"mqttqos": "1"}, Data: data,
	})
}

// request is invoke for an event of a broker outside, with further attributes.
func (s *subject) request(t *testing.T, name string, attributes map[string]string) Outcome {
	t.Helper()
	return s.fn.Invoke(t, functions.Event{
		ID: "event-1", Type: name, Source: "mqtt://plant", Subject: "test/ask", Time: eventTime, Extensions: attributes,
	})
}

// ok is invoke for what must succeed.
func (s *subject) ok(t *testing.T, name string, data []byte) Outcome {
	t.Helper()
	out := s.invoke(t, name, data)
	if out.Failure != nil {
		t.Fatalf("%v\n%s", out.Failure, out.Failure.Detail)
	}
	return out
}

// fails is invoke for what must fail in a way.
func (s *subject) fails(t *testing.T, name string, kind functions.FailureKind, says ...string) *functions.Failure {
	t.Helper()
	return s.failsOf(t, name, nil, kind, says...)
}

// failsOf is fails with data.
func (s *subject) failsOf(t *testing.T, name string, data []byte, kind functions.FailureKind, says ...string) *functions.Failure {
	t.Helper()
	out := s.invoke(t, name, data)
	if out.Failure == nil {
		t.Fatalf("it succeeds with %q, want a failure of kind %s", out.Result.Data, kind)
	}
	if out.Failure.Kind != kind {
		t.Errorf("failure %v, want one of kind %s", out.Failure, kind)
	}
	for _, w := range says {
		if !strings.Contains(out.Failure.Message, w) {
			t.Errorf("message %q does not say %q", out.Failure.Message, w)
		}
	}
	if diff := cmp.Diff(Committed{}, out.Committed); diff != "" {
		t.Errorf("a failed invocation had effects (-want +got):\n%s", diff)
	}
	trimmed(t, out.Failure.Detail)
	return out.Failure
}

// trimmed checks that a trace shows the author's code and not edgefn's.
func trimmed(t *testing.T, detail string) {
	t.Helper()
	for _, own := range []string{"_run.py", "_wire.py", "/node/main.mjs", "node:internal", "edgefn-go.protect", "runtime/debug"} {
		if strings.Contains(detail, own) {
			t.Errorf("detail shows %s:\n%s", own, detail)
		}
	}
}

// decode reads a result that is JSON.
func decode[T any](t *testing.T, out Outcome) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(out.Result.Data, &v); err != nil {
		t.Fatalf("result %q: %v", out.Result.Data, err)
	}
	return v
}

// instance checks what many events in one process may see of each other.
func instance(t *testing.T, h Harness, r functions.Runtime) {
	t.Helper()
	s := deploy(t, h, r, "instance")
	for _, want := range []string{"1", "2", "3"} {
		if got := string(s.ok(t, "count", nil).Result.Data); got != want {
			t.Errorf("event is number %q of its process, want %s", got, want)
		}
	}
	if out := s.invoke(t, "raise", nil); out.Failure == nil || out.Failure.Kind != functions.FailRaised {
		t.Errorf("outcome %+v, want a failure", out)
	}
	if got := string(s.ok(t, "count", nil).Result.Data); got != "5" {
		t.Errorf("event behind a failure is number %q of its process, want 5", got)
	}
	// A handler that says how its event goes on says it of that event alone.
	s.fails(t, "reject", functions.FailRejected, "no zone of that name")
	if got := s.fails(t, "retry", functions.FailRaised, "the valve is moving").RetryAfter; got != 30*time.Second {
		t.Errorf("next attempt after %v, want 30s", got)
	}
	if got := s.fails(t, "raise", functions.FailRaised, "it broke").RetryAfter; got != 0 {
		t.Errorf("next attempt after a failure like any other: %v, want 0s", got)
	}
	if got := string(s.ok(t, "count", nil).Result.Data); got != "9" {
		t.Errorf("event behind them is number %q of its process, want 9", got)
	}
	// What outlives its invocation cannot act for the next one.
	s.ok(t, "late", nil)
	if got := s.ok(t, "late-error", nil).Result.Data; !strings.Contains(string(got), "over") {
		t.Errorf("a call after the handler returned gave %q, want an error that says that the invocation is over", got)
	}
	if got := h.State(t, s.f.Name); len(got) != 0 {
		t.Errorf("state is %q, want none", got)
	}
}

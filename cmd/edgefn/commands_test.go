package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/api"
)

// -o json gives what the API gives.
func TestJSON(t *testing.T) {
	s := open(t, backend())
	b := backend()
	for _, c := range []struct {
		args string
		want any
	}{
		{"functions -o json", []api.FunctionInfo{b.Details["fan"].FunctionInfo, b.Details["gauge"].FunctionInfo}},
		{"describe fan -o json", b.Details["fan"]},
		{"usage -o json", []api.Usage{b.Details["fan"].Usage, b.Details["gauge"].Usage}},
		{"usage gauge -o json", []api.Usage{b.Details["gauge"].Usage}},
		{"status -o json", b.Node},
		{"devices -o json", b.Hard},
		{"mqtt clients -o json", b.Clients},
		{"state list fan -o json", []api.StateKey{}},
		{"dead show fan 01A -o json", b.Letters[0]},
		{"rollback fan -o json", api.Deployed{Name: "fan", Version: "sha256:fedcba9876543210", Nodes: []string{"gw1"}}},
		{"pause fan --trigger readings -o json", api.Paused{Function: "fan", Triggers: []string{"readings"}}},
		{"resume fan -o json", api.Paused{Function: "fan"}},
		{"invoke fan --id x --data <a> -o json", api.Invoked{ID: "x", Invocation: "i1", Data: []byte("<a>")}},
	} {
		t.Run(c.args, func(t *testing.T) {
			o := s.run(strings.Fields(c.args)...)
			o.want(t, 0, "\n", "")
			want, err := json.Marshal(c.want)
			if err != nil {
				t.Fatal(err)
			}
			var g, w any
			if err := errors.Join(json.Unmarshal([]byte(o.out), &g), json.Unmarshal(want, &w)); err != nil {
				t.Fatalf("%v in %s", err, o.out)
			}
			if d := cmp.Diff(w, g); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
	t.Run("logs", func(t *testing.T) {
		lines := strings.Split(strings.TrimSuffix(s.run("logs", "fan", "-o", "json").out, "\n"), "\n")
		var got []api.LogLine
		for _, l := range lines {
			var line api.LogLine
			if err := json.Unmarshal([]byte(l), &line); err != nil {
				t.Fatalf("%q: %v", l, err)
			}
			got = append(got, line)
		}
		if d := cmp.Diff(b.Lines, got); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	})
}

func TestInvoke(t *testing.T) {
	b := backend()
	var got api.InvokeRequest
	answer := api.Invoked{Data: []byte{0, 'r', 0xff}}
	var fail error
	b.OnInvoke = func(_ context.Context, _ string, r api.InvokeRequest) (api.Invoked, error) {
		got = r
		return answer, fail
	}
	s := open(t, b)

	o := s.run("invoke", "fan", "--data", "-5", "--type", "t", "--subject", "s", "--id", "i", "--content-type", "a/b", "--timeout", "3s")
	if o.code != 0 || o.out != "\x00r\xff" || o.err != "" {
		t.Errorf("%+v", o)
	}
	want := api.InvokeRequest{ID: "i", Type: "t", Subject: "s", DataContentType: "a/b", Data: []byte("-5"), Wait: 3 * time.Second}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("request (-want +got):\n%s", d)
	}

	file := filepath.Join(t.TempDir(), "event")
	if err := os.WriteFile(file, []byte("from a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run("invoke", "fan", "--data", "@"+file).want(t, 0, "r", "")
	if string(got.Data) != "from a file" {
		t.Errorf("data %q", got.Data)
	}
	s.runWith(t.Context(), "from stdin", "invoke", "fan", "-d", "-").want(t, 0, "r", "")
	if string(got.Data) != "from stdin" {
		t.Errorf("data %q", got.Data)
	}

	answer = api.Invoked{Repeat: true, Logs: []api.LogLine{{Time: now, Level: "info", Invocation: "i9", Stream: "log", Text: "hi"}}}
	s.run("invoke", "fan", "--id", "i", "--logs").want(t, 0, "", "2026-03-04 05:06:07.000 info    log    i9 hi\nthe id \"i\" is known")

	answer = api.Invoked{Failure: &functions.Failure{Kind: functions.FailRaised, Message: "KeyError: 'a'", Detail: "Traceback\n  File \"main.py\""}}
	s.run("invoke", "fan").want(t, 3, "", "edgefn: function \"fan\" failed: raised: KeyError: 'a'\n  Traceback\n    File \"main.py\"\n")
	s.run("invoke", "fan", "-o", "json").want(t, 3, `"kind": "raised"`, "KeyError")

	for err, code := range map[error]int{api.ErrTimeout: 5, api.ErrOverloaded: 1, api.ErrStopping: 1, api.ErrInvalid: 2} {
		fail = fmt.Errorf("why: %w", err)
		s.run("invoke", "fan").want(t, code, "", "edgefn: why: ")
	}
}

func TestInterrupt(t *testing.T) {
	b := backend()
	started := make(chan struct{})
	b.OnInvoke = func(ctx context.Context, _ string, _ api.InvokeRequest) (api.Invoked, error) {
		close(started)
		<-ctx.Done()
		return api.Invoked{}, ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		<-started
		cancel()
	}()
	open(t, b).runWith(ctx, "", "invoke", "fan").want(t, 130, "", "edgefn: interrupted\n")
}

func TestLogsFollow(t *testing.T) {
	b := backend()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b.OnLogs = func(ctx context.Context, _ string, o api.LogOptions, f func(api.LogLine) error) error {
		if !o.Follow || !o.Since.Equal(now.Add(-10*time.Minute)) {
			return fmt.Errorf("options %+v: %w", o, api.ErrInvalid)
		}
		if err := f(api.LogLine{Text: "line"}); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	}
	s := open(t, b)
	var errs buffer
	pr, pw := io.Pipe()
	code := make(chan int)
	go func() { code <- s.app(pw, &errs, "").run(ctx, []string{"logs", "fan", "-f", "--since", "10m"}) }()
	buf := make([]byte, 200)
	n, err := pr.Read(buf)
	if err != nil || !strings.HasSuffix(string(buf[:n]), "line\n") {
		t.Errorf("%q %v", buf[:n], err)
	}
	cancel()
	if got := <-code; got != 130 {
		t.Errorf("exit code %d: %s", got, errs.String())
	}
}

func TestState(t *testing.T) {
	s := open(t, backend())
	s.run("state", "list", "fan").want(t, 0, "", "no keys")
	s.run("state", "put", "fan", "a/b", "one").want(t, 0, "", "")
	s.runWith(t.Context(), "\x00two", "state", "put", "fan", "c", "-").want(t, 0, "", "")
	if o := s.run("state", "get", "fan", "c"); o.out != "\x00two" {
		t.Errorf("%+v", o)
	}
	s.run("state", "list", "fan").want(t, 0, "KEY  SIZE\na/b  3 B\nc    4 B\n", "")
	s.run("state", "list", "fan", "a").want(t, 0, "a/b  3 B\n", "")
	s.run("state", "delete", "fan", "c").want(t, 0, "", "")
	s.run("state", "delete", "fan", "c").want(t, 4, "", "not found")
}

// All keys are listed, however many pages that takes.
func TestStatePages(t *testing.T) {
	b := backend()
	for i := range 2000 {
		if err := b.StatePut(t.Context(), "fan", fmt.Sprintf("k%04d", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	o := open(t, b).run("state", "list", "fan")
	if n := strings.Count(o.out, "\n"); n != 2001 {
		t.Errorf("%d lines", n)
	}
}

func TestDead(t *testing.T) {
	s := open(t, backend())
	o := s.run("dead", "list", "fan", "-o", "json")
	var ls []api.DeadLetter
	if err := json.Unmarshal([]byte(o.out), &ls); err != nil || len(ls) != 2 || ls[0].Event.Data != nil {
		t.Errorf("%v %s", err, o.out)
	}
	if o := s.run("dead", "show", "fan", "01B", "-o", "data"); o.out != "\xff\xfe" {
		t.Errorf("%+v", o)
	}
	s.run("dead", "retry", "fan", "--all").want(t, 3, "handled 1, failed 1\n", "1 dead letter failed again")
	s.run("dead", "retry", "fan", "01A").want(t, 4, "", "not found")
	s.run("dead", "delete", "fan", "01B").want(t, 0, "deleted 1\n", "")
	s.run("dead", "list", "fan").want(t, 0, "mqtt.plant", "no dead letters")
	s.run("dead", "retry", "fan", "--all").want(t, 0, "handled 0, failed 0\n", "")
}

func TestDegraded(t *testing.T) {
	b := backend()
	b.OnStatus = func(context.Context) (api.Status, error) {
		return api.Status{Node: "gw1", Ready: true, State: "degraded", Reasons: []string{"store: disk /var is full"}}, nil
	}
	open(t, b).run("status").want(t, 1, "degraded", "node gw1 is degraded: store: disk /var is full")
}

func TestRemove(t *testing.T) {
	s := open(t, backend())
	s.run("remove", "fan").want(t, 0, "removed fan: 2 versions, 4 triggers, 0 keys of state (3.0 KiB), 2 dead letters, 2.0 MiB of log, the usage of ", "")
	s.run("remove", "fan").want(t, 4, "", "not found")
	b := backend()
	b.Fail = map[string]error{"Kept": errors.New("the store is away")}
	open(t, b).run("rm", "fan").want(t, 0, "removed fan: what is kept of it cannot be counted\n", "")
	b = backend()
	asked := open(t, b)
	asked.terminal = true
	asked.runWith(t.Context(), "n\n", "remove", "fan").want(t, 1, "", "remove function fan with 2 versions")
	asked.runWith(t.Context(), "", "remove", "fan").want(t, 1, "", "nothing was removed")
	asked.runWith(t.Context(), "yes\n", "remove", "fan", "--keep-state").want(t, 0, "kept: 0 keys of state", "[y/N]")
	if !b.StateKept {
		t.Error("the node was not told to keep the state")
	}
	asked.runWith(t.Context(), "", "remove", "gauge", "--yes").want(t, 0, "removed gauge", "")
	b = backend()
	b.Fail = map[string]error{"Remove": fmt.Errorf("remove session: %w", api.ErrTimeout)}
	open(t, b).run("remove", "fan").want(t, 5, "", "remove session")
	s.run("functions").want(t, 0, "gauge", "gauge: exited: status 2\\x1b[31m\n")
	s.run("remove", "gauge").want(t, 0, "removed gauge", "")
	s.run("functions").want(t, 0, "", "no function is deployed")
	s.run("functions", "-o", "json").want(t, 0, "[]\n", "")
	s.run("usage").want(t, 0, "", "no function has run")
}

func TestStatusWait(t *testing.T) {
	b := backend()
	looks := 0
	b.OnStatus = func(context.Context) (api.Status, error) {
		looks++
		switch looks {
		case 1:
			return api.Status{}, fmt.Errorf("opening the store: %w", api.ErrStopping)
		case 2:
			return api.Status{Node: "gw1"}, nil
		}
		return api.Status{Node: "gw1", Ready: true}, nil
	}
	open(t, b).run("status", "--wait", "20s").want(t, 0, "ready", "")
	if looks != 3 {
		t.Errorf("%d looks", looks)
	}

	b.OnStatus = func(context.Context) (api.Status, error) { return api.Status{Node: "gw1"}, nil }
	s := open(t, b)
	s.run("status").want(t, 1, "not ready", "node gw1 is not ready\nhint: edgefn status --wait")
	s.run("status", "--wait", "150ms").want(t, 5, "not ready", "not ready after 150ms")
	s.run("status", "--wait", "150ms", "--node", "/nowhere.sock").want(t, 6, "", "no such socket")

	b.OnStatus = func(context.Context) (api.Status, error) { return api.Status{}, errors.New("broken") }
	open(t, b).run("status", "--wait", "20s").want(t, 1, "", "broken")
}

func TestVersion(t *testing.T) {
	s := open(t, backend())
	s.run("version").want(t, 0, "node:      1.2.3\n", "")
	var v versionInfo
	if err := json.Unmarshal([]byte(s.run("version", "-o", "json").out), &v); err != nil || v.Go == "" || v.Platform == "" || v.Version == "" || v.Node != "1.2.3" {
		t.Errorf("%+v %v", v, err)
	}
	o := s.run("version", "--node", "/nowhere.sock")
	o.want(t, 0, "platform:", "")
	if strings.Contains(o.out, "node:") {
		t.Errorf("a node that is not there: %s", o.out)
	}
}

func TestCompletion(t *testing.T) {
	s := open(t, backend())
	for _, shell := range []string{"bash", "zsh", "fish"} {
		s.run("completion", shell).want(t, 0, "__complete", "")
	}
	for _, c := range []struct{ args, want string }{
		{"describe ", "fan\ngauge\n"},
		{"invoke ", "fan\ngauge\n"},
		{"describe fan ", ""},
		{"dead retry fan ", "01A\n01B\n"},
		{"rollback fan --to ", "sha256:fedcba9876543210\n"},
		{"pause fan --trigger ", "readings\nplant\nbutton\nclimate\n"},
		{"resume ", "fan\ngauge\n"},
		{"devices simulate ", "door\nrelay\ngreenhouse\n"},
		{"devices simulate door ", "on\noff\nfault\nok\n"},
		{"devices simulate greenhouse ", "fault\nok\n"},
		{"devices simulate window ", ""},
		{"functions -o ", "table\njson\n"},
		{"init x --runtime ", "python\nnode\ngo\nexec\n"},
		{"describe --node /nowhere.sock ", ""},
	} {
		o := s.run(append([]string{"__complete"}, strings.Split(c.args, " ")...)...)
		words, _, ok := strings.Cut(o.out, ":4\n")
		if !ok || words != c.want {
			t.Errorf("%q offers %q, want %q", c.args, o.out, c.want)
		}
	}
}

func TestPause(t *testing.T) {
	s := open(t, backend())
	for _, c := range []struct{ args, out, err string }{
		{"pause fan --trigger readings", "fan: paused readings\n", ""},
		{"functions", "fan    serving", "fan: paused is readings\n"},
		{"resume fan --trigger readings", "fan: nothing is paused\n", ""},
		{"pause fan", "fan: paused\n", ""},
		{"functions", "fan    paused", "gauge: "},
		{"describe fan", "state:      paused\n", ""},
		{"resume fan", "fan: nothing is paused\n", ""},
	} {
		s.run(strings.Fields(c.args)...).want(t, 0, c.out, c.err)
	}
}

// An error that the table of triggers has no room for stands below it.
func TestDescribeTellsLongErrorsWhole(t *testing.T) {
	b := backend()
	d := b.Details["fan"]
	d.Sources[1].State, d.Sources[1].Error = "contested", strings.Repeat("x", maxTriggerError)+": name the node anew"
	s := open(t, b)
	s.run("describe", "fan").want(t, 0, "\nplant: "+strings.Repeat("x", maxTriggerError)+": name the node anew\n", "")
}

// What takes long says so on a terminal, and takes its line away.
func TestProgress(t *testing.T) {
	b := backend()
	b.OnRollback = func(_ context.Context, name, _ string, progress func(api.Progress)) (api.Deployed, error) {
		progress(api.Progress{Step: "drain", Text: "2 invocations\nrun"})
		return api.Deployed{Name: name}, nil
	}
	s := open(t, b)
	s.run("rollback", "fan").want(t, 0, "fan", "")

	var errs buffer
	shown := func(text string) {
		deadline := time.Now().Add(10 * time.Second)
		for !strings.Contains(errs.String(), text) {
			if time.Now().After(deadline) {
				t.Errorf("no %q in %q", text, errs.String())
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
	s.terminal = true
	a := s.app(io.Discard, &errs, "")
	p := a.progress("rolling back fan")
	shown("\r\x1b[Krolling back fan (0s)")
	p.step("drain: 2 invocations\nrun")
	shown("rolling back fan: drain: 2 invocations run (0s)")
	p.end()
	p.end()
	if !strings.HasSuffix(errs.String(), "\r\x1b[K") {
		t.Errorf("the line stays: %q", errs.String())
	}
}

package execshim

import (
	"bytes"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/wire"
)

// TestMain is edgefn-ctl for the programs of the tests, under that name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "edgefn-ctl" {
		os.Exit(Ctl(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}

func TestLook(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("PATH", "/usr/bin:/bin")
	for name, file := range map[string]struct {
		text string
		mode os.FileMode
	}{
		"good.sh": {"#!/bin/sh\n", 0o755},
		"args.sh": {"#! /usr/bin/env sh\n", 0o755},
		"mode.sh": {"#!/bin/sh\n", 0o644},
		"dos.sh":  {"#!/bin/sh\r\nexit\r\n", 0o755},
		"lost.sh": {"#!/opt/perl6\n", 0o755},
		"bare.sh": {"exit 0\n", 0o755},
	} {
		if err := os.WriteFile(name, []byte(file.text), file.mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir("folder", 0o755); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ program, says string }{
		{"./good.sh", ""},
		{"./args.sh", ""},
		{"./bare.sh", ""},
		{"sh", ""},
		{filepath.Join(dir, "good.sh"), ""},
		{"good.sh", "write ./good.sh"},
		{"mode.sh", "write ./mode.sh"},
		{"./mode.sh", "chmod +x ./mode.sh"},
		{"./dos.sh", "as on Windows"},
		{"./lost.sh", `interpreter "/opt/perl6"`},
		{"./folder", "is a folder"},
		{"./absent.sh", "is not there"},
		{"absent", "in no folder of PATH (/usr/bin:/bin)"},
	}
	for _, tt := range tests {
		path, err := look(tt.program)
		switch {
		case tt.says == "" && (err != nil || !filepath.IsAbs(path)):
			t.Errorf("look(%q) = %q, %v, want its path", tt.program, path, err)
		case tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)):
			t.Errorf("look(%q) = %q, %v, want an error that says %q", tt.program, path, err, tt.says)
		}
	}
}

func TestEnviron(t *testing.T) {
	t.Setenv("PATH", "/bin")
	got := environ([]string{"A=1", "EDGEFN_SECRET_SETTING=x", "PATH=/bin"}, wire.EventBody{
		Event:   map[string]any{"id": "1", "subject": "a\x00b", "x-y.z": "2", "data": []byte("x")},
		Context: wire.Context{Invocation: "i", Attempt: 2, DeadlineMS: 3},
	}, "/tmp/ctl")
	slices.Sort(got)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"A=1", "EDGEFN_ATTEMPT=2", "EDGEFN_CTL=/tmp/ctl", "EDGEFN_DEADLINE_MS=3", "EDGEFN_EVENT_ID=1", "EDGEFN_EVENT_SUBJECT=ab",
		"EDGEFN_EVENT_X_Y_Z=2", "EDGEFN_FUNCTION=", "EDGEFN_INVOCATION=i", "EDGEFN_TRIGGER=", "EDGEFN_VERSION=", "PATH=/bin:" + filepath.Dir(self),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestProgram(t *testing.T) {
	tests := []struct {
		name, script string
		data         string
		out          string
		kind, says   string // of the failure
	}{
		{name: "echo", script: "cat", data: strings.Repeat("x", 200<<10), out: strings.Repeat("x", 200<<10)},
		{name: "input that is not read", script: "echo done", data: strings.Repeat("x", 200<<10), out: "done\n"},
		{name: "closed output", script: "exec >&- 2>&-; exit 0"},
		{name: "a child that holds everything open", script: "sleep 60 & echo done", out: "done\n"},
		{name: "a child that left the group", script: "setsid sleep 5 & echo done", out: "done\n"},
		{name: "status", script: "exit 7", kind: "raised", says: "p exited with status 7"},
		{name: "last words", script: "echo one >&2; echo two >&2; exit 1", kind: "raised", says: "status 1: two"},
		{name: "a signal", script: "kill -9 $$", kind: "raised", says: "p was ended by signal 9"},
		{name: "endless output", script: "yes", kind: "result", says: "more to its output"},
		{name: "no program", script: "", kind: "raised", says: "start p: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := program{path: "/bin/sh", argv: []string{"p", "-c", tt.script}, env: []string{"PATH=/usr/bin:/bin"}, data: []byte(tt.data), limit: 1 << 20}
			if tt.script == "" {
				p.path = filepath.Join(t.TempDir(), "bare")
				if err := os.WriteFile(p.path, []byte("exit 0\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			out, _, fail := p.run()
			if string(out) != tt.out {
				t.Errorf("output is %d bytes %.40q, want %d bytes %.40q", len(out), out, len(tt.out), tt.out)
			}
			var kind, says string
			if fail != nil {
				kind, says = fail.Kind, fail.Message
			}
			if kind != tt.kind || !strings.Contains(says, tt.says) {
				t.Errorf("failure %q %q, want %q that says %q", kind, says, tt.kind, tt.says)
			}
		})
	}
}

func TestTailIsBounded(t *testing.T) {
	var l tail
	for range 10000 {
		if n, err := l.Write([]byte("a line of words\n")); n != 16 || err != nil {
			t.Fatal(n, err)
		}
	}
	if _, err := l.Write([]byte("\xffend")); err != nil {
		t.Fatal(err)
	}
	if got := l.String(); len(got) > maxTail+8 || !strings.HasSuffix(got, "words\n\uFFFDend") || len(l.b) > 3*maxTail {
		t.Errorf("kept %d of %d bytes, which end with %q", len(got), len(l.b), got[len(got)-10:])
	}
}

// shim opens the door of a node that answers by a function, and has edgefn-ctl
// find it.
func shim(t *testing.T, answer func(wire.Frame) (wire.Kind, wire.Reply)) *node {
	t.Helper()
	ours, theirs := net.Pipe()
	n := &node{conn: wire.NewConn(theirs, readLimit), running: true}
	n.limit.Store(1 << 20)
	socket := filepath.Join(t.TempDir(), "ctl")
	d, err := openDoor(socket, n)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c := wire.NewConn(ours, readLimit)
		for {
			f, err := c.Read()
			if err != nil {
				return
			}
			if kind, reply := answer(f); kind != "" {
				_ = c.Write(kind, f.ID, reply)
			}
		}
	}()
	t.Cleanup(func() {
		d.close()
		_ = ours.Close()
		_ = theirs.Close()
		<-done
	})
	t.Setenv("EDGEFN_CTL", socket)
	return n
}

func TestCtl(t *testing.T) {
	tests := []struct {
		args   string
		stdin  string
		kind   wire.Kind
		call   wire.Call
		reply  wire.Reply
		status int
		out    string
	}{
		{args: "publish a/b x", kind: wire.KindPublish, call: wire.Call{Topic: "a/b", Data: []byte("x"), QoS: 1}},
		{args: "publish a/b - -q 2 -r -b plant", stdin: "\x00y", kind: wire.KindPublish, call: wire.Call{Topic: "a/b", Data: []byte("\x00y"), QoS: 2, Retain: true, Broker: "plant"}},
		{args: "publish -q=0 a/b -- -5", kind: wire.KindPublish, call: wire.Call{Topic: "a/b", Data: []byte("-5")}},
		{args: "publish a/b x --content-type text/csv --response-topic r --correlation AP8= --expiry 1.5s --user a=1 --user a=2=3 --user =", kind: wire.KindPublish, call: wire.Call{
			Topic: "a/b", Data: []byte("x"), QoS: 1, ContentType: "text/csv", ResponseTopic: "r", Correlation: []byte{0, 0xff}, ExpiryS: 2,
			User: []functions.UserProperty{{Name: "a", Value: "1"}, {Name: "a", Value: "2=3"}, {}},
		}},
		{args: "reply x -q 0 --expiry 1m", kind: wire.KindPublish, call: wire.Call{Broker: "plant", Topic: "answer/1", Data: []byte("x"), Correlation: []byte("c-42"), ExpiryS: 60}},
		{args: "state get k", kind: wire.KindGet, call: wire.Call{Key: "k"}, reply: wire.Reply{Found: true, Value: []byte("v\x00")}, out: "v\x00"},
		{args: "state get k", kind: wire.KindGet, call: wire.Call{Key: "k"}, status: exNotFound},
		{args: "state put k v -f other", kind: wire.KindPut, call: wire.Call{Function: "other", Key: "k", Value: []byte("v")}},
		{args: "state put k -", stdin: "in", kind: wire.KindPut, call: wire.Call{Key: "k", Value: []byte("in")}},
		{args: "state delete k", kind: wire.KindDelete, call: wire.Call{Key: "k"}},
		{args: "state list", kind: wire.KindList, reply: wire.Reply{Keys: []string{"a", "b"}}, out: "a\nb\n"},
		{args: "state list p", kind: wire.KindList, call: wire.Call{Prefix: "p"}},
		{args: "invoke sink x --type t --subject s --id i", kind: wire.KindInvoke, call: wire.Call{Function: "sink", Data: []byte("x"), Type: "t", Subject: "s", ID: "i"}, reply: wire.Reply{ID: "i"}, out: "i\n"},
		{args: "line relay set on", kind: wire.KindSetLine, call: wire.Call{Device: "relay", On: true}},
		{args: "line relay set off", kind: wire.KindSetLine, call: wire.Call{Device: "relay"}},
		{args: "line relay pulse 1.5s", kind: wire.KindPulseLine, call: wire.Call{Device: "relay", MS: 1500}},
		{args: "line relay release", kind: wire.KindReleaseLine, call: wire.Call{Device: "relay"}},
		{args: "line door get", kind: wire.KindReadLine, call: wire.Call{Device: "door"}, reply: wire.Reply{On: true}, out: "on\n"},
		{args: "line door get", kind: wire.KindReadLine, call: wire.Call{Device: "door"}, out: "off\n"},
		{args: "sensor greenhouse read", kind: wire.KindReadSensor, call: wire.Call{Device: "greenhouse"}, reply: wire.Reply{Value: []byte(`{"temperature_C":25.1}`)}, out: `{"temperature_C":25.1}` + "\n"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			var got wire.Frame
			t.Setenv("EDGEFN_EVENT_SOURCE", "mqtt://plant")
			t.Setenv("EDGEFN_EVENT_MQTTRESPONSETOPIC", "answer/1")
			t.Setenv("EDGEFN_EVENT_MQTTCORRELATION", "Yy00Mg==")
			shim(t, func(f wire.Frame) (wire.Kind, wire.Reply) {
				got = f
				return wire.KindOK, tt.reply
			})
			var out, errs bytes.Buffer
			if status := Ctl(strings.Fields(tt.args), strings.NewReader(tt.stdin), &out, &errs); status != tt.status {
				t.Errorf("status %d, want %d: %s", status, tt.status, errs.String())
			}
			if out.String() != tt.out {
				t.Errorf("output %q, want %q", out.String(), tt.out)
			}
			var call wire.Call
			if err := got.Into(&call); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.call, call); diff != "" || got.Kind != tt.kind {
				t.Errorf("%s, want %s (-want +got):\n%s", got.Kind, tt.kind, diff)
			}
		})
	}
}

func TestCtlLog(t *testing.T) {
	got := make(chan wire.Log, 1)
	shim(t, func(f wire.Frame) (wire.Kind, wire.Reply) {
		var b wire.Log
		_ = f.Into(&b)
		got <- b
		return "", wire.Reply{}
	})
	if status := Ctl([]string{"log", "warn", "it", "is warm"}, nil, io.Discard, io.Discard); status != exOK {
		t.Errorf("status %d", status)
	}
	if b := <-got; b != (wire.Log{Level: "warning", Text: "it is warm"}) {
		t.Errorf("logged %+v", b)
	}
}

func TestCtlRefused(t *testing.T) {
	n := shim(t, func(wire.Frame) (wire.Kind, wire.Reply) {
		return wire.KindError, wire.Reply{Message: "topic a is not granted"}
	})
	check := func(says string, args ...string) {
		t.Helper()
		var errs bytes.Buffer
		if status := Ctl(args, strings.NewReader(strings.Repeat("x", 2<<20)), io.Discard, &errs); status != exFailed || !strings.Contains(errs.String(), says) {
			t.Errorf("%q: status %d, %q, want one that says %q", args, status, errs.String(), says)
		}
	}
	check("topic a is not granted", "publish", "a", "x")
	check("the event asks for no answer", "reply", "x")
	check("too long", "publish", "a", "-")
	n.end()
	check("no invocation is under way", "publish", "a", "x")
	t.Setenv("EDGEFN_CTL", "")
	check("EDGEFN_CTL is not set", "publish", "a", "x")
	t.Setenv("EDGEFN_CTL", filepath.Join(t.TempDir(), "none"))
	check("reach the node", "publish", "a", "x")
}

func TestCtlUsage(t *testing.T) {
	t.Setenv("EDGEFN_CTL", filepath.Join(t.TempDir(), "none"))
	for _, args := range []string{
		"", "frobnicate", "publish", "publish t a b", "publish t x -q 3", "publish t x -q", "publish t x -z", "publish t x -r=1",
		"publish t x --id 1", "publish t x --user k", "publish t x --expiry soon", "publish t x --expiry 0s", "publish t x --expiry 99999999h", "publish t x --correlation ?", "state", "state frob", "state get", "state get a b", "state put k", "state put k a b", "state delete",
		"state list a b", "line", "line relay", "line relay frob", "line relay set", "line relay set 1", "line relay set on off",
		"line relay pulse", "line relay pulse 200", "line relay pulse 0.5ms", "line relay pulse 1s 2s", "line relay get x", "line relay get -r",
		"line relay release now", "sensor", "sensor greenhouse", "sensor greenhouse get", "sensor greenhouse read x", "retry", "retry 30", "retry soon", "retry -30s", "retry 24h0.001s", "retry 25h busy", "invoke", "invoke f x -r", "log", "log info", "log loud x",
	} {
		var out, errs bytes.Buffer
		if status := Ctl(strings.Fields(args), strings.NewReader(""), &out, &errs); status != exUsage || out.Len() > 0 || errs.Len() == 0 {
			t.Errorf("%q: status %d, output %q, errors %q, want a usage error", args, status, out.String(), errs.String())
		}
	}
	var out bytes.Buffer
	if status := Ctl([]string{"--help"}, nil, &out, io.Discard); status != exOK || out.String() != usage {
		t.Errorf("help: status %d, %q", status, out.String())
	}
}

func TestServeSaysWhatDoesNotLoad(t *testing.T) {
	var rw bytes.Buffer
	if err := serve(&rw, []string{"./absent"}); err != nil {
		t.Fatal(err)
	}
	f, err := wire.NewConn(&rw, readLimit).Read()
	var b wire.Failure
	if err = errors.Join(err, f.Into(&b)); err != nil || f.Kind != wire.KindFailure || b.Kind != "load" {
		t.Errorf("got %s %+v, %v, want a failure of kind load", f.Kind, b, err)
	}
}

// What a program says of its event counts for that event alone, whatever its
// exit.
func TestServeOutcomes(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, "edgefn-ctl")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CTL", filepath.Join(dir, "edgefn-ctl"))
	t.Setenv("TMPDIR", dir)
	t.Setenv("EDGEFN_ISOLATION", "instance")
	ours, theirs := net.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- serve(theirs, []string{"/bin/sh", "-c", `ctl() { "$CTL" "$@"; }; eval "$(cat)"`})
		_ = theirs.Close()
	}()
	c := wire.NewConn(ours, readLimit)
	if f, err := c.Read(); err != nil || f.Kind != wire.KindHello {
		t.Fatal(f.Kind, err)
	}
	long := strings.Repeat("x", maxReason)
	tests := []struct {
		script string
		want   wire.Failure // of no kind: there is a result
	}{
		{"ctl reject no zone of that name", wire.Failure{Kind: "rejected", Message: "no zone of that name"}},
		{"echo fine", wire.Failure{}},
		{"ctl reject; echo why >&2; exit 3", wire.Failure{Kind: "rejected", Message: "the program rejected the event", Detail: "why\n"}},
		{"ctl reject -- -5 is too low; kill -9 $$", wire.Failure{Kind: "rejected", Message: "-5 is too low"}},
		{"ctl reject -5 is too low", wire.Failure{Kind: "rejected", Message: "-5 is too low"}},
		{"ctl reject " + long + "x", wire.Failure{Kind: "rejected", Message: long + " ..."}},
		{"ctl retry 30s 'the valve\nis moving'; yes", wire.Failure{Kind: "raised", Message: "the valve is moving", RetryAfterMS: 30000}},
		{"ctl retry 1500us", wire.Failure{Kind: "raised", Message: "the program asked for another attempt", RetryAfterMS: 2}},
		{"ctl retry 24h x", wire.Failure{Kind: "raised", Message: "x", RetryAfterMS: 86400000}},
		{"ctl retry 0s x", wire.Failure{Kind: "raised", Message: "x"}},
		{"ctl retry 30s x; ctl reject y", wire.Failure{Kind: "rejected", Message: "y"}},
		{"ctl retry 24h1ns busy 2>/dev/null", wire.Failure{Kind: "raised", Message: "edgefn-ctl retry 24h1ns: write a time of 0s to 24h, such as 30s or 5m"}},
		{"ctl retry 2>/dev/null; exit 0", wire.Failure{Kind: "raised", Message: "edgefn-ctl retry needs a time of 0s to 24h, such as 30s or 5m"}},
		{"echo fine again", wire.Failure{}},
	}
	for _, tt := range tests {
		t.Run(tt.script[:min(30, len(tt.script))], func(t *testing.T) {
			if err := c.Write(wire.KindEvent, 1, wire.EventBody{Event: map[string]any{"data": []byte(tt.script)}}); err != nil {
				t.Fatal(err)
			}
			f, err := c.Read()
			if err != nil {
				t.Fatal(err)
			}
			var got wire.Failure
			if f.Kind == wire.KindFailure {
				err = f.Into(&got)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
				t.Errorf("%s, %v (-want +got):\n%s", f.Kind, err, diff)
			}
		})
	}
	_ = ours.Close()
	if err := <-done; err != nil && !gone(err) {
		t.Error(err)
	}
}

// Whoever reaches the socket may say only what a program may.
func TestAskRefuses(t *testing.T) {
	n := &node{running: true}
	for _, f := range []wire.Failure{
		{},
		{Kind: "result"},
		{Kind: "load"},
		{Kind: "transient"},
		{Kind: "rejected", Message: strings.Repeat("x", 1<<20)},
		{Kind: "raised", RetryAfterMS: -1},
		{Kind: "raised", RetryAfterMS: 86400001},
		{Kind: "raised", RetryAfterMS: math.MaxInt64},
	} {
		if err := n.ask(f); err == nil || n.asked != nil {
			t.Errorf("%.100v was taken", f)
		}
	}
	n.end()
	if err := n.ask(wire.Failure{Kind: "rejected"}); !errors.Is(err, errOver) {
		t.Errorf("after its end: %v, want errOver", err)
	}
}

// A caller that sends what is no call is told so, and the next one is served.
func TestDoorStands(t *testing.T) {
	shim(t, func(wire.Frame) (wire.Kind, wire.Reply) { return wire.KindOK, wire.Reply{} })
	for _, frame := range []string{"", "\x00", "\xff\xff\xff\xff", "\x00\x00\x00\x01\xff", "\x00\x00\x00\x0b\x83\x66result\x01\xa0\x00"} {
		c, err := net.Dial("unix", os.Getenv("EDGEFN_CTL"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, frame); err != nil {
			t.Fatal(err)
		}
		_ = c.(*net.UnixConn).CloseWrite()
		f, err := wire.NewConn(c, readLimit).Read()
		if err != nil || f.Kind != wire.KindError {
			t.Errorf("%q: got %s, %v, want an error frame", frame, f.Kind, err)
		}
		_ = c.Close()
	}
	if status := Ctl([]string{"publish", "a", "x"}, nil, io.Discard, io.Discard); status != exOK {
		t.Errorf("status %d, want 0", status)
	}
}

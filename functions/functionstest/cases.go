package functionstest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/edgefn/edgefn/functions"
)

// testCase is one thing that every runtime offers. Its name is the type of its
// event.
type testCase struct {
	name string
	skip map[functions.Runtime]string // why a runtime has no such thing
	run  func(t *testing.T, s *subject)
}

var cases = []testCase{
	{name: "echo", run: func(t *testing.T, s *subject) {
		big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
		binary := make([]byte, 256)
		for i := range binary {
			binary[i] = byte(i)
		}
		for name, data := range map[string][]byte{
			"text": []byte("28.5"), "unicode": []byte("grüße ☃"), "empty": {}, "one NUL": {0}, "binary": binary, "big": big,
			"no UTF-8": {0xff, 0xfe, '\r', '\n'},
		} {
			if got := s.ok(t, "echo", data).Result.Data; !bytes.Equal(got, data) {
				t.Errorf("%s: got %d bytes %.40q, want %d bytes %.40q", name, len(got), got, len(data), data)
			}
		}
	}},
	{name: "json", run: func(t *testing.T, s *subject) {
		out := s.ok(t, "json", []byte(`{"a":1,"b":2}`))
		got := decode[map[string]any](t, out)
		if diff := cmp.Diff(map[string]any{"sum": 3.0, "text": "grüße"}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if got, want := out.Result.DataContentType, "application/json"; got != want && s.f.Runtime != functions.Exec {
			t.Errorf("media type %q, want %q", got, want)
		}
	}},
	{name: "text", run: func(t *testing.T, s *subject) {
		if got, want := string(s.ok(t, "text", nil).Result.Data), "28.5 °C"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}},
	{name: "nothing", run: func(t *testing.T, s *subject) {
		if got := s.ok(t, "nothing", []byte("x")).Result.Data; got != nil {
			t.Errorf("got %q, want no output", got)
		}
	}},
	{name: "attributes", run: func(t *testing.T, s *subject) {
		got := decode[map[string]string](t, s.ok(t, "attributes", []byte("four")))
		want := map[string]string{
			"id": "event-1", "type": "attributes", "source": "test://suite", "subject": "gewächshaus/☃/temperature",
			"datacontenttype": "application/json", "mqttqos": "1", "length": "4", "seconds": "1770091506",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}},
	{name: "context", run: func(t *testing.T, s *subject) {
		got := decode[map[string]any](t, s.ok(t, "context", nil))
		if got["function"] != s.f.Name || got["attempt"] != 1.0 {
			t.Errorf("context %v, want function %s and attempt 1", got, s.f.Name)
		}
		for _, k := range []string{"invocation", "version"} {
			if v, _ := got[k].(string); v == "" {
				t.Errorf("context %v has no %s", got, k)
			}
		}
	}},
	{name: "deadline", run: func(t *testing.T, s *subject) {
		var ms int64
		if _, err := fmt.Sscan(string(s.ok(t, "deadline", nil).Result.Data), &ms); err != nil {
			t.Fatal(err)
		}
		if most := s.f.Timeout.Milliseconds(); ms <= 0 || ms > most {
			t.Errorf("%d ms are left, want 1 to %d", ms, most)
		}
	}},
	{name: "state", run: func(t *testing.T, s *subject) {
		s.h.SetState(t, s.f.Name, "there", []byte("before"))
		out := s.ok(t, "state", []byte{0, 1, 0, 255})
		want := map[string]any{
			"there": "before", "absent": "", "has": true, "hasnt": false, "written": "new", "deleted": false,
			"keys": []any{"a/1", "a/2", "data"}, "a": []any{"a/1", "a/2"},
		}
		if diff := cmp.Diff(want, decode[map[string]any](t, out)); diff != "" {
			t.Errorf("what the function saw (-want +got):\n%s", diff)
		}
		wantState := map[string][]byte{"a/1": []byte("new"), "a/2": {}, "data": {0, 1, 0, 255}}
		if diff := cmp.Diff(wantState, s.h.State(t, s.f.Name), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("what is kept (-want +got):\n%s", diff)
		}
	}},
	{name: "state-and-raise", run: func(t *testing.T, s *subject) {
		before := s.h.State(t, s.f.Name)
		s.fails(t, "state-and-raise", functions.FailRaised)
		if diff := cmp.Diff(before, s.h.State(t, s.f.Name), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("a failed invocation changed the state (-before +after):\n%s", diff)
		}
	}},
	{name: "other-state", run: func(t *testing.T, s *subject) {
		s.h.SetState(t, OtherFunction, "shared/in", []byte("21"))
		if got := string(s.ok(t, "other-state", nil).Result.Data); got != "21" {
			t.Errorf("read %q of another function's state, want 21", got)
		}
		if got := string(s.h.State(t, OtherFunction)["shared/out"]); got != "22" {
			t.Errorf("wrote %q in another function's state, want 22", got)
		}
	}},
	{name: "publish", run: func(t *testing.T, s *subject) {
		want := []functions.Publish{
			{Topic: "test/text", Data: []byte("grüße"), QoS: 1},
			{Topic: "test/bytes", Data: []byte("\xff\x01"), QoS: 0, Retain: true},
			{Topic: "test/json", Data: []byte(`{"on":true}`), QoS: 2},
			{Topic: "test/empty", QoS: 1, Retain: true},
		}
		if diff := cmp.Diff(want, s.ok(t, "publish", nil).Published, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}},
	{name: "properties", run: func(t *testing.T, s *subject) {
		want := []functions.Publish{
			{Topic: "test/properties", Data: []byte("x"), QoS: 1, Properties: functions.Properties{
				ContentType: "text/plain", ResponseTopic: "test/answer", Correlation: []byte{0xff, 1},
				User: []functions.UserProperty{{Name: "tag", Value: "a"}, {Name: "tag", Value: "b"}, {Name: "Größe", Value: "ü=ü"}},
			}},
			{Topic: "test/one", Data: []byte("x"), QoS: 1, Properties: functions.Properties{User: []functions.UserProperty{{Name: "tag"}}}},
		}
		got := s.ok(t, "properties", nil).Published
		wantExpiry(t, got, 2*time.Second) // whole seconds, no fewer than asked for
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}},
	{name: "properties-refused", run: func(t *testing.T, s *subject) {
		out := s.ok(t, "properties-refused", nil)
		got := decode[map[string]string](t, out)
		for what, says := range map[string]string{"expiry": "expiry", "response": "response topic", "user": "user"} {
			if !strings.Contains(got[what], says) {
				t.Errorf("error of %s is %q, want one that says %q", what, got[what], says)
			}
		}
		if diff := cmp.Diff(Committed{}, out.Committed); diff != "" {
			t.Errorf("effects (-want +got):\n%s", diff)
		}
	}},
	{name: "reply", run: func(t *testing.T, s *subject) {
		want := []functions.Publish{{
			Broker: "plant", Topic: "test/answer/1", Data: []byte(`{"ok":true}`), QoS: 2, Properties: functions.Properties{
				ContentType: "application/json", Correlation: []byte("c\x00\xff"), User: []functions.UserProperty{{Name: "tag", Value: "a"}},
			},
		}}
		got := s.request(t, "reply", map[string]string{"mqttresponsetopic": "test/answer/1", "mqttcorrelation": "YwD/"}).Published
		wantExpiry(t, got, time.Minute)
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		got = s.request(t, "reply", map[string]string{"mqttresponsetopic": "test/answer/1"}).Published
		if len(got) != 1 || len(got[0].Correlation) != 0 {
			t.Errorf("published %+v, want an answer with no correlation, as the event had none", got)
		}
	}},
	{name: "reply-nobody", run: func(t *testing.T, s *subject) {
		s.fails(t, "reply-nobody", functions.FailRaised, "asks for no answer", "mqttresponsetopic")
	}},
	{name: "reply-ungranted", run: func(t *testing.T, s *subject) {
		out := s.request(t, "reply-ungranted", map[string]string{"mqttresponsetopic": "forbidden/topic"})
		if out.Failure == nil || !strings.Contains(out.Failure.Message, "forbidden/topic") || len(out.Published) > 0 {
			t.Errorf("outcome %+v, want a failure that names the topic", out)
		}
	}},
	{name: "invoke", run: func(t *testing.T, s *subject) {
		out := s.ok(t, "invoke", nil)
		ids := decode[[]string](t, out)
		if len(out.Invoked) != 2 || len(ids) != 2 {
			t.Fatalf("invoked %+v with the ids %q, want two of each", out.Invoked, ids)
		}
		for i, want := range []functions.Event{
			{ID: ids[0], Type: functions.TypeInvoke, Data: []byte(`{"n":1}`)},
			{ID: "my-id", Type: "test.special", Subject: "über", Data: []byte("x")},
		} {
			got := out.Invoked[i]
			if diff := cmp.Diff(want, got.Event, cmpopts.IgnoreFields(functions.Event{}, "Source", "Time")); diff != "" || got.Function != InvokedFunction {
				t.Errorf("event %d for %s (-want +got):\n%s", i, got.Function, diff)
			}
		}
		if ids[0] == "" || ids[1] != "my-id" {
			t.Errorf("ids %q, want one that is made and my-id", ids)
		}
	}},
	{name: "ungranted", run: func(t *testing.T, s *subject) {
		out := s.ok(t, "ungranted", nil)
		got := decode[map[string]string](t, out)
		for what, name := range map[string]string{"get": "secret", "put": "secret", "publish": "forbidden/topic", "invoke": "stranger"} {
			if !strings.Contains(got[what], name) {
				t.Errorf("error of %s is %q, want one that names %s", what, got[what], name)
			}
		}
		if diff := cmp.Diff(Committed{}, out.Committed); diff != "" {
			t.Errorf("effects (-want +got):\n%s", diff)
		}
	}},
	{name: "ungranted-uncaught", run: func(t *testing.T, s *subject) {
		s.fails(t, "ungranted-uncaught", functions.FailRaised, "forbidden/topic")
	}},
	{name: "lines", run: func(t *testing.T, s *subject) {
		out := s.ok(t, "lines", nil)
		want := []functions.Effect{
			functions.SetLine{Line: Relay},
			functions.SetLine{Line: Relay, On: true},
			functions.PulseLine{Line: Relay, For: 200 * time.Millisecond},
			functions.SetLine{Line: Relay, On: true},
			functions.ReleaseLine{Line: Relay},
		}
		if diff := cmp.Diff(want, out.Commanded); diff != "" {
			t.Errorf("commands (-want +got):\n%s", diff)
		}
		saw := map[string]bool{Door: true, Hatch: false, Relay: false, "set": true, "pulsed": false}
		if diff := cmp.Diff(saw, decode[map[string]bool](t, out)); diff != "" {
			t.Errorf("lines that are on (-want +got):\n%s", diff)
		}
	}},
	{name: "lines-and-raise", run: func(t *testing.T, s *subject) {
		s.fails(t, "lines-and-raise", functions.FailRaised)
	}},
	{name: "sensor", run: func(t *testing.T, s *subject) {
		got := decode[map[string]float64](t, s.ok(t, "sensor", nil))
		if diff := cmp.Diff(map[string]float64{"temperature_C": -3.5, "humidity_rH": 41.25}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}},
	{name: "device-refused", run: func(t *testing.T, s *subject) {
		out := s.ok(t, "device-refused", nil)
		got := decode[map[string]string](t, out)
		for what, says := range map[string]string{
			"ungranted-line": "siren is not granted", "ungranted-read": "siren is not granted", "ungranted-sensor": "attic is not granted",
			"input": "door is an input", "no-time": "0 ms", "long": "60001 ms", "fault": "soil does not work: no answer",
		} {
			if !strings.Contains(got[what], says) {
				t.Errorf("error of %s is %q, want one that says %q", what, got[what], says)
			}
		}
		if diff := cmp.Diff(Committed{}, out.Committed); diff != "" {
			t.Errorf("effects (-want +got):\n%s", diff)
		}
	}},
	{name: "device-refused-uncaught", run: func(t *testing.T, s *subject) {
		s.fails(t, "device-refused-uncaught", functions.FailRaised, "siren is not granted")
	}},
	{name: "not-awaited", skip: skipAllBut(functions.Node, "calls do not return before they are done"), run: func(t *testing.T, s *subject) {
		if got := s.ok(t, "not-awaited", nil).Published; len(got) != 3 {
			t.Errorf("published %v, want three messages", got)
		}
		s.fails(t, "not-awaited-ungranted", functions.FailRaised, "forbidden/topic")
	}},
	{name: "log", run: func(t *testing.T, s *subject) {
		got := slices.DeleteFunc(s.ok(t, "log", nil).Logs, func(l Line) bool { return l.Stream != "log" })
		want := []Line{
			{"log", "debug", "fine detail"},
			{"log", "info", "it is 28 °C"},
			{"log", "warning", "getting warm"},
			{"log", "error", "on fire"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}},
	{name: "output", run: func(t *testing.T, s *subject) {
		got := slices.DeleteFunc(s.ok(t, "output", nil).Logs, func(l Line) bool { return l.Stream == "log" })
		want := []Line{
			{"stderr", "error", "to standard error"},
			{"stdout", "info", "to standard output, ☃"},
		}
		if s.f.Runtime == functions.Exec {
			want = want[:1] // its output is the result
		}
		slices.SortFunc(got, func(a, b Line) int { return strings.Compare(a.Stream, b.Stream) })
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}},
	{name: "env", run: func(t *testing.T, s *subject) {
		if got, want := string(s.ok(t, "env", nil).Result.Data), "grüß dich"; got != want {
			t.Errorf("GREETING is %q, want %q", got, want)
		}
	}},
	{name: "secret", run: func(t *testing.T, s *subject) {
		if got := string(s.ok(t, "secret", nil).Result.Data); got != Secret {
			t.Errorf("secret is %q, want %q", got, Secret)
		}
	}},
	{name: "raise", run: func(t *testing.T, s *subject) {
		f := s.fails(t, "raise", functions.FailRaised, "it broke")
		want := map[functions.Runtime][]string{
			functions.Python: {"ValueError: it broke", "main.py", "in broken_part"},
			functions.Node:   {"RangeError: it broke", "main.mjs", "at brokenPart"},
			functions.Exec:   {"it broke"},
		}[s.f.Runtime]
		for _, w := range want {
			if !strings.Contains(f.Detail, w) {
				t.Errorf("detail does not show %q:\n%s", w, f.Detail)
			}
		}
	}},
	{name: "panic", skip: skipAllBut(functions.Go, "there is no panic"), run: func(t *testing.T, s *subject) {
		f := s.fails(t, "panic", functions.FailRaised, "panic: it broke")
		if !strings.Contains(f.Detail, "main.brokenPart") || strings.Contains(f.Detail, "runtime/debug") {
			t.Errorf("detail is not the author's stack:\n%s", f.Detail)
		}
	}},
	{name: "reject", run: func(t *testing.T, s *subject) {
		f := s.fails(t, "reject", functions.FailRejected)
		wantDetail := map[functions.Runtime]string{functions.Exec: "to standard error\n"}[s.f.Runtime] // and no stack
		if f.Message != "no zone of that name" || f.Detail != wantDetail || f.RetryAfter != 0 || f.Retryable() {
			t.Errorf("failure %+v, want the author's text, the detail %q and no further attempt", f, wantDetail)
		}
	}},
	{name: "reject-cause", run: func(t *testing.T, s *subject) {
		f := s.fails(t, "reject-cause", functions.FailRejected)
		message, detail := "no zone of that name", map[functions.Runtime][]string{
			functions.Python: {"ValueError: it broke", "in broken_part", "no zone of that name"},
			functions.Node:   {"RangeError: it broke", "at brokenPart", "no zone of that name"},
		}[s.f.Runtime]
		if s.f.Runtime == functions.Go {
			message = "find the zone: " + message
		}
		if f.Message != message {
			t.Errorf("message %q, want %q", f.Message, message)
		}
		for _, w := range detail {
			if !strings.Contains(f.Detail, w) {
				t.Errorf("detail does not show %q:\n%s", w, f.Detail)
			}
		}
	}},
	{name: "reject-not-awaited", skip: skipAllBut(functions.Node, "there is nothing to await"), run: func(t *testing.T, s *subject) {
		s.fails(t, "reject-not-awaited", functions.FailRejected, "no zone of that name")
	}},
	{name: "reject-and-retry", skip: skipAllBut(functions.Exec, "a handler raises once"), run: func(t *testing.T, s *subject) {
		if f := s.fails(t, "reject-and-retry", functions.FailRaised); f.Message != "the last words" || f.RetryAfter != 5*time.Minute {
			t.Errorf("failure %+v, want what the last call said", f)
		}
	}},
	{name: "retry", run: func(t *testing.T, s *subject) {
		for seconds, want := range map[string]time.Duration{
			"0": 0, "30": 30 * time.Second, "0.0015": 2 * time.Millisecond, "86400": functions.MaxRetryAfter,
		} {
			f := s.failsOf(t, "retry", []byte(seconds), functions.FailRaised)
			if f.Message != "the valve is moving" || f.RetryAfter != want || !f.Retryable() {
				t.Errorf("%s s: failure %+v, want the author's text and the next attempt after %v", seconds, f, want)
			}
		}
	}},
	{name: "retry-bounds", run: func(t *testing.T, s *subject) {
		allowed, wrong := "0 to 86400 (24 h)", []string{"86400.001", "-0.001", "-30", "nan", "inf"}
		switch s.f.Runtime {
		case functions.Exec:
			allowed = "0s to 24h"
		case functions.Go:
			allowed, wrong = "0s to 24h", wrong[:3] // a time.Duration is a number, and a finite one
		case functions.Python, functions.Node:
		}
		for _, seconds := range wrong {
			f := s.failsOf(t, "retry", []byte(seconds), functions.FailRaised, allowed)
			if f.RetryAfter != 0 {
				t.Errorf("%s s: next attempt after %v, want 0s", seconds, f.RetryAfter)
			}
		}
	}},
	{name: "retry-no-number", skip: map[functions.Runtime]string{functions.Go: "it does not compile"}, run: func(t *testing.T, s *subject) {
		f := s.fails(t, "retry-no-number", functions.FailRaised, map[functions.Runtime]string{
			functions.Python: "TypeError: after is a number of seconds", functions.Node: "TypeError: after is a number of seconds", functions.Exec: "retry soon: write a time",
		}[s.f.Runtime])
		if f.RetryAfter != 0 {
			t.Errorf("next attempt after %v, want 0s", f.RetryAfter)
		}
	}},
	{name: "exit", skip: map[functions.Runtime]string{functions.Exec: "a program's exit is its answer"}, run: func(t *testing.T, s *subject) {
		s.fails(t, "exit", functions.FailExited)
	}},
	{name: "status", skip: skipAllBut(functions.Exec, "an exit is no answer"), run: func(t *testing.T, s *subject) {
		s.fails(t, "status", functions.FailRaised, "./main.sh exited with status 3", "the last words")
	}},
	{name: "leaves-a-child", run: func(t *testing.T, s *subject) {
		if got := string(s.ok(t, "leaves-a-child", nil).Result.Data); got != "done" {
			t.Errorf("got %q, want done", got)
		}
	}},
	{name: "unserialisable", skip: map[functions.Runtime]string{functions.Exec: "its result is bytes"}, run: func(t *testing.T, s *subject) {
		typ := map[functions.Runtime]string{functions.Python: "type dict cannot be sent: Object of type set", functions.Node: "BigInt", functions.Go: "chan int"}[s.f.Runtime]
		s.fails(t, "unserialisable", functions.FailResult, "result", typ)
	}},
	{name: "too-large", run: func(t *testing.T, s *subject) {
		s.fails(t, "too-large", functions.FailResult)
	}},
	{name: "too-large-call", run: func(t *testing.T, s *subject) {
		s.fails(t, "too-large-call", functions.FailRaised, "too l")
	}},
	{name: "fresh", run: func(t *testing.T, s *subject) {
		for range 2 {
			if got := string(s.ok(t, "count", nil).Result.Data); got != "1" {
				t.Errorf("event is number %q of its process, want 1", got)
			}
		}
	}},
}

func skipAllBut(r functions.Runtime, why string) map[functions.Runtime]string {
	m := map[functions.Runtime]string{}
	for _, other := range functions.Runtimes {
		if other != r {
			m[other] = why
		}
	}
	return m
}

// wantExpiry checks when the first message expires, and takes that away.
func wantExpiry(t *testing.T, got []functions.Publish, in time.Duration) {
	t.Helper()
	if len(got) == 0 {
		t.Fatal("nothing was published")
	}
	if left := time.Until(got[0].Expires); left > in || left < in-time.Second {
		t.Errorf("it expires in %v, want %v", left, in)
	}
	got[0].Expires = time.Time{}
}

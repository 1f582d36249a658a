package functions_test

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/edgefn/edgefn/functions"
)

func TestBackoff(t *testing.T) {
	r := functions.Retry{Attempts: 6, First: time.Second, Max: 5 * time.Second}
	for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second} {
		got, ok := r.Backoff(i + 1)
		if got != want || !ok {
			t.Errorf("Backoff(%d) = %v, %v, want %v", i+1, got, ok, want)
		}
	}
	if _, ok := r.Backoff(6); ok {
		t.Error("Backoff(6) offers a seventh attempt of six")
	}
	if got, ok := (functions.Retry{Attempts: 3, First: 9 * time.Second, Max: 5 * time.Second}).Backoff(1); got != 5*time.Second || !ok {
		t.Errorf("first over max: Backoff(1) = %v, %v, want 5s", got, ok)
	}
}

// Whatever a valid schedule is, its waits never shrink and never pass Max.
func TestBackoffIsBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := functions.Retry{
			Attempts: rapid.IntRange(1, functions.MaxAttempts).Draw(t, "attempts"),
			First:    time.Duration(rapid.Int64Range(int64(time.Millisecond), int64(functions.MaxBackoff)).Draw(t, "first")),
		}
		r.Max = time.Duration(rapid.Int64Range(int64(r.First), int64(functions.MaxBackoff)).Draw(t, "max"))
		last := time.Duration(0)
		for n := 1; n < r.Attempts; n++ {
			wait, ok := r.Backoff(n)
			if !ok || wait < last || wait > r.Max {
				t.Fatalf("Backoff(%d) = %v, %v after %v", n, wait, ok, last)
			}
			last = wait
		}
		if _, ok := r.Backoff(r.Attempts); ok {
			t.Fatalf("more than %d attempts", r.Attempts)
		}
	})
}

func TestGrants(t *testing.T) {
	f := functions.Function{Name: "fan", Grants: functions.Grants{
		Publish: []string{"alarms/+", "x"},
		State:   []string{"weather", "tank/level/"},
		Invoke:  []string{"alarm"},
	}}
	publish := map[string]bool{"alarms/fire": true, "x": true, "alarms": false, "alarms/a/b": false, "": false}
	for topic, want := range publish {
		if got := f.MayPublish(topic); got != want {
			t.Errorf("MayPublish(%q) = %v, want %v", topic, got, want)
		}
	}
	for _, tt := range []struct {
		owner, key string
		want       bool
	}{
		{"", "any", true},
		{"fan", "any", true},
		{"weather", "any", true},
		{"weathe", "any", false},
		{"tank", "level/1", true},
		{"tank", "level", false},
		{"tank", "other", false},
		{"other", "any", false},
	} {
		if got := f.MayUseState(tt.owner, tt.key); got != tt.want {
			t.Errorf("MayUseState(%q, %q) = %v, want %v", tt.owner, tt.key, got, tt.want)
		}
	}
	if !f.MayInvoke("alarm") || f.MayInvoke("fan") || f.MayInvoke("") {
		t.Error("MayInvoke: want alarm alone")
	}
}

func TestFailure(t *testing.T) {
	err := error(functions.Failf(functions.FailTimeout, "took longer than %v", time.Second))
	var f *functions.Failure
	if !errors.As(err, &f) || f.Error() != "timeout: took longer than 1s" {
		t.Errorf("Failf = %v", err)
	}
	if !f.Retryable() {
		t.Error("a timeout can end otherwise at another attempt")
	}
	if functions.Failf(functions.FailPayload, "too large").Retryable() {
		t.Error("a payload over the limit stays over it")
	}
	if functions.Failf(functions.FailRejected, "no such sensor").Retryable() {
		t.Error("a rejected event can never succeed")
	}
}

func TestFormatSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 1023: "1023", 1024: "1Ki", 64 << 20: "64Mi", 4 << 30: "4Gi", 1536: "1536"} {
		if got := functions.FormatSize(n); got != want {
			t.Errorf("FormatSize(%d) = %q, want %q", n, got, want)
		}
	}
}

package edgefn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/wire"
)

// stacked is an error that carries a stack, as some packages make them.
type stacked struct{}

func (stacked) Error() string { return "it broke" }

func (stacked) Format(f fmt.State, verb rune) {
	if verb == 'v' && f.Flag('+') {
		_, _ = io.WriteString(f, "it broke\nmain.go:7")
		return
	}
	_, _ = io.WriteString(f, "it broke")
}

func TestOutcomes(t *testing.T) {
	broke := errors.New("it broke")
	rejected, raised := string(functions.FailRejected), string(functions.FailRaised)
	tests := []struct {
		name string
		err  error
		want wire.Failure
	}{
		{"any error", broke, wire.Failure{Kind: raised, Message: "it broke"}},
		{"reject", Reject(broke), wire.Failure{Kind: rejected, Message: "it broke"}},
		{"reject, wrapped", fmt.Errorf("read: %w", Reject(broke)), wire.Failure{Kind: rejected, Message: "read: it broke"}},
		{"reject, joined", errors.Join(io.EOF, Reject(broke)), wire.Failure{Kind: rejected, Message: "EOF it broke"}},
		{"reject of what has a stack", Reject(stacked{}), wire.Failure{Kind: rejected, Message: "it broke", Detail: "it broke\nmain.go:7"}},
		{"retry", RetryAfter(broke, 30*time.Second), wire.Failure{Kind: raised, Message: "it broke", RetryAfterMS: 30000}},
		{"retry, wrapped", fmt.Errorf("read: %w", RetryAfter(broke, time.Second)), wire.Failure{Kind: raised, Message: "read: it broke", RetryAfterMS: 1000}},
		{"retry of what has a stack", RetryAfter(stacked{}, time.Second), wire.Failure{Kind: raised, Message: "it broke", Detail: "it broke\nmain.go:7", RetryAfterMS: 1000}},
		{"retry, rounded up", RetryAfter(broke, 1), wire.Failure{Kind: raised, Message: "it broke", RetryAfterMS: 1}},
		{"retry at once", RetryAfter(broke, 0), wire.Failure{Kind: raised, Message: "it broke"}},
		{"retry at last", RetryAfter(broke, MaxRetryAfter), wire.Failure{Kind: raised, Message: "it broke", RetryAfterMS: 86400000}},
		{"retry too late", RetryAfter(broke, MaxRetryAfter+1), wire.Failure{Kind: raised, Message: "retry after 24h0m0.000000001s: 0s to 24h are possible: it broke"}},
		{"retry in the past", RetryAfter(broke, math.MinInt64), wire.Failure{Kind: raised, Message: "retry after -2562047h47m16.854775808s: 0s to 24h are possible: it broke"}},
		{"the outermost of two", RetryAfter(Reject(broke), time.Second), wire.Failure{Kind: raised, Message: "it broke", RetryAfterMS: 1000}},
		{"the outermost of two, other", Reject(RetryAfter(broke, time.Second)), wire.Failure{Kind: rejected, Message: "it broke"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, done := start(t, func(context.Context, Event) (any, error) { return "unused", tt.err }, true)
			f := invoke(t, c, wire.Context{DeadlineMS: 60000})
			var got wire.Failure
			if err := f.Into(&got); err != nil || f.Kind != wire.KindFailure {
				t.Fatalf("%s: %v", f.Kind, err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if err := <-done; err != nil {
				t.Errorf("serve: %v", err)
			}
		})
	}
}

// What a handler returned is examined by its tests.
func TestOutcomesUnwrap(t *testing.T) {
	err := fmt.Errorf("read: %w", RetryAfter(io.ErrUnexpectedEOF, time.Minute))
	var retry *RetryAfterError
	if !errors.As(err, &retry) || retry.After() != time.Minute || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v is not found: %v", err, retry)
	}
	err = fmt.Errorf("read: %w", Reject(io.ErrUnexpectedEOF))
	var rejected *RejectedError
	if !errors.As(err, &rejected) || !errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &retry) {
		t.Errorf("%v is not found", err)
	}
	if tooLate := RetryAfter(io.EOF, 25*time.Hour); !errors.Is(tooLate, io.EOF) || errors.As(tooLate, &retry) || !strings.Contains(tooLate.Error(), "25h") {
		t.Errorf("a time that is not possible: %v", tooLate)
	}
	if Reject(nil) != nil || RetryAfter(nil, time.Second) != nil || RetryAfter(nil, -1) != nil {
		t.Error("what did not fail became a failure")
	}
	if MaxRetryAfter != functions.MaxRetryAfter {
		t.Errorf("MaxRetryAfter is %v, the node's %v", MaxRetryAfter, functions.MaxRetryAfter)
	}
}

package edgefn

import (
	"errors"
	"fmt"
	"time"
)

// MaxRetryAfter is the longest time that RetryAfter takes.
const MaxRetryAfter = 24 * time.Hour

// RejectedError is what Reject returns. It unwraps to the error that it was made
// of, and has its text.
type RejectedError struct{ err error }

// Error implements error.
func (e *RejectedError) Error() string { return e.err.Error() }

// Unwrap returns the error that the rejection was made of.
func (e *RejectedError) Unwrap() error { return e.err }

// Reject makes of err one that says "never again":
//
//	return nil, edgefn.Reject(err)
//
// The event goes to the dead letters at once, with the error's text, and is not
// tried again. It is found in what the handler returns by errors.As, so it may be
// wrapped further; of several, the outermost counts. A panic with it is a panic
// like any other. Reject(nil) is nil.
func Reject(err error) error {
	if err == nil {
		return nil
	}
	return &RejectedError{err}
}

// RetryAfterError is what RetryAfter returns. It unwraps to the error that it was
// made of, and has its text.
type RetryAfterError struct {
	err   error
	after time.Duration
}

// Error implements error.
func (e *RetryAfterError) Error() string { return e.err.Error() }

// Unwrap returns the error that it was made of.
func (e *RetryAfterError) Unwrap() error { return e.err }

// After returns the time to the next attempt, at least.
func (e *RetryAfterError) After() time.Duration { return e.after }

// RetryAfter makes of err one that says "again, but later":
//
//	return nil, edgefn.RetryAfter(err, 30*time.Second)
//
// The next attempt comes no sooner than after, which is 0 to MaxRetryAfter and is
// rounded up to a millisecond; 0 leaves it to edgefn.yaml (retry). This attempt
// counts: behind the last one the event goes to the dead letters. It is found in
// what the handler returns as a rejection is. RetryAfter(nil, after) is nil.
//
// With a time that is negative or over MaxRetryAfter, the error that is returned
// says so beside the text of err, and is a failure like any other.
func RetryAfter(err error, after time.Duration) error {
	switch {
	case err == nil:
		return nil
	case after < 0 || after > MaxRetryAfter:
		return fmt.Errorf("retry after %v: 0s to 24h are possible: %w", after, err)
	}
	return &RetryAfterError{err, after}
}

// decision is an error by which a handler says how its event goes on.
type decision interface {
	error
	Unwrap() error
	decide(f *failure)
}

var (
	_ decision = (*RejectedError)(nil)
	_ decision = (*RetryAfterError)(nil)
)

func (e *RejectedError) decide(f *failure) { f.kind = "rejected" }

func (e *RetryAfterError) decide(f *failure) { f.retryAfter = e.after }

// failureOf returns what is told of an error that the handler returned.
func failureOf(err error) *failure {
	f := &failure{kind: "raised", message: oneLine(err.Error())}
	origin := err
	var d decision
	if errors.As(err, &d) {
		d.decide(f)
		origin = d.Unwrap()
	}
	if full := fmt.Sprintf("%+v", origin); full != origin.Error() {
		f.detail = full // such as a stack that the error carries
	}
	return f
}

// body returns the failure as it stands in a frame.
func (f *failure) body() map[string]any {
	m := map[string]any{"kind": f.kind, "message": f.message, "detail": clip(f.detail)}
	if f.retryAfter > 0 {
		m["retry_after_ms"] = uint64((f.retryAfter + time.Millisecond - 1) / time.Millisecond)
	}
	return m
}

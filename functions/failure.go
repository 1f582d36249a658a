package functions

import (
	"fmt"
	"time"
)

// FailureKind says how an invocation failed.
type FailureKind string

// The ways in which an invocation fails.
const (
	FailRaised    FailureKind = "raised"    // the handler raised, threw or returned an error, or a program exited non-zero
	FailRejected  FailureKind = "rejected"  // the handler said that this event can never succeed; never retried
	FailExited    FailureKind = "exited"    // the process ended without an answer
	FailMemory    FailureKind = "memory"    // killed at its memory limit
	FailTimeout   FailureKind = "timeout"   // killed at its time limit
	FailResult    FailureKind = "result"    // the result is too large or cannot be serialised
	FailProtocol  FailureKind = "protocol"  // the instance broke the wire protocol
	FailLoad      FailureKind = "load"      // the handler could not be loaded
	FailEffect    FailureKind = "effect"    // its effects could not take place
	FailPayload   FailureKind = "payload"   // the event's data is over the node's limit; never retried
	FailLost      FailureKind = "lost"      // its sandbox, or the node, ended while it ran
	FailSend      FailureKind = "send"      // a message that it published, or an event that it sent, is taken by nobody
	FailTransient FailureKind = "transient" // the node's fault, not the function's: no instance could be had
)

// MaxRetryAfter is the longest time that a handler can put the next attempt off.
const MaxRetryAfter = 24 * time.Hour

// Failure is an invocation that did not succeed. It is an error.
type Failure struct { //nolint:errname // the outcome of an invocation, which is an error too
	Kind    FailureKind `json:"kind"`
	Message string      `json:"message"`          // one line for people: what failed and why
	Detail  string      `json:"detail,omitempty"` // the function's own stack trace or last output
	// RetryAfter is set where the handler asked for the next attempt no sooner
	// than this, at most MaxRetryAfter. 0: by the schedule.
	RetryAfter time.Duration `json:"retry_after,omitempty"`
}

// Error implements error.
func (f *Failure) Error() string { return string(f.Kind) + ": " + f.Message }

// Failf makes a Failure of a kind.
func Failf(kind FailureKind, format string, args ...any) *Failure {
	return &Failure{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// Retryable reports whether another attempt can end otherwise.
func (f *Failure) Retryable() bool { return f.Kind != FailPayload && f.Kind != FailRejected }

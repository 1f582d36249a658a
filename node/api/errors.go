package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/edgefn/edgefn/functions"
)

// Error is an error with advice. A Backend returns one where the reader can do
// something about it, and the client makes one of every problem that it gets.
type Error struct {
	Err     error  // one of the package's errors, or a chain that ends in one; nil: none of them
	Message string // what was being done, to what, and why it failed
	Hint    string // what to do next; may be empty
	// Faults are what is wrong with a function, where that is why; Message has
	// them too.
	Faults []functions.Fault
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the error that classifies e.
func (e *Error) Unwrap() error { return e.Err }

// Hint returns the advice that err carries, or "".
func Hint(err error) string {
	var e *Error
	for errors.As(err, &e) {
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}

// Faults returns the faults of a function that err carries, or nil.
func Faults(err error) []functions.Fault {
	var e *Error
	if errors.As(err, &e) {
		return e.Faults
	}
	return nil
}

// kind ties an error to its place in HTTP.
type kind struct {
	err    error
	urn    string
	title  string
	status int
}

// kinds holds every error that crosses the API, the more specific first.
var kinds = []kind{
	{ErrNotFound, "urn:edgefn:not-found", "Not found", http.StatusNotFound},
	{ErrInvalid, "urn:edgefn:invalid", "Invalid", http.StatusBadRequest},
	{ErrRefused, "urn:edgefn:refused", "Refused", http.StatusUnprocessableEntity},
	{ErrTimeout, "urn:edgefn:timeout", "Timed out", http.StatusGatewayTimeout},
	{ErrOverloaded, "urn:edgefn:overloaded", "Overloaded", http.StatusTooManyRequests},
	{ErrStarting, "urn:edgefn:starting", "Node is starting", http.StatusServiceUnavailable},
	{ErrStopping, "urn:edgefn:stopping", "Node is stopping", http.StatusServiceUnavailable},
	{ErrFull, "urn:edgefn:full", "No space", http.StatusInsufficientStorage},
	{ErrIncomplete, "urn:edgefn:incomplete", "Image is not complete", http.StatusConflict},
	{errTooLarge, "urn:edgefn:too-large", "Too large", http.StatusRequestEntityTooLarge},
	{errSlow, "urn:edgefn:slow", "Request timeout", http.StatusRequestTimeout},
	{errNoRoute, "urn:edgefn:no-route", "No such resource", http.StatusNotFound},
	{errMethod, "urn:edgefn:method", "Method not allowed", http.StatusMethodNotAllowed},
	{context.DeadlineExceeded, "urn:edgefn:timeout", "Timed out", http.StatusGatewayTimeout},
}

// failed is the kind of an error that is none of kinds.
var failed = kind{nil, "urn:edgefn:failed", "Failed", http.StatusInternalServerError}

// Errors of requests that never reach the Backend.
var (
	errTooLarge = errors.New("request is too large")
	errSlow     = errors.New("request comes too slowly")
	errNoRoute  = errors.New("no such resource")
	errMethod   = errors.New("method is not allowed")
)

// problemOf describes err as a problem.
func problemOf(err error) *Problem {
	k := failed
	for _, c := range kinds {
		if errors.Is(err, c.err) {
			k = c
			break
		}
	}
	return &Problem{Type: k.urn, Title: k.title, Status: k.status, Detail: err.Error(), Hint: Hint(err), Faults: Faults(err)}
}

// err turns a problem back into the error that it was made of.
func (p *Problem) err() error {
	e := &Error{Message: p.Detail, Hint: p.Hint, Faults: p.Faults}
	if e.Message == "" {
		e.Message = p.Title
	}
	for _, k := range kinds {
		if k.urn == p.Type {
			e.Err = k.err
			break
		}
	}
	switch {
	case errors.Is(e.Err, errTooLarge):
		e.Err = ErrRefused
	case errors.Is(e.Err, errSlow):
		e.Err = ErrTimeout
	case errors.Is(e.Err, errNoRoute), errors.Is(e.Err, errMethod):
		// This client asked for what that node does not offer.
		e.Err = ErrRefused
		if e.Hint == "" {
			e.Hint = "the node and this command are of different versions: compare with edgefn version"
		}
	}
	return e
}

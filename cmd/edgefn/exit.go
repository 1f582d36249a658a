package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/api"
)

// Exit codes.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2 // usage or config
	exitFunction    = 3 // the function failed
	exitNotFound    = 4
	exitTimeout     = 5
	exitUnreach     = 6 // no node to talk to
	exitInterrupted = 130
)

// exits maps errors to exit codes; the first that matches counts, any other
// error is exitFailed.
var exits = []struct {
	err  error
	code int
}{
	{context.Canceled, exitInterrupted},
	{errUsage, exitUsage},
	{errFunction, exitFunction},
	{api.ErrUnreach, exitUnreach},
	{api.ErrNotFound, exitNotFound},
	{api.ErrTimeout, exitTimeout},
	{context.DeadlineExceeded, exitTimeout},
	{api.ErrInvalid, exitUsage},
}

// Errors that exits tells apart beside those of the API.
var (
	errUsage    = errors.New("usage")
	errFunction = errors.New("function failed")
)

// workError marks an error of a command's work; cobra's own are of usage.
type workError struct{ err error }

// Error implements error.
func (e *workError) Error() string { return e.err.Error() }

// Unwrap returns the error itself.
func (e *workError) Unwrap() error { return e.err }

// usageError is a command line or a file that cannot be understood.
type usageError struct {
	text string
	hint string
	err  error // its cause; may be nil
}

// Error implements error.
func (e *usageError) Error() string { return e.text }

// Is makes it one of errUsage.
func (e *usageError) Is(t error) bool { return t == errUsage }

// Unwrap returns its cause.
func (e *usageError) Unwrap() error { return e.err }

// usagef is a mistake in the command line of cmd.
func usagef(cmd *cobra.Command, format string, args ...any) *usageError {
	return &usageError{text: fmt.Sprintf(format, args...), hint: "see " + cmd.CommandPath() + " --help"}
}

// configError is a mistake in a file or folder; its text is shown whole.
func configError(err error) error {
	return &usageError{text: err.Error(), hint: api.Hint(err), err: err}
}

// functionError is a function that failed.
type functionError struct {
	name    string
	failure functions.Failure
}

// Error implements error.
func (e *functionError) Error() string {
	return fmt.Sprintf("function %q failed: %s", e.name, e.failure.Error())
}

// Is makes it one of errFunction.
func (e *functionError) Is(t error) bool { return t == errFunction }

// report tells of err on stderr and returns the exit code that it means.
func (a *app) report(cmd *cobra.Command, err error) int {
	if err == nil {
		return exitDone
	}
	var work *workError
	if !errors.As(err, &work) {
		err = usagef(cmd, "%v", err)
	}
	code := exitFailed
	for _, e := range exits {
		if errors.Is(err, e.err) {
			code = e.code
			break
		}
	}
	text, hint := err.Error(), api.Hint(err)
	if code == exitInterrupted {
		text, hint = "interrupted", ""
	}
	var usage *usageError
	if errors.As(err, &usage) && usage.hint != "" {
		hint = usage.hint
	}
	a.message("edgefn: %s", clean(text))
	var failed *functionError
	if errors.As(err, &failed) && failed.failure.Detail != "" {
		a.message("%s", indent(clean(failed.failure.Detail)))
	}
	if hint != "" {
		a.message("hint: %s", clean(hint))
	}
	return code
}

// message writes a line to stderr. That it cannot be written cannot be told.
func (a *app) message(format string, args ...any) {
	_, _ = fmt.Fprintf(a.err, format+"\n", args...)
}

// indent sets text off from what is around it.
func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n  ")
}

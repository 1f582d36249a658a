package execshim

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/wire"
)

// maxReason is how much of a reason is told to the node, in bytes.
const maxReason = 2000

// ends reports whether args are a command that says how the program's event
// goes on. Such a command has no options: what follows is text.
func ends(args []string) bool {
	return len(args) > 0 && (args[0] == "reject" || args[0] == "retry")
}

// outcome is the commands reject and retry. A retry with a time that is none
// still makes the program fail, with what is wrong with it: the program meant
// to, and may go on to exit with status 0.
func (r *request) outcome(args []string) error {
	r.kind = wire.KindFailure
	var wrong error
	if args[0] == "reject" {
		r.failure = wire.Failure{Kind: string(functions.FailRejected), Message: reason(args[1:], "the program rejected the event")}
	} else {
		var after time.Duration
		after, wrong = retryTime(args[1:])
		r.failure = wire.Failure{
			Kind:         string(functions.FailRaised),
			Message:      reason(args[min(2, len(args)):], "the program asked for another attempt"),
			RetryAfterMS: int64((after + time.Millisecond - 1) / time.Millisecond), // no sooner than asked for
		}
		if wrong != nil {
			r.failure.Message = reason([]string{"edgefn-ctl", wrong.Error()}, "")
		}
	}
	_, err := r.send()
	switch {
	case wrong != nil:
		return wrong
	case err != nil:
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return nil
}

// retryTime takes the time from the words of a retry.
func retryTime(words []string) (time.Duration, error) {
	if len(words) == 0 {
		return 0, usageError("retry needs a time of 0s to 24h, such as 30s or 5m")
	}
	after, err := time.ParseDuration(words[0])
	if err != nil || after < 0 || after > functions.MaxRetryAfter {
		return 0, usageError(fmt.Sprintf("retry %s: write a time of 0s to 24h, such as 30s or 5m", words[0]))
	}
	return after, nil
}

// reason returns a text of one line, or otherwise if there is none.
func reason(words []string, otherwise string) string {
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	text := strings.Join(strings.Fields(strings.ToValidUTF8(strings.Join(words, " "), "\uFFFD")), " ")
	switch {
	case text == "":
		return otherwise
	case len(text) > maxReason:
		return strings.ToValidUTF8(text[:maxReason], "") + " ..."
	}
	return text
}

// ask keeps how the program that runs wants to fail, whatever its exit; the last
// of several counts.
func (n *node) ask(f wire.Failure) error {
	kind := functions.FailureKind(f.Kind)
	if kind != functions.FailRejected && kind != functions.FailRaised || len(f.Message) > 2*maxReason ||
		f.RetryAfterMS < 0 || f.RetryAfterMS > functions.MaxRetryAfter.Milliseconds() {
		return errors.New("this is no outcome of a program")
	}
	n.calling.Lock()
	defer n.calling.Unlock()
	if !n.running {
		return errOver
	}
	n.asked = &wire.Failure{Kind: f.Kind, Message: f.Message, RetryAfterMS: f.RetryAfterMS}
	return nil
}

package functionstest

import (
	"testing"

	"github.com/edgefn/edgefn/functions"
)

// Secret is the content of the secret named "token" that a harness provides at
// /run/secrets/token, or in the folder that SecretsVar names.
const (
	Secret     = "hunter2\n"
	SecretsVar = "TEST_SECRETS"
)

// Harness is what the suite runs functions through.
type Harness interface {
	// Deploy builds and starts the function in a folder, with its manifest read
	// as f. It is removed at the end of t. A function that does not load is a
	// failure of kind functions.FailLoad.
	Deploy(t *testing.T, dir string, f *functions.Function) (Function, *functions.Failure)
	// State returns the committed state of a function, by its name.
	State(t *testing.T, function string) map[string][]byte
	// SetState writes a value in the state of a function, which need not be
	// deployed.
	SetState(t *testing.T, function, key string, value []byte)
}

// Function is a function that is deployed.
type Function interface {
	// Invoke hands it an event and waits for the outcome, its log included.
	Invoke(t *testing.T, e functions.Event) Outcome
}

// Outcome is what came of an event. Failure is nil if it succeeded.
type Outcome struct {
	Result  functions.Result
	Failure *functions.Failure
	Committed
	Logs []Line
}

// Committed is what an invocation had the node do.
type Committed struct {
	Published []functions.Publish
	Invoked   []functions.Invoke
	Commanded []functions.Effect // of lines, in order: SetLine, PulseLine, ReleaseLine
}

// Line is a line of a function's log.
type Line struct {
	Stream string // stdout, stderr, log
	Level  string // debug, info, warning, error
	Text   string
}

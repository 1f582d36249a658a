package pool

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/wire"
)

// Errors of Invoke that are not a *functions.Failure.
var (
	// ErrOverloaded: every instance is busy and the queue is full.
	ErrOverloaded = errors.New("function is overloaded")
	// ErrClosed: the pool takes no more events.
	ErrClosed = errors.New("pool is closed")
	// ErrExpired: no instance had the event before Invocation.Expires.
	ErrExpired = errors.New("event has expired")
)

// Starter brings a sandbox up. It is what a pool needs of the sandbox adapter.
type Starter interface {
	// Open brings the sandbox of the pool's version up, ready to start
	// instances. It may take seconds.
	Open(ctx context.Context) (Sandbox, error)
}

// Sandbox is a running sandbox with numbered slots for instances.
type Sandbox interface {
	// Start starts an instance in a slot that has none. It returns once the
	// process runs, not when it is ready: that its hello says.
	Start(ctx context.Context, slot int) (Instance, error)
	// Done is closed when the sandbox is gone, for whatever reason.
	Done() <-chan struct{}
	// Close kills every instance and removes the sandbox.
	Close(ctx context.Context) error
}

// Instance is one process tree in a slot.
type Instance interface {
	Socket() *os.File // its end of the wire; the Instance closes it
	Stdout() *os.File // read end of a pipe; the reader closes it
	Stderr() *os.File
	// Usage reads the slot's counters: CPU time since the instance started and
	// peak memory in bytes.
	Usage() (cpu time.Duration, peak int64)
	// Kill ends the whole process tree and returns at once.
	Kill()
	// Exited is closed when nothing of the process tree is left and the slot
	// may be used again; Exit says how it ended.
	Exited() <-chan struct{}
	Exit() Exit
}

// Exit says how an instance ended.
type Exit struct {
	Code   int  // exit status, or -1
	Signal int  // signal that ended it, or 0
	OOM    bool // it reached its memory limit
}

// Invocation is one event handed to the pool.
type Invocation struct {
	ID      string // unique; what log lines carry
	Trigger string
	Attempt int // from 1
	Event   functions.Event
	Host    Host
	// NoWait asks for ErrOverloaded instead of waiting for room in a full queue.
	NoWait bool
	// Expires is when the event is not to be begun any more; zero: never.
	Expires time.Time
	// Begun is called when the event is handed to an instance; it must not block.
	// nil: nothing.
	Begun func()
}

// Host answers what a running function asks of its node. Calls of one
// invocation come one at a time.
type Host interface {
	// Call answers any call of package wire, such as a get. An error is told
	// to the function, which raises it at the line that made the call.
	Call(ctx context.Context, kind wire.Kind, c wire.Call) (wire.Reply, error)
}

// LogLine is something that an instance wrote.
type LogLine struct {
	Time       time.Time
	Level      string // debug, info, warning, error
	Invocation string // empty: outside an invocation, such as at load
	Stream     string // stdout, stderr, log
	Text       string // without its line end
}

// Outcome is what came of an invocation that ran.
type Outcome struct {
	Result functions.Result // Effects is empty: the Host kept them
	Usage  functions.Usage
	// Logged is closed once all that the instance wrote in this invocation has
	// gone to Config.Log.
	Logged <-chan struct{}
}

// Stats is a snapshot of a pool.
type Stats struct {
	Up        bool // the sandbox is up
	Instances int  // busy and spare
	Busy      int
	Spares    int
	Queued    int
	LastError string // why the last instance did not become ready; empty once one did
}

// Config of a pool. All fields but Log are needed.
type Config struct {
	Function *functions.Function
	Version  string
	Starter  Starter
	MaxFrame int           // bytes; 0: wire.MaxFrame
	Log      func(LogLine) // called in order per instance; must not block for long
}

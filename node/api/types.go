package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/edgefn/edgefn/functions"
)

// Errors that a Backend returns, wrapped with a message for people. The server
// turns each into a status code and a problem type, the client turns them back.
var (
	ErrNotFound   = errors.New("not found")             // 404, exit 4
	ErrInvalid    = errors.New("invalid")               // 400, exit 2
	ErrRefused    = errors.New("refused")               // 422, exit 1: well formed, but cannot be done; the message says why
	ErrTimeout    = errors.New("timed out")             // 504, exit 5
	ErrOverloaded = errors.New("overloaded")            // 429, exit 1
	ErrStarting   = errors.New("node is starting")      // 503, exit 1
	ErrStopping   = errors.New("node is stopping")      // 503, exit 1
	ErrFull       = errors.New("no space")              // 507, exit 1
	ErrIncomplete = errors.New("image is not complete") // 409, exit 1: it lacks blobs that the node has not (any more)
	ErrUnreach    = errors.New("node is not reachable") // client only, exit 6
)

// Backend is what the server serves: the node.
type Backend interface {
	// Missing returns which blobs of a version, named by their digests, the node
	// does not have. It keeps the others for some minutes, so that a Deploy of
	// that version can leave them out.
	Missing(ctx context.Context, version string, blobs []string) ([]string, error)
	// Deploy takes a tar of an OCI layout, which may lack blobs that the node
	// has, checks and activates it, and returns when the new version serves and
	// the old one has drained. progress is called for each step. ErrIncomplete:
	// the node does not have what is left out.
	Deploy(ctx context.Context, image io.Reader, o DeployOptions, progress func(Progress)) (Deployed, error)
	Functions(ctx context.Context) ([]FunctionInfo, error)
	Describe(ctx context.Context, name string) (FunctionDetail, error)
	// Invoke hands an event to a function and waits for its outcome. A function
	// that failed is no error: it is in Invoked.Failure.
	Invoke(ctx context.Context, name string, r InvokeRequest) (Invoked, error)
	// Logs calls f with lines in order of time; with o.Follow until ctx is done.
	Logs(ctx context.Context, name string, o LogOptions, f func(LogLine) error) error
	// Kept counts what goes when a function is removed.
	Kept(ctx context.Context, name string) (Kept, error)
	Remove(ctx context.Context, name string, o RemoveOptions) error
	Rollback(ctx context.Context, name, to string, progress func(Progress)) (Deployed, error)
	// Pause has the events of a trigger wait, or of the whole function where
	// trigger is empty, until Resume. It is kept over restarts and deploys.
	Pause(ctx context.Context, name, trigger string) (Paused, error)
	Resume(ctx context.Context, name, trigger string) (Paused, error)

	StateGet(ctx context.Context, name, key string) ([]byte, error)
	StatePut(ctx context.Context, name, key string, value []byte) error
	StateDelete(ctx context.Context, name, key string) error
	StateList(ctx context.Context, name, prefix, after string, limit int) ([]StateKey, error)
	// StateExport calls f with each key that begins with prefix, in order, all as
	// they were at one moment.
	StateExport(ctx context.Context, name, prefix string, f func(StateEntry) error) error
	// StateImport writes the keys of JSON Lines that StateExport's entries make.
	// All of them are checked before the first is written; replace deletes the
	// keys that are not among them. It is not one transaction.
	StateImport(ctx context.Context, name string, r io.Reader, replace bool) (StateImported, error)

	DeadList(ctx context.Context, name string) ([]DeadLetter, error)
	DeadShow(ctx context.Context, name, id string) (DeadLetter, error)
	// DeadRetry runs dead letters again, now; id empty means all. A letter goes
	// when its event is handled, and stays when it fails again.
	DeadRetry(ctx context.Context, name, id string) (DeadOutcome, error)
	DeadDelete(ctx context.Context, name, id string) (DeadOutcome, error)

	Usage(ctx context.Context, name string) ([]Usage, error)
	Status(ctx context.Context) (Status, error)
	// Health returns nil if the node's state can be reached in memory. It may
	// wait for locks, and never for the store, a sandbox or a network.
	Health(ctx context.Context) error

	// Backup writes a backup of the node, see package backup. What was written
	// before an error is of no use.
	Backup(ctx context.Context, o BackupOptions, w io.Writer) error
	// Restore takes a backup, checks it and makes it durable. Then the node stops
	// in good order and starts anew from it.
	Restore(ctx context.Context, r io.Reader) (Restoring, error)

	// MQTTClients returns the clients of the broker inside the node whose ids come
	// after after, in order of their ids; limit 0: as many as fit one page.
	MQTTClients(ctx context.Context, after string, limit int) ([]MQTTClient, error)

	Devices(ctx context.Context) (Devices, error)
	// Simulate changes what a simulated device says: on, off, QUANTITY=VALUE,
	// fault or ok.
	Simulate(ctx context.Context, name, what string) error
}

// DeployOptions of a deploy.
type DeployOptions struct {
	Wait time.Duration // how long the new version may take to serve; 0: 60 s
}

// RemoveOptions of a removal.
type RemoveOptions struct {
	KeepState bool // its state stays, for the next function of its name
}

// Kept is what a node keeps of a function, beside its usage.
type Kept struct {
	Versions    int   `json:"versions"`
	Triggers    int   `json:"triggers"`
	StateKeys   int   `json:"state_keys"`
	StateBytes  int64 `json:"state_bytes"`
	DeadLetters int   `json:"dead_letters"`
	Retries     int   `json:"retries"`  // events to be tried again
	Outgoing    int   `json:"outgoing"` // messages, events and commands that wait to be sent
	LogBytes    int64 `json:"log_bytes"`
	Invocations int64 `json:"invocations"` // that usage counts
}

// Progress is a step of long work. In a stream of JSON Lines the last line has
// Result or Problem set.
type Progress struct {
	Step    string          `json:"step,omitempty"`   // "import", "check", "activate", "drain"
	Text    string          `json:"text,omitempty"`   // for people
	Result  json.RawMessage `json:"result,omitempty"` // Deployed, in the last line
	Problem *Problem        `json:"problem,omitempty"`
}

// Deployed is the outcome of a deploy or rollback.
type Deployed struct {
	Name      string   `json:"name"`
	Version   string   `json:"version"` // digest of the image index
	Unchanged bool     `json:"unchanged"`
	Nodes     []string `json:"nodes"`
	Warnings  []string `json:"warnings,omitempty"`
}

// FunctionInfo is a row of `edgefn functions`.
type FunctionInfo struct {
	Name      string            `json:"name"`
	Version   string            `json:"version"`
	Runtime   functions.Runtime `json:"runtime"`
	State     string            `json:"state"` // "serving", "starting", "idle" (no sandbox up), "paused", "failing"
	Error     string            `json:"error,omitempty"`
	Triggers  []string          `json:"triggers"`  // "mqtt local greenhouse/+/temperature"
	Instances int               `json:"instances"` // busy ones and spares
	Queued    int               `json:"queued"`
	Dead      int               `json:"dead"`
	Deployed  time.Time         `json:"deployed"`

	PausedTriggers []string `json:"paused_triggers,omitempty"` // where the function is not paused whole
}

// FunctionDetail is one function whole.
type FunctionDetail struct {
	FunctionInfo
	Function functions.Function `json:"function"`
	Versions []VersionInfo      `json:"versions"` // newest first
	Usage    Usage              `json:"usage"`
	Sources  []SourceInfo       `json:"sources"` // one per trigger
}

// VersionInfo is a version that the node keeps.
type VersionInfo struct {
	Version  string    `json:"version"`
	Deployed time.Time `json:"deployed"`
	Active   bool      `json:"active"`
}

// SourceInfo is the state of a trigger's source.
type SourceInfo struct {
	Trigger string `json:"trigger"`
	State   string `json:"state"` // "connected", "connecting", "refused", "contested", "stopped"; of a device also "offline"
	Error   string `json:"error,omitempty"`
	Paused  bool   `json:"paused,omitempty"` // its events wait
}

// InvokeRequest is an event from the command line.
type InvokeRequest struct {
	ID              string        `json:"id,omitempty"` // an id of one's own takes effect once
	Type            string        `json:"type,omitempty"`
	Subject         string        `json:"subject,omitempty"`
	DataContentType string        `json:"datacontenttype,omitempty"`
	Data            []byte        `json:"data,omitempty"`
	Wait            time.Duration `json:"wait,omitempty"` // 0: the function's own bounds
}

// Invoked is what came of an InvokeRequest.
type Invoked struct {
	ID              string             `json:"id"`
	Invocation      string             `json:"invocation"`
	Repeat          bool               `json:"repeat,omitempty"` // the id is known as settled; nothing ran
	Data            []byte             `json:"data,omitempty"`
	DataContentType string             `json:"datacontenttype,omitempty"`
	Failure         *functions.Failure `json:"failure,omitempty"`
	WallMS          float64            `json:"wall_ms"`
	CPUMS           float64            `json:"cpu_ms"`
	PeakMemory      int64              `json:"peak_memory"`
	Cold            bool               `json:"cold"`
	Logs            []LogLine          `json:"logs,omitempty"`
}

// LogOptions of reading a log.
type LogOptions struct {
	Follow bool
	Since  time.Time // zero: all that is kept
}

// LogLine is one line of a function's log.
type LogLine struct {
	Time       time.Time `json:"time"`
	Level      string    `json:"level"` // debug, info, warning, error
	Function   string    `json:"function"`
	Version    string    `json:"version"`
	Invocation string    `json:"invocation,omitempty"`
	Stream     string    `json:"stream"` // stdout, stderr, log, node
	Text       string    `json:"text"`
}

// StateKey is a key of a function's state.
type StateKey struct {
	Key   string `json:"key"`
	Bytes int    `json:"bytes"`
}

// DeadLetter is an event that could not be handled.
type DeadLetter struct {
	ID       string            `json:"id"` // of the letter
	Function string            `json:"function"`
	Trigger  string            `json:"trigger"`
	Time     time.Time         `json:"time"` // when it was dead-lettered
	Attempts int               `json:"attempts"`
	Failure  functions.Failure `json:"failure"`
	Event    EventInfo         `json:"event"`
	Bytes    int               `json:"bytes"`         // of the event's data as it came
	Cut      bool              `json:"cut,omitempty"` // Data holds only its first 4 KiB; cannot be retried
	Out      *DeadOut          `json:"out,omitempty"` // set: the function sent it, and nobody takes it; a retry sends it again
}

// Flash is what the node has written to its disk in the last day.
type Flash struct {
	Bytes  int64   `json:"bytes"`
	KnownS float64 `json:"known_s"`         // of that day: a node that was started an hour ago knows no more
	Daily  int64   `json:"daily,omitempty"` // bytes a day that its config allows; 0: any
}

// DeadOut is where a dead letter was to go.
type DeadOut struct {
	Broker   string `json:"broker,omitempty"` // of a message; its topic is the event's subject
	QoS      byte   `json:"qos,omitempty"`
	Retain   bool   `json:"retain,omitempty"`
	Function string `json:"function,omitempty"` // of an event
}

// OutboxQueue is what a function has sent to one destination and what waits.
type OutboxQueue struct {
	Function string    `json:"function"`
	To       string    `json:"to"`      // "mqtt.BROKER", "invoke.FUNCTION" or "line.LINE"
	Waiting  int       `json:"waiting"` // messages, events or commands
	Bytes    int64     `json:"bytes"`
	Oldest   time.Time `json:"oldest,omitzero"` // when the first one was committed
	AgeS     float64   `json:"age_s"`           // of the first one, by the node's clock
	Error    string    `json:"error,omitempty"` // why the first one does not go out
}

// EventInfo is an event in JSON; Data is base64 and left out of lists.
type EventInfo struct {
	ID              string            `json:"id"`
	Type            string            `json:"type"`
	Source          string            `json:"source"`
	Subject         string            `json:"subject,omitempty"`
	Time            time.Time         `json:"time,omitzero"`
	DataContentType string            `json:"datacontenttype,omitempty"`
	Expires         time.Time         `json:"expirytime,omitzero"`
	Extensions      map[string]string `json:"extensions,omitempty"`
	Data            []byte            `json:"data,omitempty"`
}

// DeadOutcome counts what became of dead letters.
type DeadOutcome struct {
	Handled int `json:"handled"`
	Failed  int `json:"failed"`
	Deleted int `json:"deleted"`
}

// Usage is what a function has cost since it was first deployed.
type Usage struct {
	Function    string    `json:"function"`
	Invocations int64     `json:"invocations"`
	Failures    int64     `json:"failures"`
	WallMS      float64   `json:"wall_ms"`       // execution time
	CPUMS       float64   `json:"cpu_ms"`        // of the whole process tree
	MemoryMiBMS float64   `json:"memory_mib_ms"` // peak memory in MiB times wall milliseconds, summed
	Cold        int64     `json:"cold"`          // events that waited for an instance to start
	Warm        int64     `json:"warm"`
	Expired     int64     `json:"expired"` // events that were not run, since their senders' time for them was over
	Since       time.Time `json:"since"`

	// WrittenBytes is what the node's store has written to its disk for it; 0 with
	// a store outside.
	WrittenBytes int64 `json:"written_bytes"`
}

// Status is the node's own state.
type Status struct {
	Node       string                     `json:"node"`
	Version    string                     `json:"version"`
	Ready      bool                       `json:"ready"`
	State      string                     `json:"state"`             // "ready", "degraded", "starting" or "stopping"
	Reasons    []string                   `json:"reasons,omitempty"` // why it is degraded, or what it waits for
	Started    time.Time                  `json:"started"`
	Containerd ComponentStatus            `json:"containerd"`
	Store      ComponentStatus            `json:"store"`
	Broker     ComponentStatus            `json:"broker"`
	Brokers    map[string]ComponentStatus `json:"brokers,omitempty"`
	Runtimes   map[string]string          `json:"runtimes"` // "python": "3.11.2"
	Platform   string                     `json:"platform"` // "linux/amd64", "linux/arm/v7"
	Functions  int                        `json:"functions"`
	Outbox     []OutboxQueue              `json:"outbox,omitempty"` // what waits to be sent
	Flash      Flash                      `json:"flash"`
	Restored   *Restored                  `json:"restored,omitempty"` // the backup that it started from
	Warnings   []string                   `json:"warnings,omitempty"` // such as a memory limit that is not enforced
}

// ComponentStatus is the state of one part.
type ComponentStatus struct {
	State   string `json:"state"` // "up", "down", "off"
	Address string `json:"address,omitempty"`
	Detail  string `json:"detail,omitempty"`
}

// Problem is an error in application/problem+json (RFC 9457).
type Problem struct {
	Type   string `json:"type"` // a URN such as "urn:edgefn:not-found"
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Hint   string `json:"hint,omitempty"`

	Faults []functions.Fault `json:"faults,omitempty"` // of a function that was refused
}

// MQTTClient is a client that is connected to the broker inside the node.
type MQTTClient struct {
	ID            string    `json:"id"`
	User          string    `json:"user"`     // empty: anonymous
	Listener      string    `json:"listener"` // address of the broker that it connected to
	Address       string    `json:"address"`  // its own
	Version       string    `json:"version"`  // of MQTT
	Since         time.Time `json:"since"`
	Subscriptions int       `json:"subscriptions"`
	Queued        int       `json:"queued"` // messages that wait for it
}

// Devices is what `edgefn devices` shows.
type Devices struct {
	Devices []Device      `json:"devices"` // of the node's config
	Found   []FoundDevice `json:"found"`   // what the system offers, configured or not
	// Unseen is why Found may lack something; empty: it is whole.
	Unseen string `json:"unseen,omitempty"`
}

// Device is a device of the node's config.
type Device struct {
	Name      string    `json:"name"`
	Kind      string    `json:"kind"`  // "line", "sensor"
	What      string    `json:"what"`  // "in", "out", or the sensor's type
	Where     string    `json:"where"` // "gpiochip:pinctrl-bcm2711/17", "i2c-1 0x76"
	State     string    `json:"state"` // "ok", "fault"
	Value     string    `json:"value"` // "on", "off", a reading; empty: none yet
	Time      time.Time `json:"time,omitzero"`
	Error     string    `json:"error,omitempty"` // the last one, while it does not work
	Lost      uint64    `json:"lost,omitempty"`  // edges lost since it was opened
	Holders   []Holder  `json:"holders"`         // functions that may drive it, the first wins
	Listeners []string  `json:"listeners"`       // functions that it triggers
}

// Holder is a function that may drive an output.
type Holder struct {
	Function string `json:"function"`
	Priority int    `json:"priority,omitempty"` // 1, the highest, to 16; 0: alone
	Command  *bool  `json:"command"`            // null: it commands nothing
}

// FoundDevice is something that the system offers.
type FoundDevice struct {
	Kind   string `json:"kind"` // "line", "i2c", "spi", "1-wire"
	Name   string `json:"name"` // as the node's config would name it
	What   string `json:"what"`
	UsedBy string `json:"used_by,omitempty"` // its consumer; empty: free
	Config string `json:"config,omitempty"`  // a line to paste below devices:
	Device string `json:"device,omitempty"`  // the name that the config gives it
}

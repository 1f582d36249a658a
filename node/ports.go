package node

import (
	"context"
	"io"
	"net"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/triggers"
)

// Pool runs the instances of one version of a function: *pool.Pool.
type Pool interface {
	// Run blocks until ctx is done, then kills every instance and returns.
	Run(ctx context.Context) error
	// Check starts one instance and waits until its handler is loaded.
	Check(ctx context.Context) error
	// Invoke hands an event to an instance. The error is a *functions.Failure,
	// pool.ErrOverloaded, pool.ErrClosed or ctx's.
	Invoke(ctx context.Context, in pool.Invocation) (pool.Outcome, error)
	// Drain takes no more events and waits until those it has are done.
	Drain(ctx context.Context) error
	Stats() pool.Stats
}

// Image is an imported version of a function.
type Image struct {
	Digest    string // of the image index: the version's name
	Function  []byte // JSON of functions.Function, from the image's label
	Platforms []string
}

// SandboxSpec says what a version's sandbox is made of.
type SandboxSpec struct {
	Function *functions.Function
	Digest   string
	Secrets  string // folder of the node's secrets
}

// Sandboxes keeps images and brings sandboxes up: *sandbox.Host.
type Sandboxes interface {
	// Run keeps containerd going until ctx is done.
	Run(ctx context.Context) error
	// Import reads a tar of an OCI layout. Importing an image again is no error.
	Import(ctx context.Context, r io.Reader) (Image, error)
	Starter(s SandboxSpec) pool.Starter
	// Remove removes an image; one that is not there is no error.
	Remove(ctx context.Context, digest string) error
	Status(ctx context.Context) api.ComponentStatus
	Warnings() []string
}

// Publisher sends messages to a broker.
type Publisher interface {
	// Run blocks until ctx is done, connected as far as the broker allows.
	Run(ctx context.Context) error
	// Publish returns when the broker has acknowledged the message, or when ctx
	// is done.
	Publish(ctx context.Context, m functions.Publish) error
	Status() api.ComponentStatus
}

// LocalBroker is the broker inside the node.
type LocalBroker interface {
	Publisher
	// Listen takes the address, so that a port in use is told at once.
	Listen() error
	Addr() net.Addr
	// Bind makes messages under a trigger's topic events of its function, until
	// unbind is called.
	Bind(b triggers.Binding) (unbind func(), err error)
}

// Source serves one trigger at a broker outside.
type Source interface {
	// Run delivers events until ctx is done. It keeps its session.
	Run(ctx context.Context) error
	Status() api.SourceInfo
}

// Parts makes what a node stands on. Tests put fakes in their place.
type Parts struct {
	Store     func(ctx context.Context, cfg *Config) (store.Store, error)
	Sandboxes func(ctx context.Context, cfg *Config) (Sandboxes, error)
	Pool      func(pool.Config) (Pool, error)
	// Broker makes the broker inside the node; it is not called where it is off.
	Broker func(cfg *Config, sink triggers.Sink) (LocalBroker, error)
	// Publisher and Source are for the brokers of the config.
	Publisher func(cfg *Config, broker string) (Publisher, error)
	Source    func(cfg *Config, b triggers.Binding, sink triggers.Sink) (Source, error)
	// EndSession ends the session of a trigger at a broker outside.
	EndSession func(ctx context.Context, cfg *Config, broker, clientID string) error
	ClientID   func(node, function, trigger string) string
	// Runtimes finds what this machine can run, by name.
	Runtimes func(ctx context.Context) map[functions.Runtime]string
	// Satisfies reports whether the version of a runtime meets a constraint.
	Satisfies func(version, constraint string) (bool, error)
}

package node

import (
	"context"
	"io"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/backup"
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
	Digest   string // of the image index: the version's name
	Function []byte // JSON of functions.Function, from the image's label
}

// Sandboxes keeps images and brings sandboxes up: *sandbox.Host.
type Sandboxes interface {
	// Run keeps containerd going until ctx is done.
	Run(ctx context.Context) error
	// Platform is what this machine runs, such as linux/amd64 or linux/arm/v7.
	Platform() string
	// Missing returns which blobs are not there, and keeps the others for some
	// minutes, for the version to be imported without them.
	Missing(ctx context.Context, version string, blobs []string) ([]string, error)
	// Import reads a tar of an OCI layout; blobs that are there may be left out
	// of it. Importing an image again is no error.
	Import(ctx context.Context, r io.Reader) (Image, error)
	// Has reports whether the image of a version is there.
	Has(ctx context.Context, version string) (bool, error)
	backup.Images // reads them
	// Starter returns what brings the sandbox of a version up. devices are the
	// device files of the buses that it is granted.
	Starter(f *functions.Function, version string, devices []string) (pool.Starter, error)
	// Remove removes an image; one that is not there is no error.
	Remove(ctx context.Context, version string) error
	Status(ctx context.Context) api.ComponentStatus
	// Warnings are limits that this machine cannot hold to.
	Warnings() []string
	// Close lets go of everything. The caller has stopped every pool.
	Close(ctx context.Context)
}

// Publisher sends messages to a broker.
type Publisher interface {
	// Run blocks until ctx is done, connected as far as the broker allows.
	Run(ctx context.Context) error
	// Publish returns when the broker has acknowledged the message, or when ctx
	// is done. outbox.ErrRefused and outbox.ErrHungUp say what the broker thinks
	// of it.
	Publish(ctx context.Context, m functions.Publish) error
	// PublishAlone is Publish with nothing else on the way to the broker.
	PublishAlone(ctx context.Context, m functions.Publish) error
	Status() api.ComponentStatus
}

// LocalBroker is the broker inside the node. Its Publish may return before the
// functions that the message triggers have settled it, once nothing can lose it.
type LocalBroker interface {
	Publisher
	// Listen takes the address, so that a port in use is told at once. After it
	// Run must be called.
	Listen() error
	// Addr is where it listens, once it does.
	Addr() string
	// Bind replaces the set of triggers whose messages become events. Those of
	// other brokers are passed over.
	Bind(set []triggers.Binding)
}

// Source serves one trigger: at a broker outside, of a line, of a sensor.
type Source interface {
	// Run delivers events until ctx is done, then waits for some time until
	// those that were taken are settled. It keeps its session.
	Run(ctx context.Context) error
	Status() api.SourceInfo
}

// Parts makes what a node stands on. Tests put fakes in their place.
type Parts struct {
	Store func(ctx context.Context, cfg *Config) (store.Store, error)
	// RestoreStore replaces the store, which is not open, by a copy, and returns
	// where the one is that was there, if there was one.
	RestoreStore func(ctx context.Context, cfg *Config, r io.Reader) (old string, err error)
	Sandboxes    func(ctx context.Context, cfg *Config) (Sandboxes, error)
	Pool         func(pool.Config) (Pool, error)
	// Broker makes the broker inside the node; it is not called where it is off.
	Broker func(cfg *Config, sink triggers.Sink) (LocalBroker, error)
	// Publisher is for the brokers of the config, Source for triggers at them and
	// at devices.
	Publisher func(cfg *Config, broker string) (Publisher, error)
	Source    func(cfg *Config, b triggers.Binding, sink triggers.Sink, d Devices) (Source, error)
	// Devices makes the node's lines, sensors and buses of the config.
	Devices func(cfg *Config) (Devices, error)
	// EndSession ends the session of a trigger at a broker outside.
	EndSession func(ctx context.Context, cfg *Config, broker, clientID string) error
	ClientID   func(node, function, trigger string) string
	// Runtimes finds what this machine can run, by name.
	Runtimes func(ctx context.Context) map[functions.Runtime]string
	// Satisfies returns nil if the version of a runtime meets a constraint, or why
	// it does not.
	Satisfies func(constraint, version string) error
}

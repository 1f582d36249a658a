package node

import (
	"context"
	"io"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/backup"
	"github.com/edgefn/edgefn/node/deploy"
	"github.com/edgefn/edgefn/node/devices"
	"github.com/edgefn/edgefn/triggers"
)

// Sandboxes keeps images and brings sandboxes up: *sandbox.Host.
type Sandboxes interface {
	deploy.Images
	// Run keeps containerd going until ctx is done.
	Run(ctx context.Context) error
	// Platform is what this machine runs, such as linux/amd64 or linux/arm/v7.
	Platform() string
	backup.Images // reads them
	Status(ctx context.Context) api.ComponentStatus
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
	deploy.Broker
	// Listen takes the address, so that a port in use is told at once. After it
	// Run must be called.
	Listen() error
	// Addr is where it listens, once it does.
	Addr() string
	// MQTTClients returns the connected clients whose ids come after after, in
	// order, at most limit of them.
	MQTTClients(after string, limit int) []api.MQTTClient
}

// Parts makes what a node stands on. Tests put fakes in their place.
type Parts struct {
	Store func(ctx context.Context, cfg *Config) (store.Store, error)
	// RestoreStore replaces the store, which is not open, by a copy, and returns
	// where the one is that was there, if there was one.
	RestoreStore func(ctx context.Context, cfg *Config, r io.Reader) (old string, err error)
	Sandboxes    func(ctx context.Context, cfg *Config) (Sandboxes, error)
	Pool         func(pool.Config) (deploy.Pool, error)
	// Broker makes the broker inside the node; it is not called where it is off.
	Broker func(cfg *Config, sink triggers.Sink) (LocalBroker, error)
	// Publisher is for the brokers of the config, Source for triggers at them and
	// at devices.
	Publisher func(cfg *Config, broker string) (Publisher, error)
	Source    func(cfg *Config, b triggers.Binding, sink triggers.Sink, d devices.Hardware, m *deploy.Memory) (deploy.Source, error)
	// Devices makes the node's lines, sensors and buses of the config.
	Devices func(cfg *Config) (devices.Hardware, error)
	// EndSession ends the session of a trigger at a broker outside.
	EndSession func(ctx context.Context, cfg *Config, broker, clientID string) error
	ClientID   func(node, function, trigger string) string
	// Runtimes finds what this machine can run, by name.
	Runtimes func(ctx context.Context) map[functions.Runtime]string
	// Satisfies returns nil if the version of a runtime meets a constraint, or why
	// it does not.
	Satisfies func(constraint, version string) error
}

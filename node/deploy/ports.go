package deploy

import (
	"context"
	"io"

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
	Digest   string // of the image index: the version's name
	Function []byte // JSON of functions.Function, from the image's label
}

// Images keeps the images of versions, and makes what brings their sandboxes
// up: *sandbox.Host.
type Images interface {
	// Missing returns which blobs are not there, and keeps the others for some
	// minutes, for the version to be imported without them.
	Missing(ctx context.Context, version string, blobs []string) ([]string, error)
	// Import reads a tar of an OCI layout; blobs that are there may be left out
	// of it. Importing an image again is no error.
	Import(ctx context.Context, r io.Reader) (Image, error)
	// Has reports whether the image of a version is there.
	Has(ctx context.Context, version string) (bool, error)
	// Starter returns what brings the sandbox of a version up. devices are the
	// device files of the buses that it is granted.
	Starter(f *functions.Function, version string, devices []string) (pool.Starter, error)
	// Remove removes an image; one that is not there is no error.
	Remove(ctx context.Context, version string) error
	// Warnings are limits that this machine cannot hold to.
	Warnings() []string
}

// Source serves one trigger: at a broker outside, of a line, of a sensor.
type Source interface {
	// Run delivers events until ctx is done, then waits for some time until
	// those that were taken are settled. It keeps its session.
	Run(ctx context.Context) error
	Status() api.SourceInfo
}

// Broker is the broker inside the node.
type Broker interface {
	// Bind replaces the set of triggers whose messages become events. Those of
	// other brokers are passed over.
	Bind(set []triggers.Binding)
}

// Devices are the lines, sensors and buses of the node: *devices.Access.
type Devices interface {
	// Faults says everything about devices that keeps the node from serving a
	// function beside those that are deployed.
	Faults(fn *functions.Function, deployed []*functions.Function) []functions.Fault
	// Hold gives a function its outputs, and takes from it those that it wants
	// no more.
	Hold(fn *functions.Function, deployed []*functions.Function) error
	// Holds reports whether a function wants outputs.
	Holds(fn *functions.Function) bool
	// Drop takes all outputs from a function, Release only what it commands.
	Drop(function string)
	Release(function string)
	// BusPaths are the device files that a function's sandbox gets.
	BusPaths(fn *functions.Function) ([]string, error)
}

package deploy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/logs"
	"github.com/edgefn/edgefn/node/settle"
	"github.com/edgefn/edgefn/node/tasks"
	"github.com/edgefn/edgefn/triggers"
)

// Keys of log lines.
const (
	logFunction = "function"
	logVersion  = "version"
	logTrigger  = "trigger"
	logBroker   = "broker"
	logErr      = "err"
)

// Bounds that are no one's to configure.
const (
	maxChecks    = 2                // versions that are started for a check at the same time
	drainTime    = 10 * time.Second // beyond its time-out, for the events of a version that goes
	defaultWait  = time.Minute      // a new version has it to start
	keepVersions = 5                // per function, the active one included
)

// Config of a Deployer.
type Config struct {
	Node       string // names this node for people
	SecretsDir string // one file per secret
	MaxFrame   int    // bytes of an event with its attributes

	Store    store.Store
	Settler  *settle.Settler
	Logs     *logs.Book
	Images   Images
	Devices  Devices
	Local    Broker                       // nil: off
	Runtimes map[functions.Runtime]string // what this machine can run, by name

	// HasBroker reports whether the node knows a broker by this name.
	HasBroker func(name string) bool
	// Satisfies returns nil if the version of a runtime meets a constraint, or
	// why it does not.
	Satisfies func(constraint, version string) error
	NewPool   func(pool.Config) (Pool, error)
	NewSource func(b triggers.Binding, m *Memory) (Source, error)
	// ClientID names the session of a trigger at a broker outside, EndSession
	// ends it.
	ClientID   func(function, trigger string) string
	EndSession func(ctx context.Context, broker, clientID string) error

	Spawn  tasks.Spawn
	Logger *slog.Logger
}

// Deployer has the functions of one node serve.
type Deployer struct {
	cfg    Config
	log    *slog.Logger
	checks chan struct{} // one entry per version that is being checked
	ends   *endings

	binding sync.Mutex // held while triggers are bound at the local broker
	claims  sync.Mutex // held from when a version's devices are claimed until all can see that it serves

	removing []string // found by Load, for Start to finish
	loaded   int64    // revision of the store that Load read

	mu          sync.RWMutex
	functions   map[string]*Deployment
	reconcilers map[string]*reconciler
	running     bool // reconcilers do
	draining    bool // no source is started any more
}

// New makes a deployer. It does no I/O and starts nothing: Load it, then Start
// it and Run it, and end it with Drain and Close.
func New(cfg Config) *Deployer {
	d := &Deployer{cfg: cfg, log: cfg.Logger, checks: make(chan struct{}, maxChecks), functions: map[string]*Deployment{}, reconcilers: map[string]*reconciler{}}
	d.ends = &endings{st: cfg.Store, log: cfg.Logger, endSession: cfg.EndSession}
	return d
}

// Load reads what is deployed. Functions take events from then on, which wait,
// and have their lines.
func (d *Deployer) Load(ctx context.Context) error {
	all, at, err := d.readAll(ctx)
	if err != nil {
		return fmt.Errorf("read store: %w", err)
	}
	d.loaded = at
	for _, name := range slices.Sorted(maps.Keys(all)) {
		want := all[name]
		if want.Removing {
			d.removing = append(d.removing, name)
			continue
		}
		v, known := want.find(want.Version)
		if !known { // its version's record is lost
			v.Function = functions.Defaults()
			v.Function.Name = name
		}
		d.newDeployment(want, &v.Function)
	}
	for _, f := range d.Deployments() {
		if err := d.hold(f.svc.Spec()); err != nil {
			d.log.Error("function does not get its lines", logFunction, f.name, logErr, err) // its reconciler tells its log
		}
	}
	return nil
}

// Start runs the sources of all triggers, and brings every function up, in the
// background. Removals that were begun are finished before it returns, if the
// store lets them.
func (d *Deployer) Start(ctx context.Context) {
	all := d.Deployments()
	for _, f := range all {
		d.bind(ctx, f, f.svc.Spec())
	}
	d.mu.Lock()
	d.running = true
	for _, f := range all {
		d.reconciler(f.name)
	}
	for name := range d.reconcilers { // whom the watch has woken already
		d.reconciler(name)
	}
	var removing []*reconciler
	for _, name := range d.removing {
		removing = append(removing, d.reconciler(name))
	}
	d.mu.Unlock()
	for _, rc := range removing {
		if s, err := rc.await(ctx, func(s state) bool { return s.gone || s.err != nil || s.version != "" }); err != nil || s.err != nil {
			d.log.Warn("removed function is not erased yet", logFunction, rc.name, logErr, errors.Join(err, s.err))
		}
	}
}

// Drain takes no more events and lets those that run end, until ctx is done.
// Sources go on until what they handed over is settled.
func (d *Deployer) Drain(ctx context.Context) {
	d.mu.Lock()
	d.draining = true
	d.mu.Unlock()
	all := d.Deployments()
	var sources []*tasks.Task
	for _, f := range all {
		f.mu.Lock()
		for _, s := range f.sources {
			s.task.Cancel()
			sources = append(sources, s.task)
		}
		f.mu.Unlock()
	}
	for _, f := range all {
		f.svc.Stop()
	}
	for _, f := range all {
		if !f.served.Wait(ctx) {
			d.log.Warn("function did not finish in time, its events come again", logFunction, f.name)
		}
		f.served.Stop()
	}
	for _, t := range sources {
		t.Stop()
	}
}

// Close ends what is under way, then every pool, all at once.
func (d *Deployer) Close() {
	d.mu.Lock()
	d.running = false
	all := slices.Collect(maps.Values(d.reconcilers))
	d.mu.Unlock()
	var wg sync.WaitGroup
	for _, rc := range all {
		if rc.task != nil {
			wg.Go(rc.task.Stop)
		}
	}
	wg.Wait()
	for _, f := range d.Deployments() {
		wg.Go(f.stop)
	}
	wg.Wait()
}

func (d *Deployer) isDraining() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.draining
}

// Lookup returns a function that is deployed here.
func (d *Deployer) Lookup(name string) (*Deployment, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	f, ok := d.functions[name]
	return f, ok
}

// Find is Lookup with an answer for people.
func (d *Deployer) Find(name string) (*Deployment, error) {
	f, ok := d.Lookup(name)
	if !ok {
		return nil, notFound(name)
	}
	return f, nil
}

func notFound(name string) error {
	return &api.Error{Err: api.ErrNotFound, Message: fmt.Sprintf("there is no function %q", name), Hint: "edgefn functions lists those there are"}
}

// Deployments returns all functions by name.
func (d *Deployer) Deployments() []*Deployment {
	d.mu.RLock()
	defer d.mu.RUnlock()
	out := make([]*Deployment, 0, len(d.functions))
	for _, name := range slices.Sorted(maps.Keys(d.functions)) {
		out = append(out, d.functions[name])
	}
	return out
}

// Specs returns what is deployed, by name.
func (d *Deployer) Specs() []*functions.Function {
	all := d.Deployments()
	out := make([]*functions.Function, len(all))
	for i, f := range all {
		out[i] = f.svc.Spec()
	}
	return out
}

// hold gives a function its outputs.
func (d *Deployer) hold(fn *functions.Function) error { return d.cfg.Devices.Hold(fn, d.Specs()) }

// unhold gives a function's outputs back to the version that serves; f is nil if
// the function is not here.
func (d *Deployer) unhold(f *Deployment, name string) {
	if f == nil {
		d.cfg.Devices.Drop(name)
		return
	}
	if err := d.hold(f.svc.Spec()); err != nil {
		d.log.Error("function does not get its lines back", logFunction, name, logErr, err)
	}
}

// loseLines takes from a function what it commands, since it fails again and
// again.
func (d *Deployer) loseLines(f *Deployment) {
	if !d.cfg.Devices.Holds(f.svc.Spec()) {
		return
	}
	d.cfg.Settler.Outbox.Forsake(f.name) // first, or they would follow
	d.cfg.Devices.Release(f.name)
	d.log.Warn("function keeps failing, its lines go to their safe values", logFunction, f.name)
	f.svc.Note("warning", "", fmt.Sprintf("failed %d times in a row: its lines go to their safe values", settle.MaxFailures))
}

// failureText is an error with the function's own words, for people.
func failureText(err error) string {
	var f *functions.Failure
	if errors.As(err, &f) && f.Detail != "" {
		return f.Message + "\n" + f.Detail
	}
	if errors.As(err, &f) {
		return f.Message
	}
	return err.Error()
}

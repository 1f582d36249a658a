package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/deploy"
	"github.com/edgefn/edgefn/node/devices"
	"github.com/edgefn/edgefn/node/flash"
	"github.com/edgefn/edgefn/node/logs"
	"github.com/edgefn/edgefn/node/settle"
	"github.com/edgefn/edgefn/node/settle/durable"
	"github.com/edgefn/edgefn/node/tasks"
	"github.com/edgefn/edgefn/triggers"
)

// Node is a node. New makes one, Run runs it; everything else is for while it
// runs.
type Node struct {
	cfg      Config
	parts    Parts
	log      *slog.Logger
	started  time.Time
	logs     *logs.Book
	hardware devices.Hardware
	devices  *devices.Access
	anew     chan struct{} // capacity 1: stop, for the next start to restore what is staged
	staging  chan struct{} // capacity 1: held while a backup is staged

	// Set by Run before anything uses them.
	st         store.Store
	boxes      Sandboxes
	local      LocalBroker // nil: off
	publishers map[string]Publisher
	runtimes   map[functions.Runtime]string
	settler    *settle.Settler
	deployer   *deploy.Deployer
	flash      *flash.Meter
	spawn      tasks.Spawn
	restored   *api.Restored // the backup that this start restored; nil: none

	mu       sync.RWMutex
	loaded   bool // the parts are there
	ready    bool
	stopping bool
	calls    sync.WaitGroup // of the API, other than reads
}

var (
	_ api.Backend   = (*Node)(nil)
	_ triggers.Sink = (*Node)(nil)
)

// Assemble makes a node of parts. It validates the config, does no I/O and
// starts nothing.
func Assemble(cfg Config, parts Parts) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Ready == nil {
		cfg.Ready = func(string) {}
	}
	// A broker's name is its key, whoever made the config.
	cfg.Brokers = maps.Clone(cfg.Brokers)
	for name, b := range cfg.Brokers {
		b.Name = name
		cfg.Brokers[name] = b
	}
	hardware, err := parts.Devices(&cfg)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if cfg.Busy == nil {
		cfg.Busy = func(string) {}
	}
	n := &Node{
		anew: make(chan struct{}, 1), staging: make(chan struct{}, 1),
		cfg: cfg, hardware: hardware, devices: devices.New(hardware), parts: parts, log: cfg.Logger.With("component", "node"),
		publishers: map[string]Publisher{},
	}
	n.logs = logs.New(filepath.Join(cfg.DataDir, "logs"), cfg.Log, n.log)
	return n, nil
}

// Run serves until ctx is done, then stops in stages and returns nil. It returns
// ErrAnew after it has stopped so for a backup to be restored. Called once.
func (n *Node) Run(ctx context.Context) (err error) {
	n.started = time.Now().UTC()
	unlock, err := n.prepare()
	if err != nil {
		return err
	}
	defer unlock()
	defer n.logs.Close()
	if err := n.restoreStaged(ctx); err != nil {
		return err
	}
	control, err := api.Listen(n.cfg.Socket(), api.Group) //nolint:contextcheck // it asks a socket that is there, for 2 s at most
	if err != nil {
		return err
	}
	defer func() { _ = control.Close() }() // it is closed already where it served

	// What runs in the background outlives ctx: it is stopped in stages.
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel()
	n.spawn = tasks.In(base, &background)

	// The broker comes early, so that a port in use is told at once.
	local, err := n.listen()
	if err != nil {
		return err
	}
	var brokers []*tasks.Task
	failed := make(chan error, len(n.cfg.Brokers)+4) // what ended that should not have
	watch := func(what string, f func(context.Context) error) *tasks.Task {
		return n.spawn(func(ctx context.Context) {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				failed <- fmt.Errorf("%s: %w", what, err)
			}
		})
	}
	if local != nil {
		// It has to run, so that it lets go of what Listen took; events wait in
		// Deliver's error until functions are there.
		defer func() {
			if len(brokers) == 0 {
				gone, stop := context.WithCancel(base)
				stop()
				err = errors.Join(err, local.Run(gone))
			}
		}()
	}
	server := n.serve(control, failed)
	defer func() { _ = server.Close() }() // where drain did not: the node did not come that far
	if err := n.open(ctx); err != nil {
		return err
	}
	defer n.shut(base)
	n.importStaged(ctx)
	if err := n.hardware.Open(ctx); err != nil {
		return &api.Error{Err: errors.Join(api.ErrInvalid, err), Message: fmt.Sprintf("open devices:\n%v", err), Hint: api.Hint(err)}
	}
	hardware := n.spawn(n.lookAfterDevices)
	defer hardware.Stop() // outputs go to their safe values
	n.local = local
	if n.awaitStore(ctx); ctx.Err() != nil {
		return nil // it was stopped before it was ready
	}
	if err := n.load(ctx); err != nil {
		return err
	}
	for name := range n.cfg.Brokers {
		p, err := n.parts.Publisher(&n.cfg, name)
		if err != nil {
			return fmt.Errorf("broker %q: %w", name, err)
		}
		n.publishers[name] = p
	}
	if local != nil {
		n.publishers[functions.LocalBroker] = local
		n.deployer.BindLocal()
		brokers = append(brokers, watch("mqtt broker", local.Run))
	}
	for name := range n.cfg.Brokers {
		brokers = append(brokers, watch("broker "+name, n.publishers[name].Run))
	}
	boxes := watch("containerd", n.boxes.Run)
	settling, deploying := n.spawn(n.settler.Run), n.spawn(n.deployer.Run)
	upkeep, writes := n.spawn(n.upkeep), n.spawn(n.flash.Run)
	n.deployer.Start(ctx)
	n.log.Info("node is ready", "name", n.cfg.Name, "functions", len(n.deployer.Deployments()))
	n.setReady()

	select {
	case <-ctx.Done():
	case <-n.anew:
		err = ErrAnew
	case err = <-failed:
		n.log.Error("node stops", logErr, err)
	case <-storeDone(n.st):
		err = fmt.Errorf("store: %w", storeErr(n.st))
	}
	n.drain(base, server)
	n.settler.Outbox.Flush(base, flushTime)
	for _, t := range []*tasks.Task{settling, hardware, deploying, upkeep, writes} {
		t.Stop()
	}
	for _, t := range brokers {
		t.Stop()
	}
	n.deployer.Close()
	boxes.Stop() // pools need it to let go of their sandboxes
	return err
}

// prepare makes the node's folders and takes the lock of its data.
func (n *Node) prepare() (unlock func(), err error) {
	for _, d := range []struct {
		path string
		mode fs.FileMode
	}{{n.cfg.DataDir, 0o700}, {n.cfg.RunDir, 0o755}} {
		err := os.MkdirAll(d.path, d.mode)
		if errors.Is(err, fs.ErrPermission) {
			return nil, &api.Error{Err: err, Message: fmt.Sprintf("make folder: %v", err), Hint: "start the node as root"}
		} else if err != nil {
			return nil, fmt.Errorf("make folder: %w", err)
		}
	}
	return lockData(n.cfg.DataDir)
}

// lockData makes a data folder ours until unlock is called.
func lockData(dir string) (unlock func(), err error) {
	name := filepath.Join(dir, "lock")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, &api.Error{
			Err:     fmt.Errorf("lock %s: %w", name, err),
			Message: fmt.Sprintf("another node uses the data folder %s: %v", dir, err),
			Hint:    "stop it, or give this one a folder of its own with --data, and its own --run, --mqtt and --name",
		}
	}
	return func() { _ = f.Close() }, nil // with which the lock ends
}

// listen takes the address of the broker inside the node; nil: it is off.
func (n *Node) listen() (LocalBroker, error) {
	if n.cfg.MQTT.Addr == Off {
		return nil, nil //nolint:nilnil // no broker is no error
	}
	b, err := n.parts.Broker(&n.cfg, n)
	if err != nil {
		return nil, fmt.Errorf("mqtt broker: %w", err)
	}
	if err := b.Listen(); err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, &api.Error{
				Err:     err,
				Message: fmt.Sprintf("mqtt broker: address %s is in use by another program", n.takenAddress(err)),
				Hint:    "choose another with --mqtt ADDR (listen below mqtt in the config), or turn the broker off with --mqtt off",
			}
		}
		return nil, fmt.Errorf("mqtt broker: %w", err)
	}
	return b, nil
}

// takenAddress is the address that the broker could not have.
func (n *Node) takenAddress(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Addr != nil {
		return op.Addr.String()
	}
	return n.cfg.MQTT.Addr
}

// open opens the store and the sandboxes.
func (n *Node) open(ctx context.Context) error {
	st, err := n.parts.Store(ctx, &n.cfg)
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	n.mu.Lock()
	n.st = st // Status asks for it from here on
	n.mu.Unlock()
	if n.boxes, err = n.parts.Sandboxes(ctx, &n.cfg); err != nil {
		return errors.Join(fmt.Errorf("open sandboxes: %w", err), n.st.Close())
	}
	n.runtimes = n.parts.Runtimes(ctx)
	return nil
}

// shut closes what open opened.
func (n *Node) shut(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	if n.settler != nil {
		if err := n.settler.Usage.Flush(ctx); err != nil && !errors.Is(err, store.ErrClosed) {
			n.log.Warn("usage of the last minute is lost", logErr, err)
		}
	}
	n.boxes.Close(ctx)
	if err := n.st.Close(); err != nil {
		n.log.Warn("store is not closed well", logErr, err)
	}
}

// load makes what works on the store and reads what is in it.
func (n *Node) load(ctx context.Context) error {
	_, quota, err := n.st.Size(ctx)
	if err != nil {
		return fmt.Errorf("read store: %w", err)
	}
	n.settler = settle.New(settle.Config{
		Node: n.cfg.Name, Store: n.st, Quota: quota, Around: surroundings{n}, MaxPayload: n.cfg.MaxPayload(), State: n.cfg.State, Logger: n.log,
	})
	c := deploy.Config{
		Node: n.cfg.Name, SecretsDir: n.cfg.SecretsDir, MaxFrame: int(n.cfg.MaxEvent),
		Store: n.st, Settler: n.settler, Logs: n.logs, Images: n.boxes, Devices: n.devices, Runtimes: n.runtimes,
		HasBroker: n.hasBroker, Satisfies: n.parts.Satisfies, NewPool: n.parts.Pool,
		NewSource: func(b triggers.Binding, m *deploy.Memory) (deploy.Source, error) {
			return n.parts.Source(&n.cfg, b, n, n.hardware, m)
		},
		ClientID: func(function, trigger string) string { return n.parts.ClientID(n.cfg.Name, function, trigger) },
		EndSession: func(ctx context.Context, broker, clientID string) error {
			return n.parts.EndSession(ctx, &n.cfg, broker, clientID)
		},
		Spawn: n.spawn, Logger: n.log,
	}
	if n.local != nil {
		c.Local = n.local
	}
	n.deployer = deploy.New(c)
	n.flash = flash.New(n.st, n.cfg.Name, n.log)
	for _, f := range []func(context.Context) error{n.settler.Load, n.deployer.Load, n.flash.Load} {
		if err := f(ctx); err != nil {
			return err
		}
	}
	return nil
}

// awaitStore waits until the store answers, or ctx is done: its disk may have no
// room, or the store outside may be away. The control socket says so meanwhile.
func (n *Node) awaitStore(ctx context.Context) {
	for tries := 1; ; tries++ {
		_, _, err := n.st.Size(ctx)
		if err == nil || !errors.Is(err, store.ErrUnavailable) {
			return // load meets it
		}
		if tries == 1 {
			n.log.Warn("the node waits for its store", logErr, err)
		}
		if durable.Sleep(ctx, durable.StoreBackoff.Wait(tries)) != nil {
			return
		}
	}
}

// lookAfterDevices runs the devices until ctx is done. What they meet then is
// that an output may not be safe.
func (n *Node) lookAfterDevices(ctx context.Context) {
	if err := n.hardware.Run(ctx); err != nil {
		n.log.Error("devices did not close well, an output may not have its safe value", logErr, err)
	}
}

// serve answers the control API until it is shut down.
func (n *Node) serve(l net.Listener, failed chan<- error) *http.Server {
	s := api.HTTPServer(api.NewServer(n, api.Options{Logger: n.log, Starting: n.starting}), n.log)
	n.spawn(func(context.Context) {
		if err := s.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			failed <- fmt.Errorf("control socket: %w", err)
		}
	})
	return s
}

func (n *Node) setReady() {
	n.mu.Lock()
	n.loaded, n.ready = true, true
	n.mu.Unlock()
	mqtt := "off"
	if n.local != nil {
		mqtt = n.local.Addr()
	}
	n.cfg.Ready(fmt.Sprintf("node %s is ready: control socket %s, mqtt %s", n.cfg.Name, n.cfg.Socket(), mqtt))
}

// drain takes no more events, lets those that run end, to a deadline, and tells
// their senders.
func (n *Node) drain(base context.Context, server *http.Server) {
	n.mu.Lock()
	n.stopping, n.ready = true, false
	n.mu.Unlock()
	ctx, cancel := context.WithTimeout(base, drainTime)
	defer cancel()
	n.deployer.Drain(ctx)
	// Those who invoke something wait for it as the senders of events do.
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.calls.Wait()
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
	// The last answers leave; logs that are followed end only by the second.
	ctx, cancel = context.WithTimeout(base, answerTime)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		n.log.Debug("control socket", logErr, err)
	}
	if err := server.Close(); err != nil {
		n.log.Debug("control socket", logErr, err)
	}
	<-ended
}

// Keys of log lines.
const (
	logFunction = "function"
	logErr      = "err"
)

// upkeep removes dead letters that are too old, once an hour.
func (n *Node) upkeep(ctx context.Context) {
	t := time.NewTicker(time.Hour)
	defer t.Stop()
	for {
		for _, d := range n.deployer.Deployments() {
			if err := n.settler.Expire(ctx, d.Service().Spec()); err != nil && ctx.Err() == nil {
				n.log.Warn("old dead letters stay", logFunction, d.Name(), logErr, err)
			}
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// enter counts a call that must end before the node's parts go.
func (n *Node) enter() (done func(), err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stopping {
		return nil, api.ErrStopping
	}
	n.calls.Add(1)
	return n.calls.Done, nil
}

// Deliver implements triggers.Sink.
func (n *Node) Deliver(ctx context.Context, d triggers.Delivery) error {
	n.mu.RLock()
	stopping := n.stopping
	n.mu.RUnlock()
	f, ok := n.deployer.Lookup(d.Function)
	switch {
	case stopping:
		return triggers.ErrStopped
	case !ok:
		return fmt.Errorf("hand event over: there is no function %q", d.Function)
	}
	return f.Service().Deliver(ctx, d)
}

// ender is a store that can fail for good.
type ender interface {
	Done() <-chan struct{}
	Err() error
}

// storeDone is closed when the store has failed; nil: it cannot.
func storeDone(st store.Store) <-chan struct{} {
	if e, ok := st.(ender); ok {
		return e.Done()
	}
	return nil
}

func storeErr(st store.Store) error {
	if e, ok := st.(ender); ok {
		return e.Err()
	}
	return nil
}

// brokerNames lists the brokers outside.
func (n *Node) brokerNames() []string { return slices.Sorted(maps.Keys(n.cfg.Brokers)) }

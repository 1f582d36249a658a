package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/cluster/store/etcd"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/functions/runtimes"
	"github.com/edgefn/edgefn/functions/sandbox"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/deploy"
	"github.com/edgefn/edgefn/node/devices"
	"github.com/edgefn/edgefn/node/settle/outbox"
	"github.com/edgefn/edgefn/triggers"
	"github.com/edgefn/edgefn/triggers/mqtt"
	"github.com/edgefn/edgefn/triggers/mqtt/broker"
	"github.com/edgefn/edgefn/triggers/mqtt/broker/access"
)

// HostPath is the PATH in a sandbox with the node's own /usr: what a manifest's
// runtime means is found there, not in the PATH of whoever started the node.
const HostPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// compileTime bounds compiling the python shim; without it instances start a
// little slower.
const compileTime = 20 * time.Second

var (
	_ Sandboxes     = hostSandboxes{}
	_ LocalBroker   = embedded{}
	_ Publisher     = remote{}
	_ deploy.Source = subscriber{}
)

// states gives the states of a connection the words of the API.
var states = map[string]string{
	mqtt.StateConnecting: "connecting",
	mqtt.StateOffline:    "connecting",
	mqtt.StateConnected:  "connected",
	mqtt.StateRefused:    "refused",
	mqtt.StateContested:  "contested",
	mqtt.StateStopped:    "stopped",
}

// New makes a node of the real parts. It validates the config, does no I/O and
// starts nothing.
func New(cfg Config) (*Node, error) { return Assemble(cfg, RealParts()) }

// RealParts are etcd, containerd, the brokers and the runtimes of this machine.
func RealParts() Parts {
	var host atomic.Pointer[sandbox.Host] // the broker is there before it
	ofFunction := func(remote netip.AddrPort) bool {
		h := host.Load()
		return h != nil && h.OfFunction(remote)
	}
	return Parts{
		Store:        openStore,
		RestoreStore: restoreStore,
		Sandboxes: func(ctx context.Context, cfg *Config) (Sandboxes, error) {
			h, err := openSandboxes(ctx, cfg)
			if err != nil {
				return nil, err
			}
			host.Store(h.Host)
			return h, nil
		},
		Pool:      func(c pool.Config) (deploy.Pool, error) { return pool.New(c) },
		Broker:    func(cfg *Config, sink triggers.Sink) (LocalBroker, error) { return newBroker(cfg, sink, ofFunction) },
		Publisher: newPublisher,
		Source:    newSource,
		Devices:   newDevices,
		EndSession: func(ctx context.Context, cfg *Config, name, clientID string) error {
			b, ok := cfg.Brokers[name]
			if !ok {
				return fmt.Errorf("the node's config has no broker %q any more", name)
			}
			return mqtt.EndSession(ctx, b, clientID)
		},
		ClientID:  mqtt.ClientID,
		Runtimes:  func(ctx context.Context) map[functions.Runtime]string { return runtimes.Discover(ctx, HostPath) },
		Satisfies: runtimes.Satisfies,
	}
}

func openStore(ctx context.Context, cfg *Config) (store.Store, error) {
	log := cfg.Logger.With("component", "store")
	if len(cfg.Store.Endpoints) == 0 {
		return etcd.Open(ctx, etcd.Config{Dir: filepath.Join(cfg.DataDir, "store"), Name: cfg.Name, RunDir: cfg.RunDir, Logger: log})
	}
	t, err := cfg.Store.tls()
	if err != nil {
		return nil, err
	}
	return etcd.Connect(ctx, etcd.Remote{Endpoints: cfg.Store.Endpoints, TLS: t, Logger: log})
}

// tls reads the files for connecting to a store outside; nil: there are none.
func (c *StoreConfig) tls() (*tls.Config, error) {
	if c.CAFile == "" && c.CertFile == "" {
		return nil, nil //nolint:nilnil // no TLS is no error
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("store.tls.ca: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("store.tls.ca: %s has no certificate", c.CAFile)
		}
	}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("store.tls.cert: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// hostSandboxes gives sandbox.Host the node's words.
type hostSandboxes struct {
	*sandbox.Host
	shims string
}

func openSandboxes(ctx context.Context, cfg *Config) (hostSandboxes, error) {
	shims := filepath.Join(cfg.RunDir, "shims") // the sandboxes' users have to reach it
	log := cfg.Logger.With("component", "sandbox")
	if err := searchable(cfg.RunDir); err != nil {
		return hostSandboxes{}, err
	}
	h, err := sandbox.Open(ctx, sandbox.Config{
		Socket: cfg.Containerd, DataDir: cfg.DataDir, RunDir: cfg.RunDir, ShimsDir: shims,
		SecretsDir: cfg.SecretsDir, Logger: cfg.Logger,
	})
	if err != nil {
		return hostSandboxes{}, err
	}
	if err := runtimes.Write(shims); err != nil {
		h.Close(context.WithoutCancel(ctx))
		return hostSandboxes{}, err
	}
	if python, err := runtimes.Find(HostPath, "python3"); err == nil {
		ctx, cancel := context.WithTimeout(ctx, compileTime)
		defer cancel()
		if err := runtimes.Compile(ctx, shims, python); err != nil {
			log.Warn("python shim is not compiled, instances start slower", logErr, err)
		}
	}
	return hostSandboxes{h, shims}, nil
}

// searchable reports a folder on the way to dir that a sandbox's user, who is
// nobody on the host, cannot go through; its root would then be out of reach.
func searchable(dir string) error {
	for d := filepath.Clean(dir); ; d = filepath.Dir(d) {
		info, err := os.Stat(d)
		if err != nil {
			return fmt.Errorf("run folder: %w", err)
		}
		if info.Mode().Perm()&0o001 == 0 {
			return &api.Error{
				Err:     api.ErrInvalid,
				Message: fmt.Sprintf("run folder %s: sandboxes cannot reach it, since %s has mode %04o", dir, d, info.Mode().Perm()),
				Hint:    fmt.Sprintf("chmod o+x %s, or name another folder with --run", d),
			}
		}
		if d == filepath.Dir(d) {
			return nil
		}
	}
}

// Import implements Sandboxes.
func (h hostSandboxes) Import(ctx context.Context, r io.Reader) (deploy.Image, error) {
	img, err := h.Host.Import(ctx, r)
	if errors.Is(err, sandbox.ErrNoSpace) {
		return deploy.Image{}, &api.Error{
			Err: fmt.Errorf("%w: %w", api.ErrFull, err), Message: err.Error(),
			Hint: "make room: remove functions that are not needed, or free the disk",
		}
	}
	if errors.Is(err, sandbox.ErrIncomplete) {
		return deploy.Image{}, &api.Error{Err: errors.Join(api.ErrIncomplete, err), Message: err.Error(), Hint: "deploy it again: what is missing is then sent"}
	}
	if errors.Is(err, sandbox.ErrPlatform) {
		return deploy.Image{}, &api.Error{Err: errors.Join(api.ErrRefused, err), Message: err.Error(), Hint: "name this node's platform too: --arch " + strings.TrimPrefix(h.Platform(), "linux/")}
	}
	if errors.Is(err, sandbox.ErrBadImage) {
		return deploy.Image{}, &api.Error{Err: errors.Join(api.ErrInvalid, err), Message: err.Error(), Hint: "edgefn build makes images of functions"}
	}
	return deploy.Image(img), err
}

// Starter implements Sandboxes.
func (h hostSandboxes) Starter(f *functions.Function, version string, devices []string) (pool.Starter, error) {
	c, err := runtimes.Launch(f)
	if err != nil {
		return nil, err
	}
	return h.Host.Starter(sandbox.Spec{Function: f, Version: version, Argv: c.Argv, Env: c.Env, Devices: devices}), nil
}

// Close implements Sandboxes.
func (h hostSandboxes) Close(ctx context.Context) {
	h.Host.Close(ctx)
	_ = os.RemoveAll(h.shims) // they are written anew
}

// Status implements Sandboxes.
func (h hostSandboxes) Status(ctx context.Context) api.ComponentStatus {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	up, address, version := h.Host.Status(ctx)
	s := api.ComponentStatus{State: "down", Address: address, Detail: version}
	if up {
		s.State = "up"
	}
	return s
}

// embedded gives the broker inside the node the node's words.
type embedded struct {
	*broker.Broker
	bounds MQTTBounds
}

func newBroker(cfg *Config, sink triggers.Sink, ofFunction func(netip.AddrPort) bool) (LocalBroker, error) {
	m := cfg.MQTT
	b, err := broker.New(broker.Config{
		Listeners: m.brokerListeners(), Name: functions.LocalBroker, Dir: filepath.Join(cfg.DataDir, "mqtt"), Sink: sink,
		Logger: cfg.Logger, MaxPayload: cfg.MaxPayload(), MaxClients: m.MaxClients, MaxPacket: int(m.MaxPacket),
		OfFunction: ofFunction, Logins: access.LoginsConfig{MaxWaiting: m.MaxLogins},
		MaxSessions: m.MaxSessions, SessionExpiry: m.SessionExpiry,
		MaxQueue: m.Queue.Messages, MaxQueueBytes: m.Queue.Bytes, MaxQueuedBytes: m.Queue.Total, QueueFull: m.Queue.Full,
		MaxRetained: m.Retained.Messages, MaxRetainedBytes: m.Retained.Bytes, RetainedFull: m.Retained.Full,
	})
	if err != nil {
		return nil, err
	}
	return embedded{b, m.MQTTBounds}, nil
}

// Publish implements Publisher. A message of QoS 0 that went out and could only
// not be retained is not sent again for that.
func (b embedded) Publish(ctx context.Context, m functions.Publish) error {
	err := b.Broker.Publish(ctx, m)
	switch {
	case errors.Is(err, broker.ErrRetainedFull) && m.QoS == 0:
		return nil
	case errors.Is(err, broker.ErrRetainedFull):
		return fmt.Errorf("%w: %w", outbox.ErrRefused, err)
	default:
		return err
	}
}

// PublishAlone implements Publisher: no connection is between it and the broker.
func (b embedded) PublishAlone(ctx context.Context, m functions.Publish) error {
	return b.Publish(ctx, m)
}

// Status implements Publisher.
func (b embedded) Status() api.ComponentStatus {
	s, m := b.Stats(), b.bounds
	number := func(n int) string { return humanize.Comma(int64(n)) }
	bytes := func(n int64) string { return humanize.IBytes(uint64(n)) }
	return api.ComponentStatus{
		State: "up", Address: strings.Join(b.Addrs(), ", "),
		Detail: fmt.Sprintf("%s of %s clients, %s of %s sessions, %s of %s queued, %s of %s messages and %s of %s retained; %s received, %s sent, %s written to the disk",
			number(s.Clients), number(m.MaxClients), number(s.Sessions), number(m.MaxSessions), bytes(s.QueuedBytes), bytes(m.Queue.Total),
			number(s.Retained), number(m.Retained.Messages), bytes(s.RetainedBytes), bytes(m.Retained.Bytes), humanize.Comma(s.Received), humanize.Comma(s.Sent), bytes(s.DiskBytesWritten)),
	}
}

// MQTTClients implements LocalBroker.
func (b embedded) MQTTClients(after string, limit int) []api.MQTTClient {
	out := []api.MQTTClient{}
	for _, c := range b.Clients(after, limit) {
		out = append(out, api.MQTTClient{
			ID: c.ID, User: c.User, Listener: c.Listener, Address: c.Remote, Version: c.Version, Since: c.Since,
			Subscriptions: c.Subscriptions, Queued: c.Queued,
		})
	}
	return out
}

// remote gives the publisher of a broker outside the node's words.
type remote struct {
	*mqtt.Publisher
	url string
}

// publisherID names a node's publisher among the client ids of its triggers,
// whose functions have a name.
const publisherID = "publisher"

func newPublisher(cfg *Config, name string) (Publisher, error) {
	b := cfg.Brokers[name]
	p, err := mqtt.NewPublisher(mqtt.PublisherConfig{Broker: b, ClientID: mqtt.ClientID(cfg.Name, "", publisherID), Logger: cfg.Logger})
	if err != nil {
		return nil, err
	}
	return remote{p, b.URL}, nil
}

// Publish implements Publisher.
func (p remote) Publish(ctx context.Context, m functions.Publish) error {
	return sent(p.Publisher.Publish(ctx, m))
}

// PublishAlone implements Publisher.
func (p remote) PublishAlone(ctx context.Context, m functions.Publish) error {
	return sent(p.Publisher.PublishAlone(ctx, m))
}

// sent gives what became of a message the words of the outbox.
func sent(err error) error {
	switch {
	case errors.Is(err, mqtt.ErrRefused):
		return fmt.Errorf("%w: %w", outbox.ErrRefused, err)
	case errors.Is(err, mqtt.ErrHungUp):
		return fmt.Errorf("%w: %w", outbox.ErrHungUp, err)
	}
	return err
}

// Status implements Publisher.
func (p remote) Status() api.ComponentStatus {
	state, err := p.Publisher.Status()
	s := api.ComponentStatus{State: "down", Address: p.url, Detail: states[state]}
	if state == mqtt.StateConnected {
		s.State = "up"
	}
	if err != nil {
		s.Detail += ": " + err.Error()
	}
	return s
}

// subscriber gives the source of a trigger the node's words.
type subscriber struct{ *mqtt.Source }

func newSource(cfg *Config, b triggers.Binding, sink triggers.Sink, d devices.Hardware, m *deploy.Memory) (deploy.Source, error) {
	switch {
	case b.Trigger.GPIO != nil:
		return newEdgeSource(cfg, b, sink, d)
	case b.Trigger.Sensor != nil:
		return newSensorSource(cfg, b, sink, d)
	}
	s, err := mqtt.NewSource(mqtt.SourceConfig{
		Broker: cfg.Brokers[b.Trigger.MQTT.Broker], ClientID: mqtt.ClientID(cfg.Name, b.Function, b.Trigger.Name),
		Binding: b, Sink: sink, Memory: m, Logger: cfg.Logger, Drain: drainTime,
	})
	if err != nil {
		return nil, err
	}
	return subscriber{s}, nil
}

// Status implements deploy.Source.
func (s subscriber) Status() api.SourceInfo {
	state, err := s.Source.Status()
	i := api.SourceInfo{State: states[state]}
	if err != nil {
		i.Error = err.Error()
	}
	return i
}

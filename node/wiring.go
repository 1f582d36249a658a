package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/cluster/store/etcd"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/functions/runtimes"
	"github.com/edgefn/edgefn/functions/sandbox"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/triggers"
	"github.com/edgefn/edgefn/triggers/mqtt"
	"github.com/edgefn/edgefn/triggers/mqtt/broker"
)

// hostPath is where a host sandbox finds its programs: of the machine's /usr
// and nowhere else, whatever PATH the node was started with.
const hostPath = "/usr/local/bin:/usr/bin:/bin"

// New makes a node of the real parts. It validates the config, does no I/O and
// starts nothing.
func New(cfg Config) (*Node, error) { return Assemble(cfg, realParts()) }

func realParts() Parts {
	return Parts{
		Store:     openStore,
		Sandboxes: openSandboxes,
		Pool:      func(c pool.Config) (Pool, error) { return pool.New(c) },
		Broker: func(cfg *Config, sink triggers.Sink) (LocalBroker, error) {
			b, err := broker.New(broker.Config{
				Addr: cfg.MQTT.Addr, Name: functions.LocalBroker, Dir: filepath.Join(cfg.DataDir, "mqtt"), Sink: sink, Logger: cfg.Logger,
				MaxPayload: cfg.MaxPayload(), PasswordFile: cfg.MQTT.PasswordFile, CertFile: cfg.MQTT.CertFile, KeyFile: cfg.MQTT.KeyFile,
			})
			if err != nil {
				return nil, err
			}
			return localBroker{b}, nil
		},
		Publisher: func(cfg *Config, name string) (Publisher, error) {
			p, err := mqtt.NewPublisher(mqtt.PublisherConfig{
				Broker: cfg.Brokers[name], ClientID: mqtt.ClientID(cfg.Name, "", "publisher"), Logger: cfg.Logger,
			})
			if err != nil {
				return nil, err
			}
			return publisher{p, cfg.Brokers[name].URL}, nil
		},
		Source: func(cfg *Config, b triggers.Binding, sink triggers.Sink) (Source, error) {
			s, err := mqtt.NewSource(mqtt.SourceConfig{
				Broker: cfg.Brokers[b.Trigger.MQTT.Broker], ClientID: mqtt.ClientID(cfg.Name, b.Function, b.Trigger.Name),
				Binding: b, Sink: sink, Logger: cfg.Logger,
			})
			if err != nil {
				return nil, err
			}
			return source{s, b.Trigger.Name}, nil
		},
		EndSession: func(ctx context.Context, cfg *Config, name, clientID string) error {
			return mqtt.EndSession(ctx, cfg.Brokers[name], clientID)
		},
		ClientID:  mqtt.ClientID,
		Runtimes:  func(ctx context.Context) map[functions.Runtime]string { return runtimes.Discover(ctx, hostPath) },
		Satisfies: runtimes.Satisfies,
	}
}

func openStore(ctx context.Context, cfg *Config) (store.Store, error) {
	if len(cfg.Store.Endpoints) > 0 {
		tc, err := cfg.Store.tls()
		if err != nil {
			return nil, err
		}
		return etcd.Connect(ctx, etcd.Remote{Endpoints: cfg.Store.Endpoints, TLS: tc, Logger: cfg.Logger})
	}
	return etcd.Open(ctx, etcd.Config{Dir: filepath.Join(cfg.DataDir, "store"), Name: cfg.Name, RunDir: cfg.RunDir, Logger: cfg.Logger})
}

// tls reads the files that the config names; nil if it names none.
func (c *StoreConfig) tls() (*tls.Config, error) {
	if c.CAFile == "" && c.CertFile == "" {
		return nil, nil
	}
	tc := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("store.tls.ca: %w", err)
		}
		tc.RootCAs = x509.NewCertPool()
		if !tc.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("store.tls.ca: %s holds no certificate in PEM", c.CAFile)
		}
	}
	if c.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("store.tls: %w", err)
		}
		tc.Certificates = []tls.Certificate{cert}
	}
	return tc, nil
}

// sandboxes is a sandbox.Host in the node's words.
type sandboxes struct{ *sandbox.Host }

var _ Sandboxes = sandboxes{}

func openSandboxes(ctx context.Context, cfg *Config) (Sandboxes, error) {
	shims := filepath.Join(cfg.RunDir, "shims")
	if err := runtimes.Write(shims); err != nil {
		return nil, err
	}
	h, err := sandbox.Open(ctx, sandbox.Config{
		Socket: cfg.Containerd, DataDir: cfg.DataDir, RunDir: cfg.RunDir, ShimsDir: shims, SecretsDir: cfg.SecretsDir, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	if python, err := runtimes.Find(hostPath, "python3"); err == nil {
		compile, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		if err := runtimes.Compile(compile, shims, python); err != nil && cfg.Logger != nil {
			cfg.Logger.Debug("python shim not compiled ahead", keyErr, err) // it starts a little slower
		}
	}
	return sandboxes{h}, nil
}

// Import implements Sandboxes.
func (s sandboxes) Import(ctx context.Context, r io.Reader) (Image, error) {
	img, err := s.Host.Import(ctx, r)
	return Image{Digest: img.Digest, Function: img.Function, Platforms: img.Platforms}, err
}

// Starter implements Sandboxes.
func (s sandboxes) Starter(f *functions.Function, version string) (pool.Starter, error) {
	c, err := runtimes.Launch(f)
	if err != nil {
		return nil, err
	}
	return s.Host.Starter(sandbox.Spec{Function: f, Version: version, Argv: c.Argv, Env: c.Env}), nil
}

// Status implements Sandboxes.
func (s sandboxes) Status(ctx context.Context) api.ComponentStatus {
	up, address, version := s.Host.Status(ctx)
	return api.ComponentStatus{State: upOrDown(up), Address: address, Detail: version}
}

func upOrDown(up bool) string {
	if up {
		return "up"
	}
	return "down"
}

// localBroker is the embedded broker in the node's words.
type localBroker struct{ *broker.Broker }

var _ LocalBroker = localBroker{}

// Publish implements Publisher.
func (b localBroker) Publish(ctx context.Context, m functions.Publish) error {
	return b.Broker.Publish(ctx, m.Topic, m.Data, m.QoS, m.Retain)
}

// Status implements Publisher.
func (b localBroker) Status() api.ComponentStatus {
	return api.ComponentStatus{State: "up", Address: b.Addr()}
}

// publisher is a connection to a broker outside.
type publisher struct {
	*mqtt.Publisher
	url string
}

var _ Publisher = publisher{}

// Publish implements Publisher.
func (p publisher) Publish(ctx context.Context, m functions.Publish) error {
	return p.Publisher.Publish(ctx, m.Topic, m.Data, m.QoS, m.Retain)
}

// Status implements Publisher.
func (p publisher) Status() api.ComponentStatus {
	state, err := p.Publisher.Status()
	s := api.ComponentStatus{State: upOrDown(state == mqtt.StateConnected), Address: p.url}
	if err != nil {
		s.Detail = err.Error()
	}
	return s
}

// source is a trigger at a broker outside.
type source struct {
	*mqtt.Source
	trigger string
}

var _ Source = source{}

// Status implements Source.
func (s source) Status() api.SourceInfo {
	state, err := s.Source.Status()
	info := api.SourceInfo{Trigger: s.trigger, State: state}
	if err != nil {
		info.Error = err.Error()
	}
	return info
}

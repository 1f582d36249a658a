package node_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/cluster/store/memstore"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/node"
	"github.com/edgefn/edgefn/node/api"
	deployer "github.com/edgefn/edgefn/node/deploy"
	"github.com/edgefn/edgefn/node/devices"
	"github.com/edgefn/edgefn/triggers"
	"github.com/edgefn/edgefn/triggers/mqtt"
)

// handler stands for a function's code.
type handler func(ctx context.Context, in pool.Invocation) (functions.Result, error)

// world is what nodes of a test stand on. It outlives a node's restart.
type world struct {
	t   *testing.T
	dir string
	st  *flakyStore

	mu       sync.Mutex
	handlers map[string]handler // by the first word of a function's handler
	images   map[string][]byte  // by digest
	pools    []*fakePool
	local    *fakeBroker
	sources  map[string]*fakeSource // by trigger, the newest
	made     []string               // sources, in order
	ended    []string               // client ids whose session was ended
	plant    *fakePublisher
	around   func(devices.Hardware) devices.Hardware // nil: they are as they are
	away     bool                                    // the broker outside
	logs     bytes.Buffer
}

func newWorld(t *testing.T) *world {
	// A short path: sockets are in it.
	dir, err := os.MkdirTemp("", "n") //nolint:usetesting // shorter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &world{
		t: t, dir: dir, st: &flakyStore{Store: memstore.New(memstore.Config{})},
		handlers: map[string]handler{}, images: map[string][]byte{}, sources: map[string]*fakeSource{},
	}
	w.plant = &fakePublisher{}
	return w
}

// Write takes the nodes' own log.
func (w *world) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.logs.Write(p)
}

func (w *world) config() node.Config {
	c := node.Defaults()
	c.Name = "gate"
	c.DataDir, c.RunDir, c.SecretsDir = filepath.Join(w.dir, "data"), filepath.Join(w.dir, "run"), filepath.Join(w.dir, "secrets")
	c.Brokers = map[string]mqtt.Broker{"plant": {URL: "mqtt://plant.example"}}
	c.Logger = slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
	return c
}

func (w *world) parts() node.Parts {
	return node.Parts{
		Store:     func(context.Context, *node.Config) (store.Store, error) { return w.st, nil },
		Sandboxes: func(context.Context, *node.Config) (node.Sandboxes, error) { return fakeSandboxes{w}, nil },
		Pool:      w.newPool,
		Broker: func(_ *node.Config, sink triggers.Sink) (node.LocalBroker, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.local = &fakeBroker{sink: sink}
			return w.local, nil
		},
		Publisher: func(*node.Config, string) (node.Publisher, error) { return w.plant, nil },
		Devices: func(cfg *node.Config) (devices.Hardware, error) { // simulated by the config
			d, err := node.RealParts().Devices(cfg)
			if err == nil && w.around != nil {
				d = w.around(d)
			}
			return d, err
		},
		Source: func(cfg *node.Config, b triggers.Binding, sink triggers.Sink, d devices.Hardware, m *deployer.Memory) (deployer.Source, error) {
			if b.Trigger.MQTT == nil {
				return node.RealParts().Source(cfg, b, sink, d, m)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			s := &fakeSource{b: b, sink: sink, memory: m, running: make(chan struct{}), ended: make(chan struct{})}
			w.sources[b.Trigger.Name] = s
			w.made = append(w.made, b.Trigger.Name+" "+b.Trigger.MQTT.Topic)
			return s, nil
		},
		EndSession: func(_ context.Context, _ *node.Config, _, id string) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.away {
				return errors.New("broker is away")
			}
			w.ended = append(w.ended, id)
			return nil
		},
		ClientID: func(n, f, t string) string { return n + "-" + f + "-" + t },
		Runtimes: func(context.Context) map[functions.Runtime]string {
			return map[functions.Runtime]string{functions.Python: "3.11.2"}
		},
		Satisfies: func(constraint, version string) error {
			if constraint != "" && constraint != ">="+version {
				return fmt.Errorf("python %s is here, %s is asked for", version, constraint)
			}
			return nil
		},
	}
}

// run starts a node and returns when it is ready. stop ends it and fails the
// test if it did not end well.
func (w *world) run(cfg node.Config) (n *node.Node, stop func()) {
	w.t.Helper()
	return w.assemble(cfg, w.parts())
}

// assemble is run with other parts.
func (w *world) assemble(cfg node.Config, parts node.Parts) (n *node.Node, stop func()) {
	w.t.Helper()
	ready := make(chan string, 1)
	cfg.Ready = func(line string) { ready <- line }
	n, err := node.Assemble(cfg, parts)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("node ended: %v", err)
		}
	})
	w.t.Cleanup(stop)
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		w.t.Fatalf("node ended: %v", err)
	case <-time.After(10 * time.Second):
		w.t.Fatal("node is not ready")
	}
	return n, stop
}

// handle gives functions with a handler of this name their code.
func (w *world) handle(name string, h handler) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.handlers[name] = h
}

// function is one with a trigger at the local broker.
func function(name, code string) functions.Function {
	f := functions.Defaults()
	f.Name, f.Runtime, f.Handler = name, functions.Exec, []string{code}
	f.Retry = functions.Retry{Attempts: 3, First: time.Millisecond, Max: 4 * time.Millisecond}
	f.Triggers = []functions.Trigger{{
		Name: "in", Order: functions.OrderSubject,
		MQTT: &functions.MQTTTrigger{Topic: name + "/#", QoS: 1, Broker: functions.LocalBroker},
	}}
	return f
}

// image makes what Deploy takes.
func image(t *testing.T, f functions.Function) io.Reader {
	t.Helper()
	b, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(b)
}

func deploy(t *testing.T, n *node.Node, f functions.Function) api.Deployed {
	t.Helper()
	out, err := n.Deploy(t.Context(), image(t, f), api.DeployOptions{}, func(api.Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// eventually waits until f reports true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it did not happen: %s", what)
		}
	}
}

// send delivers an event as a source would, and returns what it was settled
// with.
func send(t *testing.T, s triggers.Sink, fn, subject, id, data string) <-chan error {
	t.Helper()
	settled := make(chan error, 1)
	err := s.Deliver(t.Context(), triggers.Delivery{
		Function: fn, Trigger: "in", OwnID: id != "",
		Event:  functions.Event{ID: id, Type: functions.TypeMQTT, Source: "mqtt://local", Subject: subject, Data: []byte(data)},
		Settle: func(err error) { settled <- err },
	})
	if err != nil {
		t.Fatal(err)
	}
	return settled
}

func wantSettled(t *testing.T, c <-chan error) {
	t.Helper()
	select {
	case err := <-c:
		if err != nil {
			t.Fatalf("settled with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("event is not settled")
	}
}

// wantNoRetries waits until no event is to be tried again.
func (w *world) wantNoRetries() {
	w.t.Helper()
	eventually(w.t, "no event is to be tried again", func() bool {
		n, err := w.st.Count(w.t.Context(), "/edgefn/retry/")
		return err == nil && n == 0
	})
}

func wantError(t *testing.T, err, is error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if is != nil && !errors.Is(err, is) {
		t.Errorf("error is not %q: %v", is, err)
	}
	for _, s := range texts {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("error does not say %q: %v", s, err)
		}
	}
}

// fakeSandboxes takes a function's JSON for an image.
type fakeSandboxes struct{ w *world }

func (s fakeSandboxes) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func (s fakeSandboxes) Import(_ context.Context, r io.Reader) (deployer.Image, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return deployer.Image{}, err
	}
	sum := sha256.Sum256(b)
	img := deployer.Image{Digest: "sha256:" + hex.EncodeToString(sum[:]), Function: b}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.w.images[img.Digest] = b
	return img, nil
}

func (s fakeSandboxes) Platform() string { return "linux/arm/v7" }

func (s fakeSandboxes) Missing(_ context.Context, _ string, blobs []string) ([]string, error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	var missing []string
	for _, d := range blobs {
		if _, ok := s.w.images[d]; !ok {
			missing = append(missing, d)
		}
	}
	return missing, nil
}

func (s fakeSandboxes) Has(_ context.Context, version string) (bool, error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	_, ok := s.w.images[version]
	return ok, nil
}

func (s fakeSandboxes) Starter(*functions.Function, string, []string) (pool.Starter, error) {
	return nil, nil
}

func (s fakeSandboxes) Remove(_ context.Context, version string) error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	delete(s.w.images, version)
	return nil
}

func (s fakeSandboxes) Status(context.Context) api.ComponentStatus {
	return api.ComponentStatus{State: "up"}
}
func (s fakeSandboxes) Warnings() []string    { return nil }
func (s fakeSandboxes) Close(context.Context) {}

// fakePool runs handlers in this process.
type fakePool struct {
	w    *world
	cfg  pool.Config
	busy sync.WaitGroup

	mu     sync.Mutex
	closed bool
	gone   chan struct{}
	ended  bool
}

func (w *world) newPool(cfg pool.Config) (deployer.Pool, error) {
	p := &fakePool{w: w, cfg: cfg, gone: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pools = append(w.pools, p)
	return p, nil
}

func (p *fakePool) Run(ctx context.Context) error {
	<-ctx.Done()
	p.mu.Lock()
	p.closed = true
	close(p.gone)
	p.mu.Unlock()
	p.busy.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	return nil
}

func (p *fakePool) handler() handler {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.w.handlers[p.cfg.Function.Handler[0]]
}

func (p *fakePool) Check(context.Context) error {
	if p.handler() == nil {
		return &functions.Failure{Kind: functions.FailLoad, Message: "no such handler", Detail: "Traceback: its own words"}
	}
	return nil
}

func (p *fakePool) Invoke(ctx context.Context, in pool.Invocation) (pool.Outcome, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return pool.Outcome{}, pool.ErrClosed
	}
	p.busy.Add(1)
	p.mu.Unlock()
	defer p.busy.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-p.gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	if in.Begun != nil {
		in.Begun()
	}
	res, err := p.handler()(ctx, in)
	out := pool.Outcome{Result: res, Usage: functions.Usage{Wall: 2 * time.Millisecond, CPU: time.Millisecond, PeakMemory: 1 << 20}}
	select {
	case <-p.gone:
		return pool.Outcome{}, functions.Failf(functions.FailTransient, "sandbox went away")
	default:
	}
	return out, err
}

func (p *fakePool) Drain(context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.busy.Wait()
	return nil
}

func (p *fakePool) Stats() pool.Stats { return pool.Stats{Up: true, Instances: 1, Spares: 1} }

// fakePublisher keeps what is published.
type fakePublisher struct {
	mu       sync.Mutex
	messages []functions.Publish
	err      error
}

func (p *fakePublisher) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func (p *fakePublisher) Publish(_ context.Context, m functions.Publish) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return p.err
	}
	p.messages = append(p.messages, m)
	return nil
}

func (p *fakePublisher) PublishAlone(ctx context.Context, m functions.Publish) error {
	return p.Publish(ctx, m)
}

func (p *fakePublisher) Status() api.ComponentStatus { return api.ComponentStatus{State: "up"} }

func (p *fakePublisher) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

// texts are the messages as "topic data".
func (p *fakePublisher) texts() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, m := range p.messages {
		out = append(out, m.Topic+" "+string(m.Data))
	}
	return out
}

// fakeBroker is a broker inside the node that hands nothing over by itself.
type fakeBroker struct {
	fakePublisher
	sink triggers.Sink
	err  error // of Listen

	bmu sync.Mutex
	set []triggers.Binding
}

func (b *fakeBroker) Listen() error { return b.err }
func (b *fakeBroker) Addr() string  { return "127.0.0.1:1883" }

// MQTTClients knows one client.
func (b *fakeBroker) MQTTClients(after string, limit int) []api.MQTTClient {
	if after != "" || limit < 1 {
		return nil
	}
	return []api.MQTTClient{{ID: "pump"}}
}

func (b *fakeBroker) Bind(set []triggers.Binding) {
	b.bmu.Lock()
	defer b.bmu.Unlock()
	b.set = set
}

func (b *fakeBroker) bound() []string {
	b.bmu.Lock()
	defer b.bmu.Unlock()
	var out []string
	for _, s := range b.set {
		out = append(out, s.Function+" "+s.Trigger.MQTT.Topic)
	}
	return out
}

// fakeSource serves a trigger at a broker outside.
type fakeSource struct {
	b       triggers.Binding
	sink    triggers.Sink
	memory  *deployer.Memory
	running chan struct{}                  // closed by Run
	ended   chan struct{}                  // closed when Run has returned
	told    atomic.Pointer[api.SourceInfo] // what Status tells; nil: all is well
}

func (s *fakeSource) Run(ctx context.Context) error {
	close(s.running)
	<-ctx.Done()
	close(s.ended)
	return nil
}

func (s *fakeSource) Status() api.SourceInfo {
	if i := s.told.Load(); i != nil {
		return *i
	}
	return api.SourceInfo{State: "connected"}
}

// flakyStore is a store that fails when it is told to.
type flakyStore struct {
	store.Store

	mu     sync.Mutex
	before func(guards []store.Guard, ops []store.Op) error // fails a commit that does not take place
	after  func(ops []store.Op) error                       // fails one that did
}

func (s *flakyStore) set(before func([]store.Guard, []store.Op) error, after func([]store.Op) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before, s.after = before, after
}

func (s *flakyStore) Commit(ctx context.Context, guards []store.Guard, ops []store.Op) (int64, error) {
	s.mu.Lock()
	before, after := s.before, s.after
	s.mu.Unlock()
	if before != nil {
		if err := before(guards, ops); err != nil {
			return 0, err
		}
	}
	rev, err := s.Store.Commit(ctx, guards, ops)
	if err == nil && after != nil {
		if err := after(ops); err != nil {
			return 0, err
		}
	}
	return rev, err
}

// Close leaves the store open for the next node.
func (s *flakyStore) Close() error { return nil }

package testbed

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/edgefn/edgefn/cross"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/functionstest"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/functions/runtimes"
	"github.com/edgefn/edgefn/functions/sandbox"
)

// TestConformance runs the suite of the runtimes through images, containerd,
// cells and pools, as a node does.
func TestConformance(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("sandboxes need root")
	}
	h := newSandboxed(t)
	for _, rt := range functions.Runtimes {
		t.Run(string(rt), func(t *testing.T) { functionstest.Run(t, h, rt) })
	}
}

// sandboxed is a Harness of real sandboxes.
type sandboxed struct {
	host *sandbox.Host
	node functionstest.Node
}

var _ functionstest.Harness = (*sandboxed)(nil)

func newSandboxed(t *testing.T) *sandboxed {
	t.Helper()
	dir, err := os.MkdirTemp("", "ef") //nolint:usetesting // a short path: Unix sockets are below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cfg := sandbox.Config{
		DataDir: filepath.Join(dir, "d"), RunDir: filepath.Join(dir, "r"), ShimsDir: filepath.Join(dir, "r", "shims"), SecretsDir: filepath.Join(dir, "s"),
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.MkdirAll(cfg.ShimsDir, 0o755), os.Mkdir(cfg.SecretsDir, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(runtimes.Write(cfg.ShimsDir), os.WriteFile(filepath.Join(cfg.SecretsDir, "token"), []byte(functionstest.Secret), 0o600)); err != nil {
		t.Fatal(err)
	}
	host, err := sandbox.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- host.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		host.Close(context.Background())
	})
	return &sandboxed{host: host}
}

// State implements functionstest.Harness.
func (s *sandboxed) State(_ *testing.T, function string) map[string][]byte {
	return s.node.State(function)
}

// SetState implements functionstest.Harness.
func (s *sandboxed) SetState(_ *testing.T, function, key string, value []byte) {
	s.node.SetState(function, key, value)
}

// deployed is a function in a pool of its own.
type deployed struct {
	s    *sandboxed
	f    *functions.Function
	pool *pool.Pool

	mu    sync.Mutex // guards lines
	lines []functionstest.Line
}

// Deploy implements functionstest.Harness.
func (s *sandboxed) Deploy(t *testing.T, dir string, f *functions.Function) (functionstest.Function, *functions.Failure) {
	t.Helper()
	img, err := cross.Build(t.Context(), cross.Options{Dir: dir})
	if err != nil {
		return nil, &functions.Failure{Kind: functions.FailLoad, Message: err.Error()}
	}
	defer img.Close()
	tar, err := os.Create(filepath.Join(t.TempDir(), "image.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer tar.Close()
	if err := img.WriteTar(tar); err != nil {
		t.Fatal(err)
	}
	if _, err := tar.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	in, err := s.host.Import(t.Context(), tar)
	if err != nil {
		t.Fatal(err)
	}
	c, err := runtimes.Launch(f)
	if err != nil {
		t.Fatal(err)
	}
	d := &deployed{s: s, f: f}
	d.pool, err = pool.New(pool.Config{
		Function: f, Version: in.Digest, Log: d.log,
		Starter: s.host.Starter(sandbox.Spec{Function: f, Version: in.Digest, Argv: c.Argv, Env: c.Env}),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.pool.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	var failure *functions.Failure
	if err := d.pool.Check(t.Context()); err != nil && !errors.As(err, &failure) {
		t.Fatal(err)
	}
	return d, failure
}

func (d *deployed) log(l pool.LogLine) {
	if l.Invocation == "" {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, functionstest.Line{Stream: l.Stream, Level: l.Level, Text: l.Text})
}

// Invoke implements functionstest.Function.
func (d *deployed) Invoke(t *testing.T, e functions.Event) functionstest.Outcome {
	t.Helper()
	d.mu.Lock()
	d.lines = nil
	d.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	inv := d.s.node.Begin(d.f)
	out, err := d.pool.Invoke(ctx, pool.Invocation{ID: "i-" + e.ID, Trigger: "test", Attempt: 1, Event: e, Host: inv})
	o := functionstest.Outcome{Result: out.Result}
	switch {
	case err == nil:
		o.Committed = inv.Commit()
	case !errors.As(err, &o.Failure):
		t.Fatal(err)
	}
	if out.Logged != nil {
		<-out.Logged
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	o.Logs = append(o.Logs, d.lines...)
	return o
}

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/node"
	"github.com/edgefn/edgefn/node/api"
)

// keepMemory restores what a node sets for the whole process.
func keepMemory(t *testing.T) {
	t.Helper()
	percent := debug.SetGCPercent(100)
	debug.SetGCPercent(percent)
	limit := debug.SetMemoryLimit(-1)
	t.Cleanup(func() {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(limit)
	})
}

func TestNodeConfig(t *testing.T) {
	keepMemory(t)
	file := filepath.Join(t.TempDir(), "node.yaml")
	if err := os.WriteFile(file, []byte("name: from-file\ndata: /data-of-file\nrun: /run-of-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, backend())
	var got node.Config
	s.tools.runNode = func(_ context.Context, cfg node.Config) error {
		got = cfg
		cfg.Ready("edgefn node x ready")
		return nil
	}
	s.run("node", "--config", file, "--data", "/d", "--mqtt", "off", "--max-event", "512Ki", "--containerd", "/c.sock").
		want(t, 0, "edgefn node x ready\n", "")
	want := node.Defaults()
	want.Name, want.DataDir, want.RunDir, want.Containerd, want.MaxEvent = "from-file", "/d", "/run-of-file", "/c.sock", 512<<10
	want.MQTT.Addr = node.Off
	want.Version = localVersion().Version
	if got.Logger == nil {
		t.Error("no logger")
	}
	got.Logger, got.Ready, got.Busy = nil, nil, nil
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("config (-want +got):\n%s", d)
	}

	if err := os.WriteFile(file, []byte("name: x\ndta: /d\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run("node", "--config", file).want(t, 2, "", `node.yaml:2: unknown key "dta"`)
}

func TestNodeEnds(t *testing.T) {
	keepMemory(t)
	s := open(t, backend())
	notes := filepath.Join(filepath.Dir(s.path), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: notes})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	t.Setenv("NOTIFY_SOCKET", notes)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.tools.runNode = func(ctx context.Context, cfg node.Config) error {
		cfg.Busy("restoring a backup")
		cfg.Ready("ready")
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}
	s.runWith(ctx, "", "node").want(t, 0, "ready\n", "")
	buf := make([]byte, 100)
	for _, want := range []string{"WATCHDOG=1\nEXTEND_TIMEOUT_USEC=60000000\nSTATUS=restoring a backup", "READY=1\nSTATUS=ready", "STOPPING=1\nSTATUS="} {
		n, err := l.Read(buf)
		if err != nil || !strings.HasPrefix(string(buf[:n]), want) {
			t.Errorf("systemd was told %q, want %q: %v", buf[:n], want, err)
		}
	}
}

// systemd hears that a node lives as long as the node answers itself at its
// control socket.
func TestWatchdog(t *testing.T) {
	keepMemory(t)
	b := backend()
	var stuck atomic.Bool
	end := make(chan struct{})
	b.OnHealth = func(context.Context) error {
		if stuck.Load() {
			<-end // as one that waits for a lock, it does not look at its context
		}
		return nil
	}
	s := open(t, b)
	run := filepath.Dir(s.path)
	notes := filepath.Join(run, "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: notes})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	t.Setenv("NOTIFY_SOCKET", notes)
	t.Setenv("WATCHDOG_USEC", "60000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	heard := func(within time.Duration) int {
		_ = l.SetReadDeadline(time.Now().Add(within))
		buf, n := make([]byte, 100), 0
		for {
			k, err := l.Read(buf)
			if err != nil {
				return n
			}
			if string(buf[:k]) == "WATCHDOG=1" {
				if n++; n == 3 {
					return n
				}
			}
		}
	}
	s.tools.runNode = func(context.Context, node.Config) error {
		if n := heard(10 * time.Second); n != 3 {
			t.Errorf("heard %d times of a node that answers", n)
		}
		stuck.Store(true)
		heard(40 * time.Millisecond) // what was on its way
		if n := heard(100 * time.Millisecond); n > 0 {
			t.Error("a node that does not answer is said to live")
		}
		close(end)
		return nil
	}
	s.run("node", "--run", run, "--data", t.TempDir()).want(t, 0, "", "node does not answer itself")
}

func TestNodeFails(t *testing.T) {
	keepMemory(t)
	s := open(t, backend())
	var fail error
	s.tools.runNode = func(context.Context, node.Config) error { return fail }
	fail = fmt.Errorf("listen for mqtt on 127.0.0.1:1883: %w", os.NewSyscallError("bind", syscall.EADDRINUSE))
	s.run("node").want(t, 1, "", "127.0.0.1:1883")
	if o := s.run("node"); !strings.Contains(o.err, "--mqtt") {
		t.Errorf("no flag is named: %s", o.err)
	}
	fail = &api.Error{Err: api.ErrRefused, Message: "another node serves it", Hint: "use --run"}
	s.run("node").want(t, 1, "", "another node serves it\nhint: use --run")
}

func TestMemoryLimit(t *testing.T) {
	for total, want := range map[uint64]int64{512 << 20: 96 << 20, 1 << 30: 128 << 20, 8 << 30: 1 << 30, 0: 96 << 20} {
		if got := memoryLimit(total); got != want {
			t.Errorf("%d: %d, want %d", total, got, want)
		}
	}
	keepMemory(t)
	debug.SetGCPercent(77)
	debug.SetMemoryLimit(77 << 20)
	env := map[string]string{"GOGC": "77", "GOMEMLIMIT": "77MiB"}
	(&app{getenv: func(k string) string { return env[k] }}).tuneMemory()
	if got := debug.SetMemoryLimit(-1); got != 77<<20 {
		t.Errorf("the environment's limit is overridden: %d", got)
	}
	if got := debug.SetGCPercent(77); got != 77 {
		t.Errorf("the environment's GOGC is overridden: %d", got)
	}
	(&app{getenv: func(string) string { return "" }}).tuneMemory()
	if got := debug.SetGCPercent(77); got != gcPercent {
		t.Errorf("GOGC is %d", got)
	}
}

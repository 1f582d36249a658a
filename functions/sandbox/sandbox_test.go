package sandbox_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/functions/sandbox"
	"github.com/edgefn/edgefn/functions/wire"
)

// probeProgram names a built testdata/probe, for a machine that has no Go.
const probeProgram = "EDGEFN_TEST_PROBE"

// unreadFile is in the probe's image. What an instance has looked for once, the
// kernel may find even if it is gone.
const (
	unreadFile = "/opt/unread"
	unreadText = "nobody has looked for this file before"
)

// probeImage returns a tar of an OCI layout with the probe as /app/function.
func probeImage(t testing.TB, fn *functions.Function) io.Reader {
	t.Helper()
	bin := os.Getenv(probeProgram)
	if bin == "" {
		bin = filepath.Join(t.TempDir(), "function")
		cmd := exec.Command("go", "build", "-o", bin, "./testdata/probe")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build probe: %v\n%s", err, out)
		}
	}
	b, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	must(t, tw.WriteHeader(&tar.Header{Name: "app/", Typeflag: tar.TypeDir, Mode: 0o755}))
	must(t, tw.WriteHeader(&tar.Header{Name: "app/function", Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(b))}))
	_, err = tw.Write(b)
	must(t, err)
	must(t, tw.WriteHeader(&tar.Header{Name: unreadFile[1:], Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(unreadText))}))
	_, err = tw.Write([]byte(unreadText))
	must(t, err)
	// A device in an image: /dev/loop-control, linux/miscdevice.h.
	must(t, tw.WriteHeader(&tar.Header{Name: "opt/device", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 10, Devminor: 237}))
	must(t, tw.Close())
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	must(t, err)
	img, err := mutate.AppendLayers(mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1), layer)
	must(t, err)
	cf, err := img.ConfigFile()
	must(t, err)
	spec, err := json.Marshal(fn)
	must(t, err)
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture = "linux", runtime.GOARCH
	cf.Config.Labels = map[string]string{functions.ImageLabel: string(spec)} // as edgefn build does
	img, err = mutate.ConfigFile(img, cf)
	must(t, err)
	idx := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}})
	idx = mutate.Annotations(idx, map[string]string{"org.edgefn.function": string(spec)}).(v1.ImageIndex)
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	must(t, err)
	must(t, p.AppendIndex(idx))
	var out bytes.Buffer
	tw = tar.NewWriter(&out)
	must(t, tw.AddFS(os.DirFS(dir)))
	must(t, tw.Close())
	return &out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// host opens a Host with a private containerd in short temporary folders.
func host(t testing.TB, secrets map[string]string) *sandbox.Host {
	t.Helper()
	cfg := config(t)
	for k, v := range secrets {
		must(t, os.WriteFile(filepath.Join(cfg.SecretsDir, k), []byte(v), 0o600))
	}
	h, stop := open(t, cfg)
	t.Cleanup(func() {
		stop()
		h.Close(context.Background())
	})
	return h
}

func config(t testing.TB) sandbox.Config {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("sandboxes need root")
	}
	dir, err := os.MkdirTemp("", "ef") //nolint:usetesting // a short path: Unix sockets are below it
	must(t, err)
	must(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	cfg := sandbox.Config{DataDir: dir + "/d", RunDir: dir + "/r", ShimsDir: dir + "/r/shims", SecretsDir: dir + "/s"}
	must(t, errors.Join(os.Mkdir(cfg.SecretsDir, 0o700), os.Mkdir(cfg.RunDir, 0o755)))
	// As Debian mounts /run.
	must(t, unix.Mount("run", cfg.RunDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755"))
	// Detached, since a shim may still be on its way out.
	t.Cleanup(func() { must(t, unix.Unmount(cfg.RunDir, unix.MNT_DETACH)) })
	return cfg
}

// open opens a Host and runs it until stop is called.
func open(t testing.TB, cfg sandbox.Config) (h *sandbox.Host, stop func()) {
	t.Helper()
	h, err := sandbox.Open(t.Context(), cfg)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	return h, func() {
		cancel()
		must(t, <-done)
	}
}

type noHost struct{}

func (noHost) Call(context.Context, wire.Kind, wire.Call) (wire.Reply, error) {
	return wire.Reply{}, errors.New("not granted")
}

// probe is a pool of probes in real sandboxes.
type probe struct {
	*pool.Pool
	mu   sync.Mutex
	logs []pool.LogLine
}

func start(t *testing.T, h *sandbox.Host, change func(*functions.Function), devices ...string) *probe {
	t.Helper()
	spec := probeSpec(t, h, change)
	spec.Devices = devices
	return run(t, h, spec)
}

// run runs a pool of an image that is imported.
func run(t *testing.T, h *sandbox.Host, spec sandbox.Spec) *probe {
	t.Helper()
	pr := &probe{}
	var err error
	pr.Pool, err = pool.New(pool.Config{
		Function: spec.Function, Version: spec.Version, Starter: h.Starter(spec),
		Log: func(l pool.LogLine) {
			pr.mu.Lock()
			defer pr.mu.Unlock()
			pr.logs = append(pr.logs, l)
		},
	})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- pr.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-done)
	})
	return pr
}

// probeSpec imports the probe's image.
func probeSpec(t testing.TB, h *sandbox.Host, change func(*functions.Function)) sandbox.Spec {
	t.Helper()
	fn := functions.Defaults()
	fn.Name, fn.Runtime, fn.Handler = "probe", functions.Go, []string{"."}
	fn.Scale.Max = 3
	if change != nil {
		change(&fn)
	}
	img, err := h.Import(t.Context(), probeImage(t, &fn))
	must(t, err)
	return sandbox.Spec{Function: &fn, Version: img.Digest, Argv: []string{"/app/function"}}
}

func (p *probe) do(t *testing.T, what, arg string) (map[string]any, pool.Outcome, error) {
	t.Helper()
	data, err := json.Marshal(map[string]string{"do": what, "arg": arg})
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := p.Invoke(ctx, pool.Invocation{ID: "i", Attempt: 1, Event: functions.Event{ID: "e", Data: data}, Host: noHost{}})
	got := map[string]any{}
	if err == nil {
		must(t, json.Unmarshal(out.Result.Data, &got))
	}
	return got, out, err
}

func wantFailure(t *testing.T, err error, kind functions.FailureKind) {
	t.Helper()
	var f *functions.Failure
	if !errors.As(err, &f) || f.Kind != kind {
		t.Errorf("got error %v, want a failure of kind %s", err, kind)
	}
}

func TestSandbox(t *testing.T) {
	h := host(t, map[string]string{"db": "s3cret", "other": "hidden"})
	p := start(t, h, func(f *functions.Function) {
		f.Env = map[string]string{"COLOUR": "green"}
		f.Secrets = []string{"db"}
		f.Timeout = 3 * time.Second
	})
	if err := p.Check(t.Context()); err != nil {
		t.Fatal(err)
	}

	t.Run("least privilege", func(t *testing.T) {
		got, _, err := p.do(t, "look", "")
		must(t, err)
		for k, want := range map[string]any{
			"CapEff": "0000000000000000", "CapPrm": "0000000000000000", "CapBnd": "0000000000000000", "CapInh": "0000000000000000", "CapAmb": "0000000000000000",
			"NoNewPrivs": "1", "Seccomp": "2", "pid": float64(1), "processes": float64(1),
			"/tmp": "", "/dev/shm": "", "/app": "function", "interfaces": "lo", "cwd": "/app", "oom": "500",
		} {
			if got[k] != want {
				t.Errorf("%s is %q, want %q", k, got[k], want)
			}
		}
		if uid, _ := got["Uid"].(string); !strings.HasPrefix(uid, "100") {
			t.Errorf("user is %q, want an unprivileged one", uid)
		}
		if env, _ := got["env"].(string); !strings.Contains(env, "COLOUR=green") {
			t.Errorf("environment is %q, want COLOUR=green in it", env)
		}
		t.Logf("seen: %v", got)
	})
	t.Run("system calls", func(t *testing.T) {
		got, _, err := p.do(t, "syscalls", "")
		must(t, err)
		for name, errno := range got {
			if errno != float64(1) {
				t.Errorf("%s gave errno %v, want EPERM (1)", name, errno)
			}
		}
	})
	t.Run("read-only root", func(t *testing.T) {
		for _, path := range []string{"/x", "/app/x", "/usr/x", "/etc/x", "/edgefn/x", "/dev/x", "/run/x", "/app/function", "/proc/sys/kernel/hostname"} {
			if _, _, err := p.do(t, "write", path); err == nil {
				t.Errorf("%s could be written", path)
			}
		}
		_, _, err := p.do(t, "write", "/tmp/x")
		must(t, err)
	})
	t.Run("nothing is left", func(t *testing.T) {
		for range 4 {
			_, _, err := p.do(t, "leave", "")
			must(t, err)
		}
		for range 4 {
			got, _, err := p.do(t, "look", "")
			must(t, err)
			if got["/tmp"] != "" || got["/dev/shm"] != "" || got["processes"] != float64(1) || got["shm"] != "no such file or directory" {
				t.Errorf("a later event saw /tmp %q, /dev/shm %q, %v processes, shared memory: %v", got["/tmp"], got["/dev/shm"], got["processes"], got["shm"])
			}
		}
	})
	t.Run("nothing is left on what is shared", func(t *testing.T) {
		for range 3 {
			got, _, err := p.do(t, "mark", "")
			must(t, err)
			if utime, _ := got["utime"].(string); !strings.Contains(utime, "read-only") {
				t.Errorf("setting the times of /dev/null: %v, want read-only file system", got["utime"])
			}
			got, _, err = p.do(t, "marks", "")
			must(t, err)
			if got["flags"] != float64(0) {
				t.Errorf("a later event saw flags %v on its stdin", got["flags"])
			}
		}
		null, err := os.Open(os.DevNull)
		must(t, err)
		defer null.Close()
		for end := time.Now().Add(10 * time.Second); syscall.Flock(int(null.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("a lock on /dev/null has outlived its event")
			}
		}
	})
	t.Run("secrets", func(t *testing.T) {
		got, _, err := p.do(t, "read", "/run/secrets/db")
		must(t, err)
		if got["text"] != "s3cret" {
			t.Errorf("secret reads %q", got["text"])
		}
		if _, _, err := p.do(t, "read", "/run/secrets/other"); err == nil {
			t.Error("a secret that was not asked for could be read")
		}
	})
	t.Run("memory", func(t *testing.T) {
		_, out, err := p.do(t, "allocate", "")
		wantFailure(t, err, functions.FailMemory)
		if out.Usage.PeakMemory < 32<<20 || out.Usage.PeakMemory > 66<<20 {
			t.Errorf("peak memory is %d, want about the limit of 64 MiB", out.Usage.PeakMemory)
		}
	})
	t.Run("timeout", func(t *testing.T) {
		_, out, err := p.do(t, "sleep", "1h")
		wantFailure(t, err, functions.FailTimeout)
		if out.Usage.Wall < 3*time.Second {
			t.Errorf("timed out after %v, want 3s", out.Usage.Wall)
		}
	})
	t.Run("exit", func(t *testing.T) {
		_, _, err := p.do(t, "exit", "")
		wantFailure(t, err, functions.FailExited)
		if !strings.Contains(err.Error(), "status 7") {
			t.Errorf("error is %q, want the exit status in it", err)
		}
	})
	t.Run("processes", func(t *testing.T) {
		got, _, err := p.do(t, "fork", "")
		var f *functions.Failure
		if err == nil && got["started"].(float64) >= 128 || err != nil && !errors.As(err, &f) {
			t.Errorf("%v processes were started (%v), want fewer than the limit", got["started"], err)
		}
	})
	t.Run("malformed frames", func(t *testing.T) {
		for _, bytes := range []string{"\xff\xff\xff\xff", "\x00\x00\x00\x01\xff", "\x00\x00\x00\x04\x83\x61x\x01", strings.Repeat("\x00", 64)} {
			_, _, err := p.do(t, "garbage", bytes)
			if err == nil {
				t.Errorf("frame %q was accepted", bytes)
			}
		}
		_, _, err := p.do(t, "look", "")
		must(t, err)
	})
	t.Run("no network", func(t *testing.T) {
		if _, _, err := p.do(t, "dial", "127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("dialling own loopback: %v, want refused", err)
		}
		if _, _, err := p.do(t, "dial", "192.0.2.1:80"); err == nil || !strings.Contains(err.Error(), "unreachable") {
			t.Errorf("dialling another network: %v, want unreachable", err)
		}
	})
	t.Run("output", func(t *testing.T) {
		_, out, err := p.do(t, "print", "a line")
		must(t, err)
		<-out.Logged
		p.mu.Lock()
		defer p.mu.Unlock()
		streams := map[string]bool{}
		for _, l := range p.logs {
			if l.Text == "a line" && l.Invocation == "i" {
				streams[l.Stream] = true
			}
		}
		if !streams["stdout"] || !streams["stderr"] {
			t.Errorf("streams logged: %v, want stdout and stderr", streams)
		}
	})
	t.Run("metering", func(t *testing.T) {
		_, out, err := p.do(t, "sleep", "50ms")
		must(t, err)
		if u := out.Usage; u.Wall < 50*time.Millisecond || u.CPU <= 0 || u.CPU > u.Wall || u.PeakMemory < 1<<20 {
			t.Errorf("usage is %+v", u)
		}
		for range 2 * 3 { // each slot, one of which has had an instance at its limit
			_, out, err := p.do(t, "sleep", "0s")
			must(t, err)
			if out.Usage.PeakMemory > 32<<20 {
				t.Errorf("peak memory is %d, that of an instance before", out.Usage.PeakMemory)
			}
		}
	})
}

func TestConnectGrant(t *testing.T) {
	h := host(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b, _ := io.ReadAll(c)
			_, _ = c.Write(append([]byte("you said "), b...))
			_ = c.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	p := start(t, h, func(f *functions.Function) { f.Grants.Connect = []string{"localhost:" + port} })
	got, _, err := p.do(t, "dial", "localhost:"+port)
	must(t, err)
	if got["got"] != "you said hello\n" {
		t.Errorf("got %q through the grant", got["got"])
	}
	if _, _, err := p.do(t, "dial", "127.0.0.1:22"); err == nil {
		t.Error("a connection that is not granted was made")
	}

	t.Run("abstract sockets", func(t *testing.T) {
		if v, _, _ := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION); int(v) < 6 {
			t.Skip("this kernel's Landlock cannot scope abstract sockets (Linux 6.12)")
		}
		// Instances share the network namespace; these sockets are not in common.
		listening := make(chan error, 1)
		go func() {
			_, err := p.Invoke(t.Context(), pool.Invocation{ID: "l", Attempt: 1, Event: functions.Event{ID: "l", Data: []byte(`{"do":"listen"}`)}, Host: noHost{}})
			listening <- err
		}()
		for range 10 {
			if _, _, err := p.do(t, "meet", ""); err == nil {
				t.Fatal("one event reached an abstract socket of another")
			}
		}
		must(t, <-listening)
	})
}

package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// maxSocketPath is the longest path of a Unix socket, unix(7).
const maxSocketPath = 107

// privateConfig leaves out the Kubernetes interface and what else a node has
// no use for: each costs memory and start-up time.
const privateConfig = `version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
oom_score = -500
[grpc]
address = %q
[debug]
level = "warn"
`

// private is a containerd that the node runs for itself.
type private struct {
	bin, state, address, config string
	log                         *slog.Logger
	cmd                         *exec.Cmd
	exited                      chan struct{} // closed when cmd has ended
}

func startPrivate(ctx context.Context, root, state string, log *slog.Logger) (*private, error) {
	bin, err := findContainerd()
	if err != nil {
		return nil, err
	}
	p := &private{bin: bin, state: state, address: filepath.Join(state, "c.sock"), config: filepath.Join(state, "config.toml"), log: log}
	// containerd listens at the address with ".ttrpc" behind it too.
	if n := len(p.address) + len(".ttrpc"); n > maxSocketPath {
		return nil, fmt.Errorf("start private containerd: socket path %s.ttrpc is %d bytes long, at most %d are possible: choose a shorter --run", p.address, n, maxSocketPath)
	}
	for _, d := range []string{root, state} {
		if err := os.MkdirAll(d, 0o711); err != nil { //nolint:gosec // the sandbox's users search it for their layers
			return nil, err
		}
	}
	p.killFormer()
	if err := os.WriteFile(p.config, fmt.Appendf(nil, privateConfig, root, state, p.address), 0o600); err != nil {
		return nil, err
	}
	if err := p.start(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

func findContainerd() (string, error) {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/bin", "/usr/sbin", "/usr/local/bin") {
		p := filepath.Join(dir, "containerd")
		if fi, err := os.Stat(p); err == nil && !fi.IsDir() && fi.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("%w: none is running at %s, none was named (--containerd), and no containerd program is installed (apt install containerd)", ErrNoContainerd, SystemSocket)
}

func (p *private) pidFile() string { return filepath.Join(p.state, "pid") }

// killFormer ends the containerd of a node that was killed.
func (p *private) killFormer() {
	b, err := os.ReadFile(p.pidFile())
	if err != nil {
		return
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return
	}
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !bytes.Contains(args, []byte(p.config)) {
		return // the number belongs to another process by now
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	for range 200 {
		if syscall.Kill(pid, 0) != nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// start runs containerd and waits until it answers.
func (p *private) start(ctx context.Context) error {
	out, err := os.OpenFile(filepath.Join(p.state, "log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()                                //nolint:errcheck // containerd has its own descriptor
	cmd := exec.Command(p.bin, "--config", p.config) //nolint:noctx // ended by stop, or by the kernel with the node
	cmd.Stdout, cmd.Stderr = out, out
	// systemd listens to the node, and not to a second program.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "NOTIFY_SOCKET=") || strings.HasPrefix(kv, "WATCHDOG_")
	})
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started, exited := make(chan error, 1), make(chan struct{})
	go func() {
		// The death signal is tied to the thread that starts the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(exited)
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		_ = cmd.Wait()
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	p.cmd, p.exited = cmd, exited
	if err := os.WriteFile(p.pidFile(), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		if answers(p.address) {
			return nil
		}
		select {
		case <-exited:
			return fmt.Errorf("start containerd: it ended at once: %s", p.lastWords())
		case <-ctx.Done():
			p.stop()
			return fmt.Errorf("start containerd: no answer at %s: %s", p.address, p.lastWords())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (p *private) lastWords() string {
	b, _ := os.ReadFile(filepath.Join(p.state, "log"))
	if len(b) > 500 {
		b = b[len(b)-500:]
	}
	return strings.TrimSpace(string(b))
}

func (p *private) supervise(ctx context.Context) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 100*time.Millisecond, 30*time.Second
	up := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.exited:
		}
		if time.Since(up) > time.Minute {
			wait.Reset()
		}
		p.log.Warn("containerd ended, starting it again", "err", p.lastWords())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait.NextBackOff()):
		}
		up = time.Now()
		if err := p.start(ctx); err != nil && !errors.Is(err, context.Canceled) {
			p.log.Error("containerd not started", "err", err)
		}
	}
}

// stop ends containerd and waits for it.
func (p *private) stop() {
	if p.cmd == nil || p.cmd.Process == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
	_ = os.RemoveAll(p.state)
}

// answers reports whether something listens at a Unix socket.
func answers(path string) bool {
	c, err := net.DialTimeout("unix", path, time.Second) //nolint:noctx // a Unix socket answers at once
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

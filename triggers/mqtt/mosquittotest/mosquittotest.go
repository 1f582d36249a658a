// Package mosquittotest runs private Mosquitto brokers for tests, each on a
// loopback port and in a folder of its own. It ends only processes that it
// started.
package mosquittotest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const patience = 10 * time.Second

// Config says how a broker differs from the usual: anonymous clients, no delay
// of small packets, persistence in its own folder.
type Config struct {
	// NoPersistence makes a broker that forgets everything when it ends.
	NoPersistence bool
	// Private leaves out allow_anonymous: Lines must say who may connect.
	Private bool
	// Lines are added to the configuration, in the scope of the listener.
	Lines []string
}

// Broker is a Mosquitto of a test.
type Broker struct {
	Dir  string // its folder: persistence and configuration
	port int
	conf string
	path string

	mu   sync.Mutex
	cmd  *exec.Cmd
	out  *bytes.Buffer
	done chan struct{} // closed when cmd has ended
}

// Start starts a broker and ends it with the test. It skips the test where
// Mosquitto is not installed.
func Start(t testing.TB, cfg Config) *Broker {
	t.Helper()
	path := lookPath()
	if path == "" {
		t.Skip("mosquitto is not installed (apt-get install mosquitto)")
	}
	b := &Broker{Dir: t.TempDir(), path: path, port: freePort(t)}
	lines := []string{
		fmt.Sprintf("listener %d 127.0.0.1", b.port),
		"set_tcp_nodelay true",
		"log_dest stderr",
		"log_type error",
		"log_type warning",
		"log_type notice",
	}
	if os.Geteuid() == 0 {
		lines = append(lines, "user root") // or it could not write into Dir
	}
	if !cfg.Private {
		lines = append(lines, "allow_anonymous true")
	}
	if !cfg.NoPersistence {
		lines = append(lines, "persistence true", "persistence_location "+b.Dir+"/")
	}
	lines = append(lines, cfg.Lines...)
	b.conf = filepath.Join(b.Dir, "mosquitto.conf")
	if err := os.WriteFile(b.conf, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.Up(t)
	t.Cleanup(func() { b.end(t, syscall.SIGKILL) })
	return b
}

func lookPath() string {
	for _, name := range []string{"mosquitto", "/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"} {
		if p, err := exec.LookPath(name); err == nil {
			return p
		}
	}
	return ""
}

// freePort finds a port that was free a moment ago; the broker keeps it over
// its restarts.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // returns at once
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatalf("listener has the address %v", l.Addr())
	}
	return addr.Port
}

// Addr is the broker's host:port.
func (b *Broker) Addr() string { return fmt.Sprintf("127.0.0.1:%d", b.port) }

// Port is the broker's port.
func (b *Broker) Port() int { return b.port }

// URL is the broker's address without TLS.
func (b *Broker) URL() string { return "mqtt://" + b.Addr() }

// Output is what the broker has written since it was last started.
func (b *Broker) Output() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.done:
		return b.out.String()
	default:
		return "(still running)"
	}
}

// Up starts the broker when it is down and returns once it listens.
func (b *Broker) Up(t testing.TB) {
	t.Helper()
	b.mu.Lock()
	b.out = &bytes.Buffer{}
	b.done = make(chan struct{})
	b.cmd = exec.Command(b.path, "-c", b.conf) //nolint:noctx // a test's own broker, ended by end
	b.cmd.Stderr = b.out
	err := b.cmd.Start()
	cmd, done := b.cmd, b.done
	b.mu.Unlock()
	if err != nil {
		t.Fatalf("start mosquitto: %v", err)
	}
	go func() {
		_ = cmd.Wait() // how it ended is seen by who ended it
		close(done)
	}()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", b.Addr())
		if err == nil {
			_ = nc.Close()
			return
		}
		select {
		case <-done:
			t.Fatalf("mosquitto ended at once:\n%s", b.out.String())
		case <-ctx.Done():
			t.Fatalf("mosquitto does not listen on %s: %v", b.Addr(), err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Down ends the broker in order; it saves its persistence.
func (b *Broker) Down(t testing.TB) { t.Helper(); b.end(t, syscall.SIGTERM) }

// Kill ends the broker with SIGKILL; it saves nothing.
func (b *Broker) Kill(t testing.TB) { t.Helper(); b.end(t, syscall.SIGKILL) }

// Restart is Down and Up.
func (b *Broker) Restart(t testing.TB) { t.Helper(); b.Down(t); b.Up(t) }

func (b *Broker) end(t testing.TB, sig syscall.Signal) {
	t.Helper()
	b.mu.Lock()
	cmd, done := b.cmd, b.done
	b.mu.Unlock()
	if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal mosquitto: %v", err)
	}
	select {
	case <-done:
	case <-time.After(patience):
		t.Errorf("mosquitto did not end within %s of %v", patience, sig)
		_ = cmd.Process.Kill()
		<-done
	}
}

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// maxPacket is the largest packet that the outside broker takes; it hangs up on
// whoever sends a larger one.
const maxPacket = 32 << 10

// outside is a Mosquitto. Clients of ours are connected to it, and the node
// through a gate that is only open when they are: so no message of the node is
// lost for want of a subscriber.
type outside struct {
	dir  string
	addr string // of Mosquitto
	prog *program
	gate *gate
}

func newOutside(dir string) (*outside, error) {
	addr, err := freePort()
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	o := &outside{dir: dir, addr: addr}
	conf := filepath.Join(dir, "mosquitto.conf")
	text := fmt.Sprintf(`listener %s 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
persistence true
persistence_location %s/
autosave_interval 1
autosave_on_changes true
max_queued_messages 0
max_packet_size %d
log_dest stderr
log_type error
log_type warning
log_type notice
log_type information
log_type subscribe
user root
`, port, dir, maxPacket)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	o.prog = &program{argv: []string{"/usr/sbin/mosquitto", "-c", conf}, logPath: filepath.Join(dir, "mosquitto.log"), ready: func(log string) bool { return strings.Contains(log, " running") }}
	o.gate, err = newGate(addr)
	return o, err
}

func (o *outside) start(ctx context.Context) error {
	if err := o.prog.start(); err != nil {
		return err
	}
	if !poll(ctx, 15*time.Second, o.prog.isReady) {
		return fmt.Errorf("mosquitto does not start, see %s", o.prog.logPath)
	}
	return nil
}

func (o *outside) close() {
	o.gate.close()
	o.prog.end(syscall.SIGTERM)
}

// forget removes what Mosquitto has kept; it must be down.
func (o *outside) forget() error {
	err := os.Remove(filepath.Join(o.dir, "mosquitto.db"))
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// subscribed reports whether someone has subscribed to a filter since the
// present Mosquitto started.
func (o *outside) subscribed(filter string) bool {
	o.prog.mu.Lock()
	defer o.prog.mu.Unlock()
	return strings.Contains(o.prog.tail(), " "+filter+"\n")
}

// gate forwards TCP connections while it is open.
type gate struct {
	to string
	l  net.Listener

	mu    sync.Mutex
	open  bool
	conns map[net.Conn]struct{}
	wg    sync.WaitGroup
}

func newGate(to string) (*gate, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g := &gate{to: to, l: l, conns: map[net.Conn]struct{}{}}
	g.wg.Go(g.accept)
	return g, nil
}

func (g *gate) addr() string { return g.l.Addr().String() }

func (g *gate) accept() {
	for {
		c, err := g.l.Accept()
		if err != nil {
			return
		}
		g.wg.Go(func() { g.forward(c) })
	}
}

func (g *gate) forward(in net.Conn) {
	defer in.Close()
	if !g.keep(in) {
		return
	}
	defer g.drop(in)
	out, err := net.DialTimeout("tcp", g.to, time.Second)
	if err != nil {
		return
	}
	defer out.Close()
	if !g.keep(out) {
		return
	}
	defer g.drop(out)
	g.wg.Go(func() { _, _ = io.Copy(out, in); _ = out.Close() })
	_, _ = io.Copy(in, out)
}

func (g *gate) keep(c net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open {
		g.conns[c] = struct{}{}
	}
	return g.open
}

func (g *gate) drop(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, c)
}

// set opens the gate, or shuts it and cuts what is connected.
func (g *gate) set(open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = open
	if !open {
		for c := range g.conns {
			_ = c.Close()
		}
	}
}

func (g *gate) close() {
	_ = g.l.Close()
	g.set(false)
	g.wg.Wait()
}

// poll asks until ok is true, ctx is done or the time is over.
func poll(ctx context.Context, atMost time.Duration, ok func() bool) bool {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	end := time.After(atMost)
	for !ok() {
		select {
		case <-ctx.Done():
			return false
		case <-end:
			return false
		case <-t.C:
		}
	}
	return true
}

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Bounds of a forwarder.
const (
	maxConnections = 256 // of one sandbox at a time; a further one is closed at once
	dialTimeout    = 10 * time.Second
)

// A function reaches a granted host:port through an address of the sandbox's
// own loopback, where the node listens inside the sandbox's network namespace
// and forwards. A name gets an address 127.1.0.n of its own in /etc/hosts, so
// that names, TLS and several grants on one port work; an IPv4 address is
// given to the loopback itself.

// hostNames returns the hosts of the grants, each once, in order.
func hostNames(grants []string) (hosts []string, address map[string]string) {
	address = map[string]string{}
	for _, g := range grants {
		host, _, err := net.SplitHostPort(g)
		if err != nil || address[host] != "" {
			continue
		}
		hosts = append(hosts, host)
		if ip := net.ParseIP(host); ip != nil {
			address[host] = host
		} else {
			n := len(hosts)
			address[host] = fmt.Sprintf("127.1.%d.%d", n/250, n%250+1)
		}
	}
	return hosts, address
}

// hostsFile is /etc/hosts of a sandbox with these grants.
func hostsFile(grants []string) string {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost edgefn\n::1 localhost\n")
	hosts, address := hostNames(grants)
	for _, h := range hosts {
		if address[h] != h {
			fmt.Fprintf(&b, "%s %s\n", address[h], h)
		}
	}
	return b.String()
}

type forwarder struct {
	listeners []net.Listener
	log       *slog.Logger
	ctx       context.Context //nolint:containedctx // ends the dials that are under way when the sandbox goes
	cancel    context.CancelFunc
	wg        sync.WaitGroup
	slots     chan struct{} // one per connection; full: a further one is closed
	out       *outgoing     // of the host
}

// forwardFrom listens inside the network namespace of process pid.
func forwardFrom(pid int, grants []string, out *outgoing, log *slog.Logger) (*forwarder, error) {
	f := &forwarder{log: log, out: out, slots: make(chan struct{}, maxConnections)}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	errs := make(chan error, 1)
	go func() {
		// The thread ends with this goroutine: it is never unlocked, since it
		// stays in the sandbox's namespace.
		runtime.LockOSThread()
		errs <- f.listen(pid, grants)
	}()
	if err := <-errs; err != nil {
		f.close()
		return nil, fmt.Errorf("listen for granted connections: %w", err)
	}
	targets := dedupe(grants)
	for i, l := range f.listeners {
		f.wg.Add(1)
		go f.serve(l, targets[i])
	}
	return f, nil
}

func dedupe(grants []string) []string {
	seen := map[string]bool{}
	var out []string
	for _, g := range grants {
		if !seen[g] {
			seen[g] = true
			out = append(out, g)
		}
	}
	return out
}

func (f *forwarder) listen(pid int, grants []string) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	defer ns.Close() //nolint:errcheck // only entered
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	hosts, address := hostNames(grants)
	if err := setLoopback("lo", nil); err != nil {
		return err
	}
	for i, h := range hosts {
		if ip := net.ParseIP(h); ip != nil && !ip.IsLoopback() {
			if ip = ip.To4(); ip == nil {
				return fmt.Errorf("%s: grants of IPv6 addresses are not possible: use a name", h)
			}
			if err := setLoopback(fmt.Sprintf("lo:%d", i+1), ip); err != nil {
				return err
			}
		}
	}
	for _, g := range dedupe(grants) {
		host, port, err := net.SplitHostPort(g)
		if err != nil {
			return err
		}
		l, err := (&net.ListenConfig{}).Listen(f.ctx, "tcp4", net.JoinHostPort(address[host], port))
		if err != nil {
			return err
		}
		f.listeners = append(f.listeners, l)
	}
	return nil
}

// setLoopback brings an interface up, after giving it an address, netdevice(7).
func setLoopback(name string, ip net.IP) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	if ip != nil {
		req := struct {
			name   [unix.IFNAMSIZ]byte
			family uint16
			port   uint16
			addr   [4]byte
			_      [16]byte
		}{family: unix.AF_INET}
		copy(req.name[:], name)
		copy(req.addr[:], ip)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFADDR, uintptr(unsafe.Pointer(&req))); errno != 0 {
			return fmt.Errorf("set address %s: %w", ip, errno)
		}
	}
	req := struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}{flags: unix.IFF_UP | unix.IFF_RUNNING}
	copy(req.name[:], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return fmt.Errorf("bring %s up: %w", name, errno)
	}
	return nil
}

func (f *forwarder) serve(l net.Listener, target string) {
	defer f.wg.Done()
	for {
		c, err := l.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				f.log.Warn("granted connections are no longer accepted", "target", target, "err", err)
			}
			return
		}
		select {
		case f.slots <- struct{}{}:
			f.wg.Add(1)
			go func() {
				defer func() { <-f.slots; f.wg.Done() }()
				f.copy(c, target)
			}()
		default:
			_ = c.Close()
		}
	}
}

// copy joins a connection to its target until either end closes both ways.
func (f *forwarder) copy(in net.Conn, target string) {
	defer in.Close() //nolint:errcheck // both ends are done with it
	out, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(f.ctx, "tcp", target)
	if err != nil {
		f.log.Debug("granted connection not made", "target", target, "err", err)
		return
	}
	defer f.out.add(out.LocalAddr())()
	defer out.Close() //nolint:errcheck // as above
	stop := context.AfterFunc(f.ctx, func() { _ = in.Close(); _ = out.Close() })
	defer stop()
	both := make(chan struct{}, 2)
	half := func(to, from net.Conn) {
		_, _ = io.Copy(to, from)
		if t, ok := to.(*net.TCPConn); ok {
			_ = t.CloseWrite()
		}
		both <- struct{}{}
	}
	go half(out, in)
	go half(in, out)
	<-both
	<-both
}

func (f *forwarder) close() {
	f.cancel()
	for _, l := range f.listeners {
		_ = l.Close()
	}
	f.wg.Wait()
}

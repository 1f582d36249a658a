package broker

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/edgefn/edgefn/triggers/certs"
	"github.com/edgefn/edgefn/triggers/mqtt/broker/access"
)

// Listener is one address that the broker listens on, and whom it lets in there.
type Listener struct {
	Addr    string // host:port; port 0 takes a free one
	Setting string // its path in the node's config; errors name it. Empty: Addr

	// WebSocket has MQTT spoken over WebSocket, at any path. Web pages of other
	// origins than the listener's own are refused unless Origins names them, as
	// a browser does ("https://panel.example"), or is "*".
	WebSocket bool
	Origins   []string

	TLS      *tls.Config // TLS settings; or else CertFile and KeyFile
	CertFile string      // PEM certificate chain; it and the next two are read again when they change
	KeyFile  string      // PEM private key
	// ClientCA is a PEM file with the authorities of client certificates. The
	// common name of one that a client shows is its user name, and it needs no
	// password. Each client must show one unless ClientCertOptional is set.
	ClientCA           string
	ClientCertOptional bool

	// PasswordFile has lines "user:hash" as access.PasswordLine makes them, or
	// mosquitto_passwd. It is read again when it changes. With it, or with a
	// ClientCA, every client must say who it is.
	PasswordFile string
	// Anonymous lets in clients that do not say who they are, all the same.
	// Beyond loopback that needs rules.
	Anonymous bool
	// Rules, or those of RulesFile, say what clients may publish and subscribe
	// to; with neither they may do everything.
	Rules     []access.Rule
	RulesFile string
}

// listeners are those of the config: Listeners, or the one of Addr.
func (c Config) listeners() []Listener {
	if len(c.Listeners) > 0 {
		return c.Listeners
	}
	return []Listener{{Addr: c.Addr, TLS: c.TLS, CertFile: c.CertFile, KeyFile: c.KeyFile, PasswordFile: c.PasswordFile}}
}

// validate reports every fault at once.
func (l Listener) validate() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("mqtt broker: %s: %w", l.Addr, fmt.Errorf(format, args...)))
	}
	if (l.CertFile == "") != (l.KeyFile == "") {
		fault("CertFile and KeyFile go together: set both or none")
	}
	if l.TLS != nil && l.CertFile != "" {
		fault("both TLS and CertFile are set: use one")
	}
	if l.ClientCA != "" && l.CertFile == "" {
		fault("client certificates need TLS: set CertFile and KeyFile")
	}
	for _, o := range l.Origins {
		if err := CheckOrigin(o); err != nil {
			fault("origin %q: %w", o, err)
		}
	}
	if len(l.Origins) > 0 && !l.WebSocket {
		fault("Origins are for WebSocket, and this listener does not speak it")
	}
	if l.ClientCA == "" && l.ClientCertOptional {
		fault("client certificates are optional, but there is no ClientCA to check them with")
	}
	ruled := l.Rules != nil || l.RulesFile != ""
	host, _, err := net.SplitHostPort(l.Addr)
	switch {
	case err != nil:
		fault("%w (host:port, such as 127.0.0.1:1883)", err)
	case IsLoopback(host):
	case l.Anonymous && !ruled:
		fault("anonymous clients from other machines could do everything: write topic rules for them")
	case !l.Anonymous && !l.authenticates():
		fault("%w: set a password file, or listen on 127.0.0.1", ErrInsecure)
	}
	return errors.Join(faults...)
}

func (l Listener) secure() bool        { return l.TLS != nil || l.CertFile != "" }
func (l Listener) authenticates() bool { return l.PasswordFile != "" || l.ClientCA != "" }

// IsLoopback reports whether only this machine reaches host. A name other than
// localhost is not trusted: what it resolves to can change.
func IsLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// tlsConfig returns the settings of the listener, nil for plain TCP.
func (l Listener) tlsConfig(log *slog.Logger) (*tls.Config, error) {
	if !l.secure() {
		return nil, nil
	}
	k := certs.New(certs.Files{CA: l.ClientCA, Cert: l.CertFile, Key: l.KeyFile, Field: cmp.Or(l.Setting, l.Addr) + ".tls."}, log.With("listen", l.Addr))
	cfg := l.TLS
	if cfg == nil {
		server, err := k.Server()
		if err != nil {
			return nil, fmt.Errorf("mqtt broker: %w", err)
		}
		cfg = server
	}
	if l.WebSocket {
		cfg = cfg.Clone()
		cfg.NextProtos = []string{"http/1.1"} // HTTP/2 has WebSocket in another form
	}
	auth := tls.RequireAndVerifyClientCert
	if l.ClientCertOptional {
		auth = tls.VerifyClientCertIfGiven
	}
	cfg, err := k.Ask(cfg, auth)
	if err != nil {
		return nil, fmt.Errorf("mqtt broker: %w", err)
	}
	return cfg, nil
}

// listener is a Listener that is open.
type listener struct {
	Listener
	ln     net.Listener
	policy *access.Policy
}

func (b *Broker) newListener(cfg Listener) (*listener, error) {
	host, _, err := net.SplitHostPort(cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("mqtt broker: address %q: %w", cfg.Addr, err)
	}
	p, err := access.NewPolicy(access.Config{
		PasswordFile: cfg.PasswordFile,
		Anonymous:    cfg.Anonymous, Local: IsLoopback(host) && !cfg.authenticates(),
		Rules: cfg.Rules, RulesFile: cfg.RulesFile, Logger: b.cfg.Logger,
	}, b.logins)
	if err != nil {
		return nil, fmt.Errorf("mqtt broker: %s: %w", cfg.Addr, err)
	}
	return &listener{Listener: cfg, policy: p}, nil
}

// open reads the listener's files and takes its address.
func (l *listener) open(b *Broker) error {
	if err := l.policy.Load(); err != nil {
		return fmt.Errorf("mqtt broker: %w", err)
	}
	tlsConfig, err := l.tlsConfig(b.cfg.Logger)
	if err != nil {
		return err
	}
	lc := net.ListenConfig{
		// A client that vanished is noticed even where its protocol's
		// keep-alive is off.
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3},
	}
	ln, err := lc.Listen(context.Background(), "tcp", l.Addr)
	if err != nil {
		return fmt.Errorf("mqtt broker: listen on %s: %w", l.Addr, err)
	}
	if l.WebSocket {
		ln = b.limitWebSocket(ln)
	}
	if tlsConfig != nil {
		ln = tls.NewListener(ln, tlsConfig)
	}
	l.ln = ln
	host, _, _ := net.SplitHostPort(l.Addr) // validate has done it
	if !IsLoopback(host) && tlsConfig == nil {
		b.cfg.Logger.Warn("mqtt broker listens beyond this machine with no TLS: passwords and messages can be read on the network", "listen", l.Addr)
	}
	return nil
}

// openListeners opens all, or none.
func (b *Broker) openListeners() error {
	for i, l := range b.listeners {
		if err := l.open(b); err != nil {
			for _, o := range b.listeners[:i] {
				err = errors.Join(err, o.ln.Close())
			}
			return err
		}
	}
	return nil
}

func (b *Broker) closeListeners() error {
	var err error
	for _, l := range b.listeners {
		err = errors.Join(err, l.ln.Close())
	}
	return err
}

// login asks the listener's policy for the client of a CONNECT; it may wait for
// its turn among others.
func (c *conn) login(in access.Login) (*access.Client, error) {
	in.Certificate, in.Source = certificateOf(c.nc), sourceOf(c.nc).Addr()
	in.OfFunction = c.b.cfg.OfFunction != nil && c.b.cfg.OfFunction(sourceOf(c.nc))
	// The time to connect is over: what follows depends on others.
	_ = c.nc.SetDeadline(time.Time{})
	who, err := c.from.policy.Login(quitContext{c.b.lanes.quit}, in)
	_ = c.nc.SetDeadline(time.Now().Add(c.b.cfg.ConnectTimeout))
	return who, err
}

// commonName is that of the client's certificate if it was found good.
func commonName(s tls.ConnectionState) string {
	if len(s.VerifiedChains) == 0 {
		return ""
	}
	return s.VerifiedChains[0][0].Subject.CommonName
}

func sourceOf(nc net.Conn) netip.AddrPort {
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort()
	}
	return netip.AddrPort{}
}

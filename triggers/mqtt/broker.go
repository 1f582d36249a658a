package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/edgefn/edgefn/triggers/certs"
)

// dialTimeout bounds how long a connection may take to open, TLS included.
const dialTimeout = 10 * time.Second

// maxFile bounds what is read of a password file.
const maxFile = 1 << 20

// Broker names an MQTT broker and how to reach it: an entry of brokers in the
// node's config. Files are read at each connection, so a new password,
// certificate or authority needs no restart.
type Broker struct {
	Name         string `yaml:"-"`             // the key of the entry
	URL          string `yaml:"url"`           // mqtt://host[:1883] or mqtts://host[:8883]; tcp and ssl mean the same
	CAFile       string `yaml:"ca"`            // PEM; empty: the system's authorities
	CertFile     string `yaml:"cert"`          // PEM, the client's certificate
	KeyFile      string `yaml:"key"`           // PEM, its key
	Username     string `yaml:"username"`      // empty: none
	PasswordFile string `yaml:"password_file"` // its trailing line end does not count
	// Version is the MQTT that is spoken: 3.1.1 or 5. Empty or auto: 5 where the
	// broker speaks it, else 3.1.1.
	Version string `yaml:"version"`
}

// Validate reports every fault at once, each with the field's path in the
// node's config. It reads no file.
func (b Broker) Validate() error {
	field := func(name string) string { return "brokers." + b.Name + "." + name }
	var faults []error
	if b.Name == "" {
		faults = append(faults, errors.New("brokers: an entry has no name"))
	}
	_, secure, err := b.address()
	if err != nil {
		faults = append(faults, fmt.Errorf("%s: %w", field("url"), err))
	}
	if err == nil && !secure {
		for _, f := range []struct{ name, value string }{{"ca", b.CAFile}, {"cert", b.CertFile}, {"key", b.KeyFile}} {
			if f.value != "" {
				faults = append(faults, fmt.Errorf("%s: needs TLS, but the url is %q: write mqtts://", field(f.name), b.URL))
			}
		}
	}
	switch {
	case b.CertFile != "" && b.KeyFile == "":
		faults = append(faults, fmt.Errorf("%s: is missing; a client certificate needs its key", field("key")))
	case b.CertFile == "" && b.KeyFile != "":
		faults = append(faults, fmt.Errorf("%s: is missing; a key needs its client certificate", field("cert")))
	}
	if b.PasswordFile != "" && b.Username == "" {
		faults = append(faults, fmt.Errorf("%s: is missing; MQTT 3.1.1 has no password without a user name", field("username")))
	}
	if err := checkVersion(b.Version); err != nil {
		faults = append(faults, fmt.Errorf("%s: %w", field("version"), err))
	}
	return errors.Join(faults...)
}

// address returns host:port and whether TLS goes over it.
func (b Broker) address() (hostport string, secure bool, err error) {
	if b.URL == "" {
		return "", false, errors.New("is missing; write mqtt://HOST or mqtts://HOST")
	}
	u, err := url.Parse(b.URL)
	if err != nil {
		return "", false, fmt.Errorf("is no URL: %w", err)
	}
	port := "1883"
	switch u.Scheme {
	case "mqtt", "tcp":
	case "mqtts", "ssl":
		port, secure = "8883", true
	default:
		return "", false, fmt.Errorf("%q has the scheme %q; use mqtt or mqtts", u.Redacted(), u.Scheme)
	}
	switch {
	case u.User != nil:
		return "", false, fmt.Errorf("%q has a user in it; use username and password_file", u.Redacted())
	case u.Hostname() == "":
		return "", false, fmt.Errorf("%q names no host", b.URL)
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return "", false, fmt.Errorf("%q has more than a host and a port", b.URL)
	}
	if u.Port() != "" {
		port = u.Port()
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return "", false, fmt.Errorf("%q has no valid port", b.URL)
		}
	}
	return net.JoinHostPort(u.Hostname(), port), secure, nil
}

// password reads the password file.
func (b Broker) password() (string, error) {
	if b.PasswordFile == "" {
		return "", nil
	}
	text, err := readFile(b.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("read brokers.%s.password_file: %w", b.Name, err)
	}
	return strings.TrimRight(string(text), "\r\n"), nil
}

// endpoint is a broker that is connected to again and again: it keeps the last
// good content of the files of TLS while they are being renewed.
type endpoint struct {
	Broker
	certs *certs.Keeper
}

func (b Broker) endpoint(log *slog.Logger) endpoint {
	files := certs.Files{CA: b.CAFile, Cert: b.CertFile, Key: b.KeyFile, Field: "brokers." + b.Name + "."}
	return endpoint{b, certs.New(files, log)}
}

// dial opens the network connection.
func (b endpoint) dial(ctx context.Context) (net.Conn, error) {
	hostport, secure, err := b.address()
	if err != nil {
		return nil, fmt.Errorf("brokers.%s.url: %w", b.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", hostport)
	if err != nil || !secure {
		return nc, err
	}
	host, _, _ := net.SplitHostPort(hostport) // made by JoinHostPort
	cfg, err := b.certs.Client(host)
	if err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	tc := tls.Client(nc, cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		_ = nc.Close() // the handshake's error says more
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return tc, nil
}

func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s is not a file of up to %d bytes", name, maxFile)
	}
	return os.ReadFile(name)
}

// Package certs reads certificates, keys and authorities from PEM files that
// are renewed while the node runs. Whoever makes or takes TLS connections asks
// it anew for each handshake, so a renewed file counts from the next connection
// on and no restart is needed.
//
// The files are read each time and parsed when their bytes have changed: time
// stamps are too coarse to tell, and the files are small and in the page cache.
// What was good last stays in use while a file cannot be read, does not parse or
// does not fit its key, as is so for a moment of every renewal that writes two
// files. It is logged once for each such fault.
package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// maxFile bounds what is read of a file.
const maxFile = 1 << 20

// Log keys.
const (
	keyFiles    = "files"
	keyNotAfter = "not_after"
	keyErr      = "err"
)

// Files names PEM files. An empty name is a file that is not used; Cert and Key
// go together.
type Files struct {
	CA   string // certificates of the authorities that the other side is checked by
	Cert string // our certificate, and those that lead to its authority
	Key  string // its private key
	// Field is what precedes ca, cert and key in the path of these settings in
	// the node's config, such as "brokers.plant."; errors name it.
	Field string
}

// Keeper has the newest good content of Files. It is safe for concurrent use.
type Keeper struct {
	files Files
	log   *slog.Logger

	mu    sync.Mutex
	pair  kept[*tls.Certificate]
	roots kept[*x509.CertPool]
}

// New makes a Keeper. It reads nothing. A nil logger discards.
func New(files Files, log *slog.Logger) *Keeper {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	k := &Keeper{files: files, log: log}
	k.pair = kept[*tls.Certificate]{
		setting: files.Field + "cert and .key", names: []string{files.Cert, files.Key},
		parse: func(text [][]byte) (*tls.Certificate, error) {
			pair, err := tls.X509KeyPair(text[0], text[1])
			return &pair, err
		},
		until: func(c *tls.Certificate) time.Time { return c.Leaf.NotAfter },
	}
	k.roots = kept[*x509.CertPool]{
		setting: files.Field + "ca", names: []string{files.CA},
		parse: func(text [][]byte) (*x509.CertPool, error) {
			pool := x509.NewCertPool()
			if !pool.AppendCertsFromPEM(text[0]) {
				return nil, fmt.Errorf("%s has no certificate in PEM form", files.CA)
			}
			return pool, nil
		},
	}
	return k
}

// Client returns the settings of a connection to the server of that name, as
// the files are now. It fails only if there was never a good content: with no
// CA the system's authorities count, with no Cert there is no certificate of ours.
func (k *Keeper) Client(server string) (*tls.Config, error) {
	cfg := &tls.Config{ServerName: server, MinVersion: tls.VersionTLS12}
	var err error
	if cfg.RootCAs, err = k.authorities(); err != nil {
		return nil, err
	}
	pair, err := k.certificate()
	if err != nil {
		return nil, err
	}
	if pair != nil {
		cfg.Certificates = []tls.Certificate{*pair}
	}
	return cfg, nil
}

// Server returns the settings of a listener, which look at the files at each
// handshake. It fails if the files are not good now.
func (k *Keeper) Server() (*tls.Config, error) {
	if k.files.Cert == "" {
		return nil, fmt.Errorf("%scert: is missing; a listener with TLS needs a certificate", k.files.Field)
	}
	if _, err := k.certificate(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return k.certificate() },
	}, nil
}

// Ask adds to the settings of a listener that clients show a certificate of the
// CA, if there is one, as auth says.
func (k *Keeper) Ask(base *tls.Config, auth tls.ClientAuthType) (*tls.Config, error) {
	if k.files.CA == "" {
		return base, nil
	}
	base = base.Clone()
	base.ClientAuth = auth
	var err error
	if base.ClientCAs, err = k.authorities(); err != nil {
		return nil, err
	}
	// The settings it returns have no ticket keys of their own, so those of base
	// count and sessions are resumed; crypto/tls checks a resumed client's
	// certificate against the authorities of now.
	cfg := base.Clone()
	cfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now := base.Clone()
		var err error
		now.ClientCAs, err = k.authorities()
		return now, err
	}
	return cfg, nil
}

// certificate returns the pair to show, or nil if none is configured.
func (k *Keeper) certificate() (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.pair.newest(k.log)
}

// authorities returns those that the other side is checked by, or nil if none
// are configured.
func (k *Keeper) authorities() (*x509.CertPool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.roots.newest(k.log)
}

// kept is the newest good content of files that belong together.
type kept[T any] struct {
	setting string // in the node's config
	names   []string
	parse   func(text [][]byte) (T, error)
	until   func(T) time.Time // when it ends; nil: not told

	seen  [][]byte // what was looked at last, good or not; nil: nothing
	fault string   // why that is not good; it was logged
	have  bool
	good  T
}

// newest looks at the files and returns what is best.
func (c *kept[T]) newest(log *slog.Logger) (T, error) {
	if c.names[0] == "" {
		return c.good, nil
	}
	text, err := readAll(c.names)
	if err == nil && c.seen != nil && same(text, c.seen) && c.fault == "" {
		return c.good, nil
	}
	var found T
	if err == nil {
		c.seen = text
		found, err = c.parse(text)
	}
	if err != nil {
		err = fmt.Errorf("read %s: %w", c.setting, err)
		if !c.have {
			return found, err
		}
		if c.fault != err.Error() {
			c.fault = err.Error()
			log.Warn("renewed certificate files cannot be used, the old content stays in use: put a matching pair there",
				append(c.told(), keyErr, err)...)
		}
		return c.good, nil
	}
	renewed := c.have
	c.good, c.have, c.fault = found, true, ""
	if renewed {
		log.Info("certificate files were renewed", c.told()...)
	}
	return c.good, nil
}

// told is what the log says of the content in use.
func (c *kept[T]) told() []any {
	told := []any{keyFiles, c.names}
	if c.until != nil {
		told = append(told, keyNotAfter, c.until(c.good).UTC())
	}
	return told
}

func same(a, b [][]byte) bool {
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

func readAll(names []string) ([][]byte, error) {
	text := make([][]byte, len(names))
	for i, name := range names {
		var err error
		if text[i], err = readFile(name); err != nil {
			return nil, err
		}
	}
	return text, nil
}

func readFile(name string) ([]byte, error) {
	if name == "" {
		return nil, errors.New("is missing; a certificate needs its key")
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s is not a file of up to %d bytes", name, maxFile)
	}
	return os.ReadFile(name)
}

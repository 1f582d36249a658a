package certs_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/edgefn/edgefn/triggers/certs"
)

// pair is a certificate that is its own authority, and its key.
type pair struct{ cert, key []byte }

func issue(t *testing.T, name string) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"here"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pair{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}
}

func put(t *testing.T, name string, text []byte) {
	t.Helper()
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// shake makes a handshake and returns the names that each side saw of the other.
func shake(t *testing.T, server, client *tls.Config) (seenByClient, seenByServer string, err error) {
	t.Helper()
	a, b := net.Pipe()
	defer func() { _, _ = a.Close(), b.Close() }()
	s, c := tls.Server(a, server), tls.Client(b, client)
	result := make(chan error, 1)
	go func() {
		err := s.HandshakeContext(t.Context())
		if err != nil {
			_ = a.Close()
		}
		result <- err
	}()
	err = c.HandshakeContext(t.Context())
	if err == nil && client.Certificates != nil { // in TLS 1.3 the server's word comes after
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, rerr := c.Read(make([]byte, 1)); !errors.Is(rerr, os.ErrDeadlineExceeded) {
			err = rerr
		}
	}
	if err = errors.Join(err, <-result); err != nil {
		return "", "", err
	}
	name := func(s tls.ConnectionState) string {
		if len(s.PeerCertificates) == 0 {
			return ""
		}
		return s.PeerCertificates[0].Subject.CommonName
	}
	return name(c.ConnectionState()), name(s.ConnectionState()), nil
}

func TestServerShowsWhatTheFilesHold(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	files := certs.Files{Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key"), Field: "mqtt.tls."}
	first, second := issue(t, "first"), issue(t, "second")
	keeper := certs.New(files, slog.New(slog.NewTextHandler(&log, nil)))
	if _, err := keeper.Server(); err == nil || !strings.Contains(err.Error(), "read mqtt.tls.cert and .key: ") {
		t.Errorf("with no files: %v", err)
	}
	put(t, files.Cert, first.cert)
	put(t, files.Key, first.key)
	server, err := keeper.Server()
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name   string
		change func()
		want   string
		logged string // in the line that it adds; empty: no line
	}{
		{"as it was", func() {}, "first", ""},
		{"only the certificate is renewed so far", func() { put(t, files.Cert, second.cert) }, "first", "does not match"},
		{"still", func() {}, "first", ""},
		{"the key too", func() { put(t, files.Key, second.key) }, "second", "certificate files were renewed"},
		{"still the new one", func() {}, "second", ""},
		{"no PEM", func() { put(t, files.Cert, []byte("hello")) }, "second", "failed to find any PEM data"},
		{"gone", func() { _ = os.Remove(files.Key) }, "second", "no such file"},
		{"back again", func() { put(t, files.Cert, first.cert); put(t, files.Key, first.key) }, "first", "certificate files were renewed"},
	} {
		step.change()
		log.Reset()
		got, _, err := shake(t, server, &tls.Config{InsecureSkipVerify: true})
		if err != nil || got != step.want {
			t.Errorf("%s: certificate of %q, %v; want %q", step.name, got, err, step.want)
		}
		if text := log.String(); (step.logged == "") != (text == "") || !strings.Contains(text, step.logged) || strings.Count(text, "\n") > 1 {
			t.Errorf("%s: logged %q, want one line with %q", step.name, text, step.logged)
		}
	}
}

func TestBothSidesAuthoritiesAreReadAnew(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	alice, bob, node := issue(t, "alice"), issue(t, "bob"), issue(t, "node")
	put(t, in("node.cert"), node.cert)
	put(t, in("node.key"), node.key)
	put(t, in("clients"), alice.cert)
	put(t, in("servers"), node.cert)
	put(t, in("cert"), alice.cert)
	put(t, in("key"), alice.key)
	listener := certs.New(certs.Files{CA: in("clients"), Cert: in("node.cert"), Key: in("node.key")}, nil)
	server, err := listener.Server()
	if err != nil {
		t.Fatal(err)
	}
	if server, err = listener.Ask(server, tls.RequireAndVerifyClientCert); err != nil {
		t.Fatal(err)
	}
	client := certs.New(certs.Files{CA: in("servers"), Cert: in("cert"), Key: in("key")}, nil)
	try := func() (string, error) {
		cfg, err := client.Client("here")
		if err != nil {
			t.Fatal(err)
		}
		_, seen, err := shake(t, server, cfg)
		return seen, err
	}
	if seen, err := try(); err != nil || seen != "alice" {
		t.Fatalf("the server saw %q, %v", seen, err)
	}
	put(t, in("cert"), bob.cert)
	put(t, in("key"), bob.key)
	if seen, err := try(); err == nil {
		t.Errorf("the server took %q, whom it cannot know", seen)
	}
	put(t, in("clients"), append(bytes.Clone(alice.cert), bob.cert...))
	if seen, err := try(); err != nil || seen != "bob" {
		t.Errorf("the server saw %q, %v; want bob by the new list of authorities", seen, err)
	}
	renewed := issue(t, "renewed")
	put(t, in("node.cert"), renewed.cert)
	put(t, in("node.key"), renewed.key)
	if _, err := try(); err == nil {
		t.Error("the client took a server that it cannot know")
	}
	put(t, in("servers"), renewed.cert)
	if seen, err := try(); err != nil || seen != "bob" {
		t.Errorf("the server saw %q, %v; want bob", seen, err)
	}
	put(t, in("servers"), []byte("nothing")) // the old ones stay
	if _, err := try(); err != nil {
		t.Error(err)
	}
}

func TestClientWithoutFiles(t *testing.T) {
	for _, c := range []struct {
		name  string
		files certs.Files
		want  string // in the error; empty: none
	}{
		{"none", certs.Files{}, ""},
		{"no such authority", certs.Files{CA: "/nowhere/ca", Field: "brokers.plant."}, "read brokers.plant.ca: "},
		{"a folder", certs.Files{CA: t.TempDir()}, "is not a file of up to"},
		{"no key", certs.Files{Cert: "/dev/null"}, "is not a file of up to"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, err := certs.New(c.files, nil).Client("there")
			if c.want == "" {
				if err != nil || cfg.RootCAs != nil || cfg.Certificates != nil || cfg.ServerName != "there" {
					t.Errorf("%+v, %v", cfg, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
	if _, err := certs.New(certs.Files{Field: "mqtt.tls."}, nil).Server(); err == nil {
		t.Error("a listener without a certificate")
	}
}

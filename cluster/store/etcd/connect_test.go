package etcd_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/cluster/store/etcd"
	"github.com/edgefn/edgefn/cluster/store/storetest"
)

// serve runs an etcd with a client port, as an operator would, and returns its URL.
func serve(t *testing.T, scheme string, change func(*embed.Config)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	client := url.URL{Scheme: scheme, Host: l.Addr().String()}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(shortDir(t), "peer")
	peer := url.URL{Scheme: "unix", Path: path}
	c := embed.NewConfig()
	c.Dir = t.TempDir()
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{{Scheme: "unix", Host: path}}, []url.URL{peer}
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.MaxTxnOps, c.MaxRequestBytes = store.MaxGuards, 4<<20
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	if change != nil {
		change(c)
	}
	e, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	select {
	case <-e.Server.ReadyNotify():
	case <-time.After(30 * time.Second):
		t.Fatal("etcd does not start")
	}
	return client.String()
}

func connect(t *testing.T, r etcd.Remote) *etcd.Store {
	t.Helper()
	s, err := etcd.Connect(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

func TestConnectConformance(t *testing.T) {
	t.Parallel()
	endpoint := serve(t, "http", nil)
	storetest.Run(t, func(t *testing.T) store.Store {
		s := connect(t, etcd.Remote{Endpoints: []string{endpoint}})
		if _, err := s.Commit(t.Context(), nil, []store.Op{{Delete: true, Prefix: true}}); err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestConnectTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pair, pool := certificate(t, dir)
	endpoint := serve(t, "https", func(c *embed.Config) {
		c.ClientTLSInfo.CertFile = filepath.Join(dir, "cert.pem")
		c.ClientTLSInfo.KeyFile = filepath.Join(dir, "key.pem")
		c.ClientTLSInfo.TrustedCAFile = filepath.Join(dir, "cert.pem")
		c.ClientTLSInfo.ClientCertAuth = true
	})
	s := connect(t, etcd.Remote{Endpoints: []string{endpoint}, TLS: &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: pool, Certificates: []tls.Certificate{pair},
	}})
	if err := put(t.Context(), s, "a", "1"); err != nil {
		t.Error(err)
	}
	// Without a certificate of its own, or the authority's, it is not let in.
	for _, c := range []*tls.Config{{MinVersion: tls.VersionTLS12, RootCAs: pool}, {MinVersion: tls.VersionTLS12}} {
		s, err := etcd.Connect(t.Context(), etcd.Remote{Endpoints: []string{endpoint}, TLS: c, Start: 500 * time.Millisecond})
		if err == nil {
			closeStore(t, s)
			t.Error("let in")
			continue
		}
		if !strings.Contains(err.Error(), endpoint) || !strings.Contains(err.Error(), "TLS") {
			t.Errorf("the error does not say what is wrong: %v", err)
		}
	}
}

// certificate makes a certificate for 127.0.0.1 that is its own authority, for
// servers and clients, as cert.pem and key.pem in dir.
func certificate(t *testing.T, dir string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "test"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	for name, b := range map[string][]byte{"cert.pem": cert, "key.pem": keyPEM} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.X509KeyPair(cert, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return pair, pool
}

// TestConnectRefused: an etcd that is not there, or too narrow, is refused with
// what to do.
func TestConnectRefused(t *testing.T) {
	t.Parallel()
	t.Run("none given", func(t *testing.T) {
		if _, err := etcd.Connect(t.Context(), etcd.Remote{}); err == nil {
			t.Error("connected")
		}
	})
	t.Run("not there", func(t *testing.T) {
		_, err := etcd.Connect(t.Context(), etcd.Remote{Endpoints: []string{"http://127.0.0.1:1"}, Start: 300 * time.Millisecond})
		if err == nil || !strings.Contains(err.Error(), "http://127.0.0.1:1") || !strings.Contains(err.Error(), "does it run there") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("default limit of operations", func(t *testing.T) {
		endpoint := serve(t, "http", func(c *embed.Config) { c.MaxTxnOps = embed.DefaultMaxTxnOps })
		_, err := etcd.Connect(t.Context(), etcd.Remote{Endpoints: []string{endpoint}})
		if !errors.Is(err, store.ErrTooLarge) || !strings.Contains(err.Error(), "--max-txn-ops=4096") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("default limit of bytes", func(t *testing.T) {
		endpoint := serve(t, "http", func(c *embed.Config) { c.MaxRequestBytes = embed.DefaultMaxRequestBytes })
		s := connect(t, etcd.Remote{Endpoints: []string{endpoint}})
		for _, n := range []int{17 << 17, 3 << 20} { // over etcd's own limit, and over gRPC's
			err := put(t.Context(), s, "a", strings.Repeat("v", n))
			if !errors.Is(err, store.ErrTooLarge) || !strings.Contains(err.Error(), "--max-request-bytes=4194304") {
				t.Errorf("%d bytes: got %v", n, err)
			}
		}
	})
}

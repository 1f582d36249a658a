package mqtt_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/edgefn/edgefn/triggers"
	"github.com/edgefn/edgefn/triggers/mqtt"
	"github.com/edgefn/edgefn/triggers/mqtt/mosquittotest"
)

func write(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestWrongPasswordIsToldAndTriedAgain(t *testing.T) {
	dir := t.TempDir()
	users := filepath.Join(dir, "users")
	cmd := exec.CommandContext(t.Context(), "mosquitto_passwd", "-b", "-c", users, "gateway", "right")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("mosquitto_passwd: %v %s", err, out)
	}
	b := mosquittotest.Start(t, mosquittotest.Config{Private: true, Lines: []string{"allow_anonymous false", "password_file " + users}})
	file := write(t, filepath.Join(dir, "password"), "wrong\n")
	br := mqtt.Broker{Name: "plant", URL: b.URL(), Username: "gateway", PasswordFile: file}
	got := make(sink, 10)
	s := start(t, mqtt.SourceConfig{Broker: br, Sink: got, Binding: triggers.Binding{Trigger: trigger("a", 1)}})
	err := await(t, s, mqtt.StateRefused)
	wantText(t, err, `broker "plant"`, "refused", `"gateway"`, "brokers.plant.username and password_file")

	// The file is read again at each attempt, and there is always another.
	write(t, file, "right\r\n")
	if err := await(t, s, mqtt.StateConnected); err != nil {
		t.Errorf("connected with the error %v", err)
	}

	br.PasswordFile = filepath.Join(dir, "none")
	wantText(t, mqtt.EndSession(t.Context(), br, "x"), "brokers.plant.password_file", "no such file")
	wantText(t, mqtt.EndSession(t.Context(), mqtt.Broker{Name: "plant", URL: b.URL()}, "x"), "without a user name")
}

func TestTLSWithClientCertificate(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, dir, "ca")
	ca.issue(t, dir, "server", "127.0.0.1")
	ca.issue(t, dir, "client", "")
	newAuthority(t, dir, "other")
	in := func(name string) string { return filepath.Join(dir, name) }
	b := mosquittotest.Start(t, mosquittotest.Config{Lines: []string{
		"cafile " + in("ca.pem"), "certfile " + in("server.pem"), "keyfile " + in("server.key"), "require_certificate true",
	}})
	br := mqtt.Broker{Name: "plant", URL: "mqtts://" + b.Addr(), CAFile: in("ca.pem"), CertFile: in("client.pem"), KeyFile: in("client.key")}
	got := make(sink, 10)
	s := start(t, mqtt.SourceConfig{Broker: br, Sink: got, Binding: triggers.Binding{Trigger: trigger("a", 1)}})
	if err := await(t, s, mqtt.StateConnected); err != nil {
		t.Fatal(err)
	}
	p, err := mqtt.NewPublisher(mqtt.PublisherConfig{Broker: br, ClientID: "p", Backoff: quick})
	if err != nil {
		t.Fatal(err)
	}
	run(t, p.Run)
	_ = await(t, p, mqtt.StateConnected)
	publish(t, p, "a", "over TLS", 1)
	if g := got.data(t); g != "over TLS" {
		t.Errorf("got %q", g)
	}

	for _, c := range []struct {
		name   string
		change func(*mqtt.Broker)
		want   string
	}{
		{"another authority", func(b *mqtt.Broker) { b.CAFile = in("other.pem") }, "unknown authority"},
		{"no certificate", func(b *mqtt.Broker) { b.CertFile, b.KeyFile = "", "" }, "connect to broker"},
		{"no such file", func(b *mqtt.Broker) { b.CAFile = in("nothing") }, "brokers.plant.ca"},
		{"no PEM", func(b *mqtt.Broker) { b.CAFile = write(t, in("text"), "hello") }, "no certificate in PEM form"},
		{"key of another", func(b *mqtt.Broker) { b.KeyFile = in("server.key") }, "brokers.plant.cert and .key"},
		{"no TLS", func(b *mqtt.Broker) {
			*b = mqtt.Broker{Name: b.Name, URL: "mqtt://" + b.URL[len("mqtts://"):]}
		}, "connect to broker"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad := br
			c.change(&bad)
			wantText(t, mqtt.EndSession(t.Context(), bad, "x"), c.want)
		})
	}
}

// A broker whose authority, certificate and clients' certificates are all new is
// connected to again, though the files were wrong for a moment.
func TestRenewedCertificatesNeedNoRestart(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	renew := func() {
		ca := newAuthority(t, dir, "ca")
		ca.issue(t, dir, "server", "127.0.0.1")
		ca.issue(t, dir, "client", "")
	}
	renew()
	b := mosquittotest.Start(t, mosquittotest.Config{Lines: []string{
		"cafile " + in("ca.pem"), "certfile " + in("server.pem"), "keyfile " + in("server.key"), "require_certificate true",
	}})
	br := mqtt.Broker{Name: "plant", URL: "mqtts://" + b.Addr(), CAFile: in("ca.pem"), CertFile: in("client.pem"), KeyFile: in("client.key")}
	got := make(sink, 10)
	s := start(t, mqtt.SourceConfig{Broker: br, Sink: got, Binding: triggers.Binding{Trigger: trigger("a", 1)}})
	_ = await(t, s, mqtt.StateConnected)

	connects := s.Stats().Connects
	b.Down(t)
	write(t, in("client.pem"), "half a cert")
	write(t, in("ca.pem"), "")
	_ = await(t, s, mqtt.StateOffline)
	renew()
	b.Up(t)
	eventually(t, "a connection with the new certificates", func() bool { return s.Stats().Connects > connects })
	_ = await(t, s, mqtt.StateConnected)
	p, err := mqtt.NewPublisher(mqtt.PublisherConfig{Broker: br, ClientID: "p", Backoff: quick})
	if err != nil {
		t.Fatal(err)
	}
	run(t, p.Run)
	_ = await(t, p, mqtt.StateConnected)
	publish(t, p, "a", "over TLS", 1)
	if g := got.data(t); g != "over TLS" {
		t.Errorf("got %q", g)
	}
}

// authority signs certificates for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, dir, name string) authority {
	t.Helper()
	tmpl := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	a := authority{cert: tmpl}
	a.cert, a.key = a.sign(t, dir, name, tmpl)
	return a
}

func (a authority) issue(t *testing.T, dir, name, ip string) {
	t.Helper()
	tmpl := &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip != "" {
		tmpl.IPAddresses = []net.IP{net.ParseIP(ip)}
	}
	a.sign(t, dir, name, tmpl)
}

// sign writes NAME.pem and NAME.key.
func (a authority) sign(t *testing.T, dir, name string, tmpl *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer := a.key
	if signer == nil {
		signer = key
	}
	tmpl.SerialNumber = big.NewInt(time.Now().UnixNano())
	tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, name+".pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, filepath.Join(dir, name+".key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// gate lets clients in and, while open, lets them read.
type gate struct {
	mochi.HookBase
	open atomic.Bool
}

func (*gate) ID() string { return "gate" }

func (*gate) Provides(b byte) bool { return b == mochi.OnConnectAuthenticate || b == mochi.OnACLCheck }

func (*gate) OnConnectAuthenticate(*mochi.Client, packets.Packet) bool { return true }

func (g *gate) OnACLCheck(_ *mochi.Client, _ string, write bool) bool { return write || g.open.Load() }

// Mosquitto 2.0 grants every subscription and withholds the messages; mochi
// refuses in its SUBACK as the standard says [MQTT-3.9.3-2].
func TestRefusedSubscriptionIsToldAndTriedAgain(t *testing.T) {
	g := &gate{}
	srv := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler), InlineClient: false})
	if err := srv.AddHook(g, nil); err != nil {
		t.Fatal(err)
	}
	l := listeners.NewTCP(listeners.Config{ID: "t", Address: "127.0.0.1:0"})
	if err := srv.AddListener(l); err != nil {
		t.Fatal(err)
	}
	if err := srv.Serve(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	url := "mqtt://" + l.Address()
	got := make(sink, 10)
	s := start(t, mqtt.SourceConfig{Broker: at(url), Sink: got, Binding: triggers.Binding{Trigger: trigger("secret/+", 1)}})
	err := await(t, s, mqtt.StateRefused)
	wantText(t, err, `broker "plant"`, "refused", `"secret/+"`, "access rules")

	g.open.Store(true)
	if err := await(t, s, mqtt.StateConnected); err != nil {
		t.Error(err)
	}
	if n := s.Stats().Connects; n != 1 {
		t.Errorf("%d connections, want 1: a refused subscription needs no new one", n)
	}
	publish(t, publisher(t, url), "secret/x", "seen", 2)
	if g := got.data(t); g != "seen" {
		t.Errorf("got %q", g)
	}
}

// rogue serves connections with f, which speaks for the broker.
func rogue(t *testing.T, f func(in *bufio.Reader, out io.Writer)) (url string) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
			wg.Go(func() {
				defer stop()
				f(bufio.NewReader(nc), nc)
				_ = nc.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		cancel()
		wg.Wait()
	})
	return "mqtt://" + l.Addr().String()
}

// packet reads a packet with fewer than 128 bytes after its header.
func packet(in *bufio.Reader) (kind byte, body []byte, err error) {
	var head [2]byte
	if _, err = io.ReadFull(in, head[:]); err != nil {
		return 0, nil, err
	}
	body = make([]byte, head[1])
	_, err = io.ReadFull(in, body)
	return head[0] >> 4, body, err
}

// What a broker sends never brings the node down.
func TestRogueBroker(t *testing.T) {
	for _, c := range []struct {
		name   string
		suback func(id []byte) []byte
		want   string
	}{
		{"two codes for one filter", func(id []byte) []byte { return []byte{0x90, 4, id[0], id[1], 1, 1} }, "no valid MQTT"},
		{"none", func(id []byte) []byte { return []byte{0x90, 2, id[0], id[1]} }, "no valid MQTT"},
		{"QoS 3", func([]byte) []byte { return []byte{0x36, 5, 0, 1, 'a', 0, 1} }, "QoS 3"},
		{"endless length", func([]byte) []byte { return []byte{0x30, 0xff, 0xff, 0xff, 0xff, 1} }, "four bytes"},
		{"unknown type", func([]byte) []byte { return []byte{0xf0, 0} }, "lost"},
		{"message cut short", func([]byte) []byte { return []byte{0x32, 3, 0, 9, 'a'} }, "lost"},
	} {
		t.Run(c.name, func(t *testing.T) {
			url := rogue(t, func(in *bufio.Reader, out io.Writer) {
				for {
					kind, body, err := packet(in)
					switch {
					case err != nil:
						return
					case kind == 1:
						_, _ = out.Write([]byte{0x20, 2, 0, 0})
					case kind == 8:
						_, _ = out.Write(c.suback(body[:2]))
					}
				}
			})
			s := start(t, mqtt.SourceConfig{Broker: at(url), Sink: make(sink), Binding: triggers.Binding{Trigger: trigger("a", 1)}})
			var err error
			eventually(t, "the fault to be told", func() bool {
				var st string
				st, err = s.Status()
				return st == mqtt.StateOffline && err != nil
			})
			wantText(t, err, c.want)
			eventually(t, "another attempt", func() bool { return s.Stats().Connects > 1 })
		})
	}
}

package broker_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/edgefn/edgefn/triggers"
	"github.com/edgefn/edgefn/triggers/mqtt/broker"
	"github.com/edgefn/edgefn/triggers/mqtt/broker/access"
)

// mosquitto runs mosquitto_pub or mosquitto_sub.
func mosquitto(t *testing.T, name, addr string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed (Debian: apt-get install mosquitto-clients)", name)
	}
	_, port, _ := net.SplitHostPort(addr)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, path, append([]string{"-h", "127.0.0.1", "-p", port}, args...)...)
}

func run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return string(out)
}

func TestMosquittoClients(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"mqttv31", "mqttv311", "mqttv5"} {
		for _, qos := range []string{"0", "1", "2"} {
			t.Run(version+" qos "+qos, func(t *testing.T) {
				sk := newSink(nil)
				s := start(t, broker.Config{Sink: sk})
				s.Bind([]triggers.Binding{bind("f", "greenhouse/#", 2)})
				sub := mosquitto(t, "mosquitto_sub", s.Addr(), "-V", version, "-q", qos, "-t", "greenhouse/#", "-C", "3", "-F", "%t %p")
				out, err := sub.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := sub.Start(); err != nil {
					t.Fatal(err)
				}
				eventually(t, "mosquitto_sub has subscribed", func() bool { return s.Stats().Subscriptions == 1 })
				pub := mosquitto(t, "mosquitto_pub", s.Addr(), "-V", version, "-q", qos, "-t", "greenhouse/1", "-l")
				pub.Stdin = strings.NewReader("1\n2\n3\n")
				run(t, pub)
				got, _ := io.ReadAll(out)
				if err := sub.Wait(); err != nil {
					t.Error(err)
				}
				if want := "greenhouse/1 1\ngreenhouse/1 2\ngreenhouse/1 3\n"; string(got) != want {
					t.Errorf("mosquitto_sub printed %q, want %q", got, want)
				}
				sk.wait(t, 3)
			})
		}
	}
}

func TestMosquittoPersistentSession(t *testing.T) {
	s := start(t, broker.Config{})
	session := []string{"-i", "keeper", "-c", "-q", "1", "-t", "x"}
	run(t, mosquitto(t, "mosquitto_sub", s.Addr(), append(session, "-E")...))
	run(t, mosquitto(t, "mosquitto_pub", s.Addr(), "-q", "1", "-t", "x", "-m", "kept"))
	run(t, mosquitto(t, "mosquitto_pub", s.Addr(), "-q", "1", "-t", "x", "-r", "-m", "kept too"))
	s = s.again(t)
	if got := run(t, mosquitto(t, "mosquitto_sub", s.Addr(), append(session, "-C", "2")...)); got != "kept\nkept too\n" {
		t.Errorf("mosquitto_sub printed %q", got)
	}
}

func TestPaho(t *testing.T) {
	sk := newSink(nil)
	s := start(t, broker.Config{Sink: sk})
	s.Bind([]triggers.Binding{bind("f", "in/#", 1)})
	opts := paho.NewClientOptions().AddBroker("tcp://" + s.Addr()).SetClientID("paho").SetCleanSession(false)
	c := paho.NewClient(opts)
	if tok := c.Connect(); !tok.WaitTimeout(patience) || tok.Error() != nil {
		t.Fatal(tok.Error())
	}
	defer c.Disconnect(100)
	const n = 1000
	got := make(chan string, n)
	if tok := c.Subscribe("in/+", 2, func(_ paho.Client, m paho.Message) { got <- string(m.Payload()) }); !tok.WaitTimeout(patience) || tok.Error() != nil {
		t.Fatal(tok.Error())
	}
	var tokens []paho.Token
	for i := range n {
		tokens = append(tokens, c.Publish("in/1", byte(i%3), false, numbered(i)))
	}
	for _, tok := range tokens {
		if !tok.WaitTimeout(patience) || tok.Error() != nil {
			t.Fatalf("publish not acknowledged: %v", tok.Error())
		}
	}
	seen := map[string]bool{}
	for range n {
		select {
		case m := <-got:
			seen[m] = true
		case <-time.After(patience):
			t.Fatalf("%d of %d messages came", len(seen), n)
		}
	}
	if len(seen) != n {
		t.Errorf("%d different messages came, want %d", len(seen), n)
	}
	for i, d := range sk.wait(t, n) {
		if string(d.Event.Data) != numbered(i) {
			t.Fatalf("event %d is %s", i, d.Event.Data)
		}
	}
}

func passwordFile(t *testing.T, users ...string) string {
	t.Helper()
	var lines []string
	for _, u := range users {
		name, password, _ := strings.Cut(u, ":")
		line, err := access.PasswordLine(name, password)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	path := filepath.Join(t.TempDir(), "passwords")
	if err := os.WriteFile(path, []byte("# users\n"+strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAuthentication(t *testing.T) {
	t.Parallel()
	path := passwordFile(t, "anna:secret")
	s := start(t, broker.Config{PasswordFile: path})
	for name, tc := range map[string]struct {
		o    options
		code byte
	}{
		"right":          {options{user: "anna", pass: "secret", version: 4}, 0},
		"right v5":       {options{user: "anna", pass: "secret", version: 5}, 0},
		"wrong password": {options{user: "anna", pass: "Secret", version: 4}, 5},
		"wrong user":     {options{user: "otto", pass: "secret", version: 4}, 5},
		"wrong v5":       {options{user: "otto", pass: "secret", version: 5}, 0x86},
		"anonymous":      {options{version: 4}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			tc.o.id = "c"
			c, _, code := connect(t, s.Addr(), tc.o)
			if code != tc.code {
				t.Errorf("CONNACK code %#x, want %#x", code, tc.code)
			}
			if code != 0 {
				c.wantClosed()
			}
		})
	}
	t.Run("mosquitto", func(t *testing.T) {
		run(t, mosquitto(t, "mosquitto_pub", s.Addr(), "-u", "anna", "-P", "secret", "-q", "1", "-t", "x", "-m", "1"))
		if out, err := mosquitto(t, "mosquitto_pub", s.Addr(), "-u", "anna", "-P", "no", "-q", "1", "-t", "x", "-m", "1").CombinedOutput(); err == nil {
			t.Errorf("wrong password was taken: %s", out)
		}
	})
	t.Run("changed file", func(t *testing.T) {
		line, err := access.PasswordLine("otto", "new")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(line), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, code := connect(t, s.Addr(), options{id: "c", user: "otto", pass: "new"}); code != 0 {
			t.Errorf("CONNACK code %d for a user who was added", code)
		}
		if err := os.WriteFile(path, []byte("broken line"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, code := connect(t, s.Addr(), options{id: "c", user: "otto", pass: "new"}); code != 0 {
			t.Errorf("CONNACK code %d with a broken file: the users known before must stay", code)
		}
	})
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	good := broker.Config{Addr: "127.0.0.1:0", Dir: t.TempDir(), Sink: newSink(nil)}
	broken := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(broken, []byte("anna:plain\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		change func(*broker.Config)
		want   string
	}{
		"all addresses":    {func(c *broker.Config) { c.Addr = ":1883" }, "set a password file"},
		"any address":      {func(c *broker.Config) { c.Addr = "0.0.0.0:1883" }, "set a password file"},
		"outside address":  {func(c *broker.Config) { c.Addr = "192.0.2.1:1883" }, "set a password file"},
		"name":             {func(c *broker.Config) { c.Addr = "gateway:1883" }, "set a password file"},
		"no port":          {func(c *broker.Config) { c.Addr = "127.0.0.1" }, "host:port"},
		"no folder":        {func(c *broker.Config) { c.Dir = "" }, "Dir is empty"},
		"no sink":          {func(c *broker.Config) { c.Sink = nil }, "Sink is nil"},
		"two faults":       {func(c *broker.Config) { c.Dir, c.Sink = "", nil }, "Sink is nil"},
		"long queue":       {func(c *broker.Config) { c.MaxQueue = 70000 }, "60000"},
		"certificate only": {func(c *broker.Config) { c.CertFile = "x" }, "go together"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			tc.change(&cfg)
			if _, err := broker.New(cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v, want %q in it", err, tc.want)
			}
		})
	}
	for name, tc := range map[string]struct {
		change func(*broker.Config)
		want   string
	}{
		"no password file":     {func(c *broker.Config) { c.PasswordFile = "/nowhere" }, "/nowhere"},
		"broken password file": {func(c *broker.Config) { c.PasswordFile = broken }, ":1: hash of user"},
		"no certificate":       {func(c *broker.Config) { c.CertFile, c.KeyFile = "/nowhere", "/nowhere" }, "/nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			tc.change(&cfg)
			b, err := broker.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Listen(); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v, want %q in it", err, tc.want)
			}
		})
	}
	if _, err := broker.New(broker.Config{Addr: ":1883", Dir: "x", Sink: newSink(nil)}); !errors.Is(err, broker.ErrInsecure) {
		t.Errorf("got %v, want ErrInsecure", err)
	}
	if _, err := broker.New(broker.Config{Addr: ":1883", Dir: "x", Sink: newSink(nil), PasswordFile: "p"}); err != nil {
		t.Errorf("with a password file: %v", err)
	}
}

func TestAddressInUse(t *testing.T) {
	s := start(t, broker.Config{})
	b, err := broker.New(broker.Config{Addr: s.Addr(), Dir: t.TempDir(), Sink: newSink(nil)})
	if err != nil {
		t.Fatal(err)
	}
	err = b.Listen()
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), s.Addr()) {
		t.Errorf("got %v, want one that names %s", err, s.Addr())
	}
}

func TestFolderInUse(t *testing.T) {
	t.Parallel()
	s := start(t, broker.Config{})
	b, err := broker.New(broker.Config{Addr: "127.0.0.1:0", Dir: s.cfg.Dir, Sink: newSink(nil)})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Listen(); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("got %v", err)
	}
}

// certificate makes a certificate for 127.0.0.1 that signs itself.
func certificate(t *testing.T) (certFile, keyFile string, pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gateway"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	pool = x509.NewCertPool()
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	pool.AppendCertsFromPEM(certPEM)
	if err := os.WriteFile(certFile, certPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	if err := os.WriteFile(keyFile, keyPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile, pool
}

func tlsDial(t *testing.T, addr string, pool *x509.CertPool, own ...tls.Certificate) *tls.Conn {
	t.Helper()
	nc, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: pool, Certificates: own, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	return nc
}

func TestTLS(t *testing.T) {
	t.Parallel()
	certFile, keyFile, pool := certificate(t)
	var log strings.Builder
	s := start(t, broker.Config{
		Addr: "0.0.0.0:0", PasswordFile: passwordFile(t, "anna:secret"), CertFile: certFile, KeyFile: keyFile,
		ConnectTimeout: 2 * time.Second, Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if strings.Contains(log.String(), "no TLS") {
		t.Errorf("warned of missing TLS: %s", log.String())
	}
	_, port, _ := net.SplitHostPort(s.Addr())
	nc := tlsDial(t, "127.0.0.1:"+port, pool)
	_ = nc.SetDeadline(time.Now().Add(patience))
	_, _ = nc.Write(connectPacket(options{id: "c", version: 4, user: "anna", pass: "secret"}))
	br := bufio.NewReader(nc)
	p, err := readFrame(br)
	if err != nil || p.kind() != pConnack || p.body[1] != 0 {
		t.Fatalf("CONNACK %+v, %v", p, err)
	}
	// One that never shakes hands is thrown out.
	plain := dialRaw(t, "127.0.0.1:"+port)
	_ = plain.SetReadDeadline(time.Now().Add(patience))
	if _, err := plain.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection with no handshake was kept: %v", err)
	}
	_, _ = fmt.Fprint(nc, "\xc0\x00")
	if p, err := readFrame(br); err != nil || p.kind() != pPingresp {
		t.Errorf("PINGRESP: %+v, %v", p, err)
	}
}

// A renewed certificate is shown to the next client, with no restart.
func TestRenewedCertificate(t *testing.T) {
	t.Parallel()
	certFile, keyFile, old := certificate(t)
	s := start(t, broker.Config{CertFile: certFile, KeyFile: keyFile})
	shake := func(pool *x509.CertPool) error {
		nc, err := tls.Dial("tcp", s.Addr(), &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12})
		if err == nil {
			_ = nc.Close()
		}
		return err
	}
	if err := shake(old); err != nil {
		t.Fatal(err)
	}
	newCert, newKey, renewed := certificate(t)
	if err := os.Rename(newKey, keyFile); err != nil {
		t.Fatal(err)
	}
	if err := shake(old); err != nil {
		t.Errorf("while only the key is new: %v", err)
	}
	if err := os.Rename(newCert, certFile); err != nil {
		t.Fatal(err)
	}
	if err := shake(renewed); err != nil {
		t.Error(err)
	}
	if err := shake(old); err == nil {
		t.Error("the old certificate is still shown")
	}
}

package broker_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/edgefn/edgefn/triggers"
	"github.com/edgefn/edgefn/triggers/mqtt/broker"
	"github.com/edgefn/edgefn/triggers/mqtt/broker/access"
)

// ruled starts a broker whose users are dev and boss, each with their name as
// the password.
func ruled(t *testing.T, change func(*broker.Listener), rules ...access.Rule) (*server, *sink) {
	t.Helper()
	sk := newSink(nil)
	l := broker.Listener{Addr: "127.0.0.1:0", PasswordFile: passwordFile(t, "dev:dev", "boss:boss"), Rules: rules}
	if change != nil {
		change(&l)
	}
	s := start(t, broker.Config{Listeners: []broker.Listener{l}, Sink: sk})
	s.Bind([]triggers.Binding{bind("f", "#", 1)})
	return s, sk
}

var (
	devRule  = access.Rule{User: "dev", Publish: []string{"up/%u/#", "will"}, Subscribe: []string{"down/%c/+"}}
	bossRule = access.Rule{User: "boss", Publish: []string{"#"}, Subscribe: []string{"#"}}
)

func TestTopicRules(t *testing.T) {
	for _, version := range []byte{4, 5} {
		t.Run(fmt.Sprint("v", version), func(t *testing.T) {
			s, sk := ruled(t, nil, devRule, bossRule)
			c := dial(t, s.Addr(), options{id: "c1", version: version, user: "dev", pass: "dev"})
			boss := dial(t, s.Addr(), options{id: "b", user: "boss", pass: "boss"})
			boss.subscribe("#", 1)

			// Denied: acknowledged, and nobody has it.
			c.publish(publish{topic: "up/boss/x", qos: 0})
			c.publish(publish{topic: "up/boss/x", qos: 1, pid: 1, retain: true})
			code := byte(0)
			if p := c.wantAck(pPuback, 1); len(p.body) > 2 {
				code = p.body[2]
			}
			if want := map[byte]byte{4: 0, 5: 0x87}[version]; code != want {
				t.Errorf("PUBACK code %#x, want %#x", code, want)
			}
			c.publish(publish{topic: "other", qos: 2, pid: 2})
			code = 0
			if p := c.wantAck(pPubrec, 2); len(p.body) > 2 {
				code = p.body[2]
			}
			if want := map[byte]byte{4: 0, 5: 0x87}[version]; code != want {
				t.Errorf("PUBREC code %#x, want %#x", code, want)
			}
			// Allowed.
			c.publish(publish{topic: "up/dev/x", payload: "yes", qos: 1, pid: 3})
			c.wantAck(pPuback, 3)
			if m := boss.wantPublish(); m.topic != "up/dev/x" {
				t.Errorf("the boss got %q", m.topic)
			}
			if ds := sk.wait(t, 1); len(ds) != 1 || ds[0].Event.Subject != "up/dev/x" {
				t.Errorf("events %+v", ds)
			}
			if n := s.Stats().Denied; n != 3 {
				t.Errorf("%d denied, want 3", n)
			}

			refused := byte(0x80)
			if version == 5 {
				refused = 0x87
			}
			for filter, want := range map[string]byte{
				"down/c1/x": 1, "down/c1/+": 1, "down/c1/#": refused, "down/c2/x": refused, "down/+/x": refused, "#": refused,
				"$share/g/down/c1/x": 1, "$share/g/#": refused, "$share/down/c1/x": refused,
			} {
				c.write(c.subscribePacket(filter, 1))
				if p := c.want(pSuback); p.body[len(p.body)-1] != want {
					t.Errorf("%s: SUBACK code %#x, want %#x", filter, p.body[len(p.body)-1], want)
				}
			}
			boss.publish(publish{topic: "down/c2/x"})
			if m := boss.wantPublish(); m.topic != "down/c2/x" {
				t.Errorf("the boss got %q", m.topic)
			}
			c.nothing()
		})
	}
}

func TestWillToATopicThatIsNotAllowed(t *testing.T) {
	s, _ := ruled(t, nil, access.Rule{User: "dev", Publish: []string{"x"}}, bossRule)
	for version, want := range map[byte]byte{4: 5, 5: 0x87} {
		c, _, code := connect(t, s.Addr(), options{id: "c", version: version, user: "dev", pass: "dev", will: "gone"})
		if code != want {
			t.Errorf("v%d: CONNACK code %#x, want %#x", version, code, want)
		}
		c.wantClosed()
	}
	if _, _, code := connect(t, s.Addr(), options{id: "c", user: "boss", pass: "boss", will: "gone"}); code != 0 {
		t.Errorf("CONNACK code %#x for a will that is allowed", code)
	}
}

// What a client had before the rules changed does not reach it any more, live
// or from its queue; nor does what another user's session holds.
func TestDeliveryIsCheckedByTheRulesOfNow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "acl.yaml")
	set := func(text string) {
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	const boss = "- {user: boss, publish: ['#'], subscribe: ['#']}\n"
	set(boss + "- {user: dev, publish: [p], subscribe: ['a/#', x]}\n")
	s, _ := ruled(t, func(l *broker.Listener) { l.Rules, l.RulesFile = nil, path })
	o := options{id: "c", user: "dev", pass: "dev", keep: true}
	c := dial(t, s.Addr(), o)
	c.subscribe("a/#", 1)
	c.subscribe("x", 0)
	b := dial(t, s.Addr(), options{id: "b", user: "boss", pass: "boss"})
	send := func(topic string, pid uint16) {
		t.Helper()
		b.publish(publish{topic: topic, qos: 1, pid: pid})
		b.wantAck(pPuback, pid)
	}
	send("a/1", 1)
	if m := c.wantPublish(); m.topic != "a/1" {
		t.Errorf("got %+v", m)
	}
	c.ack(pPuback, 1)

	set(boss + "- {user: dev, publish: [y], subscribe: [x]}\n")
	eventually(t, "the rules are read", func() bool {
		before := s.Stats().Denied
		c.publish(publish{topic: "p", qos: 1, pid: 7})
		c.wantAck(pPuback, 7)
		return s.Stats().Denied > before
	})
	send("a/2", 2)
	send("x", 3)
	if m := c.wantPublish(); m.topic != "x" {
		t.Errorf("got %+v", m)
	}
	c.close()
	send("a/3", 4)
	c = dial(t, s.Addr(), o)
	c.nothing()
	if n := s.Stats().Queued; n != 0 {
		t.Errorf("%d messages wait still", n)
	}
	c.close()

	// The boss's session, by another user.
	o = options{id: "spy", user: "boss", pass: "boss", keep: true}
	spy := dial(t, s.Addr(), o)
	spy.subscribe("#", 1)
	spy.close()
	send("secret", 5)
	o.user, o.pass = "dev", "dev"
	dial(t, s.Addr(), o).nothing()
}

func TestSeveralListeners(t *testing.T) {
	users := passwordFile(t, "dev:dev")
	certFile, keyFile, pool := certificate(t)
	s := start(t, broker.Config{Listeners: []broker.Listener{
		{Addr: "127.0.0.1:0"},
		{Addr: "127.0.0.1:0", PasswordFile: users, Rules: []access.Rule{{User: "dev", Publish: []string{"a"}, Subscribe: []string{"a"}}}},
		{Addr: "0.0.0.0:0", Anonymous: true, Rules: []access.Rule{{User: access.Anonymous, Subscribe: []string{"news"}}}},
		{Addr: "127.0.0.1:0", CertFile: certFile, KeyFile: keyFile},
	}})
	addrs := s.Addrs()
	if len(addrs) != 4 || addrs[0] != s.Addr() {
		t.Fatalf("addresses %v", addrs)
	}
	local := dial(t, addrs[0], options{id: "local"})
	local.subscribe("#", 0)
	if _, _, code := connect(t, addrs[1], options{id: "x"}); code != 5 {
		t.Errorf("anonymous at the listener with passwords: %#x", code)
	}
	dev := dial(t, addrs[1], options{id: "dev", user: "dev", pass: "dev"})
	dev.publish(publish{topic: "b", qos: 1, pid: 1})
	dev.wantAck(pPuback, 1)
	dev.publish(publish{topic: "a", qos: 1, pid: 2})
	dev.wantAck(pPuback, 2)
	if m := local.wantPublish(); m.topic != "a" {
		t.Errorf("from the other listener came %+v", m)
	}
	_, port, _ := strings.Cut(addrs[2], "]:")
	guest := dial(t, "127.0.0.1:"+port, options{id: "guest"})
	guest.subscribe("news", 0)
	local.publish(publish{topic: "news"})
	if m := guest.wantPublish(); m.topic != "news" {
		t.Errorf("guest got %+v", m)
	}
	tc := tlsDial(t, addrs[3], pool)
	_, _ = tc.Write(connectPacket(options{id: "tls", version: 4}))
	_ = tc.SetDeadline(time.Now().Add(patience))
	if p, err := readFrame(bufio.NewReader(tc)); err != nil || p.body[1] != 0 {
		t.Errorf("over TLS: %+v, %v", p, err)
	}
}

// A function that reaches the broker through its connect grant is a client like
// any other, and no program of this machine.
func TestFunctionsNeedAUser(t *testing.T) {
	s := start(t, broker.Config{
		Listeners: []broker.Listener{
			{Addr: "127.0.0.1:0"},
			{Addr: "127.0.0.1:0", PasswordFile: passwordFile(t, "dev:dev")},
			{Addr: "127.0.0.1:0", Anonymous: true},
			{Addr: "127.0.0.1:0", WebSocket: true},
		},
		OfFunction: func(remote netip.AddrPort) bool { return remote.Addr().IsLoopback() && remote.Port() > 0 },
	})
	for name, tc := range map[string]struct {
		listener int
		o        options
		code     byte
	}{
		"for programs of this machine": {0, options{}, 5},
		"with a name that is checked":  {1, options{user: "dev", pass: "dev"}, 0},
		"with none":                    {1, options{}, 5},
		"where anybody may":            {2, options{}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			tc.o.id = "f"
			if _, _, code := connect(t, s.Addrs()[tc.listener], tc.o); code != tc.code {
				t.Errorf("CONNACK code %#x, want %#x", code, tc.code)
			}
		})
	}
	ws, _, err := (&websocket.Dialer{Subprotocols: []string{"mqtt"}}).Dial("ws://"+s.Addrs()[3], nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.Close() }()
	_ = ws.WriteMessage(websocket.BinaryMessage, connectPacket(options{id: "f", version: 4}))
	if p := (&wsFrames{ws: ws}).next(t); p.body[1] != 5 {
		t.Errorf("over WebSocket: %+v", p)
	}
}

func TestListenerFaults(t *testing.T) {
	certFile, keyFile, _ := certificate(t)
	rules := []access.Rule{{User: access.Anonymous, Subscribe: []string{"x"}}}
	for name, tc := range map[string]struct {
		l    broker.Listener
		want string // empty: fine
	}{
		"anonymous from outside":      {broker.Listener{Addr: ":1", Anonymous: true}, "write topic rules"},
		"anonymous with rules":        {broker.Listener{Addr: ":1", Anonymous: true, Rules: rules}, ""},
		"rules alone let nobody in":   {broker.Listener{Addr: ":1", Rules: rules}, "set a password file"},
		"client CA with no TLS":       {broker.Listener{Addr: ":1", ClientCA: "x"}, "need TLS"},
		"client CA":                   {broker.Listener{Addr: ":1", ClientCA: "x", CertFile: certFile, KeyFile: keyFile}, ""},
		"optional, but nothing there": {broker.Listener{Addr: "127.0.0.1:1", ClientCertOptional: true}, "no ClientCA"},
		"empty rules":                 {broker.Listener{Addr: "127.0.0.1:1", Rules: []access.Rule{}}, "has no rule"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := broker.New(broker.Config{Listeners: []broker.Listener{tc.l}, Dir: "x", Sink: newSink(nil)})
			if (tc.want == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	// When one address is in use, none stays taken.
	s := start(t, broker.Config{})
	free := "127.0.0.1:0"
	b, err := broker.New(broker.Config{Listeners: []broker.Listener{{Addr: free}, {Addr: s.Addr()}}, Dir: t.TempDir(), Sink: newSink(nil)})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Listen(); err == nil || !strings.Contains(err.Error(), s.Addr()) {
		t.Errorf("got %v", err)
	}
}

func TestClientCertificates(t *testing.T) {
	dir := t.TempDir()
	serverCert, serverKey, pool := certificate(t)
	ca := newAuthority(t, filepath.Join(dir, "ca.pem"))
	other := newAuthority(t, filepath.Join(dir, "other.pem"))
	rules := []access.Rule{{User: "pump", Publish: []string{"up/%u"}, Subscribe: []string{"#"}}, {User: "dev", Publish: []string{"up/%u"}}}
	l := broker.Listener{Addr: "127.0.0.1:0", CertFile: serverCert, KeyFile: serverKey, ClientCA: filepath.Join(dir, "ca.pem"), Rules: rules}
	optional := l
	optional.ClientCertOptional, optional.PasswordFile = true, passwordFile(t, "dev:dev")
	s := start(t, broker.Config{Listeners: []broker.Listener{l, optional}, ConnectTimeout: 5 * time.Second})

	for name, tc := range map[string]struct {
		listener int
		own      []tls.Certificate
		o        options
		code     int // -1: no TLS
	}{
		"required":                       {0, ca.issue(t, "pump"), options{}, 0},
		"required, missing":              {0, nil, options{user: "dev", pass: "dev"}, -1},
		"required, of another authority": {0, other.issue(t, "pump"), options{}, -1},
		"required, with no name":         {0, ca.issue(t, ""), options{}, 5},
		"optional":                       {1, ca.issue(t, "pump"), options{}, 0},
		"optional, a password instead":   {1, nil, options{user: "dev", pass: "dev"}, 0},
		"optional, neither":              {1, nil, options{}, 5},
		"optional, wrong password":       {1, nil, options{user: "dev", pass: "x"}, 5},
		"optional, of another authority": {1, other.issue(t, "pump"), options{}, -1},
	} {
		t.Run(name, func(t *testing.T) {
			nc, err := tls.Dial("tcp", s.Addrs()[tc.listener], &tls.Config{RootCAs: pool, Certificates: tc.own, MinVersion: tls.VersionTLS12})
			if err != nil {
				t.Fatal(err) // in TLS 1.3 the client is refused after its handshake
			}
			defer func() { _ = nc.Close() }()
			_ = nc.SetDeadline(time.Now().Add(patience))
			tc.o.id, tc.o.version = "c", 4
			_, _ = nc.Write(connectPacket(tc.o))
			br := bufio.NewReader(nc)
			p, err := readFrame(br)
			code := -1
			if err == nil {
				code = int(p.body[1])
			}
			if code != tc.code {
				t.Fatalf("CONNACK code %d (%v), want %d", code, err, tc.code)
			}
			if code != 0 {
				return
			}
			// The name in the certificate is what the rules go by.
			name := "pump"
			if tc.own == nil {
				name = "dev"
			}
			denied := s.Stats().Denied
			c := &client{t: t, version: 4}
			for i, topic := range []string{"up/" + name, "up/else"} {
				_, _ = nc.Write(c.publishPacket(publish{topic: topic, qos: 1, pid: uint16(i + 1)}))
				if p, err := readFrame(br); err != nil || p.kind() != pPuback {
					t.Fatalf("%+v, %v", p, err)
				}
			}
			if n := s.Stats().Denied - denied; n != 1 {
				t.Errorf("%d of two messages denied, want 1", n)
			}
		})
	}
}

// authority signs client certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, file string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: cert, key: key}
}

func (a *authority) issue(t *testing.T, name string) []tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
}

package broker_test

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
			boss.publish(publish{topic: "down/c2/x", qos: 1, pid: 9})
			boss.wantAck(pPuback, 9)
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

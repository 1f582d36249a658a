package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/triggers"
	"github.com/edgefn/edgefn/triggers/mqtt"
	"github.com/edgefn/edgefn/triggers/mqtt/mosquittotest"
)

func TestAnswersOfABrokerOfMQTT5(t *testing.T) {
	for _, c := range []struct {
		name   string
		limits []byte // properties of the CONNACK
		topic  string
		data   int
		qos    byte
		retain bool
		answer []byte // to the PUBLISH; nil hangs up
		want   error
		text   []string
		sent   int // PUBLISH packets that the broker saw
	}{
		{"taken", nil, "a", 1, 1, false, []byte{0x40, 2, 0, 0}, nil, nil, 1},
		{"no subscriber", nil, "a", 1, 1, false, []byte{0x40, 3, 0, 0, 0x10}, nil, nil, 1},
		{"exactly once", nil, "a", 1, 2, false, []byte{0x50, 2, 0, 0}, nil, nil, 1},
		{"not allowed", nil, "a", 1, 1, false, []byte{0x40, 3, 0, 0, 0x87}, mqtt.ErrRefused, []string{"0x87", "not authorized"}, 1},
		{"quota", nil, "a", 1, 1, false, []byte{0x40, 4, 0, 0, 0x97, 0}, mqtt.ErrRefused, []string{"0x97", "limit has been exceeded"}, 1},
		{"format, with words", nil, "a", 1, 1, false, []byte{0x40, 10, 0, 0, 0x99, 6, 0x1f, 0, 3, 'b', 'a', 'd'}, mqtt.ErrRefused, []string{"0x99", "payload format", `"bad"`}, 1},
		{"not allowed, exactly once", nil, "a", 1, 2, false, []byte{0x50, 3, 0, 0, 0x87}, mqtt.ErrRefused, []string{"0x87"}, 1},
		{"a session that is not ours", nil, "a", 1, 1, false, []byte{0x40, 3, 0, 0, 0x91}, mqtt.ErrHungUp, []string{"earlier connection"}, 1},
		{"the other acknowledgement", nil, "a", 1, 2, false, []byte{0x40, 2, 0, 0}, mqtt.ErrHungUp, nil, 1},
		{"hung up", nil, "a", 1, 1, false, nil, mqtt.ErrHungUp, []string{"EOF"}, 1},
		{"sent away", nil, "a", 1, 1, false, []byte{0xe0, 2, 0x95, 0}, mqtt.ErrHungUp, []string{"0x95", "acket"}, 1},
		{"shutting down", nil, "a", 1, 1, false, []byte{0xe0, 2, 0x8b, 0}, mqtt.ErrOffline, []string{"0x8b"}, 1},
		{"too large for it", []byte{0x27, 0, 0, 0, 20}, "a", 13, 1, false, nil, mqtt.ErrRefused, []string{"21 bytes", "takes 20"}, 0},
		{"just not too large", []byte{0x27, 0, 0, 0, 20}, "a", 12, 1, false, []byte{0x40, 2, 0, 0}, nil, nil, 1},
		{"retains nothing", []byte{0x25, 0}, "a", 1, 1, true, nil, mqtt.ErrRefused, []string{"retains no messages"}, 0},
		{"no exactly once", []byte{0x24, 1}, "a", 1, 2, false, nil, mqtt.ErrRefused, []string{"QoS 2", "QoS 1 at most"}, 0},
		{"wildcard", nil, "a/#", 1, 1, false, nil, mqtt.ErrRefused, []string{"wildcard"}, 0},
		{"no such QoS", nil, "a", 1, 3, false, nil, mqtt.ErrRefused, []string{"QoS is 3"}, 0},
	} {
		for _, alone := range []bool{false, true} {
			t.Run(fmt.Sprint(c.name, "/", alone), func(t *testing.T) {
				f := (&fake{
					connack: func(byte, string) []byte { return ok5(c.limits...) },
					answer:  func(published) []byte { return c.answer },
				}).start(t)
				p := publisher(t, f.url)
				do, want := p.Publish, c.want
				if alone {
					do = p.PublishAlone
					if c.name == "sent away" { // it says itself that the message was it
						want = mqtt.ErrRefused
					}
				}
				err := do(t.Context(), functions.Publish{Topic: c.topic, Data: make([]byte, c.data), QoS: c.qos, Retain: c.retain})
				if !errors.Is(err, want) {
					t.Errorf("got %v, want %v", err, want)
				}
				for _, e := range []error{mqtt.ErrOffline, mqtt.ErrRefused, mqtt.ErrHungUp, mqtt.ErrNoAnswer} {
					if e != want && errors.Is(err, e) { //nolint:errorlint // which of them it is
						t.Errorf("%v is %v, too", err, e)
					}
				}
				if c.text != nil {
					wantText(t, err, append(c.text, `"plant"`)...)
				}
				connects, got := f.seen()
				if len(got) != c.sent {
					t.Errorf("the broker got %d messages, want %d", len(got), c.sent)
				}
				if !strings.HasPrefix(connects[0], "5 pub-") {
					t.Errorf("connected as %s", connects[0])
				}
				if alone && c.sent > 0 && !strings.HasSuffix(got[0].client, "-alone") {
					t.Errorf("sent by %s", got[0].client)
				}
			})
		}
	}
}

func TestLimits(t *testing.T) {
	f := (&fake{connack: func(byte, string) []byte { return ok5(0x27, 0, 0, 1, 0, 0x25, 0, 0x24, 1) }}).start(t)
	p, err := mqtt.NewPublisher(mqtt.PublisherConfig{Broker: at(f.url), ClientID: "p", Backoff: quick})
	if err != nil {
		t.Fatal(err)
	}
	if size, retain, qos, known := p.Limits(); size != 0 || !retain || qos != 2 || known {
		t.Errorf("before a connection: %d %t %d %t", size, retain, qos, known)
	}
	run(t, p.Run)
	_ = await(t, p, mqtt.StateConnected)
	if size, retain, qos, known := p.Limits(); size != 256 || retain || qos != 1 || !known {
		t.Errorf("got %d %t %d %t", size, retain, qos, known)
	}
}

// A broker takes two messages at a time and is sent no third.
func TestReceiveMaximum(t *testing.T) {
	acks := make(chan []byte)
	var out atomic.Int32
	f := (&fake{
		connack: func(byte, string) []byte { return ok5(0x21, 0, 2) },
		answer: func(p published) []byte {
			out.Add(1)
			return <-acks
		},
	}).start(t)
	p := publisher(t, f.url)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if err := p.Publish(ctx, functions.Publish{Topic: "a", QoS: 1}); !errors.Is(err, mqtt.ErrNoAnswer) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want ErrNoAnswer", err)
			}
		})
	}
	wg.Wait()
	acks <- []byte{0x40, 2, 0, 0}
	eventually(t, "the second message", func() bool { return out.Load() == 2 })
	acks <- []byte{0x40, 2, 0, 0}
	done := make(chan error, 1)
	go func() { done <- p.Publish(t.Context(), functions.Publish{Topic: "a", QoS: 1}) }()
	acks <- []byte{0x40, 2, 0, 0}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, got := f.seen(); len(got) != 3 {
		t.Errorf("the broker got %d messages, want 3: the one that had no turn was never sent", len(got))
	}
}

// The suspect is sent alone again and again while the others' connection stays.
func TestSuspectsDisturbNobody(t *testing.T) {
	for _, version := range []string{"5", "3.1.1"} {
		t.Run(version, func(t *testing.T) {
			f := (&fake{
				connack: func(v byte, _ string) []byte {
					if v == 4 {
						return []byte{0x20, 2, 0, 0}
					}
					return ok5()
				},
				answer: func(p published) []byte {
					if p.topic == "bad" {
						return nil
					}
					return take(p)
				},
			}).start(t)
			br := at(f.url)
			br.Version = version
			p, err := mqtt.NewPublisher(mqtt.PublisherConfig{Broker: br, ClientID: "p", Backoff: quick})
			if err != nil {
				t.Fatal(err)
			}
			run(t, p.Run)
			_ = await(t, p, mqtt.StateConnected)
			for range 5 {
				if err := p.PublishAlone(t.Context(), functions.Publish{Topic: "bad", QoS: 1}); !errors.Is(err, mqtt.ErrHungUp) {
					t.Fatalf("got %v, want ErrHungUp", err)
				}
				publish(t, p, "good", "x", 2)
			}
			if err := p.PublishAlone(t.Context(), functions.Publish{Topic: "good", QoS: 2}); err != nil {
				t.Error(err)
			}
			if err := p.PublishAlone(t.Context(), functions.Publish{Topic: "good"}); err != nil {
				t.Error(err)
			}
			connects, got := f.seen()
			mine := 0
			for _, c := range connects {
				if c == connects[0] {
					mine++
				}
			}
			if mine != 1 || len(connects) != 8 {
				t.Errorf("connections: %q; want one for all and one for each alone", connects)
			}
			for _, m := range got {
				if m.dup {
					t.Errorf("%+v was sent again by itself", m)
				}
			}
		})
	}
}

// What was in flight when the connection broke is its caller's: the next
// connection does not send it again.
func TestNothingIsSentAgainByItself(t *testing.T) {
	for _, version := range []string{"5", "3.1.1"} {
		t.Run(version, func(t *testing.T) {
			f := (&fake{
				connack: func(v byte, _ string) []byte {
					if v == 4 {
						return []byte{0x20, 2, 0, 0}
					}
					return ok5()
				},
				answer: func(p published) []byte {
					if p.topic == "bad" {
						return nil
					}
					return take(p)
				},
			}).start(t)
			br := at(f.url)
			br.Version = version
			p, err := mqtt.NewPublisher(mqtt.PublisherConfig{Broker: br, ClientID: "p", Backoff: quick})
			if err != nil {
				t.Fatal(err)
			}
			run(t, p.Run)
			for qos := byte(1); qos <= 2; qos++ {
				eventually(t, "a connection", func() bool { connects, _ := f.seen(); return len(connects) == int(qos) })
				_ = await(t, p, mqtt.StateConnected)
				if err := p.Publish(t.Context(), functions.Publish{Topic: "bad", QoS: qos}); !errors.Is(err, mqtt.ErrHungUp) {
					t.Errorf("got %v, want ErrHungUp", err)
				}
			}
			eventually(t, "the next connection", func() bool { connects, _ := f.seen(); return len(connects) == 3 })
			_ = await(t, p, mqtt.StateConnected)
			publish(t, p, "good", "x", 1)
			if _, got := f.seen(); len(got) != 3 {
				t.Errorf("the broker got %+v, want each message once", got)
			}
		})
	}
}

// Messages that the broker hangs up on, one after the other, do not make the
// others wait ever longer.
func TestHangUpsDoNotAddUp(t *testing.T) {
	f := (&fake{answer: func(p published) []byte {
		if p.topic == "bad" {
			return nil
		}
		return take(p)
	}}).start(t)
	p, err := mqtt.NewPublisher(mqtt.PublisherConfig{
		Broker: at(f.url), ClientID: "p",
		Backoff: mqtt.Backoff{First: 10 * time.Millisecond, Max: time.Hour, Stable: time.Hour},
	})
	if err != nil {
		t.Fatal(err)
	}
	run(t, p.Run)
	for i := range 12 { // the last wait would be 10 to 20 s
		before := time.Now()
		if err := publishUntil(t.Context(), p, "good", "x"); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(before); d > 5*time.Second {
			t.Fatalf("after %d bad messages a good one took %s", i, d)
		}
		if err := p.Publish(t.Context(), functions.Publish{Topic: "bad", QoS: 1}); !errors.Is(err, mqtt.ErrHungUp) {
			t.Errorf("got %v, want ErrHungUp", err)
		}
	}
}

func TestVersions(t *testing.T) {
	old := []byte{0x20, 2, 0, 0}
	for _, c := range []struct {
		name    string
		version string
		five    []byte // the answer to a CONNECT of MQTT 5; nil hangs up
		four    []byte
		want    []string // the versions of the CONNECTs up to a connection and one after it
		state   string
		text    string
	}{
		{"5", "", ok5(), old, []string{"5", "5"}, mqtt.StateConnected, ""},
		{"refused", "auto", []byte{0x20, 3, 0, 0x84, 0}, old, []string{"5", "4", "4"}, mqtt.StateConnected, ""},
		{"refused as of old", "", []byte{0x20, 2, 0, 1}, old, []string{"5", "4", "4"}, mqtt.StateConnected, ""},
		{"answered as of old", "", old, old, []string{"5", "4", "4"}, mqtt.StateConnected, ""},
		{"hung up", "", nil, old, []string{"5", "5", "4", "4"}, mqtt.StateConnected, ""},
		{"3.1.1 asked for", "3.1.1", ok5(), old, []string{"4", "4"}, mqtt.StateConnected, ""},
		{"5 asked for", "5", []byte{0x20, 3, 0, 0x84, 0}, old, []string{"5"}, mqtt.StateRefused, "MQTT 5"},
		{"neither", "", []byte{0x20, 3, 0, 0x84, 0}, []byte{0x20, 2, 0, 1}, []string{"5", "4"}, mqtt.StateRefused, "MQTT 3.1.1"},
		{"user", "", []byte{0x20, 3, 0, 0x86, 0}, old, []string{"5"}, mqtt.StateRefused, "without a user name"},
		{"client id", "", []byte{0x20, 3, 0, 0x85, 0}, old, []string{"5"}, mqtt.StateRefused, `client id "p"`},
		{"busy", "", []byte{0x20, 3, 0, 0x89, 0}, old, []string{"5"}, mqtt.StateOffline, "busy"},
		{"rubbish", "", []byte{0x20, 1, 0}, old, []string{"5", "5", "4", "4"}, mqtt.StateConnected, ""},
		{"rubbish, 5 asked for", "5", []byte{0x20, 1, 0}, old, []string{"5", "5"}, mqtt.StateOffline, "no valid MQTT"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := (&fake{
				connack: func(v byte, _ string) []byte {
					if v == 5 {
						return c.five
					}
					return c.four
				},
				answer: func(published) []byte { return nil },
			}).start(t)
			br := at(f.url)
			br.Version = c.version
			p, err := mqtt.NewPublisher(mqtt.PublisherConfig{Broker: br, ClientID: "p", Backoff: quick})
			if err != nil {
				t.Fatal(err)
			}
			stop := run(t, p.Run)
			err = await(t, p, c.state)
			if c.state == mqtt.StateConnected {
				if _, _, _, known := p.Limits(); known != (c.want[0] == c.want[len(c.want)-1] && c.want[0] == "5") {
					t.Errorf("limits known: %t", known)
				}
				if err := p.Publish(t.Context(), functions.Publish{Topic: "a", QoS: 1}); !errors.Is(err, mqtt.ErrHungUp) {
					t.Errorf("got %v, want ErrHungUp", err)
				}
			} else {
				wantText(t, err, `"plant"`, c.text)
				if err := p.PublishAlone(t.Context(), functions.Publish{Topic: "a", QoS: 1}); !errors.Is(err, mqtt.ErrOffline) {
					t.Errorf("got %v, want ErrOffline", err)
				}
			}
			var got []string
			eventually(t, "connections", func() bool {
				connects, _ := f.seen()
				got = nil
				for _, c := range connects {
					got = append(got, c[:1])
				}
				return len(got) >= len(c.want)
			})
			stop()
			if got := strings.Join(got[:len(c.want)], " "); got != strings.Join(c.want, " ") {
				t.Errorf("versions asked for: %s, want %s", got, c.want)
			}
		})
	}
}

// A source finds the version that its broker speaks, and acknowledges there.
func TestVersionsOfSources(t *testing.T) {
	for _, c := range []struct {
		name    string
		version string
		five    []byte // the answer to a CONNECT of MQTT 5; nil hangs up
		want    []string
		state   string
		text    string
	}{
		{"5", "", ok5(), []string{"5"}, mqtt.StateConnected, ""},
		{"refused as of old", "", []byte{0x20, 2, 0, 1}, []string{"5", "4"}, mqtt.StateConnected, ""},
		{"hung up", "", nil, []string{"5", "5", "4"}, mqtt.StateConnected, ""},
		{"3.1.1 asked for", "3.1.1", ok5(), []string{"4"}, mqtt.StateConnected, ""},
		{"5 asked for", "5", []byte{0x20, 2, 0, 1}, []string{"5"}, mqtt.StateRefused, "does not speak MQTT 5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			acked := make(chan []byte, 10)
			var sent atomic.Bool
			f := &fake{acked: acked, connack: func(v byte, _ string) []byte {
				if v == 5 {
					return c.five
				}
				return []byte{0x20, 2, 0, 0}
			}}
			f.subscribed = func(version byte) []byte {
				if sent.Swap(true) { // over MQTT 5 a source subscribes twice
					return nil
				}
				if version == 5 {
					return []byte{0x32, 7, 0, 1, 'a', 0, 9, 0, 'x'}
				}
				return []byte{0x32, 6, 0, 1, 'a', 0, 9, 'x'}
			}
			f.start(t)
			br := at(f.url)
			br.Version = c.version
			got := make(sink, 10)
			s := start(t, mqtt.SourceConfig{Broker: br, Sink: got, Binding: triggers.Binding{Trigger: trigger("a", 1)}})
			err := await(t, s, c.state)
			if c.state == mqtt.StateConnected {
				if g := got.data(t); g != "x" {
					t.Errorf("got %q", g)
				}
				select {
				case id := <-acked:
					if id[0] != 0 || id[1] != 9 {
						t.Errorf("acknowledged % x, want 00 09", id)
					}
				case <-time.After(patience):
					t.Error("the message was not acknowledged")
				}
			} else {
				wantText(t, err, c.text)
			}
			s.stop()
			connects, _ := f.seen()
			for i, want := range c.want {
				if len(connects) <= i || connects[i][:1] != want {
					t.Errorf("connected %q, want the versions %s", connects, c.want)
					break
				}
			}
		})
	}
}

// A broker of MQTT 5 says when another client has the session now; that is told
// at once, and until a connection has lasted.
func TestTakenOver(t *testing.T) {
	var takeOver atomic.Bool
	takeOver.Store(true)
	f := (&fake{subscribed: func(byte) []byte {
		if takeOver.Swap(false) {
			return []byte{0xe0, 1, 0x8e}
		}
		return nil
	}}).start(t)
	s := start(t, mqtt.SourceConfig{
		Broker: at(f.url), Sink: make(sink), ClientID: "twice", Binding: triggers.Binding{Trigger: trigger("a", 1)},
		Backoff: mqtt.Backoff{First: 20 * time.Millisecond, Max: 200 * time.Millisecond, Stable: 100 * time.Millisecond},
	})
	err := await(t, s, mqtt.StateContested)
	wantText(t, err, `another client uses the client id "twice" at broker "plant"`, "0x8e", "--name")
	eventually(t, "another connection", func() bool { return s.Stats().Connects == 2 })
	if st, _ := s.Status(); st == mqtt.StateConnected {
		t.Error("it is said to be over at once")
	}
	if err := await(t, s, mqtt.StateConnected); err != nil {
		t.Error(err)
	}
	if n := s.Stats().Connects; n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

// The broker of the field announces its limit over MQTT 5 and hangs up over 3.1.1.
func TestMosquittoWithLimits(t *testing.T) {
	for _, c := range []struct {
		version string
		big     error
		known   bool
	}{{"auto", mqtt.ErrRefused, true}, {"5", mqtt.ErrRefused, true}, {"3.1.1", mqtt.ErrHungUp, false}} {
		t.Run(c.version, func(t *testing.T) {
			b := mosquittotest.Start(t, mosquittotest.Config{Lines: []string{"max_packet_size 50000", "max_qos 1"}})
			got := make(sink, 10)
			s := start(t, mqtt.SourceConfig{Broker: at(b.URL()), Sink: got, Binding: triggers.Binding{Trigger: trigger("out/#", 1)}})
			_ = await(t, s, mqtt.StateConnected)
			br := at(b.URL())
			br.Version = c.version
			p, err := mqtt.NewPublisher(mqtt.PublisherConfig{Broker: br, ClientID: "p", Backoff: quick})
			if err != nil {
				t.Fatal(err)
			}
			run(t, p.Run)
			_ = await(t, p, mqtt.StateConnected)
			if size, _, qos, known := p.Limits(); known != c.known || known && (size != 50000 || qos != 1) {
				t.Errorf("limits %d, QoS %d, known %t", size, qos, known)
			}
			big := make([]byte, 100_000)
			for range 5 {
				if err := p.PublishAlone(t.Context(), functions.Publish{Topic: "out/big", Data: big, QoS: 1}); !errors.Is(err, c.big) {
					t.Errorf("alone: got %v, want %v", err, c.big)
				}
				publish(t, p, "out/small", "small", 1)
				if g := got.data(t); g != "small" {
					t.Errorf("got %q", g)
				}
			}
			if err := p.Publish(t.Context(), functions.Publish{Topic: "out/big", Data: big, QoS: 1}); !errors.Is(err, c.big) {
				t.Errorf("got %v, want %v", err, c.big)
			}
			if err := publishUntil(t.Context(), p, "out/small", "after"); err != nil {
				t.Error(err)
			}
			if g := got.data(t); g != "after" {
				t.Errorf("got %q", g)
			}
			if err := p.Publish(t.Context(), functions.Publish{Topic: "out/twice", QoS: 2}); !errors.Is(err, c.big) {
				t.Errorf("QoS 2: got %v, want %v", err, c.big)
			}
		})
	}
}

// Over MQTT 5 the broker says that a topic is not allowed; over 3.1.1 it
// acknowledges and drops the message, and nobody can tell.
func TestMosquittoWithAccessRules(t *testing.T) {
	acl := write(t, filepath.Join(t.TempDir(), "acl"), "topic readwrite out/#\n")
	b := mosquittotest.Start(t, mosquittotest.Config{Lines: []string{"acl_file " + acl}})
	p := publisher(t, b.URL())
	for qos := byte(1); qos <= 2; qos++ {
		err := p.Publish(t.Context(), functions.Publish{Topic: "secret", QoS: qos})
		if !errors.Is(err, mqtt.ErrRefused) {
			t.Errorf("QoS %d: got %v, want ErrRefused", qos, err)
		}
		wantText(t, err, `"secret"`, `"plant"`, "0x87", "not authorized")
		publish(t, p, "out/x", "x", qos)
	}
}

// Whoever waits to be sent alone is told when the publisher ends.
func TestAloneEndsWithRun(t *testing.T) {
	sent := make(chan struct{}, 2)
	f := (&fake{answer: func(published) []byte {
		sent <- struct{}{}
		return []byte{0xd0, 0} // no acknowledgement
	}}).start(t)
	p, err := mqtt.NewPublisher(mqtt.PublisherConfig{Broker: at(f.url), ClientID: "p", Backoff: quick})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.PublishAlone(t.Context(), functions.Publish{Topic: "a", QoS: 1}); !errors.Is(err, mqtt.ErrOffline) {
		t.Errorf("before Run: %v, want ErrOffline", err)
	}
	stop := run(t, p.Run)
	_ = await(t, p, mqtt.StateConnected)
	done := make(chan error, 3)
	for range 2 {
		go func() { done <- p.PublishAlone(context.Background(), functions.Publish{Topic: "a", QoS: 1}) }()
	}
	<-sent
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := p.PublishAlone(ctx, functions.Publish{Topic: "a", QoS: 1}); !errors.Is(err, mqtt.ErrNoAnswer) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want ErrNoAnswer", err)
	}
	stop()
	for range 2 {
		if err := <-done; !errors.Is(err, mqtt.ErrOffline) {
			t.Errorf("got %v, want ErrOffline", err)
		}
	}
	if err := p.PublishAlone(t.Context(), functions.Publish{Topic: "a", QoS: 1}); !errors.Is(err, mqtt.ErrOffline) {
		t.Errorf("after Run: %v, want ErrOffline", err)
	}
}

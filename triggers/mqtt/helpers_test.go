package mqtt_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/triggers"
	"github.com/edgefn/edgefn/triggers/mqtt"
)

const patience = 15 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quick is a back-off for tests.
var quick = mqtt.Backoff{First: 20 * time.Millisecond, Max: 200 * time.Millisecond, Stable: 50 * time.Millisecond}

// sink is a function with room for some events.
type sink chan triggers.Delivery

func (s sink) Deliver(ctx context.Context, d triggers.Delivery) error {
	select {
	case s <- d:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// next waits for an event.
func (s sink) next(t *testing.T) triggers.Delivery {
	t.Helper()
	select {
	case d := <-s:
		return d
	case <-time.After(patience):
		t.Fatal("no event came")
		return triggers.Delivery{}
	}
}

// data waits for an event, settles it and returns its data.
func (s sink) data(t *testing.T) string {
	t.Helper()
	d := s.next(t)
	d.Settle(nil)
	return string(d.Event.Data)
}

func trigger(topic string, qos byte) functions.Trigger {
	return functions.Trigger{Name: "readings", MQTT: &functions.MQTTTrigger{Topic: topic, QoS: qos, Broker: "plant"}}
}

// dialect says how to speak to a broker.
type dialect func(url string) mqtt.Broker

func at(url string) mqtt.Broker { return mqtt.Broker{Name: "plant", URL: url} }

// inBothVersions runs f once for each version of MQTT.
func inBothVersions(t *testing.T, f func(t *testing.T, at dialect)) {
	for _, version := range []string{"3.1.1", "5"} {
		t.Run("MQTT "+version, func(t *testing.T) {
			f(t, func(url string) mqtt.Broker {
				b := at(url)
				b.Version = version
				return b
			})
		})
	}
}

// running is a source under test.
type running struct {
	*mqtt.Source
	stop func() // ends it and waits; may be called twice
}

func start(t *testing.T, cfg mqtt.SourceConfig) running {
	t.Helper()
	if cfg.ClientID == "" {
		cfg.ClientID = mqtt.ClientID("node", "fan", "readings")
	}
	if cfg.Backoff == (mqtt.Backoff{}) {
		cfg.Backoff = quick
	}
	if cfg.Drain == 0 {
		cfg.Drain = 50 * time.Millisecond
	}
	cfg.Binding.Function = "fan"
	s, err := mqtt.NewSource(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return running{s, run(t, s.Run)}
}

// run runs f until the returned function is called or the test ends.
func run(t *testing.T, f func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("run: %v", err)
			}
		case <-time.After(patience):
			t.Error("run did not end")
		}
	})
	t.Cleanup(stop)
	return stop
}

type reporter interface{ Status() (string, error) }

// await polls for a state.
func await(t *testing.T, s reporter, want string) error {
	t.Helper()
	var err error
	eventually(t, "state "+want, func() bool {
		var got string
		got, err = s.Status()
		return got == want
	})
	return err
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// publisher starts a publisher and waits for its connection.
func publisher(t *testing.T, url string) *mqtt.Publisher {
	t.Helper()
	p, err := mqtt.NewPublisher(mqtt.PublisherConfig{Broker: at(url), ClientID: "pub-" + t.Name(), Backoff: quick})
	if err != nil {
		t.Fatal(err)
	}
	run(t, p.Run)
	if err := await(t, p, mqtt.StateConnected); err != nil {
		t.Fatal(err)
	}
	return p
}

func publish(t *testing.T, p *mqtt.Publisher, topic, data string, qos byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Publish(ctx, functions.Publish{Topic: topic, Data: []byte(data), QoS: qos}); err != nil {
		t.Fatal(err)
	}
}

// publishUntil publishes with QoS 1 until the broker has acknowledged.
func publishUntil(ctx context.Context, p *mqtt.Publisher, topic, data string) error {
	for {
		err := p.Publish(ctx, functions.Publish{Topic: topic, Data: []byte(data), QoS: 1})
		if again := errors.Is(err, mqtt.ErrOffline) || errors.Is(err, mqtt.ErrHungUp); !again || ctx.Err() != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// cable is a network connection that can be cut, between sources and a broker.
type cable struct {
	l  net.Listener
	to string
	wg sync.WaitGroup

	mu    sync.Mutex
	ncs   []net.Conn
	down  bool
	acked int // PUBACK and PUBCOMP packets that went to the broker
}

func newCable(t *testing.T, to string) *cable {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{l: l, to: to}
	c.wg.Go(c.serve)
	t.Cleanup(func() {
		_ = l.Close()
		c.cut()
		c.wg.Wait()
	})
	return c
}

func (c *cable) url() string { return "mqtt://" + c.l.Addr().String() }

func (c *cable) serve() {
	for {
		in, err := c.l.Accept()
		if err != nil {
			return
		}
		c.mu.Lock()
		down := c.down
		c.mu.Unlock()
		if down {
			_ = in.Close()
			continue
		}
		out, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", c.to)
		if err != nil {
			_ = in.Close()
			continue
		}
		c.mu.Lock()
		c.ncs = append(c.ncs, in, out)
		c.mu.Unlock()
		for _, p := range []struct {
			to   io.Writer
			from net.Conn
		}{{in, out}, {&ackCounter{c: c, to: out}, in}} {
			c.wg.Go(func() {
				_, _ = io.Copy(p.to, p.from)
				_, _ = in.Close(), out.Close()
			})
		}
	}
}

// wantAcked waits until so many messages in all were acknowledged to the broker.
func (c *cable) wantAcked(t *testing.T, want int) {
	t.Helper()
	eventually(t, "the broker's acknowledgement", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.acked >= want
	})
}

// ackCounter counts the acknowledgements in what a client sends.
type ackCounter struct {
	c     *cable
	to    io.Writer
	kind  byte   // of the packet that is under way
	shift int    // of the next byte of its length; -1: the length is known
	left  uint32 // bytes of it that are to come
}

func (a *ackCounter) Write(p []byte) (int, error) {
	n, err := a.to.Write(p)
	acks := 0
	for _, b := range p[:n] {
		switch {
		case a.kind == 0: // a fixed header begins [MQTT 2.2]
			a.kind, a.shift, a.left = b>>4, 0, 0
			continue
		case a.shift >= 0:
			a.left |= uint32(b&0x7f) << a.shift
			if a.shift += 7; b&0x80 != 0 {
				continue
			}
			a.shift = -1
		default:
			a.left--
		}
		if a.left == 0 {
			if a.kind == 4 || a.kind == 7 { // PUBACK, PUBCOMP
				acks++
			}
			a.kind = 0
		}
	}
	a.c.mu.Lock()
	a.c.acked += acks
	a.c.mu.Unlock()
	return n, err
}

// cut breaks every connection; new ones work.
func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, nc := range c.ncs {
		_ = nc.Close()
	}
	c.ncs = nil
}

func wantText(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not say %q", err, p)
		}
	}
}

// pull cuts the cable and leaves it so until it is put back.
func (c *cable) pull(down bool) {
	c.mu.Lock()
	c.down = down
	c.mu.Unlock()
	c.cut()
}

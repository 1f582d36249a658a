package mqtt_test

import (
	"context"
	"errors"
	"maps"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/edgefn/edgefn/triggers"
	"github.com/edgefn/edgefn/triggers/mqtt"
	"github.com/edgefn/edgefn/triggers/mqtt/mosquittotest"
)

// memory is a store made by hand.
type memory struct {
	mu    sync.Mutex
	pages map[string][]byte
	saves int
	fail  error // of the next call, whatever it is
}

func (m *memory) Load(context.Context) (map[string][]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := m.fail
	m.fail = nil
	return maps.Clone(m.pages), err
}

func (m *memory) Save(_ context.Context, pages map[string][]byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.fail; err != nil {
		m.fail = nil
		return err
	}
	if m.pages == nil {
		m.pages = map[string][]byte{}
	}
	maps.Copy(m.pages, pages)
	m.saves++
	return nil
}

func (m *memory) failOnce() {
	m.mu.Lock()
	m.fail = errors.New("store is not available")
	m.mu.Unlock()
}

func (m *memory) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.saves
}

// pub publishes as others do.
func pub(t *testing.T, b *mosquittotest.Broker, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "mosquitto_pub", append([]string{"-h", "127.0.0.1", "-p", strconv.Itoa(b.Port())}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_pub: %v\n%s", err, out)
	}
}

// noMore publishes an ordinary message and wants it to be the next event.
func (s sink) noMore(t *testing.T, b *mosquittotest.Broker, topic, why string) {
	t.Helper()
	pub(t, b, "-q", "1", "-t", topic, "-m", "marker")
	if g := s.data(t); g != "marker" {
		t.Fatalf("got the event %q %s", g, why)
	}
}

// A retained message is an event once, whatever makes the broker send it again.
func TestRetainedIsAnEventOnce(t *testing.T) {
	for _, qos := range []byte{0, 1, 2} {
		t.Run("QoS "+strconv.Itoa(int(qos)), func(t *testing.T) {
			q := strconv.Itoa(int(qos))
			b := mosquittotest.Start(t, mosquittotest.Config{})
			line := newCable(t, b.Addr())
			pub(t, b, "-r", "-q", q, "-t", "cmd/valve", "-m", "open")
			got, mem := make(sink, 10), &memory{}
			cfg := mqtt.SourceConfig{Broker: at(line.url()), Sink: got, Memory: mem, Binding: triggers.Binding{Trigger: trigger("cmd/#", qos)}}
			s := start(t, cfg)
			if g := got.data(t); g != "open" {
				t.Fatalf("got %q, want open", g)
			}
			again := func(s running, why string) {
				t.Helper()
				_ = await(t, s, mqtt.StateConnected)
				eventually(t, "the broker to replay it", func() bool { return s.Stats().Replays > 0 })
				got.noMore(t, b, "cmd/other", why)
			}
			line.cut()
			again(s, "after a lost connection")
			s.stop()
			s = start(t, cfg)
			again(s, "after a restart")
			s.stop()

			if err := mqtt.EndSession(t.Context(), at(b.URL()), mqtt.ClientID("node", "fan", "readings")); err != nil {
				t.Fatal(err)
			}
			s = start(t, cfg)
			again(s, "after the session was lost")
			s.stop()

			// The new value is an event, once, and so is the old one after it.
			for _, value := range []string{"closed", "open"} {
				pub(t, b, "-r", "-q", "0", "-t", "cmd/valve", "-m", value)
				s = start(t, cfg)
				if g := got.data(t); g != value {
					t.Fatalf("got %q, want %s", g, value)
				}
				line.cut()
				again(s, "after it had changed")
				s.stop()
			}

			// One that was published before the source's eyes is replayed in vain.
			s = start(t, cfg)
			_ = await(t, s, mqtt.StateConnected)
			for range 2 {
				pub(t, b, "-r", "-q", q, "-t", "cmd/valve", "-m", "half")
				if g := got.data(t); g != "half" {
					t.Fatalf("got %q, want half: what is published is never old", g)
				}
			}
			line.cut()
			again(s, "that it had seen being published")
			s.stop()
			s = start(t, cfg)
			again(s, "that it had seen being published, after a restart")
		})
	}
}

// A replay of a message whose event is in work goes with that.
func TestReplayOfWhatIsInWork(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Config{})
	line := newCable(t, b.Addr())
	pub(t, b, "-r", "-q", "1", "-t", "a", "-m", "open")
	got := make(sink, 10)
	s := start(t, mqtt.SourceConfig{Broker: at(line.url()), Sink: got, Binding: triggers.Binding{Trigger: trigger("a", 1)}})
	first := got.next(t)
	line.cut()
	eventually(t, "the message and its replay", func() bool { return s.Stats().Repeats >= 1 && s.Stats().Replays >= 1 })
	first.Settle(nil)
	line.wantAcked(t, 2)

	pub(t, b, "-r", "-q", "1", "-t", "a", "-m", "closed")
	second := got.next(t)
	repeats := s.Stats().Repeats
	line.cut()
	eventually(t, "the message to come again", func() bool { return s.Stats().Repeats > repeats })
	second.Settle(triggers.ErrStopped) // given back: it is to come again, once
	if g := got.data(t); g != "closed" {
		t.Errorf("got %q, want closed again", g)
	}
	got.noMore(t, b, "a", "though it was settled")
}

// What is remembered is written when it changes, and not with each message.
func TestRememberingCostsLittle(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Config{})
	pub(t, b, "-r", "-t", "a/0", "-m", "same")
	got, mem := make(sink, 10), &memory{}
	mem.failOnce()
	cfg := mqtt.SourceConfig{Broker: at(b.URL()), Sink: got, Memory: mem, Binding: triggers.Binding{Trigger: trigger("a/#", 1)}}
	s := start(t, cfg) // it waits until it knows what it had
	if g := got.data(t); g != "same" {
		t.Fatalf("got %q, want same", g)
	}
	mem.failOnce()
	eventually(t, "it to be remembered", func() bool { return mem.count() == 1 })
	p := publisher(t, b.URL())
	for range 50 {
		publish(t, p, "a/0", "same", 1)
		if g := got.data(t); g != "same" {
			t.Fatalf("got %q, want same", g)
		}
	}
	time.Sleep(300 * time.Millisecond) // it saves after 100 ms
	s.stop()
	if n := mem.count(); n != 1 {
		t.Errorf("%d saves for messages that changed nothing, want 1 for the first", n)
	}
	s = start(t, cfg)
	_ = await(t, s, mqtt.StateConnected)
	began := time.Now()
	for i := range 300 {
		publish(t, p, "a/1", strconv.Itoa(i), 1)
		got.data(t)
	}
	s.stop()
	// One for each 100 ms, up to 10; and one at the end.
	if n, most := mem.count(), 3+min(10, int(time.Since(began)/(100*time.Millisecond))); n > most {
		t.Errorf("%d saves for 300 messages, want %d at most", n, most)
	}
}

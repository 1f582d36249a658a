package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/edgefn/edgefn/triggers"
	"github.com/edgefn/edgefn/triggers/mqtt"
	"github.com/edgefn/edgefn/triggers/mqtt/broker"
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

// addressed is a broker of a test.
type addressed interface {
	Addr() string
	Port() int
	URL() string
}

// server is a broker in this process.
type server string

func (s server) Addr() string { return string(s) }
func (s server) URL() string  { return "mqtt://" + string(s) }
func (s server) Port() int {
	_, port, _ := net.SplitHostPort(string(s))
	n, _ := strconv.Atoi(port)
	return n
}

// startNodeBroker starts the broker that is inside a node.
func startNodeBroker(t *testing.T) addressed {
	t.Helper()
	b, err := broker.New(broker.Config{Addr: "127.0.0.1:0", Dir: t.TempDir(), Sink: make(sink)})
	if err == nil {
		err = b.Listen()
	}
	if err != nil {
		t.Fatal(err)
	}
	run(t, b.Run)
	return server(b.Addr())
}

var brokers = []struct {
	name  string
	start func(t *testing.T) addressed
}{
	{"Mosquitto", func(t *testing.T) addressed { return mosquittotest.Start(t, mosquittotest.Config{}) }},
	{"another node", startNodeBroker},
}

// pub publishes as others do.
func pub(t *testing.T, b addressed, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "mosquitto_pub", append([]string{"-h", "127.0.0.1", "-p", strconv.Itoa(b.Port())}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_pub: %v\n%s", err, out)
	}
}

// noMore publishes an ordinary message and wants it to be the next event.
func (s sink) noMore(t *testing.T, b addressed, topic, why string) {
	t.Helper()
	pub(t, b, "-q", "1", "-t", topic, "-m", "marker")
	if g := s.data(t); g != "marker" {
		t.Fatalf("got the event %q %s", g, why)
	}
}

// retainedTest is a source whose connection can be cut and that can be restarted.
type retainedTest struct {
	b    addressed
	line *cable
	got  sink
	cfg  mqtt.SourceConfig
	s    running
	had  map[string]bool // data of events
}

func (r *retainedTest) start(t *testing.T) {
	t.Helper()
	r.s = start(t, r.cfg)
}

func (r *retainedTest) stop(*testing.T) { r.s.stop() }

// cut breaks the connection and returns once the source is subscribed again.
func (r *retainedTest) cut(t *testing.T) {
	t.Helper()
	_ = await(t, r.s, mqtt.StateConnected) // the library takes 15 s to notice a loss before that
	n := r.s.Stats().Connects
	r.line.cut()
	eventually(t, "a new connection", func() bool { return r.s.Stats().Connects > n })
	_ = await(t, r.s, mqtt.StateConnected)
}

// want wants an event. One whose acknowledgement was lost with the connection
// comes again, which is no replay and is marked: it is passed over.
func (r *retainedTest) want(t *testing.T, data, why string) {
	t.Helper()
	for {
		d := r.got.next(t)
		d.Settle(nil)
		if g := string(d.Event.Data); g == data {
			r.had[data] = true
			return
		} else if !d.Repeat || !r.had[g] {
			t.Fatalf("got %q, want %q %s", g, data, why)
		}
	}
}

// wantOld waits for a replay and wants it to be no event.
func (r *retainedTest) wantOld(t *testing.T, replays uint64, why string) {
	t.Helper()
	_ = await(t, r.s, mqtt.StateConnected)
	eventually(t, "the replay "+why, func() bool { return r.s.Stats().Replays >= replays })
	last := fmt.Sprint("marker ", time.Now().UnixNano())
	pub(t, r.b, "-q", "1", "-t", "cmd/other", "-m", last)
	r.want(t, last, why)
}

// A retained message is an event once, whatever makes the broker send it again.
func TestRetainedIsAnEventOnce(t *testing.T) { inBothVersions(t, testRetainedIsAnEventOnce) }

func testRetainedIsAnEventOnce(t *testing.T, at dialect) {
	for _, b := range brokers {
		for qos := range byte(3) {
			t.Run(fmt.Sprintf("%s QoS %d", b.name, qos), func(t *testing.T) { retainedOnce(t, b.start(t), at, qos) })
		}
	}
}

func retainedOnce(t *testing.T, b addressed, at dialect, qos byte) {
	r := &retainedTest{b: b, line: newCable(t, b.Addr()), got: make(sink, 10), had: map[string]bool{}}
	r.cfg = mqtt.SourceConfig{
		Broker: at(r.line.url()), Sink: r.got, Memory: &memory{},
		ClientID: "valve", Binding: triggers.Binding{Trigger: trigger("cmd/#", qos)},
	}
	retain := func(data string) {
		pub(t, b, "-r", "-q", strconv.Itoa(int(qos)), "-t", "cmd/valve", "-m", data)
	}
	retain("open")
	r.start(t)
	r.want(t, "open", "at first")
	r.cut(t)
	r.wantOld(t, 1, "after a lost connection")
	r.stop(t)
	r.start(t)
	r.wantOld(t, 1, "after a restart")
	r.stop(t)
	if err := mqtt.EndSession(t.Context(), at(b.URL()), "valve"); err != nil {
		t.Fatal(err)
	}
	r.start(t)
	r.wantOld(t, 1, "after the session was lost")
	r.stop(t)

	// The new value is an event, once, and so is the old one after it: where
	// the session kept the message, and where only the replay brings it.
	for i, value := range []string{"closed", "open"} {
		retain(value)
		if i == 1 {
			if err := mqtt.EndSession(t.Context(), at(b.URL()), "valve"); err != nil {
				t.Fatal(err)
			}
		}
		r.start(t)
		r.want(t, value, "which is new")
		r.cut(t)
		r.wantOld(t, 1, "after it had changed")
		r.stop(t)
	}

	// One that was published before the source's eyes is replayed in vain.
	r.start(t)
	r.wantOld(t, 1, "after a restart")
	for range 2 {
		retain("half")
		r.want(t, "half", "since what is published is never old")
	}
	r.cut(t)
	r.wantOld(t, 2, "that it had seen being published")
	r.stop(t)
	r.start(t)
	r.wantOld(t, 1, "that it had seen being published, after a restart")
	r.stop(t)
}

// A replay of a message whose event is in work goes with that.
func TestReplayOfWhatIsInWork(t *testing.T) { inBothVersions(t, testReplayOfWhatIsInWork) }

func testReplayOfWhatIsInWork(t *testing.T, at dialect) {
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
func TestRememberingCostsLittle(t *testing.T) { inBothVersions(t, testRememberingCostsLittle) }

func testRememberingCostsLittle(t *testing.T, at dialect) {
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

// A retained message stays old when another one, which is not retained, comes on
// its topic: over MQTT 5 it is known which is which.
func TestNotRetainedTellsNothingOfRetained(t *testing.T) {
	for _, b := range brokers {
		t.Run(b.name, func(t *testing.T) { notRetained(t, b.start(t)) })
	}
}

func notRetained(t *testing.T, b addressed) {
	r := &retainedTest{b: b, line: newCable(t, b.Addr()), got: make(sink, 10), had: map[string]bool{}}
	r.cfg = mqtt.SourceConfig{Broker: at(r.line.url()), Sink: r.got, Memory: &memory{}, Binding: triggers.Binding{Trigger: trigger("cmd/#", 1)}}
	r.start(t)
	_ = await(t, r.s, mqtt.StateConnected)
	pub(t, b, "-r", "-q", "1", "-t", "cmd/valve", "-m", "open")
	r.want(t, "open", "at first")
	pub(t, b, "-q", "1", "-t", "cmd/valve", "-m", "what is it?")
	r.want(t, "what is it?", "then")
	r.cut(t)
	r.wantOld(t, 1, "after a lost connection")
	r.stop(t)
	r.start(t)
	r.wantOld(t, 1, "after a restart")
	pub(t, b, "-q", "1", "-t", "cmd/valve", "-m", "and now?") // before this run has seen a retained one
	r.want(t, "and now?", "then")
	r.stop(t)
	r.start(t)
	r.wantOld(t, 1, "after another")
	r.stop(t)
}

// A session that was made over MQTT 3.1.1 goes on over 5, with what waits in it,
// and the other way round.
func TestSessionOutlivesTheVersion(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Config{})
	got, mem := make(sink, 10), &memory{}
	pub(t, b, "-r", "-q", "1", "-t", "a/valve", "-m", "open")
	for i, version := range []string{"3.1.1", "5", "3.1.1", "5"} {
		br := at(b.URL())
		br.Version = version
		s := start(t, mqtt.SourceConfig{Broker: br, Sink: got, Memory: mem, Binding: triggers.Binding{Trigger: trigger("a/#", 1)}})
		if i == 0 {
			if g := got.data(t); g != "open" {
				t.Fatalf("got %q, want open", g)
			}
		} else {
			if g := got.data(t); g != "while away" {
				t.Fatalf("version %s: got %q, want what was sent meanwhile", version, g)
			}
			eventually(t, "the replay", func() bool { return s.Stats().Replays > 0 })
		}
		_ = await(t, s, mqtt.StateConnected)
		pub(t, b, "-r", "-q", "1", "-t", "a/valve", "-m", "at "+version)
		if g := got.data(t); g != "at "+version {
			t.Fatalf("version %s: got %q", version, g)
		}
		s.stop()
		pub(t, b, "-q", "1", "-t", "a/other", "-m", "while away")
	}
}

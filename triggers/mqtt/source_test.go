package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/triggers"
	"github.com/edgefn/edgefn/triggers/mqtt"
	"github.com/edgefn/edgefn/triggers/mqtt/mosquittotest"
)

func TestEveryQoSBecomesAnEvent(t *testing.T) { inBothVersions(t, testEveryQoSBecomesAnEvent) }

func testEveryQoSBecomesAnEvent(t *testing.T, at dialect) {
	b := mosquittotest.Start(t, mosquittotest.Config{})
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	got := make(sink)
	s := start(t, mqtt.SourceConfig{
		Broker: at(b.URL()), Sink: got, Now: func() time.Time { return now },
		Binding: triggers.Binding{Trigger: functions.Trigger{
			Name: "readings", ID: "/msg_id", MQTT: &functions.MQTTTrigger{Topic: "greenhouse/+/temperature/#", QoS: 2},
		}},
	})
	_ = await(t, s, mqtt.StateConnected)
	for qos := range 3 {
		topic := fmt.Sprintf("greenhouse/%d/temperature/x", qos)
		// A client that is not ours.
		cmd := exec.CommandContext(t.Context(), "mosquitto_pub", "-h", "127.0.0.1", "-p", strconv.Itoa(b.Port()),
			"-q", strconv.Itoa(qos), "-t", topic, "-m", `{"msg_id":"m-1"}`)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("mosquitto_pub: %v\n%s", err, out)
		}
		d := got.next(t)
		d.Settle(nil)
		want := triggers.Delivery{
			Function: "fan", Trigger: "readings", OwnID: true,
			Event: functions.Event{
				ID: "m-1", Type: "edgefn.mqtt.message", Source: "mqtt://plant", Subject: topic, Time: now,
				Extensions: map[string]string{"mqttqos": strconv.Itoa(qos), "mqttretain": "false", "mqttdup": "false"},
				Data:       []byte(`{"msg_id":"m-1"}`),
			},
		}
		d.Settle = nil
		if diff := cmp.Diff(want, d); diff != "" {
			t.Errorf("QoS %d (-want +got):\n%s", qos, diff)
		}
	}
	p := publisher(t, b.URL())
	publish(t, p, "elsewhere/1/temperature", "not for us", 1)
	publish(t, p, "greenhouse/9/temperature", "no JSON", 1)
	if d := got.next(t); string(d.Event.Data) != "no JSON" || d.OwnID || d.Event.ID == "" {
		t.Errorf("got %+v, want the message without an id", d)
	}
	if n := s.Stats().NoID; n != 1 {
		t.Errorf("NoID = %d, want 1", n)
	}
}

// A message whose event is in work when the connection breaks is recognised
// when it comes again, and acknowledged on the new connection.
func TestAcknowledgesWhenSettled(t *testing.T) { inBothVersions(t, testAcknowledgesWhenSettled) }

func testAcknowledgesWhenSettled(t *testing.T, at dialect) {
	for qos := byte(1); qos <= 2; qos++ {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			b := mosquittotest.Start(t, mosquittotest.Config{})
			line := newCable(t, b.Addr())
			got := make(sink, 10)
			cfg := mqtt.SourceConfig{Broker: at(line.url()), Sink: got, Binding: triggers.Binding{Trigger: trigger("a/#", qos)}}
			s := start(t, cfg)
			_ = await(t, s, mqtt.StateConnected)
			p := publisher(t, b.URL())
			publish(t, p, "a/b", "one", qos)
			first := got.next(t)

			line.cut()
			eventually(t, "the message to come again", func() bool { return s.Stats().Repeats == 1 })
			first.Settle(nil)
			first.Settle(errors.New("a second time")) // counts for nothing
			line.wantAcked(t, 1)
			publish(t, p, "a/b", "two", qos)
			second := got.next(t)
			if string(second.Event.Data) != "two" {
				t.Fatalf("got %q again", second.Event.Data)
			}

			// Settled while there is no connection: acknowledged when it comes again.
			line.pull(true)
			_ = await(t, s, mqtt.StateOffline)
			second.Settle(nil)
			line.pull(false)
			eventually(t, "the message to come again", func() bool { return s.Stats().Repeats == 2 })
			_ = await(t, s, mqtt.StateConnected)
			line.wantAcked(t, 2)

			publish(t, p, "a/b", "three", qos)
			third := got.next(t)
			third.Settle(errors.New("node is stopping"))
			s.stop()

			// A new run has only what was not settled.
			s = start(t, cfg)
			d := got.next(t)
			if string(d.Event.Data) != "three" || d.Event.Extensions["mqttdup"] != "true" {
				t.Errorf("got %q, dup %s; want three, sent again", d.Event.Data, d.Event.Extensions["mqttdup"])
			}
			d.Settle(nil)
			publish(t, p, "a/b", "four", qos)
			if g := got.data(t); g != "four" {
				t.Errorf("got %q, want four", g)
			}
			s.stop()
		})
	}
}

func TestGivenBackIsDeliveredAgain(t *testing.T) { inBothVersions(t, testGivenBackIsDeliveredAgain) }

func testGivenBackIsDeliveredAgain(t *testing.T, at dialect) {
	b := mosquittotest.Start(t, mosquittotest.Config{})
	got := make(sink, 10)
	s := start(t, mqtt.SourceConfig{Broker: at(b.URL()), Sink: got, Binding: triggers.Binding{Trigger: trigger("a", 1)}})
	_ = await(t, s, mqtt.StateConnected)
	p := publisher(t, b.URL())
	publish(t, p, "a", "one", 1)
	got.next(t).Settle(triggers.ErrStopped)
	if g := got.data(t); g != "one" {
		t.Errorf("got %q, want one again", g)
	}
}

// Events that are settled after Run was told to end are still acknowledged.
func TestDrains(t *testing.T) { inBothVersions(t, testDrains) }

func testDrains(t *testing.T, at dialect) {
	b := mosquittotest.Start(t, mosquittotest.Config{})
	got := make(sink, 10)
	cfg := mqtt.SourceConfig{Broker: at(b.URL()), Sink: got, Drain: patience, Binding: triggers.Binding{Trigger: trigger("a", 2)}}
	s := start(t, cfg)
	_ = await(t, s, mqtt.StateConnected)
	p := publisher(t, b.URL())
	publish(t, p, "a", "one", 1)
	publish(t, p, "a", "two", 2)
	one, two := got.next(t), got.next(t)
	ended := make(chan struct{})
	go func() { s.stop(); close(ended) }()
	publish(t, p, "a", "three", 1)
	two.Settle(nil)
	select {
	case <-ended:
		t.Fatal("Run ended with an event in work")
	case <-time.After(50 * time.Millisecond):
	}
	one.Settle(nil)
	for running := true; running; {
		select {
		case <-ended:
			running = false
		case d := <-got: // taken before the stop came
			d.Settle(triggers.ErrStopped)
		}
	}
	if st, err := s.Status(); st != mqtt.StateStopped || err != nil {
		t.Errorf("status %q, %v; want stopped", st, err)
	}
	start(t, cfg)
	if g := got.data(t); g != "three" {
		t.Errorf("got %q, want three", g)
	}
}

func TestBrokerRestartsWithPersistence(t *testing.T) {
	inBothVersions(t, testBrokerRestartsWithPersistence)
}

func testBrokerRestartsWithPersistence(t *testing.T, at dialect) {
	b := mosquittotest.Start(t, mosquittotest.Config{})
	got := make(sink, 10)
	s := start(t, mqtt.SourceConfig{Broker: at(b.URL()), Sink: got, Binding: triggers.Binding{Trigger: trigger("a", 1)}})
	_ = await(t, s, mqtt.StateConnected)
	p := publisher(t, b.URL())
	publish(t, p, "a", "one", 1)
	d := got.next(t)
	b.Restart(t)
	eventually(t, "the message to come again", func() bool { return s.Stats().Repeats == 1 })
	d.Settle(nil)
	if err := publishUntil(t.Context(), p, "a", "two"); err != nil {
		t.Fatal(err)
	}
	if g := got.data(t); g != "two" {
		t.Errorf("got %q, want two", g)
	}
}

func TestBrokerForgotEverything(t *testing.T) { inBothVersions(t, testBrokerForgotEverything) }

func testBrokerForgotEverything(t *testing.T, at dialect) {
	b := mosquittotest.Start(t, mosquittotest.Config{NoPersistence: true})
	got := make(sink, 10)
	s := start(t, mqtt.SourceConfig{Broker: at(b.URL()), Sink: got, Binding: triggers.Binding{Trigger: trigger("a", 1)}})
	_ = await(t, s, mqtt.StateConnected)
	p := publisher(t, b.URL())
	publish(t, p, "a", "one", 1)
	old := got.next(t)
	b.Kill(t)
	b.Up(t)
	eventually(t, "a new connection", func() bool { return s.Stats().Connects >= 2 })
	_ = await(t, s, mqtt.StateConnected)
	if err := publishUntil(t.Context(), p, "a", "two"); err != nil {
		t.Fatal(err)
	}
	two := got.next(t)
	// The old message's packet id names another message by now: its settling
	// must not acknowledge that one.
	old.Settle(nil)
	s.stop()
	s = start(t, mqtt.SourceConfig{Broker: at(b.URL()), Sink: got, Binding: triggers.Binding{Trigger: trigger("a", 1)}})
	two.Settle(nil)
	if g := got.data(t); g != "two" {
		t.Errorf("got %q, want two again: it was not settled in time", g)
	}
	s.stop()
}

// Every one of 1000 messages is handled although the broker restarts three
// times, and those of a subject in order.
func TestThousandMessagesOverRestarts(t *testing.T) {
	inBothVersions(t, testThousandMessagesOverRestarts)
}

func testThousandMessagesOverRestarts(t *testing.T, at dialect) {
	b := mosquittotest.Start(t, mosquittotest.Config{Lines: []string{"max_queued_messages 0"}})
	got := make(sink, 20)
	s := start(t, mqtt.SourceConfig{Broker: at(b.URL()), Sink: got, Binding: triggers.Binding{Trigger: trigger("n/+", 1)}})
	_ = await(t, s, mqtt.StateConnected)
	p := publisher(t, b.URL())

	const messages, subjects = 1000, 4
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	sent := make(chan error, 1)
	handled := make(chan int, messages)
	restarted := make(chan struct{})
	go func() {
		for i := range messages {
			if err := publishUntil(ctx, p, fmt.Sprint("n/", i%subjects), strconv.Itoa(i)); err != nil {
				sent <- fmt.Errorf("publish %d: %w", i, err)
				return
			}
		}
		sent <- nil
	}()
	go func() {
		defer close(restarted)
		for n := range handled {
			if n == 200 || n == 450 || n == 700 {
				b.Restart(t)
			}
		}
	}()

	seen := make(map[int]bool)
	last := make(map[string]int)
	total := 0
	for len(seen) < messages {
		d := got.next(t)
		total++
		i, err := strconv.Atoi(string(d.Event.Data))
		if err != nil {
			t.Fatal(err)
		}
		if !seen[i] {
			seen[i] = true
			if before, ok := last[d.Event.Subject]; ok && before > i {
				t.Errorf("%s: %d came after %d", d.Event.Subject, i, before)
			}
			last[d.Event.Subject] = i
			handled <- len(seen)
		}
		if total%3 == 0 { // settled in whatever order
			go d.Settle(nil)
		} else {
			d.Settle(nil)
		}
	}
	close(handled)
	<-restarted
	if err := <-sent; err != nil {
		t.Error(err)
	}
	t.Logf("%d messages, %d deliveries, %+v", messages, total, s.Stats())
	eventually(t, "the connection after the last restart", func() bool { return s.Stats().Connects >= 4 })
}

// A function that is busy longer than the keep-alive loses neither messages nor
// the connection.
func TestBackPressure(t *testing.T) { inBothVersions(t, testBackPressure) }

func testBackPressure(t *testing.T, at dialect) {
	b := mosquittotest.Start(t, mosquittotest.Config{Lines: []string{"max_queued_messages 0"}})
	got := make(sink)
	s := start(t, mqtt.SourceConfig{
		Broker: at(b.URL()), Sink: got, KeepAlive: time.Second, MaxQoS0: 10,
		Binding: triggers.Binding{Trigger: trigger("a/#", 1)},
	})
	_ = await(t, s, mqtt.StateConnected)
	p := publisher(t, b.URL())
	for i := range 100 {
		publish(t, p, "a/1", strconv.Itoa(i), 1)
	}
	for i := range 50 {
		publish(t, p, "a/0", strconv.Itoa(i), 0)
	}
	eventually(t, "QoS 0 to be dropped", func() bool { return s.Stats().Dropped >= 1 })
	// Mosquitto closes a connection after one and a half keep-alives of silence
	// [MQTT-3.1.2-24].
	time.Sleep(3 * time.Second)
	zeros := uint64(0)
	for next := 0; next < 100; {
		d := got.next(t)
		d.Settle(nil)
		if d.Event.Subject == "a/0" {
			zeros++
			continue
		}
		if g := string(d.Event.Data); g != strconv.Itoa(next) {
			t.Fatalf("got %s, want %d", g, next)
		}
		next++
	}
	if st := s.Stats(); st.Connects != 1 || zeros+st.Dropped > 50 || st.Dropped < 30 {
		t.Errorf("%+v and %d of QoS 0 delivered; want one connection and at most 10 of QoS 0 waiting", st, zeros)
	}
}

// A broker whose window has no end does not fill the node's memory.
func TestBoundOfHeldMessages(t *testing.T) { inBothVersions(t, testBoundOfHeldMessages) }

func testBoundOfHeldMessages(t *testing.T, at dialect) {
	b := mosquittotest.Start(t, mosquittotest.Config{Lines: []string{"max_queued_messages 0", "max_inflight_messages 0"}})
	got := make(sink)
	s := start(t, mqtt.SourceConfig{
		Broker: at(b.URL()), Sink: got, MaxHeld: 10, MaxHeldBytes: 2000,
		Binding: triggers.Binding{Trigger: trigger("a", 1)},
	})
	_ = await(t, s, mqtt.StateConnected)
	p := publisher(t, b.URL())
	const n = 60
	for i := range n {
		publish(t, p, "a", fmt.Sprintf("%d %s", i, strings.Repeat("x", i*10)), 1)
	}
	publish(t, p, "a", fmt.Sprintf("%d %s", n, strings.Repeat("x", 10000)), 1) // alone larger than the bound
	next := 0
	for next <= n {
		d := got.next(t)
		d.Settle(nil)
		text, _, _ := strings.Cut(string(d.Event.Data), " ")
		switch i, err := strconv.Atoi(text); {
		case err != nil || i > next:
			t.Fatalf("got %q, want %d", text, next)
		case i == next:
			next++
		}
	}
	if c := s.Stats().Connects; c < 2 {
		t.Errorf("%d connections; the bound was not reached", c)
	}
}

// Two clients of one id take the session from each other ever more slowly, and
// it is said why.
func TestKickedBacksOff(t *testing.T) { inBothVersions(t, testKickedBacksOff) }

func testKickedBacksOff(t *testing.T, at dialect) {
	b := mosquittotest.Start(t, mosquittotest.Config{})
	slow := mqtt.Backoff{First: 20 * time.Millisecond, Max: time.Minute, Stable: time.Hour}
	cfg := mqtt.SourceConfig{
		Broker: at(b.URL()), Sink: make(sink), ClientID: "twice", Backoff: slow,
		Binding: triggers.Binding{Trigger: trigger("a", 1)},
	}
	one, two := start(t, cfg), start(t, cfg)
	var err error
	eventually(t, "the reason to be told", func() bool {
		for _, s := range []running{one, two} {
			var st string
			if st, err = s.Status(); st == mqtt.StateContested {
				return true
			}
		}
		return false
	})
	wantText(t, err, "another client seems to use", `"plant"`, `"twice"`, "--name")
	time.Sleep(time.Second) // at 20 ms there would be 50 connections by now; doubling leaves no more than 8
	if n := max(one.Stats().Connects, two.Stats().Connects); n > 10 {
		t.Errorf("%d connections; that is no back-off", n)
	}
}

func TestEndSession(t *testing.T) { inBothVersions(t, testEndSession) }

func testEndSession(t *testing.T, at dialect) {
	b := mosquittotest.Start(t, mosquittotest.Config{})
	got := make(sink, 10)
	cfg := mqtt.SourceConfig{Broker: at(b.URL()), Sink: got, ClientID: "gone", Binding: triggers.Binding{Trigger: trigger("a", 1)}}
	s := start(t, cfg)
	_ = await(t, s, mqtt.StateConnected)
	s.stop()
	p := publisher(t, b.URL())
	publish(t, p, "a", "kept by the session", 1)
	s = start(t, cfg)
	if g := got.data(t); g != "kept by the session" {
		t.Fatalf("got %q; the session was not kept", g)
	}
	s.stop()

	if err := mqtt.EndSession(t.Context(), at(b.URL()), "gone"); err != nil {
		t.Fatal(err)
	}
	publish(t, p, "a", "for nobody", 1)
	s = start(t, cfg)
	_ = await(t, s, mqtt.StateConnected)
	publish(t, p, "a", "new", 1)
	if g := got.data(t); g != "new" {
		t.Errorf("got %q; the session was not ended", g)
	}
	b.Down(t)
	wantText(t, mqtt.EndSession(t.Context(), at(b.URL()), "gone"), `end session "gone"`, "refused")
}

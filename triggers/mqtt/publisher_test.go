package mqtt_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
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

func TestPublish(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Config{})
	got := make(sink, 10)
	s := start(t, mqtt.SourceConfig{Broker: at(b.URL()), Sink: got, Binding: triggers.Binding{Trigger: trigger("out/#", 2)}})
	_ = await(t, s, mqtt.StateConnected)
	p := publisher(t, b.URL())
	for qos := range byte(3) {
		publish(t, p, fmt.Sprint("out/", qos), "data", qos)
		d := got.next(t)
		d.Settle(nil)
		if d.Event.Extensions["mqttqos"] != fmt.Sprint(qos) || string(d.Event.Data) != "data" {
			t.Errorf("QoS %d: got %+v", qos, d.Event)
		}
	}
	if err := p.Publish(t.Context(), functions.Publish{Topic: "out/kept", Data: []byte("kept"), QoS: 1, Retain: true}); err != nil {
		t.Fatal(err)
	}
	if d := got.next(t); d.Event.Extensions["mqttretain"] != "false" {
		t.Error("a message to an existing subscription has the retain flag")
	} else {
		d.Settle(nil)
	}
	s.stop()
	late := start(t, mqtt.SourceConfig{Broker: at(b.URL()), Sink: got, ClientID: "late", Binding: triggers.Binding{Trigger: trigger("out/#", 1)}})
	if d := got.next(t); string(d.Event.Data) != "kept" || d.Event.Extensions["mqttretain"] != "true" {
		t.Errorf("got %+v, want the retained message", d.Event)
	}
	late.stop()

	wantText(t, p.Publish(t.Context(), functions.Publish{Topic: "a/#", QoS: 1}), "wildcard")
	wantText(t, p.Publish(t.Context(), functions.Publish{Topic: "a", QoS: 3}), "QoS is 3")

	// Many at a time, more than may be in flight.
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			if err := p.Publish(t.Context(), functions.Publish{Topic: "many", Data: fmt.Append(nil, i), QoS: 1}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestPublishOffline(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Config{})
	p := publisher(t, b.URL())
	b.Down(t)
	_ = await(t, p, mqtt.StateOffline)
	before := time.Now()
	err := p.Publish(context.Background(), functions.Publish{Topic: "a", QoS: 1})
	if !errors.Is(err, mqtt.ErrOffline) || time.Since(before) > time.Second {
		t.Errorf("got %v after %s, want ErrOffline at once", err, time.Since(before))
	}
	wantText(t, err, `publish to "a" at broker "plant"`)
	b.Up(t)
	_ = await(t, p, mqtt.StateConnected)
	publish(t, p, "a", "back", 1)
}

// A broker that takes messages and never acknowledges holds nobody for ever.
func TestPublishToASilentBroker(t *testing.T) {
	drop := make(chan struct{}, 1)
	var connects atomic.Int32
	url := rogue(t, func(in *bufio.Reader, out io.Writer) {
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			for {
				kind, _, err := packet(in)
				if err != nil {
					return
				}
				if kind == 1 {
					connects.Add(1)
					_, _ = out.Write([]byte{0x20, 2, 0, 0})
				}
			}
		}()
		select {
		case <-drop:
			_ = out.(io.Closer).Close() //nolint:forcetypeassert // it is a connection
		case <-closed:
		}
		<-closed
	})
	br := at(url)
	br.Version = "3.1.1"
	p, err := mqtt.NewPublisher(mqtt.PublisherConfig{Broker: br, ClientID: "p", Backoff: quick, MaxInFlight: 2})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Publish(t.Context(), functions.Publish{Topic: "a", QoS: 1}); !errors.Is(err, mqtt.ErrOffline) {
		t.Errorf("before Run: %v, want ErrOffline", err)
	}
	stop := run(t, p.Run)
	_ = await(t, p, mqtt.StateConnected)
	short := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		return p.Publish(ctx, functions.Publish{Topic: "a", Data: []byte("x"), QoS: 1})
	}
	for range 3 { // two in flight, the third waits for its turn
		if err := short(); !errors.Is(err, mqtt.ErrNoAnswer) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want ErrNoAnswer", err)
		}
	}
	drop <- struct{}{}
	eventually(t, "a new connection", func() bool { return connects.Load() == 2 })
	_ = await(t, p, mqtt.StateConnected)
	lost := make(chan error, 1)
	go func() {
		lost <- p.Publish(context.Background(), functions.Publish{Topic: "a", Data: []byte("x"), QoS: 1})
	}()
	time.Sleep(50 * time.Millisecond) // it may be under way or not; either way it must end
	stop()
	select {
	case err := <-lost:
		if !errors.Is(err, mqtt.ErrOffline) {
			t.Errorf("got %v, want ErrOffline", err)
		}
	case <-time.After(patience):
		t.Error("Publish waits for ever after the end of Run")
	}
	if err := short(); !errors.Is(err, mqtt.ErrOffline) {
		t.Errorf("after Run: %v, want ErrOffline", err)
	}
}

// Two publishers with one client id say so, connected or not.
func TestPublishersWithOneID(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Config{})
	cfg := mqtt.PublisherConfig{Broker: at(b.URL()), ClientID: "twice", Backoff: mqtt.Backoff{First: 20 * time.Millisecond, Max: time.Minute, Stable: time.Hour}}
	var ps []*mqtt.Publisher
	for range 2 {
		p, err := mqtt.NewPublisher(cfg)
		if err != nil {
			t.Fatal(err)
		}
		run(t, p.Run)
		_ = await(t, p, mqtt.StateConnected)
		ps = append(ps, p)
	}
	for _, state := range []string{mqtt.StateOffline, mqtt.StateConnected} {
		eventually(t, "the other client to be told of while "+state, func() bool {
			st, err := ps[0].Status()
			return st == state && err != nil && strings.Contains(err.Error(), `the client id "twice" at broker "plant"`)
		})
	}
}

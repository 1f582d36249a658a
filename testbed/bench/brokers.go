package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// brokerRows measures the embedded broker against Mosquitto on the same disk, in
// turns and with the same client: messages that no function wants.
func brokerRows(rounds int) (rows []row, err error) {
	b, err := newBench()
	if err != nil {
		return nil, err
	}
	defer b.end()
	if err := b.start(); err != nil {
		return nil, err
	}
	m, err := startMosquitto(b.dir)
	if err != nil {
		return nil, err
	}
	defer m.end()
	for qos := range byte(3) {
		r, err := echoRow(b.addr, m.addr, qos, rounds)
		if err != nil {
			return rows, err
		}
		rows = append(rows, r)
	}
	for qos := range byte(3) {
		r, err := relayRow(b.addr, m.addr, qos)
		if err != nil {
			return rows, err
		}
		rows = append(rows, r)
	}
	fan, err := fanOutRow(b.addr, m.addr, rounds/4)
	if err != nil {
		return rows, err
	}
	rows = append(rows, fan)
	memory, err := clientMemory(b, m)
	if err != nil {
		return rows, err
	}
	return append(rows, memory), nil
}

// mosquitto is a Mosquitto that keeps sessions on disk.
type mosquitto struct {
	cmd  *exec.Cmd
	addr string
}

func startMosquitto(dir string) (*mosquitto, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := ln.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	if err := ln.Close(); err != nil {
		return nil, err
	}
	data, config := filepath.Join(dir, "mosquitto"), filepath.Join(dir, "mosquitto.conf")
	text := fmt.Sprintf("listener %s 127.0.0.1\nallow_anonymous true\nuser root\npersistence true\npersistence_location %s/\nmax_queued_messages 10000\nmax_inflight_messages 256\nlog_dest none\n", port, data)
	if err := errors.Join(os.Mkdir(data, 0o700), os.WriteFile(config, []byte(text), 0o600)); err != nil {
		return nil, err
	}
	m := &mosquitto{cmd: exec.CommandContext(context.Background(), "/usr/sbin/mosquitto", "-c", config), addr: addr}
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	for range 500 {
		if c, err := net.Dial("tcp", addr); err == nil {
			return m, c.Close()
		}
		time.Sleep(10 * time.Millisecond)
	}
	m.end()
	return nil, errors.New("mosquitto is not ready")
}

func (m *mosquitto) end() {
	_ = m.cmd.Process.Signal(syscall.SIGTERM)
	_ = m.cmd.Wait()
}

// mqttClient connects with a session of its own.
func mqttClient(addr, id string, clean bool) (mqtt.Client, error) {
	o := mqtt.NewClientOptions().AddBroker("tcp://" + addr).SetClientID(id).SetCleanSession(clean).SetOrderMatters(false).SetAutoReconnect(false)
	c := mqtt.NewClient(o)
	if t := c.Connect(); !t.WaitTimeout(10*time.Second) || t.Error() != nil {
		return nil, fmt.Errorf("connect to %s: %w", addr, t.Error())
	}
	return c, nil
}

func subscribed(c mqtt.Client, filter string, qos byte, got mqtt.MessageHandler) error {
	if t := c.Subscribe(filter, qos, got); !t.WaitTimeout(10*time.Second) || t.Error() != nil {
		return fmt.Errorf("subscribe to %s: %w", filter, t.Error())
	}
	return nil
}

// echo is a publisher and a subscriber at one broker.
type echo struct {
	addr     string
	pub, sub mqtt.Client
	got      chan time.Time
}

func newEcho(addr, topic string, qos byte) (*echo, error) {
	e := &echo{addr: addr, got: make(chan time.Time, 1<<16)}
	var err error
	if e.pub, err = mqttClient(addr, "bench-pub", true); err != nil {
		return nil, err
	}
	if e.sub, err = mqttClient(addr, "bench-sub", false); err != nil {
		return nil, err
	}
	return e, subscribed(e.sub, topic, qos, func(mqtt.Client, mqtt.Message) { e.got <- time.Now() })
}

func (e *echo) end() {
	e.pub.Disconnect(50)
	e.sub.Unsubscribe("#").WaitTimeout(time.Second)
	e.sub.Disconnect(50)
}

// wait waits for n messages and returns when the last came.
func (e *echo) wait(n int) (last time.Time, err error) {
	for i := range n {
		select {
		case last = <-e.got:
		case <-time.After(20 * time.Second):
			return last, fmt.Errorf("message %d of %d does not come back from %s", i+1, n, e.addr)
		}
	}
	return last, nil
}

// both makes the same at both brokers.
func both(ours, theirs, topic string, qos byte) (o, t *echo, err error) {
	if o, err = newEcho(ours, topic, qos); err != nil {
		return nil, nil, err
	}
	t, err = newEcho(theirs, topic, qos)
	return o, t, err
}

// echoRow measures publish to receipt, one message at a time.
func echoRow(ours, theirs string, qos byte, rounds int) (row, error) {
	topic := "bench/echo/" + strconv.Itoa(int(qos))
	o, t, err := both(ours, theirs, topic, qos)
	if err != nil {
		return row{}, err
	}
	defer o.end()
	defer t.end()
	once := func(e *echo) (float64, error) {
		begin := time.Now()
		tok := e.pub.Publish(topic, qos, false, "21.5")
		at, err := e.wait(1)
		tok.WaitTimeout(10 * time.Second)
		return ms(at.Sub(begin)), err
	}
	var a, b []float64
	for i := range rounds + 5 {
		x, err := once(o)
		if err != nil {
			return row{}, err
		}
		y, err := once(t)
		if err != nil {
			return row{}, err
		}
		if i >= 5 {
			a, b = append(a, x), append(b, y)
		}
	}
	return pair(fmt.Sprintf("MQTT publish to receipt, QoS %d, persistent session, p50", qos), "ms", "Mosquitto", quantile(a, .5), quantile(b, .5)), nil
}

// relayRow measures messages a second from one publisher to one subscriber, with
// a hundred on the way.
func relayRow(ours, theirs string, qos byte) (row, error) {
	const turns, each, window = 4, 2000, 100
	topic := "bench/relay/" + strconv.Itoa(int(qos))
	o, t, err := both(ours, theirs, topic, qos)
	if err != nil {
		return row{}, err
	}
	defer o.end()
	defer t.end()
	run := func(e *echo) (time.Duration, error) {
		begin := time.Now()
		for range each / window {
			for range window {
				e.pub.Publish(topic, qos, false, "21.5")
			}
			if _, err := e.wait(window); err != nil {
				return 0, err
			}
		}
		return time.Since(begin), nil
	}
	var a, b time.Duration
	for range turns {
		x, err := run(o)
		if err != nil {
			return row{}, err
		}
		y, err := run(t)
		if err != nil {
			return row{}, err
		}
		a, b = a+x, b+y
	}
	const n = turns * each
	return pair(fmt.Sprintf("MQTT messages to a persistent session, QoS %d, 100 at a time", qos), "1/s", "Mosquitto", n/a.Seconds(), n/b.Seconds()), nil
}

// fanOutRow measures one message of QoS 1 to a hundred subscribers, to the last.
func fanOutRow(ours, theirs string, rounds int) (row, error) {
	const n = 100
	measure := func(addr string) (func() (float64, error), func(), error) {
		e := &echo{addr: addr, got: make(chan time.Time, 1<<16)}
		var all []mqtt.Client
		end := func() {
			for _, c := range all {
				c.Disconnect(0)
			}
		}
		for i := range n + 1 {
			c, err := mqttClient(addr, fmt.Sprintf("bench-fan-%d", i), true)
			if err != nil {
				return nil, end, err
			}
			all = append(all, c)
			if i < n {
				if err := subscribed(c, "bench/fan", 1, func(mqtt.Client, mqtt.Message) { e.got <- time.Now() }); err != nil {
					return nil, end, err
				}
			}
		}
		return func() (float64, error) {
			begin := time.Now()
			all[n].Publish("bench/fan", 1, false, "21.5")
			at, err := e.wait(n)
			return ms(at.Sub(begin)), err
		}, end, nil
	}
	o, endO, err := measure(ours)
	defer endO()
	if err != nil {
		return row{}, err
	}
	t, endT, err := measure(theirs)
	defer endT()
	if err != nil {
		return row{}, err
	}
	var a, b []float64
	for range rounds + 1 {
		x, err := o()
		if err != nil {
			return row{}, err
		}
		y, err := t()
		if err != nil {
			return row{}, err
		}
		a, b = append(a, x), append(b, y)
	}
	return pair("MQTT publish to the last of 100 subscribers, QoS 1, p50", "ms", "Mosquitto", quantile(a[1:], .5), quantile(b[1:], .5)), nil
}

// clientMemory measures what a connected client with a session and a subscription
// costs its broker.
func clientMemory(b *bench, m *mosquitto) (row, error) {
	const n = 1000
	cost := func(pid int, addr string) (float64, error) {
		before, err := pss(pid)
		if err != nil {
			return 0, err
		}
		clients := make([]mqtt.Client, n)
		defer func() {
			for _, c := range clients {
				if c != nil {
					c.Disconnect(0)
				}
			}
		}()
		var wg sync.WaitGroup
		var failed atomic.Pointer[error]
		for part := range 10 {
			wg.Go(func() {
				for i := part; i < n; i += 10 {
					c, err := mqttClient(addr, fmt.Sprintf("bench-many-%d", i), false)
					if err == nil {
						clients[i] = c
						err = subscribed(c, fmt.Sprintf("bench/many/%d/+", i), 1, func(mqtt.Client, mqtt.Message) {})
					}
					if err != nil {
						failed.Store(&err)
						return
					}
				}
			})
		}
		wg.Wait()
		if p := failed.Load(); p != nil {
			return 0, *p
		}
		time.Sleep(2 * time.Second)
		after, err := pss(pid)
		return (after - before) * 1000 / n, err
	}
	ours, err := cost(b.node.Process.Pid, b.addr)
	if err != nil {
		return row{}, err
	}
	theirs, err := cost(m.cmd.Process.Pid, m.addr)
	return pair("PSS of the broker per connected client with a session, of 1,000", "kB", "Mosquitto", ours, theirs), err
}

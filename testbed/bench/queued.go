package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// queuedEvents is how many events of one function are queued: as many as the
// node keeps of one.
const queuedEvents = 10_000

// queuedRows measures a node that has many events in its retry queue: what they
// take of its memory, and how long its start takes after it was killed.
func queuedRows() (rows []row, err error) {
	b, err := newBench()
	if err != nil {
		return nil, err
	}
	defer b.end()
	if err := b.start(); err != nil {
		return nil, err
	}
	for _, name := range []string{"gohold", "gohold2"} {
		if err := b.deployHold(name); err != nil {
			return nil, err
		}
	}
	memory, err := b.queuedMemory()
	if err != nil {
		return nil, err
	}
	rows = append(rows, memory)
	// Killed, it does not wait for the two handlers that do not return.
	b.kill()
	if err := b.start(); err != nil {
		return rows, err
	}
	for _, name := range []string{"gohold", "gohold2"} { // with their events
		if _, err := b.edgefn("remove", name); err != nil {
			return rows, err
		}
	}
	if err := b.deployHold("gohold"); err != nil {
		return rows, err
	}
	recovery, err := b.recovery()
	return append(rows, recovery...), err
}

// deployHold deploys the function gohold under a name.
func (b *bench) deployHold(name string) error {
	dir := filepath.Join(b.dir, name)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.CopyFS(dir, os.DirFS("testbed/bench/testdata/gohold")); err != nil {
		return err
	}
	manifest := filepath.Join(dir, "edgefn.yaml")
	text, err := os.ReadFile(manifest)
	if err != nil {
		return err
	}
	if err := os.WriteFile(manifest, []byte(strings.ReplaceAll(string(text), "gohold", name)), 0o644); err != nil {
		return err
	}
	_, err = b.edgefn("deploy", dir)
	return err
}

// queuedMemory compares the node with its queues full to the same node before.
func (b *bench) queuedMemory() (row, error) {
	time.Sleep(5 * time.Second)
	idle, err := pss(b.node.Process.Pid)
	if err != nil {
		return row{}, err
	}
	idleOwn, err := rollup(b.node.Process.Pid, "Pss_Anon:")
	if err != nil {
		return row{}, err
	}
	for _, name := range []string{"gohold", "gohold2"} {
		if err := b.queue(name, "hold"); err != nil {
			return row{}, err
		}
	}
	time.Sleep(5 * time.Second)
	queued, err := pss(b.node.Process.Pid)
	if err != nil {
		return row{}, err
	}
	queuedOwn, err := rollup(b.node.Process.Pid, "Pss_Anon:")
	r := pair("PSS of the node, 20,000 events queued", "MB", "the same node before, idle", queued, idle)
	each := func(mb float64) float64 { return mb * 1000 / (2 * queuedEvents) }
	r.Detail = fmt.Sprintf("%.2f kB more for each event of 200 bytes, %.2f of them anonymous memory, the others pages of files", each(queued-idle), each(queuedOwn-idleOwn))
	return r, err
}

// queue has events of a function wait behind the first one, and returns once
// their sender was told that they are stored.
func (b *bench) queue(name, first string) error {
	if err := b.connect(); err != nil {
		return err
	}
	defer b.disconnect()
	tokens := make([]mqtt.Token, queuedEvents)
	for i := range tokens {
		data := first
		if i > 0 {
			data = strconv.Itoa(i)
		}
		tokens[i] = b.client.Publish("bench/"+name+"/in", 1, false, fmt.Sprintf("%-200s", data))
	}
	for i, t := range tokens {
		if !t.WaitTimeout(60*time.Second) || t.Error() != nil {
			return fmt.Errorf("queue events: event %d is not acknowledged: %w", i, t.Error())
		}
	}
	return nil
}

// recovery measures starts of a node that was killed, with nothing queued and
// with a full queue.
func (b *bench) recovery() (rows []row, err error) {
	var ready, handled []float64
	for range 3 {
		r, h, err := b.restart(func() error { b.client.Publish("bench/gohold/in", 1, false, "now"); return nil })
		if err != nil {
			return nil, err
		}
		ready, handled = append(ready, r), append(handled, h)
	}
	if err := b.queue("gohold", "hold"); err != nil {
		return nil, err
	}
	r, h, err := b.restart(func() error { return nil })
	if err != nil {
		return nil, err
	}
	return []row{
		pair("start after kill -9 with 10,000 events queued, to ready", "s", "the same with an empty queue", r, quantile(ready, .5)),
		pair("start after kill -9 with 10,000 events queued, to the first one handled", "s", "the same with an empty queue, to an event published once it is ready", h, quantile(handled, .5)),
	}, nil
}

// restart kills the node and starts it. It returns how many seconds later it was
// ready, and how many until gohold has handled an event, once begin was called.
func (b *bench) restart(begin func() error) (ready, handled float64, err error) {
	b.kill()
	started := time.Now()
	if err := b.start(); err != nil {
		return 0, 0, err
	}
	ready = time.Since(started).Seconds()
	if err := b.connect(); err != nil {
		return 0, 0, err
	}
	times := make(chan time.Time, 16)
	t := b.client.Subscribe("bench/gohold/handled", 1, func(_ mqtt.Client, m mqtt.Message) {
		if ns, err := strconv.ParseInt(string(m.Payload()), 10, 64); err == nil {
			times <- time.Unix(0, ns)
		}
	})
	if !t.WaitTimeout(10*time.Second) || t.Error() != nil {
		return 0, 0, fmt.Errorf("subscribe: %w", t.Error())
	}
	if err := begin(); err != nil {
		return 0, 0, err
	}
	late := time.After(time.Minute)
	for {
		select {
		case at := <-times:
			if at.After(started) { // or it is retained from before
				return ready, at.Sub(started).Seconds(), nil
			}
		case <-late:
			text, _ := os.ReadFile(b.dir + "/node.log")
			return 0, 0, fmt.Errorf("no event is handled within a minute of the node's start:\n%s", text)
		}
	}
}

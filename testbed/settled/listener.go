package main

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// listener is a subscriber with a persistent session that keeps what it got.
type listener struct {
	addr, id, topic string

	mu         sync.Mutex
	seen       map[int][]int
	subscribed int // how often
}

func newListener(addr, id, topic string) *listener {
	return &listener{addr: addr, id: id, topic: topic, seen: map[int][]int{}}
}

// run listens until ctx is done.
func (l *listener) run(ctx context.Context) {
	store := mqtt.NewOrderedMemoryStore()
	for ctx.Err() == nil {
		lost := make(chan struct{})
		var once sync.Once
		// What comes before the subscription is confirmed belongs to the session.
		o := clientOptions(l.addr, l.id, store).SetDefaultPublishHandler(l.got).
			SetConnectionLostHandler(func(mqtt.Client, error) { once.Do(func() { close(lost) }) })
		c := mqtt.NewClient(o)
		if t := c.Connect(); t.WaitTimeout(6*time.Second) && t.Error() == nil {
			if t := c.Subscribe(l.topic, 1, l.got); t.WaitTimeout(5*time.Second) && t.Error() == nil {
				l.mu.Lock()
				l.subscribed++
				l.mu.Unlock()
				select {
				case <-ctx.Done():
				case <-lost:
				}
			}
		}
		c.Disconnect(0)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (l *listener) got(_ mqtt.Client, m mqtt.Message) {
	var p payload
	if err := json.Unmarshal(m.Payload(), &p); err != nil {
		return // nothing that a publisher made
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen[p.Subject] = append(l.seen[p.Subject], p.Seq)
}

// subscriptions is how often it has subscribed.
func (l *listener) subscriptions() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.subscribed
}

// sightings copies what it got.
func (l *listener) sightings(context.Context) (sightings, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := sightings{seen: make(map[int][]int, len(l.seen))}
	for k, v := range l.seen {
		s.seen[k] = append([]int(nil), v...)
	}
	return s, nil
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// window is how many messages a publisher has in flight at most.
const window = 16

// stream is what one publisher sends, and where it must be found.
type stream struct {
	name     string
	addr     string // of the broker
	topic    string // "%d" is the subject
	qos      byte
	subjects int
	rate     float64 // messages a second
	form     func(p *payload, rnd *rand.Rand)
	views    []view
	outside  bool // by the outside broker
}

// view is one place where the events of a stream must be found.
type view struct {
	name    string
	promise promise
	ordered bool
	skip    func(*event) bool // events that are not expected there; nil: all are
	read    func(context.Context) (sightings, error)
}

// payload is a message's data.
type payload struct {
	ID      string  `json:"id"`
	Subject int     `json:"subject"`
	Seq     int     `json:"seq"`
	Bad     bool    `json:"bad,omitempty"`   // fails for ever
	Until   float64 `json:"until,omitempty"` // fails until then, Unix seconds
	Big     int     `json:"big,omitempty"`   // size of the output
}

// publisher is a client that sends a stream: it never gives up a message, sends
// again in order what was not acknowledged when a connection broke, and sends
// nothing new before all of that is acknowledged.
type publisher struct {
	s      *stream
	ledger *ledger
	rnd    *rand.Rand

	mu     sync.Mutex
	events []*event
	byID   map[string]*event
	nAcked int   // of events
	next   []int // by subject
	held   bool
	big    int  // size of the next message's output, 0: as it comes
	ending bool // nothing new is sent
}

func newPublisher(s *stream, seed uint64) *publisher {
	p := &publisher{s: s, byID: map[string]*event{}, next: make([]int, s.subjects)}
	p.rnd = rand.New(rand.NewPCG(seed, uint64(len(s.name))<<32+uint64(s.name[0])))
	p.ledger = newLedger(p.acknowledged)
	return p
}

// acknowledged is called by paho's goroutines.
func (p *publisher) acknowledged(data []byte) {
	var m payload
	if err := json.Unmarshal(data, &m); err != nil {
		return // only what this publisher made is in its ledger
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.byID[m.ID]; e != nil && e.acked.IsZero() {
		e.acked = time.Now()
		p.nAcked++
	}
}

// run sends until ctx is done. Connections that break are made again.
func (p *publisher) run(ctx context.Context) {
	for ctx.Err() == nil {
		lost := make(chan struct{})
		var once sync.Once
		o := clientOptions(p.s.addr, "settled-"+p.s.name, p.ledger).SetCustomOpenConnectionFn(p.ledger.dial).
			SetConnectionLostHandler(func(mqtt.Client, error) { once.Do(func() { close(lost) }) })
		c := mqtt.NewClient(o)
		if t := c.Connect(); t.WaitTimeout(6*time.Second) && t.Error() == nil {
			p.serve(ctx, c, lost)
		}
		c.Disconnect(0)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// serve sends over one connection until it is lost.
func (p *publisher) serve(ctx context.Context, c mqtt.Client, lost <-chan struct{}) {
	tick := time.NewTicker(time.Duration(float64(time.Second) / p.s.rate))
	defer tick.Stop()
	resumed := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-lost:
			return
		case <-tick.C:
		}
		n := p.ledger.outstanding()
		resumed = resumed || n == 0
		if !resumed || n >= window || !c.IsConnectionOpen() {
			continue
		}
		if !p.send(c) {
			return
		}
	}
}

// send publishes the next event. It reports whether the client took it; one
// that it did not take is not an event and its number is used again.
func (p *publisher) send(c mqtt.Client) bool {
	p.mu.Lock()
	if p.held || p.ending {
		p.mu.Unlock()
		return true
	}
	subject := len(p.events) % p.s.subjects
	m := payload{Subject: subject, Seq: p.next[subject]}
	m.ID = fmt.Sprintf("%s-%d-%d", p.s.name, m.Subject, m.Seq)
	if p.s.form != nil {
		p.s.form(&m, p.rnd)
	}
	if p.big > 0 {
		m.Big, p.big = p.big, 0
	}
	data, err := json.Marshal(m)
	if err != nil {
		p.mu.Unlock()
		return false // no payload is like that
	}
	e := &event{subject: m.Subject, seq: m.Seq, id: m.ID, published: time.Now(), big: m.Big > 0}
	p.byID[m.ID] = e
	p.mu.Unlock()

	c.Publish(fmt.Sprintf(p.s.topic, subject), p.s.qos, false, data)

	p.mu.Lock()
	defer p.mu.Unlock()
	if e.acked.IsZero() && !p.ledger.has(data) {
		delete(p.byID, m.ID)
		return false
	}
	p.next[subject]++
	p.events = append(p.events, e)
	return true
}

// hold stops new events, until release.
func (p *publisher) hold()    { p.set(&p.held, true) }
func (p *publisher) release() { p.set(&p.held, false) }

// end stops new events for good; what is in flight is still sent again.
func (p *publisher) end() { p.set(&p.ending, true) }

func (p *publisher) set(what *bool, to bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*what = to
}

// ask makes the next event one with an output of that size.
func (p *publisher) ask(size int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.big = size
}

// after returns when an event that was published after t was acknowledged
// first, or zero.
func (p *publisher) after(t time.Time) (acked time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.events) - 1; i >= 0 && p.events[i].published.After(t); i-- {
		if a := p.events[i].acked; !a.IsZero() && (acked.IsZero() || a.Before(acked)) {
			acked = a
		}
	}
	return acked
}

// snapshot copies the events.
func (p *publisher) snapshot() []*event {
	p.mu.Lock()
	defer p.mu.Unlock()
	events := make([]*event, len(p.events))
	for i, e := range p.events {
		c := *e
		events[i] = &c
	}
	return events
}

// excuse marks what was acknowledged since t.
func (p *publisher) excuse(since time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.events) - 1; i >= 0; i-- {
		e := p.events[i]
		if e.acked.After(since) {
			e.excused = true
		}
		if i < len(p.events)-4*window && e.acked.Before(since) && !e.acked.IsZero() {
			return
		}
	}
}

// acked is how many events are acknowledged.
func (p *publisher) acked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.nAcked
}

package mqtt

import (
	"context"
	"encoding/binary"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/edgefn/edgefn/triggers/mqtt/replay"
)

// inbox is what a Source has received and what is still to be acknowledged. It
// lives as long as the Source; a connection comes and goes. Nobody waits in it
// but the two goroutines that take from it.
type inbox struct {
	cfg SourceConfig
	log *slog.Logger

	arrived chan struct{} // something is in queue; capacity 1
	due     chan struct{} // something is in acks; capacity 1
	settled chan struct{} // something was settled or acknowledged; capacity 1
	changed chan struct{} // there is more to be saved, or more surely; capacity 1

	mu      sync.Mutex
	win     *window
	topics  *replay.Topics
	unsaved saving
	// followers are replays of messages that are in work; each is in win.
	followers map[*replay.Arrival][]*held

	toldEvicted bool // it was logged that topics were forgotten

	current *connection // the live one, or nil
	number  uint64      // of the newest connection
	queue   []item      // bounded by MaxHeld, MaxHeldBytes, MaxQoS0, MaxQoS0Bytes
	acks    []*held     // settled, to be acknowledged; each is in win, so 65535 at most
	acking  int         // length of acks and the one being written

	zeros, zeroBytes int // QoS 0 in queue
	helds, heldBytes int // QoS 1 and 2 in queue or in work
	inWork           int // QoS 1 and 2 that the Sink has and that are not settled

	stats   SourceStats
	dropped time.Time // when a drop was last logged
}

// item is a message in the queue. held is nil for QoS 0, arrival for a message
// that need not be remembered.
type item struct {
	msg     Message
	held    *held
	arrival *replay.Arrival
}

// digestOf digests what makes one message differ from another for a function:
// the payload and, where there are any, the properties, but not the expiry, which
// is another each time that a broker sends the message.
func digestOf(m Message) replay.Digest {
	p := m.Properties
	if p.ContentType == "" && p.ResponseTopic == "" && len(p.Correlation) == 0 && len(p.User) == 0 {
		return replay.DigestOf(m.Payload)
	}
	var b []byte
	part := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	for _, s := range []string{p.ContentType, p.ResponseTopic, string(p.Correlation), string(m.Payload)} {
		part(s)
	}
	for _, u := range p.User {
		part(u.Name)
		part(u.Value)
	}
	return replay.DigestOf(b)
}

// saving says how much is to be saved: see Topics.Unsaved.
type saving int

const (
	savingNothing saving = iota
	savingDoubtful
	savingSure
)

// connection is the inbox's end of a link.
type connection struct {
	in     *inbox
	number uint64
	ended  bool // the link is lost
	// refused is the size of the first message that did not fit; from then on
	// nothing new is taken on this connection, which keeps the order. 0: none.
	refused  int
	resync   chan struct{} // closed when there is room again after a refusal
	resynced bool
	gaveBack chan struct{} // capacity 1: an event came back unsettled
}

var _ watcher = (*connection)(nil)

func (in *inbox) init(cfg SourceConfig, log *slog.Logger) {
	in.cfg, in.log = cfg, log
	in.win, in.followers = newWindow(), map[*replay.Arrival][]*held{}
	in.topics = replay.New(cfg.Broker.Name, replay.MaxRetained, replay.MaxOthers)
	for _, c := range []*chan struct{}{&in.arrived, &in.due, &in.settled, &in.changed} {
		*c = make(chan struct{}, 1)
	}
}

// poke sends a signal that is not counted.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// next makes the watcher of the next connection.
func (in *inbox) next() *connection {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.number++
	return &connection{in: in, number: in.number, resync: make(chan struct{}), gaveBack: make(chan struct{}, 1)}
}

// accepted implements watcher.
func (c *connection) accepted(present, five bool) {
	in := c.in
	in.mu.Lock()
	defer in.mu.Unlock()
	in.stats.Connects++
	if !c.ended {
		in.current = c
	}
	if !present {
		in.win.forget()
	}
	if !five {
		in.topics.Doubt()
		in.noteUnsaved()
	}
}

// lost implements watcher.
func (c *connection) lost() {
	in := c.in
	in.mu.Lock()
	defer in.mu.Unlock()
	c.ended = true
	if in.current == c {
		in.current = nil
	}
}

// released implements watcher.
func (c *connection) released(id uint16) {
	in := c.in
	in.mu.Lock()
	defer in.mu.Unlock()
	in.win.release(id)
}

// receive implements watcher.
func (c *connection) receive(m Message, how replay.Kind, ack func()) {
	in := c.in
	digest := digestOf(m)
	key := in.topics.Key(m.Topic)
	in.mu.Lock()
	defer in.mu.Unlock()
	how = in.topics.Believe(how)
	if m.QoS == 0 {
		in.receiveQoS0(m, how, key, digest)
		return
	}
	h, v := in.win.look(m, digest, c.number, ack)
	switch v {
	case verdictRepeat:
		in.stats.Repeats++
	case verdictAgain:
		in.stats.Repeats++
		in.pushAck(h)
	case verdictNew:
		if how == replay.Replayed && in.isOld(h, key) {
			return
		}
		full := in.helds > 0 && (in.helds >= in.cfg.MaxHeld || in.heldBytes+h.size > in.cfg.MaxHeldBytes)
		if c.refused > 0 || full {
			c.refused = max(c.refused, h.size, 1)
			return
		}
		in.win.add(h)
		in.helds++
		in.heldBytes += h.size
		in.push(item{msg: m, held: h, arrival: in.topics.Begin(key, digest, how)})
	}
}

// isOld reports whether a replay is no event, because the function has had it or
// because it is in work: then it is acknowledged with that.
func (in *inbox) isOld(h *held, key replay.Key) bool {
	had, working := in.topics.Had(key, h.digest)
	in.noteUnsaved()
	switch {
	case had:
		h.settled = true
		in.win.add(h)
		in.pushAck(h)
	case working != nil:
		in.win.add(h)
		// Those of a session that is gone will never be acknowledged.
		stale := func(f *held) bool { return in.win.byID[f.id] != f }
		in.followers[working] = append(slices.DeleteFunc(in.followers[working], stale), h)
	default:
		return false
	}
	in.stats.Replays++
	return true
}

func (in *inbox) receiveQoS0(m Message, how replay.Kind, key replay.Key, digest replay.Digest) {
	if how == replay.Replayed {
		had, working := in.topics.Had(key, digest)
		in.noteUnsaved()
		if had || working != nil {
			in.stats.Replays++
			return
		}
	}
	size := len(m.Topic) + len(m.Payload)
	if in.zeros > 0 && (in.zeros >= in.cfg.MaxQoS0 || in.zeroBytes+size > in.cfg.MaxQoS0Bytes) {
		in.stats.Dropped++
		if now := in.cfg.Now(); in.dropped.IsZero() || now.Sub(in.dropped) >= time.Minute {
			in.dropped = now
			in.log.Warn("messages of QoS 0 dropped: the function is slower than they come", "dropped", in.stats.Dropped)
		}
		return
	}
	in.zeros++
	in.zeroBytes += size
	in.push(item{msg: m, arrival: in.topics.Begin(key, digest, how)})
}

func (in *inbox) push(it item) {
	in.queue = append(in.queue, it)
	poke(in.arrived)
}

// take waits for the next message. A QoS 1 or 2 message is in work from here on.
func (in *inbox) take(ctx context.Context) (item, bool) {
	for {
		if ctx.Err() != nil {
			return item{}, false
		}
		if it, ok := in.pop(); ok {
			return it, true
		}
		select {
		case <-in.arrived:
		case <-ctx.Done():
		}
	}
}

func (in *inbox) pop() (item, bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.queue) == 0 {
		return item{}, false
	}
	it := in.queue[0]
	in.queue[0] = item{} // its payload may go
	if in.queue = in.queue[1:]; len(in.queue) == 0 {
		in.queue = nil
	}
	if it.held == nil {
		in.zeros--
		in.zeroBytes -= len(it.msg.Topic) + len(it.msg.Payload)
	} else {
		in.inWork++
	}
	return it, true
}

// settler makes the Settle function of a message's event.
func (in *inbox) settler(it item) func(error) {
	h, a := it.held, it.arrival // the message itself may go
	if h == nil && a == nil {
		return func(error) {}
	}
	var once sync.Once
	return func(err error) { once.Do(func() { in.settle(h, a, err) }) }
}

func (in *inbox) settle(h *held, a *replay.Arrival, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if a != nil {
		in.topics.End(a, err == nil)
		in.noteUnsaved()
		for _, f := range in.followers[a] {
			in.outcome(f, err)
		}
		delete(in.followers, a)
	}
	if h == nil {
		return
	}
	in.inWork--
	in.helds--
	in.heldBytes -= h.size
	poke(in.settled)
	in.outcome(h, err)
	if c := in.current; c != nil && c.refused > 0 && !c.resynced && in.helds <= in.cfg.MaxHeld/2 &&
		(in.helds == 0 || in.heldBytes+c.refused <= in.cfg.MaxHeldBytes) {
		c.resynced = true
		close(c.resync)
	}
}

// outcome acknowledges a message of QoS 1 or 2, or has the broker send it again.
func (in *inbox) outcome(h *held, err error) {
	if err == nil {
		h.settled = true
		in.pushAck(h)
		return
	}
	in.win.letGo(h)
	if c := in.current; c != nil {
		poke(c.gaveBack)
	}
}

// noteUnsaved tells who saves when there is more to do, or more surely.
func (in *inbox) noteUnsaved() {
	now := savingNothing
	switch dirty, sure := in.topics.Unsaved(); {
	case sure:
		now = savingSure
	case dirty:
		now = savingDoubtful
	}
	if now > in.unsaved {
		poke(in.changed)
	}
	in.unsaved = now
	if in.topics.Evicted() > 0 && !in.toldEvicted {
		in.toldEvicted = true
		in.log.Warn("more topics have retained messages than can be remembered; those used longest ago are events again when the broker replays them: use narrower topics in several triggers",
			"remembered", replay.MaxRetained)
	}
}

// recall takes what an earlier run has saved, and tells which pages it cannot.
func (in *inbox) recall(pages map[string][]byte) (faults []error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for name, p := range pages {
		if err := in.topics.Load(name, p); err != nil {
			faults = append(faults, err)
		}
	}
	return faults
}

// toSave tells how much is to be saved.
func (in *inbox) toSave() saving {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.unsaved
}

// takePages returns what is to be saved; it counts as saved from then on.
func (in *inbox) takePages() (pages map[string][]byte, what saving) {
	in.mu.Lock()
	defer in.mu.Unlock()
	what, in.unsaved = in.unsaved, savingNothing
	return in.topics.Save(), what
}

// notSaved takes pages back.
func (in *inbox) notSaved(pages map[string][]byte, what saving) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.topics.NotSaved(pages, what == savingSure)
	in.noteUnsaved()
}

func (in *inbox) pushAck(h *held) {
	if h.due {
		return
	}
	h.due = true
	in.acks = append(in.acks, h)
	in.acking++
	poke(in.due)
}

// acknowledge writes what is to be acknowledged until stop is closed. Writing
// may block, up to the connection's write deadline.
func (in *inbox) acknowledge(stop <-chan struct{}) {
	for {
		ack, ok := in.popAck()
		if !ok {
			select {
			case <-in.due:
				continue
			case <-stop:
				return
			}
		}
		if ack != nil {
			ack()
		}
		in.mu.Lock()
		in.acking--
		in.mu.Unlock()
		poke(in.settled)
	}
}

// popAck takes the next acknowledgement; ack is nil where it has no connection
// to go on. ok is false when there is none.
func (in *inbox) popAck() (ack func(), ok bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.acks) == 0 {
		return nil, false
	}
	h := in.acks[0]
	h.due = false
	in.acks[0] = nil
	if in.acks = in.acks[1:]; len(in.acks) == 0 {
		in.acks = nil
	}
	if in.current == nil || !in.win.acknowledge(h, in.current.number) {
		return nil, true
	}
	return h.ack, true
}

// idle reports whether the Sink has nothing unsettled and nothing is to be
// acknowledged.
func (in *inbox) idle() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.inWork == 0 && in.acking == 0
}

func (in *inbox) countDelivered() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.stats.Delivered++
}

func (in *inbox) countID(found bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !found {
		in.stats.NoID++
	}
}

func (in *inbox) snapshot() SourceStats {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.stats
}

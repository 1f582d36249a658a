package mqtt

import (
	"context"
	"hash/maphash"
	"log/slog"
	"sync"
	"time"
)

// inbox is what a Source has received and what is still to be acknowledged. It
// lives as long as the Source; a connection comes and goes. Nobody waits in it
// but the two goroutines that take from it.
type inbox struct {
	cfg  SourceConfig
	log  *slog.Logger
	seed maphash.Seed

	arrived chan struct{} // something is in queue; capacity 1
	due     chan struct{} // something is in acks; capacity 1
	settled chan struct{} // something was settled or acknowledged; capacity 1

	mu      sync.Mutex
	win     *window
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

// item is a message in the queue. held is nil for QoS 0.
type item struct {
	msg  Message
	held *held
}

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
	in.cfg, in.log, in.seed = cfg, log, maphash.MakeSeed()
	in.win = newWindow()
	in.arrived, in.due, in.settled = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}, 1)
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
func (c *connection) accepted(present bool) {
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
func (c *connection) receive(m Message, ack func()) {
	in := c.in
	if m.QoS == 0 {
		in.mu.Lock()
		defer in.mu.Unlock()
		in.receiveQoS0(m)
		return
	}
	digest := maphash.Bytes(in.seed, m.Payload)
	in.mu.Lock()
	defer in.mu.Unlock()
	h, v := in.win.look(m, digest, c.number, ack)
	switch v {
	case verdictRepeat:
		in.stats.Repeats++
	case verdictAgain:
		in.stats.Repeats++
		in.pushAck(h)
	case verdictNew:
		full := in.helds > 0 && (in.helds >= in.cfg.MaxHeld || in.heldBytes+h.size > in.cfg.MaxHeldBytes)
		if c.refused > 0 || full {
			c.refused = max(c.refused, h.size, 1)
			return
		}
		in.win.add(h)
		in.helds++
		in.heldBytes += h.size
		in.push(item{msg: m, held: h})
	}
}

func (in *inbox) receiveQoS0(m Message) {
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
	in.push(item{msg: m})
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
func (in *inbox) settler(h *held) func(error) {
	if h == nil {
		return func(error) {}
	}
	var once sync.Once
	return func(err error) { once.Do(func() { in.settle(h, err) }) }
}

func (in *inbox) settle(h *held, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.inWork--
	in.helds--
	in.heldBytes -= h.size
	poke(in.settled)
	c := in.current
	if err == nil {
		h.settled = true
		in.pushAck(h)
	} else {
		in.win.letGo(h)
		if c != nil {
			poke(c.gaveBack)
		}
	}
	if c != nil && c.refused > 0 && !c.resynced && in.helds <= in.cfg.MaxHeld/2 &&
		(in.helds == 0 || in.heldBytes+c.refused <= in.cfg.MaxHeldBytes) {
		c.resynced = true
		close(c.resync)
	}
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

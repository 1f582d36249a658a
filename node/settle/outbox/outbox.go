package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/wire"
	"github.com/edgefn/edgefn/node/settle/dead"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// Prefix is what keys of the outbox begin with: then FUNCTION/DESTINATION/SEQUENCE-BYTES.
const Prefix = durable.Root + "outbox/"

// Keys of log lines.
const (
	logFunction = "function"
	logBroker   = "broker"
	logErr      = "err"
)

// sendBackoff is for a destination that does not take messages.
var sendBackoff = durable.Backoff{First: 200 * time.Millisecond, Max: 5 * time.Second}

// Bounds of the outbox.
const (
	// maxOutbox is how many messages of one function wait for one destination.
	// What happens beyond is told at FullError.
	maxOutbox = 10_000
	// outboxBatch is how many are read, sent and then deleted together; after a
	// crash that many may be sent twice.
	outboxBatch = 16
	// directTime is how long a message may take to be acknowledged before it
	// goes to the outbox.
	directTime = time.Second
	// relayTime bounds one try of the relay.
	relayTime = 30 * time.Second
	// aloneTime bounds one try of a message that is out alone: a broker that takes
	// it and does not answer is found out.
	aloneTime = 90 * time.Second
)

var (
	// ErrRefused means that no try will succeed; it is wrapped with the reason.
	ErrRefused = errors.New("the broker refuses it")
	// ErrHungUp means that the broker may have got it or not.
	ErrHungUp = errors.New("the broker hung up")
)

// ErrGone is returned for a function, or a hold on a line, that is not there any
// more.
var ErrGone = errors.New("function was removed")

// FullError means that no more can wait for a destination. An invocation that published
// to a broker outside waits until there is room (back-pressure: that broker is
// away). For the broker inside the node and for invoked functions waiting could
// be for oneself, so the invocation fails, which counts as an attempt.
type FullError struct{ queue outQueueKey }

func (e *FullError) Error() string {
	return fmt.Sprintf("no room to wait for %s: %d messages, or all that the store has for them", e.queue.dest, maxOutbox)
}

// Sink is where messages, calls and commands go: the rest of the node.
type Sink interface {
	// Publish sends a message to its broker and returns when it is acknowledged.
	// ErrRefused: the broker will never take it. ErrHungUp: the connection ended
	// while it was out, maybe because of it.
	Publish(ctx context.Context, m functions.Publish) error
	// PublishAlone is Publish with nothing else on the way, so that ErrHungUp is
	// about this message, and no other one suffers.
	PublishAlone(ctx context.Context, m functions.Publish) error
	// Call hands an event to a function; settled is called once if it returns
	// nil. repeat says that it may have been handed over before the node ended.
	// ErrGone: there is no such function any more.
	Call(ctx context.Context, function string, e functions.Event, repeat bool, settled func(error)) error
	// Drive has a command of a line take place and returns when it has. ErrGone:
	// the function does not hold the line any more.
	Drive(ctx context.Context, function string, e functions.Effect) error
	// Function returns a function as it is deployed; nil: there is none.
	Function(name string) *functions.Function
	// Note writes a line into a function's log.
	Note(function, level, text string)
}

// Outbox sends what invocations committed, at least once and in the order of
// the commits per function and destination, also after a restart.
type Outbox struct {
	st     store.Store
	budget *durable.Budget
	dead   *dead.Letters
	log    *slog.Logger
	sink   Sink
	start  string // names this run of the node; see lineRecord
	began  time.Time

	wake     chan struct{} // capacity 1: something was committed
	sentWake chan struct{} // capacity 1: something went out

	mu     sync.Mutex
	queues map[outQueueKey]*outQueue
	seq    int64         // the last one given
	loaded int64         // the last one of an earlier run
	room   chan struct{} // closed and replaced when something left
}

// Batch is what an invocation sends, to each destination in its order.
type Batch struct {
	Messages []functions.Publish
	Invokes  []functions.Invoke
	Commands []functions.Effect // of lines
}

// outQueueKey names what a function sends to one destination: a broker, a
// function or a line.
type outQueueKey struct{ function, dest string }

const (
	destBroker   = "mqtt."
	destFunction = "invoke."
	destLine     = "line."
)

func (k outQueueKey) prefix() string { return Prefix + k.function + "/" + k.dest + "/" }

// outQueue counts the messages of an outQueueKey.
type outQueue struct {
	reserved int   // to be committed
	count    int   // committed
	bytes    int64 // of the committed
	added    int   // how often something was committed
	running  bool  // a relay is at work
	last     int64 // number of the last that was committed
	forsaken int64 // what has a number up to this is not sent any more
	head     head
	sent     map[string]*sentMessage // by key: they went out and are still in the store
}

// head is the first message of a queue.
type head struct {
	key     string
	hangUps int   // how often the broker hung up on it
	err     error // why it does not go out; nil: it does, or was not tried
}

// outboxRecord is a message or, with Event, a call or, with Line, a command of a
// line.
type outboxRecord struct {
	Topic  string         `cbor:"topic,omitempty"`
	Data   []byte         `cbor:"data,omitempty"`
	QoS    uint8          `cbor:"qos,omitempty"`
	Retain bool           `cbor:"retain,omitempty"`
	Event  map[string]any `cbor:"event,omitempty"`
	Line   *lineRecord    `cbor:"line,omitempty"`

	Properties *propertiesRecord `cbor:"properties,omitempty"` // of a message; nil: it has none
}

// New makes an outbox. Load it, then run it.
func New(st store.Store, b *durable.Budget, d *dead.Letters, sink Sink, log *slog.Logger) *Outbox {
	return &Outbox{st: st, budget: b, dead: d, sink: sink, log: log, start: ulid.Make().String(), began: time.Now(), wake: make(chan struct{}, 1), sentWake: make(chan struct{}, 1), queues: map[outQueueKey]*outQueue{}, room: make(chan struct{})}
}

// Load counts what an earlier run left.
func (o *Outbox) Load(ctx context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return durable.EachKey(ctx, o.st, Prefix, func(key string) {
		parts := strings.Split(strings.TrimPrefix(key, Prefix), "/")
		if len(parts) != 3 {
			return
		}
		k := outQueueKey{parts[0], parts[1]}
		q := o.queue(k)
		q.count++
		q.added++
		if id, n, ok := durable.SplitSized(key, k.prefix()); ok {
			q.bytes += n
			o.budget.Force(n)
			if seq, err := strconv.ParseInt(id, 16, 64); err == nil {
				o.seq, q.last = max(o.seq, seq), max(q.last, seq)
				o.loaded = o.seq
			}
		}
	})
}

// queue returns the queue of a key. The caller holds mu.
func (o *Outbox) queue(k outQueueKey) *outQueue {
	q := o.queues[k]
	if q == nil {
		q = &outQueue{}
		o.queues[k] = q
	}
	return q
}

// pending reports whether something of a function waits for a destination.
func (o *Outbox) pending(function, dest string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	q := o.queues[outQueueKey{function, dest}]
	return q != nil && q.count+q.reserved > 0
}

// Parcel is what one commit puts into the outbox. It ends in posted or dropped.
type Parcel struct {
	o     *Outbox
	ops   []store.Op
	queue []outQueueKey // of each op
	bytes []int64
	seq   []int64 // once there is room
	sent  []removal
}

// Ops are what the parcel adds to the transaction.
func (p *Parcel) Ops() []store.Op {
	ops := p.ops
	for _, r := range p.sent {
		ops = append(ops, store.Op{Key: r.key, Delete: true})
	}
	return ops
}

// pack makes room for what a function sends, for all of it or for none, and
// encodes it. The error is a *FullError, or one of encoding.
func (o *Outbox) pack(function string, s Batch) (*Parcel, error) {
	p := &Parcel{o: o}
	add := func(dest string, r outboxRecord) error {
		v, err := durable.Encode(r)
		p.ops = append(p.ops, store.Op{Value: v})
		p.queue = append(p.queue, outQueueKey{function, dest})
		p.bytes = append(p.bytes, int64(len(v)))
		return err
	}
	for _, m := range s.Messages {
		if err := add(destBroker+m.Broker, outboxRecord{Topic: m.Topic, Data: m.Data, QoS: m.QoS, Retain: m.Retain, Properties: o.propertiesRecord(m.Properties)}); err != nil {
			return nil, err
		}
	}
	for _, i := range s.Invokes {
		if err := add(destFunction+i.Function, outboxRecord{Event: wire.EventMap(&i.Event)}); err != nil {
			return nil, err
		}
	}
	for _, c := range s.Commands {
		if err := add(destLine+functions.LineOf(c), outboxRecord{Line: o.lineRecord(c)}); err != nil {
			return nil, err
		}
	}
	if err := o.reserve(p); err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.takeSent(p, function)
	return p, nil
}

// reserve takes the room that a parcel needs and names its keys.
func (o *Outbox) reserve(p *Parcel) error {
	if len(p.ops) == 0 {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	var total int64
	more := map[outQueueKey]int{}
	for i, k := range p.queue {
		total += p.bytes[i]
		more[k]++
		if q := o.queue(k); q.count+q.reserved+more[k] > maxOutbox {
			return &FullError{k}
		}
	}
	if !o.budget.Take(total) {
		return &FullError{p.queue[0]}
	}
	for i, k := range p.queue {
		// A clock that was set back must not bring a message before its
		// predecessors.
		o.seq = max(o.seq+1, time.Now().UnixNano())
		p.ops[i].Key = fmt.Sprintf("%s%016x-%d", k.prefix(), o.seq, p.bytes[i])
		p.seq = append(p.seq, o.seq)
		o.queue(k).reserved++
	}
	return nil
}

// Posted says that the parcel is committed.
func (p *Parcel) Posted() {
	p.o.mu.Lock()
	p.o.dropSent(p.sent, true)
	for i, k := range p.queue {
		q := p.o.queue(k)
		q.reserved--
		q.count++
		q.added++
		q.bytes += p.bytes[i]
		q.last = max(q.last, p.seq[i])
	}
	p.o.mu.Unlock()
	select {
	case p.o.wake <- struct{}{}:
	default:
	}
}

// Dropped says that the parcel will not be committed.
func (p *Parcel) Dropped() {
	p.o.mu.Lock()
	defer p.o.mu.Unlock()
	p.o.dropSent(p.sent, false)
	if len(p.ops) == 0 {
		return
	}
	for i, k := range p.queue {
		p.o.queue(k).reserved--
		p.o.budget.Give(p.bytes[i])
	}
	p.o.vacated()
}

// vacated wakes those who wait for room. The caller holds mu.
func (o *Outbox) vacated() {
	close(o.room)
	o.room = make(chan struct{})
}

// Pack is pack that waits for room where that is right; see FullError.
func (o *Outbox) Pack(ctx context.Context, function string, s Batch) (*Parcel, error) {
	for n := 0; ; n++ {
		o.mu.Lock()
		room := o.room
		o.mu.Unlock()
		p, err := o.pack(function, s)
		var full *FullError
		if err == nil || !errors.As(err, &full) || full.queue.dest == destBroker+functions.LocalBroker || !strings.HasPrefix(full.queue.dest, destBroker) {
			return p, err
		}
		if n == 0 {
			o.log.Warn("outbox is full, holding events back", logFunction, function, logBroker, strings.TrimPrefix(full.queue.dest, destBroker))
		}
		select {
		case <-room:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Publish sends messages at once, in their order, and returns when each is
// acknowledged or, where its broker does not take it in time or others wait
// for it, durably in the outbox.
func (o *Outbox) Publish(ctx context.Context, function string, messages []functions.Publish) error {
	var later []functions.Publish
	behind := map[string]bool{}
	for _, m := range messages {
		if behind[m.Broker] || o.pending(function, destBroker+m.Broker) {
			behind[m.Broker] = true
			later = append(later, m)
			continue
		}
		if m.Expired(time.Now()) {
			o.expired(function, m, 1)
			continue
		}
		err := func() error {
			ctx, cancel := context.WithTimeout(ctx, directTime)
			defer cancel()
			return o.sink.Publish(ctx, m)
		}()
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return context.Cause(ctx)
		default:
			o.log.Debug("message goes to the outbox", logFunction, function, logBroker, m.Broker, logErr, err)
			behind[m.Broker] = true
			later = append(later, m)
		}
	}
	if len(later) == 0 {
		return nil
	}
	p, err := o.Pack(ctx, function, Batch{Messages: later})
	if err != nil {
		return err
	}
	err = durable.Persist(ctx, o.log, "keep messages to be sent", func(ctx context.Context) error {
		_, err := o.st.Commit(ctx, nil, p.Ops())
		return err
	})
	if err != nil && durable.Lasting(err) {
		p.Dropped()
		return err
	}
	p.Posted() // after any other error it may be there
	return err
}

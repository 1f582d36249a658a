package retry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/wire"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// What keys begin with.
const (
	Prefix       = durable.Root + "retry/"    // FUNCTION/NUMBER-BYTES: the event
	HeaderPrefix = durable.Root + "attempts/" // FUNCTION/NUMBER: Header
)

const (
	// maxEvents is how many events of one function are kept. Beyond it their
	// senders wait.
	maxEvents = 10_000
	// headerBytes is what a header is taken to need of the budget.
	headerBytes = 512
	// maxDetail bounds a failure's detail in a header, in bytes.
	maxDetail = 4 << 10
)

var (
	// ErrFull means that no more events of a function can be kept, or of all together.
	ErrFull = errors.New("retry queue is full")
	// ErrGone means that the event is not there any more.
	ErrGone = errors.New("event is not in the retry queue")
)

// Header is what is known of an event beside its data.
type Header struct {
	Trigger string `cbor:"trigger,omitempty"`
	Order   string `cbor:"order,omitempty"` // events of one order run one at a time; empty: of none
	EventID string `cbor:"id,omitempty"`
	OwnID   bool   `cbor:"own_id,omitempty"` // the id is its sender's
	Key     string `cbor:"key,omitempty"`    // of an event with an id of its sender's: tells it from all others of the function
	Bytes   int    `cbor:"bytes,omitempty"`  // of the event's data as it came
	Failed  int    `cbor:"failed,omitempty"` // attempts that failed
	// Running says that an attempt is under way. Found at a start, it says that
	// the attempt and the node ended together.
	Running bool `cbor:"running,omitempty"`
	// Wait is how long to wait before the next attempt, DueNS when that is over by
	// the clock of then. The clock may be any since: see Remaining.
	Wait  time.Duration `cbor:"wait,omitempty"`
	DueNS int64         `cbor:"due_ns,omitempty"`
	// Expiry is when the event is not to be tried any more.
	Expiry functions.Expiry `cbor:"expiry"`
	// How the last attempt failed; Kind empty: none has.
	Kind    string `cbor:"kind,omitempty"`
	Message string `cbor:"message,omitempty"`
	Detail  string `cbor:"detail,omitempty"`
}

// SetFailure notes how an attempt failed.
func (h *Header) SetFailure(f *functions.Failure) {
	h.Kind, h.Message, h.Detail = string(f.Kind), f.Message, f.Detail[:min(len(f.Detail), maxDetail)]
}

// Remaining is how much of Wait is left after a restart. A clock that was set
// makes it shorter than it should be, or the whole wait again, but never longer:
//
//	min(max(DueNS - now, 0), Wait)
func (h *Header) Remaining(now time.Time) time.Duration {
	return min(max(time.Duration(h.DueNS-now.UnixNano()), 0), h.Wait)
}

// Item names an event in the queue.
type Item struct {
	function string
	number   int64
	bytes    int64 // of the event's record
}

func (it *Item) eventKey() string {
	return durable.SizedKey(Prefix+it.function+"/", fmt.Sprintf("%016x", it.number), int(it.bytes))
}

func (it *Item) headerKey() string {
	return fmt.Sprintf("%s%s/%016x", HeaderPrefix, it.function, it.number)
}

// Stored is an event that an earlier run has left.
type Stored struct {
	Item   *Item
	Header Header
}

// Queue keeps the events of all functions of a node.
type Queue struct {
	st     store.Store
	budget *durable.Budget
	log    *slog.Logger

	mu    sync.Mutex
	last  int64           // number given last
	sizes map[string]size // by function
	left  map[string][]Stored
}

// size is what a function has in the queue.
type size struct {
	events int
	bytes  int64 // of the budget
}

// New makes a queue. Load it first.
func New(st store.Store, b *durable.Budget, log *slog.Logger) *Queue {
	return &Queue{st: st, budget: b, log: log, sizes: map[string]size{}, left: map[string][]Stored{}}
}

// Load reads the headers that an earlier run has left.
func (q *Queue) Load(ctx context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	headers := map[string]Header{} // by function and number
	err := durable.EachEntry(ctx, q.st, HeaderPrefix, store.Read{Limit: 500}, func(e store.Entry) error {
		var h Header
		if err := durable.Decode(e.Value, &h); err != nil {
			q.log.Error("header of an event cannot be read, its attempts are counted anew", "key", e.Key, "err", err)
		}
		headers[strings.TrimPrefix(e.Key, HeaderPrefix)] = h
		return nil
	})
	if err != nil {
		return err
	}
	return durable.EachKey(ctx, q.st, Prefix, func(key string) {
		function, _, _ := strings.Cut(strings.TrimPrefix(key, Prefix), "/")
		id, bytes, ok := durable.SplitSized(key, Prefix+function+"/")
		number, err := strconv.ParseInt(id, 16, 64)
		if !ok || err != nil {
			q.log.Error("key of an event cannot be read, passing over it", "key", key)
			return
		}
		q.last = max(q.last, number)
		q.grow(function, 1, bytes+headerBytes)
		q.budget.Force(bytes + headerBytes)
		q.left[function] = append(q.left[function], Stored{&Item{function, number, bytes}, headers[function+"/"+id]})
	})
}

// Left returns the events of a function that an earlier run has left, in the
// order of their arrival. They are given out once.
func (q *Queue) Left(function string) []Stored {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := q.left[function]
	delete(q.left, function)
	return out
}

// Entry is an event to be kept.
type Entry struct {
	Header Header
	Event  functions.Event
	Item   *Item // set by Reserve

	ops []store.Op
}

// Reserve makes room for events of a function, for as many of them as there is
// room, and numbers them in their order. The error is ErrFull if there is no
// room for the first one, or one of encoding.
func (q *Queue) Reserve(function string, entries []*Entry) (n int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range entries {
		if e.Item != nil { // of an earlier try
			n++
			continue
		}
		record, err := durable.Encode(wire.EventMap(&e.Event))
		if err != nil {
			return n, fmt.Errorf("keep event %s: %w", e.Event.ID, err)
		}
		bytes := int64(len(record))
		if held := q.sizes[function].events; held >= maxEvents || !q.budget.Take(bytes+headerBytes) {
			if n == 0 {
				return 0, fmt.Errorf("%w: %d events of function %q, at most %d, or all that the store has for queues", ErrFull, held, function, maxEvents)
			}
			return n, nil
		}
		q.grow(function, 1, bytes+headerBytes)
		q.last = max(q.last+1, time.Now().UnixNano())
		e.Item = &Item{function, q.last, bytes}
		e.ops = []store.Op{{Key: e.Item.eventKey(), Value: record}, {Key: e.Item.headerKey()}}
		n++
	}
	return n, nil
}

// Put writes events that have their room, once, in one transaction that also
// deletes others: those that were put by an earlier try, if that took effect.
// After an error that is not lasting (durable.Lasting) the events may be there.
func (q *Queue) Put(ctx context.Context, entries []*Entry, gone []*Item) error {
	var ops []store.Op
	for _, e := range entries {
		h, err := durable.Encode(e.Header)
		if err != nil {
			return fmt.Errorf("keep event %s: %w", e.Event.ID, err)
		}
		e.ops[1].Value = h
		ops = append(ops, e.ops...)
	}
	for _, it := range gone {
		ops = append(ops, it.Delete()...)
	}
	ctx, cancel := context.WithTimeout(ctx, durable.StoreTime)
	defer cancel()
	if _, err := q.st.Commit(ctx, nil, ops); err != nil {
		return fmt.Errorf("keep events to be tried again: %w", err)
	}
	return nil
}

// Update writes an event's header, in place of the one that is there.
func (q *Queue) Update(ctx context.Context, it *Item, h Header) error {
	value, err := durable.Encode(h)
	if err != nil {
		return fmt.Errorf("count attempts: %w", err)
	}
	return durable.Commit(ctx, q.st, q.log, "count attempts of an event", []store.Op{{Key: it.headerKey(), Value: value}})
}

// Read reads an event. ErrGone: it is not there any more.
func (q *Queue) Read(ctx context.Context, it *Item) (functions.Event, error) {
	var e store.Entry
	err := durable.Persist(ctx, q.log, "read an event to be tried again", func(ctx context.Context) (err error) {
		e, _, err = q.st.Get(ctx, it.eventKey(), store.Read{})
		return err
	})
	if err != nil {
		return functions.Event{}, err
	}
	if e.Version == 0 {
		return functions.Event{}, ErrGone
	}
	var m map[string]any
	if err := durable.Decode(e.Value, &m); err != nil {
		return functions.Event{}, fmt.Errorf("read event %s: %w", it.eventKey(), err)
	}
	return wire.MapEvent(m)
}

// Delete is what removes an event, for the transaction that settles it. Once it
// is committed, call Removed.
func (it *Item) Delete() []store.Op {
	return []store.Op{{Key: it.eventKey(), Delete: true}, {Key: it.headerKey(), Delete: true}}
}

// Removed gives back the room of an event that is not there any more, or was
// never put.
func (q *Queue) Removed(it *Item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.sizes[it.function].events == 0 {
		return // Forget was first
	}
	q.grow(it.function, -1, -(it.bytes + headerBytes))
	q.budget.Give(it.bytes + headerBytes)
}

// Forget gives back the room of all events of a function that was removed.
func (q *Queue) Forget(function string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.budget.Give(q.sizes[function].bytes)
	delete(q.sizes, function)
	delete(q.left, function)
}

// Count is how many events of a function are in the queue.
func (q *Queue) Count(function string) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.sizes[function].events
}

// grow counts events of a function. The caller holds mu.
func (q *Queue) grow(function string, events int, bytes int64) {
	s := q.sizes[function]
	s.events += events
	s.bytes += bytes
	if q.sizes[function] = s; s.events == 0 {
		delete(q.sizes, function)
	}
}

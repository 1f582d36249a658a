package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/wire"
	"github.com/edgefn/edgefn/node/api"
)

// cutTo is how much is kept of the data of an event that is over the node's
// limit.
const cutTo = 4 << 10

// errDeadFull: a function's dead-letter queue takes no more.
var errDeadFull = errors.New("dead-letter queue is full")

// deadRecord is a dead letter as it is stored.
type deadRecord struct {
	Trigger  string         `cbor:"trigger"`
	TimeNS   int64          `cbor:"time_ns"`
	Attempts int            `cbor:"attempts"`
	Kind     string         `cbor:"kind"`
	Message  string         `cbor:"message"`
	Detail   string         `cbor:"detail"`
	Bytes    int            `cbor:"bytes"`
	Cut      bool           `cbor:"cut"`
	OwnID    bool           `cbor:"own_id"`
	Event    map[string]any `cbor:"event"`
}

// letter is a dead letter.
type letter struct {
	api.DeadLetter
	key   string
	own   bool // the event's id is its sender's
	event functions.Event
}

// deadLetters keeps the dead-letter queues, one per function, oldest first.
type deadLetters struct {
	st     store.Store
	budget *budget
	log    *slog.Logger

	mu     sync.Mutex
	queues map[string]*deadQueue // by function
}

// deadQueue is the index of one queue: ids and sizes, not the events.
type deadQueue struct {
	items []deadItem // oldest first
	bytes int64
	busy  map[string]bool // ids that are being run again
}

type deadItem struct {
	id    string
	bytes int64
}

func newDeadLetters(st store.Store, b *budget, log *slog.Logger) *deadLetters {
	return &deadLetters{st: st, budget: b, log: log, queues: map[string]*deadQueue{}}
}

// load reads the index of all queues.
func (d *deadLetters) load(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return eachKey(ctx, d.st, keyDead, func(key string) {
		function, _, _ := strings.Cut(strings.TrimPrefix(key, keyDead), "/")
		if id, n, ok := splitDead(key, keyDead+function+"/"); ok {
			q := d.queue(function)
			q.items = append(q.items, deadItem{id, n})
			q.bytes += n
			d.budget.force(n)
		}
	})
}

// queue returns a function's queue. The caller holds mu.
func (d *deadLetters) queue(function string) *deadQueue {
	q := d.queues[function]
	if q == nil {
		q = &deadQueue{busy: map[string]bool{}}
		d.queues[function] = q
	}
	return q
}

// count is how many letters a function has.
func (d *deadLetters) count(function string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.queue(function).items)
}

// add makes an event a dead letter, durably. It returns errDeadFull when the
// function's bounds, or those of the node, leave no room.
func (d *deadLetters) add(ctx context.Context, fn *functions.Function, w *work) error {
	r := deadRecord{
		Trigger: w.d.Trigger, TimeNS: time.Now().UnixNano(), Attempts: w.failed,
		Kind: string(w.failure.Kind), Message: w.failure.Message, Detail: w.failure.Detail,
		Bytes: w.bytes, Cut: w.cut, OwnID: w.d.OwnID, Event: wire.EventMap(&w.d.Event),
	}
	value, err := encodeRecord(r)
	if err != nil {
		return fmt.Errorf("keep dead letter: %w", err)
	}
	size := int64(len(value))
	item := deadItem{ulid.Make().String(), size}
	drop, err := d.reserve(fn, item)
	if err != nil {
		return err
	}
	ops := []store.Op{{Key: deadKey(fn.Name, item.id, int(size)), Value: value}}
	for _, old := range drop {
		ops = append(ops, store.Op{Key: deadKey(fn.Name, old.id, int(old.bytes)), Delete: true})
	}
	// The key is new each time, so after an answer that was lost the same
	// commit can be made again.
	err = persist(ctx, d.log, "keep dead letter", func(ctx context.Context) error {
		_, err := d.st.Commit(ctx, nil, ops)
		return err
	})
	if err != nil {
		d.restore(fn.Name, item, drop)
		return err
	}
	if len(drop) > 0 {
		d.log.Warn("dead-letter queue was full, dropped the oldest", logFunction, fn.Name, "dropped", len(drop))
	}
	return nil
}

// maxDrop is how many letters are dropped for one that comes.
const maxDrop = 500

// reserve puts an item into the index, and takes those out that have to make
// room for it.
func (d *deadLetters) reserve(fn *functions.Function, item deadItem) (drop []deadItem, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	q := d.queue(fn.Name)
	took := false
	room := func() bool {
		if len(q.items) >= fn.Dead.Count || q.bytes+item.bytes > fn.Dead.Bytes {
			return false
		}
		took = d.budget.take(item.bytes)
		return took
	}
	for !room() {
		if fn.Dead.Full != functions.FullDropOldest || len(q.items) == 0 || len(drop) == maxDrop {
			d.putBack(q, drop)
			return nil, fmt.Errorf("%w: %d letters, %d bytes: see edgefn dead list %s", errDeadFull, len(q.items), q.bytes, fn.Name)
		}
		old := q.items[0]
		q.items = q.items[1:]
		q.bytes -= old.bytes
		d.budget.give(old.bytes)
		drop = append(drop, old)
	}
	q.items = append(q.items, item)
	q.bytes += item.bytes
	return drop, nil
}

// putBack undoes what reserve took out. The caller holds mu.
func (d *deadLetters) putBack(q *deadQueue, drop []deadItem) {
	for _, it := range drop {
		q.bytes += it.bytes
		d.budget.force(it.bytes)
	}
	q.items = append(slices.Clip(drop), q.items...)
}

// restore undoes a reserve whose commit did not succeed.
func (d *deadLetters) restore(function string, item deadItem, drop []deadItem) {
	d.mu.Lock()
	defer d.mu.Unlock()
	q := d.queue(function)
	d.takeOut(q, item.id)
	d.putBack(q, drop)
}

// takeOut removes an id from the index. The caller holds mu.
func (d *deadLetters) takeOut(q *deadQueue, id string) {
	i := slices.IndexFunc(q.items, func(it deadItem) bool { return it.id == id })
	if i < 0 {
		return
	}
	q.bytes -= q.items[i].bytes
	d.budget.give(q.items[i].bytes)
	q.items = slices.Delete(q.items, i, i+1)
}

// forget drops the index of a function that was removed.
func (d *deadLetters) forget(function string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if q := d.queues[function]; q != nil {
		d.budget.give(q.bytes)
	}
	delete(d.queues, function)
}

// expired takes the letters that are older than a function keeps them out of
// the store. A letter's id begins with its time.
func (d *deadLetters) expire(ctx context.Context, fn *functions.Function, now time.Time) error {
	var old []deadItem
	d.mu.Lock()
	q := d.queue(fn.Name)
	for _, it := range q.items {
		id, err := ulid.ParseStrict(it.id)
		if err == nil && now.Sub(ulid.Time(id.Time())) > fn.Dead.Age && !q.busy[it.id] {
			old = append(old, it)
		}
	}
	d.mu.Unlock()
	for batch := range slices.Chunk(old, maxDrop) {
		if err := d.delete(ctx, fn.Name, batch); err != nil {
			return err
		}
	}
	return nil
}

// delete removes letters.
func (d *deadLetters) delete(ctx context.Context, function string, items []deadItem) error {
	if len(items) == 0 {
		return nil
	}
	var ops []store.Op
	for _, it := range items {
		ops = append(ops, store.Op{Key: deadKey(function, it.id, int(it.bytes)), Delete: true})
	}
	err := persist(ctx, d.log, "delete dead letters", func(ctx context.Context) error {
		_, err := d.st.Commit(ctx, nil, ops)
		return err
	})
	if err != nil {
		return fmt.Errorf("delete dead letters: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, it := range items {
		d.takeOut(d.queue(function), it.id)
	}
	return nil
}

// claim returns the letters with an id, or all, that nobody else runs again or
// deletes, oldest first, and keeps others from them until unclaim.
func (d *deadLetters) claim(function, id string) (items []deadItem, found bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	q := d.queue(function)
	for _, it := range q.items {
		if id != "" && it.id != id {
			continue
		}
		found = true
		if !q.busy[it.id] {
			q.busy[it.id] = true
			items = append(items, it)
		}
	}
	return items, found || id == ""
}

func (d *deadLetters) unclaim(function string, items []deadItem) {
	d.mu.Lock()
	defer d.mu.Unlock()
	q := d.queue(function)
	for _, it := range items {
		delete(q.busy, it.id)
	}
}

// each reads a function's letters, oldest first.
func (d *deadLetters) each(ctx context.Context, function string, f func(letter) error) error {
	return eachEntry(ctx, d.st, keyDead+function+"/", store.Read{Limit: 20}, func(e store.Entry) error {
		l, err := readLetter(function, e)
		if err != nil {
			return err
		}
		return f(l)
	})
}

// get reads one letter; api.ErrNotFound if there is none.
func (d *deadLetters) get(ctx context.Context, function string, it deadItem) (letter, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	e, _, err := d.st.Get(ctx, deadKey(function, it.id, int(it.bytes)), store.Read{})
	if err != nil {
		return letter{}, fmt.Errorf("read dead letter %s: %w", it.id, err)
	}
	if e.Version == 0 {
		return letter{}, fmt.Errorf("dead letter %s of function %q: %w", it.id, function, api.ErrNotFound)
	}
	return readLetter(function, e)
}

// find returns the item of an id.
func (d *deadLetters) find(function, id string) (deadItem, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, it := range d.queue(function).items {
		if it.id == id {
			return it, true
		}
	}
	return deadItem{}, false
}

// failedAgain writes down that a letter's event was run again in vain. The key
// keeps the size that it was made with.
func (d *deadLetters) failedAgain(ctx context.Context, l letter, f *functions.Failure) error {
	value, err := encodeRecord(deadRecord{
		Trigger: l.Trigger, TimeNS: l.Time.UnixNano(), Attempts: l.Attempts + 1,
		Kind: string(f.Kind), Message: f.Message, Detail: f.Detail,
		Bytes: l.Bytes, Cut: l.Cut, OwnID: l.own, Event: wire.EventMap(&l.event),
	})
	if err != nil {
		return fmt.Errorf("update dead letter: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	if _, err := d.st.Commit(ctx, nil, []store.Op{{Key: l.key, Value: value}}); err != nil {
		return fmt.Errorf("update dead letter %s: %w", l.ID, err)
	}
	return nil
}

func readLetter(function string, e store.Entry) (letter, error) {
	id, _, _ := splitDead(e.Key, keyDead+function+"/")
	var r deadRecord
	if err := decodeRecord(e.Value, &r); err != nil {
		return letter{}, fmt.Errorf("read dead letter %s: %w", id, err)
	}
	ev, err := wire.MapEvent(r.Event)
	if err != nil {
		return letter{}, fmt.Errorf("read dead letter %s: %w", id, err)
	}
	return letter{
		key: e.Key, own: r.OwnID, event: ev,
		DeadLetter: api.DeadLetter{
			ID: id, Function: function, Trigger: r.Trigger, Time: time.Unix(0, r.TimeNS).UTC(), Attempts: r.Attempts,
			Failure: functions.Failure{Kind: functions.FailureKind(r.Kind), Message: r.Message, Detail: r.Detail},
			Event: api.EventInfo{
				ID: ev.ID, Type: ev.Type, Source: ev.Source, Subject: ev.Subject, Time: ev.Time,
				DataContentType: ev.DataContentType, Extensions: ev.Extensions, Data: ev.Data,
			},
			Bytes: r.Bytes, Cut: r.Cut,
		},
	}, nil
}

package dead

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
	"github.com/edgefn/edgefn/node/settle/durable"
)

// Prefix is what keys of dead letters begin with: then FUNCTION/ID-BYTES.
const Prefix = durable.Root + "dead/"

// CutTo is how much is kept of the data of an event that is over the node's
// limit, in bytes.
const CutTo = 4 << 10

// MaxBatch is how many letters one transaction removes.
const MaxBatch = 500

var (
	// ErrFull means that a function's dead-letter queue takes no more.
	ErrFull = errors.New("dead-letter queue is full")
	// ErrNotFound means that there is no such letter, or not any more.
	ErrNotFound = errors.New("no such dead letter")
)

// Letters keeps the dead-letter queues, one per function, oldest first.
type Letters struct {
	st     store.Store
	budget *durable.Budget
	log    *slog.Logger

	mu     sync.Mutex
	queues map[string]*queue // by function
}

// queue is the index of one queue: ids and sizes, not the events.
type queue struct {
	items []Item // oldest first
	bytes int64
	busy  map[string]bool // ids that are being run again
}

// Item names a letter of a function.
type Item struct {
	ID    string
	Bytes int64 // that it takes in the store

	seen time.Time // when this run of the node first knew of it
}

// New makes the queues of a store. Load them first.
func New(st store.Store, b *durable.Budget, log *slog.Logger) *Letters {
	return &Letters{st: st, budget: b, log: log, queues: map[string]*queue{}}
}

// Load reads the index of all queues.
func (d *Letters) Load(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return durable.EachKey(ctx, d.st, Prefix, func(key string) {
		function, _, _ := strings.Cut(strings.TrimPrefix(key, Prefix), "/")
		if id, n, ok := durable.SplitSized(key, Prefix+function+"/"); ok {
			q := d.queue(function)
			q.items = append(q.items, Item{id, n, time.Now()})
			q.bytes += n
			d.budget.Force(n)
		}
	})
}

// queue returns a function's queue. The caller holds mu.
func (d *Letters) queue(function string) *queue {
	q := d.queues[function]
	if q == nil {
		q = &queue{busy: map[string]bool{}}
		d.queues[function] = q
	}
	return q
}

// Count is how many letters a function has.
func (d *Letters) Count(function string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.queue(function).items)
}

// Add makes an event a dead letter, durably, in one transaction with extra. It
// returns ErrFull when the function's bounds, or those of the node, leave no
// room.
func (d *Letters) Add(ctx context.Context, fn *functions.Function, l Letter, extra ...store.Op) error {
	l.ID, l.Time = ulid.Make().String(), time.Now()
	value, err := encode(&l)
	if err != nil {
		return fmt.Errorf("keep dead letter: %w", err)
	}
	item := Item{l.ID, int64(len(value)), time.Now()}
	drop, err := d.reserve(fn, item)
	if err != nil {
		return err
	}
	ops := append([]store.Op{{Key: itemKey(fn.Name, item), Value: value}}, extra...)
	for _, old := range drop {
		ops = append(ops, store.Op{Key: itemKey(fn.Name, old), Delete: true})
	}
	// The key is new each time, so after an answer that was lost the same
	// commit can be made again.
	err = durable.Commit(ctx, d.st, d.log, "keep dead letter", ops)
	if err != nil {
		d.restore(fn.Name, item, drop)
		return err
	}
	if len(drop) > 0 {
		d.log.Warn("dead-letter queue was full, dropped the oldest", "function", fn.Name, "dropped", len(drop))
	}
	return nil
}

// reserve puts an item into the index, and takes those out that have to make
// room for it.
func (d *Letters) reserve(fn *functions.Function, item Item) (drop []Item, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	q := d.queue(fn.Name)
	took := false
	room := func() bool {
		if len(q.items) >= fn.Dead.Count || q.bytes+item.Bytes > fn.Dead.Bytes {
			return false
		}
		took = d.budget.Take(item.Bytes)
		return took
	}
	for !room() {
		if fn.Dead.Full != functions.FullDropOldest || len(q.items) == 0 || len(drop) == MaxBatch {
			d.putBack(q, drop)
			return nil, fmt.Errorf("%w: %d letters, %d bytes: see edgefn dead list %s", ErrFull, len(q.items), q.bytes, fn.Name)
		}
		old := q.items[0]
		q.items = q.items[1:]
		q.bytes -= old.Bytes
		d.budget.Give(old.Bytes)
		drop = append(drop, old)
	}
	q.items = append(q.items, item)
	q.bytes += item.Bytes
	return drop, nil
}

// putBack undoes what reserve took out. The caller holds mu.
func (d *Letters) putBack(q *queue, drop []Item) {
	for _, it := range drop {
		q.bytes += it.Bytes
		d.budget.Force(it.Bytes)
	}
	q.items = append(slices.Clip(drop), q.items...)
}

// restore undoes a reserve whose commit did not succeed.
func (d *Letters) restore(function string, item Item, drop []Item) {
	d.mu.Lock()
	defer d.mu.Unlock()
	q := d.queue(function)
	d.takeOut(q, item.ID)
	d.putBack(q, drop)
}

// takeOut removes an id from the index. The caller holds mu.
func (d *Letters) takeOut(q *queue, id string) {
	i := slices.IndexFunc(q.items, func(it Item) bool { return it.ID == id })
	if i < 0 {
		return
	}
	q.bytes -= q.items[i].Bytes
	d.budget.Give(q.items[i].Bytes)
	q.items = slices.Delete(q.items, i, i+1)
}

// Forget drops the index of a function that was removed.
func (d *Letters) Forget(function string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if q := d.queues[function]; q != nil {
		d.budget.Give(q.bytes)
	}
	delete(d.queues, function)
}

// Expire takes the letters that are older than a function keeps them out of
// the store. A letter's id begins with its time.
func (d *Letters) Expire(ctx context.Context, fn *functions.Function, now time.Time) error {
	var old []Item
	d.mu.Lock()
	q := d.queue(fn.Name)
	for _, it := range q.items {
		id, err := ulid.ParseStrict(it.ID)
		if err == nil && aged(ulid.Time(id.Time()), it.seen, now, fn.Dead.Age) && !q.busy[it.ID] {
			old = append(old, it)
		}
	}
	d.mu.Unlock()
	for batch := range slices.Chunk(old, MaxBatch) {
		if err := d.Delete(ctx, fn.Name, batch); err != nil {
			return err
		}
	}
	return nil
}

// plausible is before every letter that was written by a clock that was set.
var plausible = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// aged reports whether a letter that was written at a time, and that this run of
// the node has known since seen, is older than age. No clock that is wrong for an
// hour destroys letters: one that was written by a clock which was not set ages
// by the time that the node runs, and so does every one for its first day.
func aged(written, seen, now time.Time, age time.Duration) bool {
	least := min(age, 24*time.Hour)
	if written.Before(plausible) {
		least = age
	}
	return now.Sub(written) > age && now.Sub(seen) > least
}

// Delete removes letters.
func (d *Letters) Delete(ctx context.Context, function string, items []Item) error {
	if len(items) == 0 {
		return nil
	}
	var ops []store.Op
	for _, it := range items {
		ops = append(ops, store.Op{Key: itemKey(function, it), Delete: true})
	}
	err := durable.Commit(ctx, d.st, d.log, "delete dead letters", ops)
	if err != nil {
		return fmt.Errorf("delete dead letters: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, it := range items {
		d.takeOut(d.queue(function), it.ID)
	}
	return nil
}

// Claim returns the letters with an id, or all, that nobody else runs again or
// deletes, oldest first, and keeps others from them until unclaim.
func (d *Letters) Claim(function, id string) (items []Item, found bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	q := d.queue(function)
	for _, it := range q.items {
		if id != "" && it.ID != id {
			continue
		}
		found = true
		if !q.busy[it.ID] {
			q.busy[it.ID] = true
			items = append(items, it)
		}
	}
	return items, found || id == ""
}

// Unclaim gives back what Claim gave.
func (d *Letters) Unclaim(function string, items []Item) {
	d.mu.Lock()
	defer d.mu.Unlock()
	q := d.queue(function)
	for _, it := range items {
		delete(q.busy, it.ID)
	}
}

// Each reads a function's letters, oldest first.
func (d *Letters) Each(ctx context.Context, function string, f func(Letter) error) error {
	return durable.EachEntry(ctx, d.st, Prefix+function+"/", store.Read{Limit: 20}, func(e store.Entry) error {
		l, err := decode(function, e)
		if err != nil {
			return err
		}
		return f(l)
	})
}

// Get reads one letter; ErrNotFound if there is none.
func (d *Letters) Get(ctx context.Context, function string, it Item) (Letter, error) {
	ctx, cancel := context.WithTimeout(ctx, durable.StoreTime)
	defer cancel()
	e, _, err := d.st.Get(ctx, itemKey(function, it), store.Read{})
	if err != nil {
		return Letter{}, fmt.Errorf("read dead letter %s: %w", it.ID, err)
	}
	if e.Version == 0 {
		return Letter{}, fmt.Errorf("dead letter %s of function %q: %w", it.ID, function, ErrNotFound)
	}
	return decode(function, e)
}

// Find returns the item of an id.
func (d *Letters) Find(function, id string) (Item, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, it := range d.queue(function).items {
		if it.ID == id {
			return it, true
		}
	}
	return Item{}, false
}

// FailedAgain writes down that a letter's event was run again in vain. The key
// keeps the size that it was made with.
func (d *Letters) FailedAgain(ctx context.Context, l Letter, f *functions.Failure) error {
	l.Attempts++
	l.Failure = *f
	value, err := encode(&l)
	if err != nil {
		return fmt.Errorf("update dead letter: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, durable.StoreTime)
	defer cancel()
	if _, err := d.st.Commit(ctx, nil, []store.Op{{Key: l.key, Value: value}}); err != nil {
		return fmt.Errorf("update dead letter %s: %w", l.ID, err)
	}
	return nil
}

func itemKey(function string, it Item) string {
	return durable.SizedKey(Prefix+function+"/", it.ID, int(it.Bytes))
}

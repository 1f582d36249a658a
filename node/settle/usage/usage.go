package usage

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// Book counts what functions cost. It is written to the store once a
// minute and at the end, so a crash loses a minute of it.
type Book struct {
	st   store.Store
	log  *slog.Logger
	node string

	mu    sync.Mutex
	books map[string]*usageEntry // by function

	weights map[string]int64 // of what was committed for each function since the last share
	seen    int64            // what the store had written then
}

// Counters are what a function has cost on a node. Its JSON form is stored.
type Counters struct {
	Function    string    `json:"function"`
	Invocations int64     `json:"invocations"`
	Failures    int64     `json:"failures"`
	WallMS      float64   `json:"wall_ms"`
	CPUMS       float64   `json:"cpu_ms"`
	MemoryMiBMS float64   `json:"memory_mib_ms"`
	Cold        int64     `json:"cold"`
	Warm        int64     `json:"warm"`
	Expired     int64     `json:"expired"` // events that were not run, since their senders' time for them was over
	Since       time.Time `json:"since"`

	// WrittenBytes is what the store has written to its disk for it.
	WrittenBytes int64 `json:"written_bytes"`
}

// Prefix is what keys of counters begin with: then FUNCTION/NODE.
const Prefix = durable.Root + "usage/"

// flushEvery is how often what functions cost is written.
const flushEvery = time.Minute

type usageEntry struct {
	Counters
	dirty bool // not written yet
}

// New makes the counters of a node. Load them first.
func New(st store.Store, log *slog.Logger, node string) *Book {
	return &Book{st: st, log: log, node: node, books: map[string]*usageEntry{}, weights: map[string]int64{}}
}

func (b *Book) key(function string) string { return Prefix + function + "/" + b.node }

// Load reads what an earlier run wrote.
func (b *Book) Load(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m, ok := b.st.(store.Meter); ok {
		b.seen = m.Written() // the start itself is nobody's
	}
	return durable.EachEntry(ctx, b.st, Prefix, store.Read{Limit: 500}, func(e store.Entry) error {
		function, node, _ := strings.Cut(strings.TrimPrefix(e.Key, Prefix), "/")
		if node != b.node {
			return nil
		}
		u := &usageEntry{}
		if err := json.Unmarshal(e.Value, &u.Counters); err != nil {
			return fmt.Errorf("read usage of function %q: %w", function, err)
		}
		b.books[function] = u
		return nil
	})
}

// Add counts an invocation.
func (b *Book) Add(function string, u functions.Usage, failed bool) {
	wall := float64(u.Wall) / float64(time.Millisecond)
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entry(function)
	e.dirty = true
	e.Invocations++
	if failed {
		e.Failures++
	}
	e.WallMS += wall
	e.CPUMS += float64(u.CPU) / float64(time.Millisecond)
	e.MemoryMiBMS += float64(u.PeakMemory) / (1 << 20) * wall
	if u.Cold {
		e.Cold++
	} else {
		e.Warm++
	}
}

// AddExpired counts an event that was not run.
func (b *Book) AddExpired(function string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entry(function)
	e.dirty = true
	e.Expired++
}

// entry returns a function's counters. The caller holds mu.
func (b *Book) entry(function string) *usageEntry {
	e := b.books[function]
	if e == nil {
		e = &usageEntry{Counters: Counters{Function: function, Since: time.Now().UTC()}}
		b.books[function] = e
	}
	return e
}

// Of returns the counters of one function.
func (b *Book) Of(function string) Counters {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entry(function)
	b.share()
	return e.Counters
}

// Run writes once a minute until ctx is done. The caller then flushes.
func (b *Book) Run(ctx context.Context) {
	t := time.NewTicker(flushEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if err := b.Flush(ctx); err != nil && ctx.Err() == nil {
				b.log.Warn("usage is not written, trying again later", "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// Flush writes what has changed.
func (b *Book) Flush(ctx context.Context) error {
	b.mu.Lock()
	b.share()
	var changed []Counters
	for _, e := range b.books {
		if e.dirty {
			changed = append(changed, e.Counters)
			e.dirty = false
		}
	}
	b.mu.Unlock()
	slices.SortFunc(changed, func(x, y Counters) int { return cmp.Compare(x.Function, y.Function) })
	for batch := range slices.Chunk(changed, 500) {
		if err := b.write(ctx, batch); err != nil {
			b.mu.Lock()
			for _, u := range changed {
				if e := b.books[u.Function]; e != nil {
					e.dirty = true
				}
			}
			b.mu.Unlock()
			return fmt.Errorf("write usage: %w", err)
		}
	}
	return nil
}

func (b *Book) write(ctx context.Context, batch []Counters) error {
	ctx, cancel := context.WithTimeout(ctx, durable.StoreTime)
	defer cancel()
	var ops []store.Op
	for _, u := range batch {
		text, err := json.Marshal(u)
		if err != nil {
			return err
		}
		ops = append(ops, store.Op{Key: b.key(u.Function), Value: text})
	}
	_, err := b.st.Commit(ctx, nil, ops)
	return err
}

// Forget drops the counters of a function that was removed; its key goes with
// the function's others.
func (b *Book) Forget(function string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.books, function)
}

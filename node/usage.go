package node

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
	"github.com/edgefn/edgefn/node/api"
)

// usageBook counts what functions cost. It is written to the store once a
// minute and at the end, so a crash loses a minute of it.
type usageBook struct {
	st   store.Store
	log  *slog.Logger
	node string

	mu    sync.Mutex
	books map[string]*usageEntry // by function
}

type usageEntry struct {
	api.Usage
	dirty bool // not written yet
}

func newUsageBook(st store.Store, log *slog.Logger, node string) *usageBook {
	return &usageBook{st: st, log: log, node: node, books: map[string]*usageEntry{}}
}

func (b *usageBook) key(function string) string { return keyUsage + function + "/" + b.node }

// load reads what an earlier run wrote.
func (b *usageBook) load(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return eachEntry(ctx, b.st, keyUsage, store.Read{Limit: 500}, func(e store.Entry) error {
		function, node, _ := strings.Cut(strings.TrimPrefix(e.Key, keyUsage), "/")
		if node != b.node {
			return nil
		}
		u := &usageEntry{}
		if err := json.Unmarshal(e.Value, &u.Usage); err != nil {
			return fmt.Errorf("read usage of function %q: %w", function, err)
		}
		b.books[function] = u
		return nil
	})
}

// add counts an invocation.
func (b *usageBook) add(function string, u functions.Usage, failed bool) {
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

// entry returns a function's counters. The caller holds mu.
func (b *usageBook) entry(function string) *usageEntry {
	e := b.books[function]
	if e == nil {
		e = &usageEntry{Usage: api.Usage{Function: function, Since: time.Now().UTC()}}
		b.books[function] = e
	}
	return e
}

// of returns the counters of one function.
func (b *usageBook) of(function string) api.Usage {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.entry(function).Usage
}

// run writes once a minute until ctx is done. The caller then flushes.
func (b *usageBook) run(ctx context.Context) {
	t := time.NewTicker(flushUsage)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if err := b.flush(ctx); err != nil && ctx.Err() == nil {
				b.log.Warn("usage is not written, trying again later", logErr, err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// flush writes what has changed.
func (b *usageBook) flush(ctx context.Context) error {
	b.mu.Lock()
	var changed []api.Usage
	for _, e := range b.books {
		if e.dirty {
			changed = append(changed, e.Usage)
			e.dirty = false
		}
	}
	b.mu.Unlock()
	slices.SortFunc(changed, func(x, y api.Usage) int { return cmp.Compare(x.Function, y.Function) })
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

func (b *usageBook) write(ctx context.Context, batch []api.Usage) error {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
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

// forget drops the counters of a function that was removed; its key goes with
// the function's others.
func (b *usageBook) forget(function string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.books, function)
}

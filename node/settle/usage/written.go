package usage

import (
	"context"
	"slices"
	"strings"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// commitWeight is what a commit weighs beside its keys and values, in bytes: the
// record in the log and the pages of the database are written whole.
const commitWeight = 4 << 10

// Metered returns a store like the book's that weighs what is committed for each
// function. node are the kinds of keys that are the node's own, behind
// durable.Root, each with a slash at its end.
func (b *Book) Metered(node ...string) store.Store { return meteredStore{b.st, b, node} }

type meteredStore struct {
	store.Store
	book *Book
	node []string
}

// Commit implements store.Store.
func (s meteredStore) Commit(ctx context.Context, guards []store.Guard, ops []store.Op) (int64, error) {
	revision, err := s.Store.Commit(ctx, guards, ops)
	if err == nil && len(ops) > 0 {
		s.book.weigh(ops, s.node)
	}
	return revision, err
}

// functionOf is the function that a key of settling belongs to; empty: it is the
// node's own.
func functionOf(key string, node []string) string {
	kind, rest, _ := strings.Cut(strings.TrimPrefix(key, durable.Root), "/")
	if slices.Contains(node, kind+"/") {
		return ""
	}
	function, _, _ := strings.Cut(rest, "/")
	return function
}

// weigh counts a commit. What of it is the node's own counts for the function of
// the rest.
func (b *Book) weigh(ops []store.Op, node []string) {
	total, own := int64(commitWeight), int64(0)
	weights := map[string]int64{}
	for i := range ops {
		n := int64(len(ops[i].Key) + len(ops[i].Value))
		total += n
		if f := functionOf(ops[i].Key, node); f != "" {
			weights[f] += n
			own += n
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if own == 0 {
		b.weights[""] += total
		return
	}
	for f, n := range weights {
		b.weights[f] += total * n / own
	}
}

// share adds what the store has written since the last time to the counters of
// the functions, in proportion to what was committed for each: what one event
// costs cannot be told from the next one's change of the same page. The caller
// holds mu.
//
//	written(f) += delta * weight(f) / sum of all weights
func (b *Book) share() {
	meter, ok := b.st.(store.Meter)
	if !ok || len(b.weights) == 0 {
		return
	}
	now := meter.Written()
	delta := now - b.seen
	b.seen = now
	total := int64(0)
	for _, w := range b.weights {
		total += w
	}
	for f, w := range b.weights {
		if f == "" {
			continue
		}
		if e := b.books[f]; e != nil {
			e.WrittenBytes += int64(float64(delta) * float64(w) / float64(total))
			e.dirty = true
		}
	}
	clear(b.weights)
}

package durable

import "sync/atomic"

// Budget bounds what the node's own queues take in the store, in bytes.
type Budget struct {
	used  atomic.Int64
	limit int64
}

// queueShare of the store's quota is for the node's own queues; the rest stays
// free for state.
const queueShare = 0.6

// defaultQuota stands for a quota that the store does not know.
const defaultQuota = 256 << 20

// NewBudget makes the budget of a store with this quota in bytes; 0: unknown.
func NewBudget(quota int64) *Budget {
	if quota <= 0 {
		quota = defaultQuota
	}
	return &Budget{limit: int64(float64(quota) * queueShare)}
}

// Take takes n bytes if they are there.
func (b *Budget) Take(n int64) bool {
	if b.used.Add(n) <= b.limit {
		return true
	}
	b.used.Add(-n)
	return false
}

// Force takes n bytes that are in the store already.
func (b *Budget) Force(n int64) { b.used.Add(n) }

// Give gives n bytes back.
func (b *Budget) Give(n int64) { b.used.Add(-n) }

// Used is how many bytes are taken.
func (b *Budget) Used() int64 { return b.used.Load() }

// Limit is all that there is, in bytes.
func (b *Budget) Limit() int64 { return b.limit }

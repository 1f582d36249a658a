// Package cluster holds what makes several nodes one: so far, the store that
// their state lives in.
//
//	store/            the contract: keys in order of revision, transactions
//	                  with guards, watches, leases
//	store/etcd/       that contract by etcd: embedded in the node, or outside
//	store/memstore/   the same in memory, for tests
//	store/storetest/  the suite that both pass
//
// A node commits the outcome of an invocation as one transaction: the state
// that it wrote, the event's id, and what is still to be sent. The transaction
// is guarded by the version of everything that the invocation read, so that
// two invocations that touch the same keys behave as if one had run after the
// other. A commit that returned is on disk. One that lost to another writer
// changes nothing and says so; the caller reads again and retries, which
// store.Update does for short read-modify-write steps.
//
// The store is bounded: transactions by operations and bytes, the whole by a
// quota. At the quota, writes are refused and deletes pass, and the store
// recovers by itself once there is room.
//
// Nothing of the engine's types leaves its adapter, so a node neither knows
// nor cares whether etcd runs inside it or beside it.
//
// This folder imports nothing of the project outside its own subtree.
package cluster

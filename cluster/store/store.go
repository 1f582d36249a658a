package store

import (
	"context"
	"errors"
	"time"
)

// Errors that every Store returns, wrapped with what was being done.
var (
	// ErrConflict: a guard of a transaction did not hold; read again and retry.
	ErrConflict = errors.New("another writer was first")
	// ErrFull: the store is at its quota or its disk is full; deletes still pass.
	ErrFull = errors.New("store is full")
	// ErrTooLarge: a transaction has too many operations or bytes.
	ErrTooLarge = errors.New("transaction is too large")
	// ErrCompacted: the revision asked for is no longer kept; read again.
	ErrCompacted = errors.New("revision is compacted")
	// ErrLeaseGone: the lease of a write has expired; take a new one and try again.
	ErrLeaseGone = errors.New("lease has expired")
	// ErrUnavailable: the store does not answer for the time being, as while it
	// starts anew after a failure or its disk has no room left at all. It goes
	// on by itself: wait and try again.
	ErrUnavailable = errors.New("store is not available for the time being")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("store is closed")
	// ErrInvalid: the request makes no sense, such as an empty key, two ops on
	// one key or a revision that is still to come; a programmer's error.
	ErrInvalid = errors.New("invalid request")
)

// Bounds of one transaction; beyond them Commit returns ErrTooLarge.
const (
	// MaxOps bounds the ops.
	MaxOps = 1024
	// MaxGuards bounds the guards; a guard of a range counts as one more than
	// its keys, since each of them is guarded.
	MaxGuards = 4096
	// MaxBytes bounds the bytes of all keys and values. It is 4 MiB less what
	// the encoding of MaxOps ops and MaxGuards guards may add.
	MaxBytes = 4<<20 - 256<<10
)

// Entry is a key with its value and the revision that last changed it.
type Entry struct {
	Key     string
	Value   []byte
	Version int64 // revision of the last change; 0: the key does not exist
}

// LeaseID names a lease; 0 is none.
type LeaseID int64

// Read says at which revision to read and how much.
type Read struct {
	Revision int64  // 0: the newest
	Limit    int    // entries at most; 0: all
	After    string // only keys after this one, for paging
	KeysOnly bool   // leave values empty
}

// Guard is a condition of a transaction.
type Guard struct {
	Key string
	// Version must be the key's version: 0 for a key that must not exist.
	Version int64
	// Prefix makes the guard one of a listed range: no key under Key may have
	// been created, changed or deleted after revision Version, at which there
	// were just Count of them. It is List that gives both: its revision and
	// the number of all its entries. A range read in pages is guarded whole.
	Prefix bool
	Count  int
}

// Op is one write of a transaction: a put, or a delete where Delete is true.
type Op struct {
	Key    string
	Value  []byte
	Lease  LeaseID
	Delete bool
	Prefix bool // with Delete: every key that begins with Key
}

// Event is a change that a watch saw.
type Event struct {
	Entry
	Deleted bool
}

// Store keeps keys in order of revision. All methods are safe for concurrent
// use and take their bound from ctx. Values handed out are the caller's own;
// values handed in are not kept beyond the call.
type Store interface {
	// Get reads one key; an absent key has Version 0 and no error. revision is
	// that of the store as it was read: r.Revision, or the newest.
	Get(ctx context.Context, key string, r Read) (e Entry, revision int64, err error)
	// List reads the keys that begin with prefix, in byte order.
	List(ctx context.Context, prefix string, r Read) (es []Entry, revision int64, err error)
	// Count counts the keys that begin with prefix.
	Count(ctx context.Context, prefix string) (int, error)
	// Commit applies every op, atomically and durably, if every guard holds,
	// and returns the new revision; else it changes nothing and returns
	// ErrConflict. No two ops may touch one key (ErrInvalid). With no ops it
	// only checks the guards. The errors of this package but ErrClosed and
	// ErrUnavailable mean that nothing was changed; any other, the end of ctx
	// among them, leaves it open.
	Commit(ctx context.Context, guards []Guard, ops []Op) (revision int64, err error)
	// Watch calls f with each change under prefix from revision on (0: from
	// now), in order, until ctx is done (nil), f fails (its error) or the
	// revision is compacted (ErrCompacted). The changes of one commit come in
	// one call. A store that is not available for a while only delays it.
	Watch(ctx context.Context, prefix string, revision int64, f func([]Event) error) error
	// Grant makes a lease that ends ttl after it was last renewed, or some
	// seconds later, never sooner. Keys put with it go when it ends.
	Grant(ctx context.Context, ttl time.Duration) (LeaseID, error)
	// Renew starts a lease's time anew; ErrLeaseGone if it has ended.
	Renew(ctx context.Context, id LeaseID) error
	// Revoke ends a lease and removes its keys; ending one that is gone is no error.
	Revoke(ctx context.Context, id LeaseID) error
	// Size is what the entries and their history take and may take, in bytes.
	// Deleted entries count until their history is compacted. quota is 0 where
	// it is not known.
	Size(ctx context.Context) (used, quota int64, err error)
	// Health says how the store is, at once and from what it knows: it asks no
	// disk and no network.
	Health() Health
	// Close ends the calls in progress with ErrClosed, waits for them and
	// releases the store. It is not to be called from the function of a Watch.
	// Calling it again does nothing.
	Close() error
}

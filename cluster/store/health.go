package store

import (
	"context"
	"io"
	"time"
)

// States of Health.
const (
	// StateOK: every call is served.
	StateOK = "ok"
	// StateDegraded: reads are served, writes may be refused or slow.
	StateDegraded = "degraded"
	// StateDown: calls fail with ErrUnavailable, or wait, until the store is back.
	StateDown = "down"
)

// Health is how a store is.
type Health struct {
	State  string    // one of the states above
	Reason string    // for people: what is wrong, where, and what to do; empty while ok
	Since  time.Time // when State became what it is
}

// Snapshotter is a store that can be copied while it is in use.
type Snapshotter interface {
	// Snapshot writes a consistent copy of the store, which ends with its own
	// checksum. It holds every commit up to revision and maybe some later ones.
	// Commits go on meanwhile. On an error what was written is of no use.
	Snapshot(ctx context.Context, w io.Writer) (revision int64, err error)
}

// Meter is a store that knows what it has written.
type Meter interface {
	// Written is how many bytes the store has written to its files since it was
	// opened. It never falls.
	Written() int64
}

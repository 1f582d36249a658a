package settle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// Ids of events are remembered for a day, or as long as they are among the
// last 200,000 of the node, whichever is shorter. They go with the lease that
// they were put on, whose time the store keeps; a lease takes ids for an hour, or
// a tenth of all.
const (
	doneTTL    = 25 * time.Hour
	doneSpan   = time.Hour
	maxDone    = 200_000
	maxPerSpan = maxDone / 10
)

// donePrefix: FUNCTION/HASH, on a lease; the value is the event's id.
const donePrefix = durable.Root + "done/"

// eventKey names an event that carries an id of its sender's. CloudEvents makes
// ids unique within their source; devices that count their messages do so per
// topic. So source and subject count too: better an event too many than one too
// few.
func eventKey(function string, e *functions.Event) string {
	h := sha256.New()
	for _, s := range []string{e.Source, e.Subject, e.ID} {
		_, _ = fmt.Fprintf(h, "%d:%s", len(s), s) // a hash does not fail
	}
	return donePrefix + function + "/" + hex.EncodeToString(h.Sum(nil)[:16])
}

// doneIDs remembers the ids of events that took effect.
type doneIDs struct {
	st  store.Store
	log *slog.Logger
	key string // where spans are kept, so that a restart forgets none

	mu    sync.Mutex
	spans []span // oldest first; the last one is in use
}

// span is a lease and what was put on it.
type span struct {
	Lease store.LeaseID `json:"lease"`
	Since time.Time     `json:"since"`
	IDs   int           `json:"ids"`
}

func newDoneIDs(st store.Store, log *slog.Logger, node string) *doneIDs {
	return &doneIDs{st: st, log: log, key: durable.Root + leasesKind + node}
}

// load reads which leases an earlier run has made.
func (d *doneIDs) load(ctx context.Context) error {
	e, _, err := d.st.Get(ctx, d.key, store.Read{})
	if err != nil {
		return fmt.Errorf("read leases of event ids: %w", err)
	}
	n, err := d.st.Count(ctx, donePrefix)
	if err != nil {
		return fmt.Errorf("count event ids: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if e.Version == 0 {
		return nil
	}
	if err := json.Unmarshal(e.Value, &d.spans); err != nil {
		return fmt.Errorf("read leases of event ids: %w", err)
	}
	// What was put on the last lease was not written down yet.
	for _, s := range d.spans {
		n -= s.IDs
	}
	if len(d.spans) > 0 {
		d.spans[len(d.spans)-1].IDs += max(n, 0)
	}
	return nil
}

// known reports whether the event of a key has taken effect.
func (d *doneIDs) known(ctx context.Context, key string) (bool, error) {
	found := false
	err := durable.Persist(ctx, d.log, "look up an event's id", func(ctx context.Context) error {
		e, _, err := d.st.Get(ctx, key, store.Read{})
		found = e.Version != 0
		return err
	})
	return found, err
}

// lease returns the lease that takes ids now.
func (d *doneIDs) lease(ctx context.Context) (store.LeaseID, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if n := len(d.spans); n > 0 {
		if s := d.spans[n-1]; s.IDs < maxPerSpan && now.Sub(s.Since).Abs() < doneSpan {
			return s.Lease, nil
		}
	}
	keep, drop := prune(d.spans)
	id, err := d.st.Grant(ctx, doneTTL)
	if err != nil {
		return 0, fmt.Errorf("make a lease for event ids: %w", err)
	}
	keep = append(keep, span{Lease: id, Since: now})
	text, err := json.Marshal(keep)
	if err != nil {
		return 0, fmt.Errorf("make a lease for event ids: %w", err)
	}
	if _, err := d.st.Commit(ctx, nil, []store.Op{{Key: d.key, Value: text}}); err != nil {
		if rerr := d.st.Revoke(ctx, id); rerr != nil {
			d.log.Debug("lease stays until it ends", logErr, rerr)
		}
		return 0, fmt.Errorf("make a lease for event ids: %w", err)
	}
	for _, s := range drop {
		if err := d.st.Revoke(ctx, s.Lease); err != nil {
			d.log.Warn("old event ids stay until their lease ends", logErr, err)
		}
	}
	d.spans = keep
	return id, nil
}

// leasesKind is the kind of the keys that hold which leases a node has made.
const leasesKind = "leases/"

// maxSpans is how many leases are kept at the most. One takes ids for an hour and
// ends within a day and an hour, so what is dropped beyond has ended, unless the
// clock was set again and again.
const maxSpans = 64

// prune splits spans into those to keep and those to forget: the oldest, while
// there are too many ids or too many spans. Their age does not count: the clock
// may have been wrong when they began.
func prune(spans []span) (keep, drop []span) {
	n := 0
	for i := len(spans) - 1; i >= 0; i-- {
		if n += spans[i].IDs; n > maxDone-maxPerSpan || len(spans)-i >= maxSpans {
			return spans[i+1:], spans[:i+1]
		}
	}
	return spans, nil
}

// count takes one more id of a lease into account.
func (d *doneIDs) count(id store.LeaseID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.spans {
		if d.spans[i].Lease == id {
			d.spans[i].IDs++
		}
	}
}

// forget drops a lease that has ended.
func (d *doneIDs) forget(id store.LeaseID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.spans {
		if d.spans[i].Lease == id {
			d.spans = append(d.spans[:i:i], d.spans[i+1:]...)
			return
		}
	}
}

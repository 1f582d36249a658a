package settle

import (
	"slices"
	"time"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/wire"
	"github.com/edgefn/edgefn/node/settle/dead"
	"github.com/edgefn/edgefn/node/settle/retry"
	"github.com/edgefn/edgefn/triggers"
)

// work is an event from its delivery until it is settled. Once it is in the retry
// queue its sender is told, and its data is only there while it runs.
type work struct {
	d     triggers.Delivery // without its Settle, which is tell
	order string            // events of one order run one at a time; empty: of none
	key   string            // of an event with an id of its sender's, see eventKey; else empty
	bytes int               // of the data as it came
	cut   bool              // the data is only its beginning
	size  int64             // of what is held in memory

	failed  int                // attempts that failed
	waits   int                // tries in a row that did not count
	failure *functions.Failure // set: it is to be dead-lettered
	last    *functions.Failure // of the last attempt that failed; nil: none has, or it is in the store
	wait    time.Duration      // before the next attempt
	due     time.Time          // when that is over
	expires time.Time          // when it is not to be tried any more, by the time that passes; zero: never

	// Guarded by the service's mu.
	tell    func(error) // tells the sender; nil: it was told
	item    *retry.Item // where it is stored; nil: nowhere
	away    bool        // the data is only in the store
	storing storing
	entry   *retry.Entry // while it is on its way into the store
	unsure  bool         // an earlier try may have put it
	puts    int          // tries to put it that failed
	trying  bool         // an attempt is under way
	frozen  bool         // it is being settled: too late to store it
	timer   *time.Timer  // set while it waits for another try
	hold    *time.Timer  // stores it when its sender has waited long enough; nil: not started
	held    time.Time    // when hold is over
	paused  bool         // it waits until its trigger is resumed
}

// storing is how far an event is on its way into the store.
type storing int

const (
	notStoring storing = iota
	toStore            // it waits to be put
	putting            // it is being put
)

// newWork makes the work of a delivery. An event over the limit is cut at once,
// so that it does not take the room; it will be dead-lettered.
func newWork(d triggers.Delivery, maxPayload int) *work {
	w := &work{d: d, tell: d.Settle, bytes: len(d.Event.Data), expires: d.Event.Expires}
	w.d.Settle = nil // it holds what its source knows of the event, for as long as it is held
	e := &w.d.Event
	attributes := len(e.ID) + len(e.Type) + len(e.Source) + len(e.Subject) + len(e.DataContentType)
	if !e.Expires.IsZero() {
		attributes += len(functions.ExtExpiryTime) + len(time.RFC3339Nano) + 8
	}
	for k, v := range e.Extensions {
		attributes += len(k) + len(v) + 8
	}
	switch {
	case w.bytes > maxPayload:
		e.Data = slices.Clone(e.Data[:min(dead.CutTo, len(e.Data))])
		w.cut = true
		w.failure = functions.Failf(functions.FailPayload, "the event has %d bytes of data, this node takes %d (max_event less %d)", w.bytes, maxPayload, wire.Overhead)
	case attributes > wire.Overhead-1<<10: // the frame has a context too
		w.failure = functions.Failf(functions.FailPayload, "the event's attributes take %d bytes, at most %d are possible", attributes, wire.Overhead-1<<10)
	}
	w.size = int64(len(e.Data) + attributes)
	if d.OwnID {
		w.key = eventKey(d.Function, e)
	}
	return w
}

// header is what is kept of the event beside its data. The caller holds the
// service's mu, or is the only one who knows w.
func (w *work) header(running bool) retry.Header {
	h := retry.Header{
		Trigger: w.d.Trigger, Order: w.order, EventID: w.d.Event.ID, OwnID: w.d.OwnID, Key: w.key, Bytes: w.bytes,
		Failed: w.failed, Running: running, Wait: w.wait, Expiry: functions.StoreExpiry(w.expires, time.Now()),
	}
	if w.wait > 0 {
		h.DueNS = w.due.UnixNano()
	}
	if w.last != nil {
		h.SetFailure(w.last)
	}
	return h
}

// minLost is how many attempts an event has at the least before it is
// dead-lettered for a sandbox or node that ended under it: it may be innocent.
const minLost = 3

// exhausted reports whether an event that has failed so often, in the end like
// this, is tried no more.
func exhausted(r functions.Retry, failed int, f *functions.Failure) bool {
	if f.Kind == functions.FailLost {
		return failed >= max(r.Attempts, minLost)
	}
	return failed >= r.Attempts || !f.Retryable()
}

// restored makes the work of an event that an earlier run of the node has left.
// An attempt that was under way when the node ended has failed.
func restored(left retry.Stored, r functions.Retry, now time.Time) *work {
	h := left.Header
	w := &work{
		d:     triggers.Delivery{Trigger: h.Trigger, OwnID: h.OwnID, Event: functions.Event{ID: h.EventID}},
		order: h.Order, key: h.Key, bytes: h.Bytes, failed: h.Failed, item: left.Item,
		expires: h.Expiry.Restore(now),
	}
	if h.Kind != "" {
		w.last = &functions.Failure{Kind: functions.FailureKind(h.Kind), Message: h.Message, Detail: h.Detail}
	}
	if h.Running {
		w.failed++
		w.last = functions.Failf(functions.FailLost, "the node ended while it ran")
	} else {
		w.waitFor(h.Remaining(now), now)
	}
	if w.last != nil && w.failed > 0 && exhausted(r, w.failed, w.last) {
		w.failure = w.last
	}
	return w
}

// expired reports whether it is too late for another try.
func (w *work) expired(now time.Time) bool { return !w.expires.IsZero() && !now.Before(w.expires) }

// next is when there is something to do for an event that waits.
func (w *work) next(now time.Time) time.Time {
	if w.failure == nil && w.expires.After(now) && w.expires.Before(w.due) {
		return w.expires
	}
	return w.due
}

// waitFor says how long to wait before the next try.
func (w *work) waitFor(d time.Duration, now time.Time) {
	w.wait, w.due = d, now.Add(d)
}

// letGoOfData keeps an event that is stored only there. The caller holds the
// service's mu.
func (w *work) letGoOfData() {
	if w.item == nil || w.failure != nil {
		return
	}
	w.d.Event, w.away = functions.Event{ID: w.d.Event.ID}, true
	if w.last != nil {
		w.last = &functions.Failure{Kind: w.last.Kind, Message: w.last.Message}
	}
}

// letter is the event as a dead letter.
func (w *work) letter() dead.Letter {
	return dead.Letter{
		Trigger: w.d.Trigger, Attempts: w.failed, Failure: *w.failure,
		Event: w.d.Event, OwnID: w.d.OwnID, Bytes: w.bytes, Cut: w.cut,
	}
}

package triggers

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/edgefn/edgefn/functions"
)

// Waits of a Feed between two tries to hand an event over.
const (
	feedFirst = 100 * time.Millisecond
	feedMax   = 5 * time.Second
)

// Feed hands the events of one trigger to a Sink, for a source that has nobody
// to tell of their outcome. Deliver is called by one goroutine.
type Feed struct {
	Binding Binding
	Sink    Sink
	Logger  *slog.Logger

	mu        sync.Mutex
	unsettled int
	givenBack int           // let go of by the node, unsettled
	idle      chan struct{} // closed when unsettled is 0; nil: nobody waits
}

// Deliver tries until the Sink takes the event; the order of events allows no
// other in between. It returns false when ctx is done first.
func (f *Feed) Deliver(ctx context.Context, e functions.Event) bool {
	d := Delivery{Function: f.Binding.Function, Trigger: f.Binding.Trigger.Name, Event: e, Settle: f.settle}
	f.mu.Lock()
	f.unsettled++
	f.mu.Unlock()
	for n, wait := 1, feedFirst; ; n, wait = n+1, min(2*wait, feedMax) {
		err := f.Sink.Deliver(ctx, d)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			f.settle(ErrStopped)
			return false
		}
		if n == 1 || n%12 == 0 { // about once a minute
			f.Logger.Warn("event not taken; trying again", "err", err)
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

func (f *Feed) settle(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.givenBack++
	}
	if f.unsettled--; f.unsettled == 0 && f.idle != nil {
		close(f.idle)
		f.idle = nil
	}
}

// Idle waits until all that the Sink has taken is settled, or ctx is done. It is
// called by the goroutine that calls Deliver.
func (f *Feed) Idle(ctx context.Context) {
	select {
	case <-f.whenIdle():
	case <-ctx.Done():
	}
}

// whenIdle is closed when all is settled. One goroutine waits at a time.
func (f *Feed) whenIdle() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	idle := make(chan struct{})
	if f.unsettled == 0 {
		close(idle)
	} else {
		f.idle = idle
	}
	return idle
}

// Drain waits until all that the Sink has taken is settled, at most for a time.
// It logs how many events are lost with it, or will be if the node ends before
// they are settled. Deliver has returned for the last time.
func (f *Feed) Drain(limit time.Duration) {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-f.whenIdle():
	case <-t.C:
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.givenBack > 0 {
		f.Logger.Warn("events were not taken, or given back; they are lost", "events", f.givenBack)
	}
	if f.unsettled > 0 {
		f.Logger.Warn("stopped before events are settled; they are lost if the node ends first", "events", f.unsettled)
	}
}

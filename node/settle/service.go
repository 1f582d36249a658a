package settle

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/wire"
	"github.com/edgefn/edgefn/node/settle/dead"
	"github.com/edgefn/edgefn/triggers"
)

// maxHeldBytes bounds the data of the events that one function holds, waiting
// or running. One event alone is always taken.
const maxHeldBytes = 32 << 20

// work is an event from its delivery until it is settled.
type work struct {
	d     triggers.Delivery
	order string // events of one order run one at a time; empty: of none
	bytes int    // of the data as it came
	cut   bool   // the data is only its beginning
	size  int64  // of what is held in memory

	failed  int                // attempts that failed
	waits   int                // tries in a row that did not count
	failure *functions.Failure // set: it is to be dead-lettered
	timer   *time.Timer        // set while it waits for another try
}

// newWork makes the work of a delivery. An event over the limit is cut at once,
// so that it does not take the room; it will be dead-lettered.
func newWork(d triggers.Delivery, maxPayload int) *work {
	w := &work{d: d, bytes: len(d.Event.Data)}
	e := &w.d.Event
	attributes := len(e.ID) + len(e.Type) + len(e.Source) + len(e.Subject) + len(e.DataContentType)
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
	return w
}

// Service serves one function on this node: it takes its events, in order where
// that is asked for, runs them on the version that is active, and settles them.
type Service struct {
	name    string
	exec    *executor
	dead    *dead.Letters
	log     *slog.Logger
	failing func() // see Settler.Service
	note    func(level, invocation, text string)

	wake chan struct{} // capacity 1: look whether something can start

	mu        sync.Mutex
	function  *functions.Function // as deployed
	active    *Version            // nil: no version serves; events wait
	queue     queue[*work]
	held      int // events taken and not settled
	heldBytes int64
	arrivals  []*arrival // wait to be taken, first come first served; one per source
	running   int
	delayed   map[*work]bool
	stopping  bool
	failures  int    // attempts that failed in a row, of whatever event
	deadFull  string // why nothing can be dead-lettered; empty: it can
}

// arrival is a delivery that waits for room. done has room for one value.
type arrival struct {
	w    *work
	done chan error
}

// Service makes the service of a function. It takes events, which wait until it
// runs and a version is active. failing is called when the function has failed
// maxFailures times in a row, note writes a line of the node into its log.
func (s *Settler) Service(fn *functions.Function, failing func(), note func(level, invocation, text string)) *Service {
	return &Service{
		name: fn.Name, exec: s.exec, dead: s.Dead, log: s.log.With(logFunction, fn.Name), failing: failing, note: note,
		wake: make(chan struct{}, 1), function: fn, delayed: map[*work]bool{},
	}
}

// Deliver takes an event, and blocks while the function is full. Then the
// event's Settle is called once; before, or with an error, it is not.
func (s *Service) Deliver(ctx context.Context, d triggers.Delivery) error {
	w := newWork(d, s.exec.maxPayload)
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		return triggers.ErrStopped
	}
	if len(s.arrivals) == 0 && s.fits(w) {
		s.take(w)
		s.mu.Unlock()
		s.nudge()
		return nil
	}
	a := &arrival{w, make(chan error, 1)}
	s.arrivals = append(s.arrivals, a)
	s.mu.Unlock()
	select {
	case err := <-a.done:
		return err
	case <-ctx.Done():
	}
	s.mu.Lock()
	i := slices.Index(s.arrivals, a)
	if i >= 0 {
		s.arrivals = slices.Delete(s.arrivals, i, i+1)
	}
	s.mu.Unlock()
	if i < 0 {
		return <-a.done // it was taken in the same moment
	}
	return fmt.Errorf("hand event over to function %q: %w", s.name, context.Cause(ctx))
}

// fits reports whether an event can be taken. The caller holds mu.
func (s *Service) fits(w *work) bool {
	return s.held == 0 || (s.held < s.function.Scale.Queue+s.function.Scale.Max && s.heldBytes+w.size <= maxHeldBytes)
}

// take queues an event. The caller holds mu.
func (s *Service) take(w *work) {
	s.held++
	s.heldBytes += w.size
	for i := range s.function.Triggers {
		if t := &s.function.Triggers[i]; t.Name == w.d.Trigger && t.Order == functions.OrderSubject {
			w.order = t.Name + "\x00" + w.d.Event.Subject
		}
	}
	s.queue.add(w.order, w)
}

// nudge has run look for work.
func (s *Service) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run handles events until Stop was called and the running ones are done, or
// until ctx is done. It ends with no event in work.
func (s *Service) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for {
		for w := s.next(); w != nil; w = s.next() {
			wg.Go(func() { s.handle(ctx, w) })
		}
		s.mu.Lock()
		over := s.stopping && s.running == 0
		s.mu.Unlock()
		if over {
			break
		}
		select {
		case <-s.wake:
			continue
		case <-ctx.Done():
		}
		s.Stop()
		break
	}
	wg.Wait()
}

// next returns an event that can start, or nil.
func (s *Service) next() *work {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Twice as many as there are instances: one commits while the next one's
	// handler runs.
	if s.active == nil || s.stopping || s.running >= 2*s.function.Scale.Max {
		return nil
	}
	w, ok := s.queue.next()
	if !ok {
		return nil
	}
	s.running++
	return w
}

// handle runs an event once and settles it or puts it back.
func (s *Service) handle(ctx context.Context, w *work) {
	v, wait := s.attempt(ctx, w)
	s.mu.Lock()
	s.running--
	if v == again && s.stopping {
		v = stopped
	}
	if v == again {
		s.delayed[w] = true
		w.timer = time.AfterFunc(wait, func() { s.resume(w) })
		s.mu.Unlock()
		s.nudge()
		return
	}
	s.drop(w)
	s.mu.Unlock()
	s.nudge()
	settle(w, v)
}

// settle tells an event's sender.
func settle(w *work, v verdict) {
	if v == stopped {
		w.d.Settle(triggers.ErrStopped)
		return
	}
	w.d.Settle(nil)
}

// drop lets go of an event that was given out by the queue and takes those that
// wait for its room. The caller holds mu.
func (s *Service) drop(w *work) {
	s.queue.done(w.order)
	s.held--
	s.heldBytes -= w.size
	for len(s.arrivals) > 0 && !s.stopping && s.fits(s.arrivals[0].w) {
		a := s.arrivals[0]
		s.arrivals = s.arrivals[1:]
		s.take(a.w)
		a.done <- nil
	}
}

// resume puts an event back whose wait is over.
func (s *Service) resume(w *work) {
	s.mu.Lock()
	waited := s.delayed[w]
	delete(s.delayed, w)
	if waited {
		s.queue.again(w)
	}
	s.mu.Unlock()
	s.nudge()
}

// Stop takes no more events and lets go of those that do not run. Calling it
// again does nothing.
func (s *Service) Stop() {
	s.mu.Lock()
	s.stopping = true
	waiting := s.queue.drain()
	for w := range s.delayed {
		w.timer.Stop()
		waiting = append(waiting, w)
	}
	clear(s.delayed)
	arrivals := s.arrivals
	s.arrivals = nil
	for _, w := range waiting {
		s.held--
		s.heldBytes -= w.size
	}
	s.mu.Unlock()
	for _, a := range arrivals {
		a.done <- triggers.ErrStopped
	}
	for _, w := range waiting {
		w.d.Settle(triggers.ErrStopped)
	}
	s.nudge()
}

// Activate has events run on v from now on, and returns what they ran on before.
func (s *Service) Activate(v *Version) (old *Version) {
	s.mu.Lock()
	old, s.active = s.active, v
	if v != nil {
		s.function = v.Function
	}
	s.mu.Unlock()
	s.nudge()
	return old
}

// Current returns the active version, nil if none serves.
func (s *Service) Current() *Version {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active
}

// Spec returns the function as deployed.
func (s *Service) Spec() *functions.Function {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.function
}

// Queued is how many events wait, those included that wait to be tried again.
func (s *Service) Queued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queue.waiting() + len(s.delayed) + len(s.arrivals)
}

// Blocked says why events cannot be dead-lettered; empty: they can.
func (s *Service) Blocked() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deadFull
}

// Note writes a line of the node into the function's log; invocation may be
// empty.
func (s *Service) Note(level, invocation, text string) { s.note(level, invocation, text) }

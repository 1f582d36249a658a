package settle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/settle/dead"
	"github.com/edgefn/edgefn/node/settle/retry"
	"github.com/edgefn/edgefn/triggers"
)

// maxHeldBytes bounds the data of the events that one function holds in memory,
// waiting or running. One event alone is always taken.
const maxHeldBytes = 32 << 20

// Service serves one function on this node: it takes its events, in order where
// that is asked for, runs them on the version that is active, and settles them.
type Service struct {
	name    string
	exec    *executor
	dead    *dead.Letters
	retries *retry.Queue
	log     *slog.Logger
	failing func() // see Settler.Service
	note    func(level, invocation, text string)

	wake chan struct{} // capacity 1: look whether something can start

	mu        sync.Mutex
	function  *functions.Function // as deployed
	active    *Version            // nil: no version serves; events wait
	queue     queue[*work]
	held      int // events taken, neither settled nor stored
	heldBytes int64
	arrivals  []*arrival // wait to be taken, first come first served; one per source
	running   int
	calls     int            // of RunNow
	delayed   map[*work]bool // those that wait for another try, or for their trigger
	stopping  bool

	storeWake    chan struct{}   // capacity 1: something is to be stored
	storeQueue   []*work         // to be put into the retry queue, in this order
	stored       int             // events in the retry queue
	storedOrders map[string]int  // of them by order; what comes behind them is stored too
	storedKeys   map[string]bool // of them, by work.key
	putDone      *sync.Cond      // of mu: a try to put events is over
	storeOver    bool            // nothing is put any more
	paused       pause

	failures int // attempts that failed in a row, of whatever event
	lapsed   lapses
	deadFull string // why nothing can be dead-lettered; empty: it can
}

// arrival is a delivery that waits for room. done has room for one value.
type arrival struct {
	w    *work
	done chan error
}

// Service makes the service of a function, with the events that an earlier run of
// the node has left. It takes events, which wait until it runs and a version is
// active. failing is called when the function has failed
// maxFailures times in a row, note writes a line of the node into its log.
func (s *Settler) Service(fn *functions.Function, failing func(), note func(level, invocation, text string)) *Service {
	svc := &Service{
		name: fn.Name, exec: s.exec, dead: s.Dead, retries: s.retries, log: s.log.With(logFunction, fn.Name), failing: failing, note: note,
		wake: make(chan struct{}, 1), function: fn, delayed: map[*work]bool{},
		storeWake: make(chan struct{}, 1), storedOrders: map[string]int{}, storedKeys: map[string]bool{},
	}
	svc.putDone = sync.NewCond(&svc.mu)
	now := time.Now()
	for _, left := range s.retries.Left(fn.Name) {
		svc.addStored(restored(left, fn.Retry, now))
	}
	return svc
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
	if s.storedKeys[w.key] { // its sender hands it over again, and need not
		s.mu.Unlock()
		d.Settle(nil)
		return nil
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
		t := &s.function.Triggers[i]
		if t.Name == w.d.Trigger && t.Order == functions.OrderSubject && w.failure == nil {
			w.order = t.Name + "\x00" + w.d.Event.Subject
		}
	}
	s.queue.add(w.order, w)
	if s.storedOrders[w.order] > 0 || s.paused.has(w.d.Trigger) {
		s.store(w)
	}
}

// ErrNotServing means that no version of the function serves now.
var ErrNotServing = errors.New("no version serves")

// RunNow runs an event once and commits its effects, for one who waits for the
// outcome: no queue, no other attempt. Stop waits for it as for every event. The
// error is a *functions.Failure, pool.ErrOverloaded, pool.ErrClosed,
// ErrNotServing, triggers.ErrStopped, ctx's or the store's.
func (s *Service) RunNow(ctx context.Context, r Request) (Ran, error) {
	s.mu.Lock()
	v := s.active
	switch {
	case s.stopping:
		s.mu.Unlock()
		return Ran{}, triggers.ErrStopped
	case v == nil:
		s.mu.Unlock()
		return Ran{}, ErrNotServing
	}
	s.calls++
	s.mu.Unlock()
	out, err := s.exec.run(ctx, v, r)
	var f *functions.Failure
	s.tally(err, errors.As(err, &f) && f.Kind != functions.FailTransient)
	s.mu.Lock()
	s.calls--
	s.mu.Unlock()
	s.nudge()
	return out, err
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
	var wg, storing sync.WaitGroup
	defer storing.Wait()
	sctx, cancel := context.WithCancel(ctx)
	defer cancel()
	storing.Go(func() { s.storeAll(sctx) })
	for {
		for w := s.next(); w != nil; w = s.next() {
			wg.Go(func() { s.handle(ctx, w) })
		}
		s.mu.Lock()
		over := s.stopping && s.running+s.calls == 0
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
	w.trying = true
	return w
}

// handle runs an event once and settles it or puts it back.
func (s *Service) handle(ctx context.Context, w *work) {
	v := s.attempt(ctx, w)
	switch v {
	case again, stopped:
		s.noteRested(ctx, w, v)
	case tooEarly:
		v = again
	case settled, deadLetter, expired:
	}
	s.mu.Lock()
	s.running--
	w.trying = false
	if v == again && s.stopping {
		v = stopped
	}
	if v == again {
		s.delay(w)
		s.mu.Unlock()
		s.nudge()
		return
	}
	tell := w.tell
	w.tell = nil
	s.drop(w, v)
	s.mu.Unlock()
	s.nudge()
	if tell == nil {
		return
	}
	if v == stopped {
		tell(triggers.ErrStopped)
		return
	}
	tell(nil)
}

// delay has an event wait for its next try. The caller holds mu.
func (s *Service) delay(w *work) {
	w.letGoOfData()
	s.delayed[w] = true
	if w.paused = s.paused.has(w.d.Trigger); w.paused {
		return // SetPaused goes on
	}
	now := time.Now()
	w.timer = time.AfterFunc(w.next(now).Sub(now), func() { s.resume(w) })
}

// drop lets go of an event that was given out by the queue and takes those that
// wait for its room. The caller holds mu.
func (s *Service) drop(w *work, v verdict) {
	s.queue.done(w.order)
	if w.hold != nil {
		w.hold.Stop()
	}
	w.frozen = true // or it would be stored now
	if w.item == nil {
		s.held--
		s.heldBytes -= w.size
	} else {
		s.forgetStored(w)
		if v == settled {
			s.retries.Removed(w.item)
		}
	}
	s.wakeStore()
	s.takeArrivals()
}

// takeArrivals takes those who wait for room. The caller holds mu.
func (s *Service) takeArrivals() {
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
		if w.timer != nil {
			w.timer.Stop()
		}
		waiting = append(waiting, w)
	}
	clear(s.delayed)
	arrivals := s.arrivals
	s.arrivals = nil
	var tell []func(error)
	for _, w := range waiting {
		if w.hold != nil {
			w.hold.Stop()
		}
		switch {
		case w.item != nil: // it is there at the next start
			s.forgetStored(w)
		case w.storing == putting: // storeAll tells its sender
		case w.tell != nil:
			s.held--
			s.heldBytes -= w.size
			w.frozen = true
			tell = append(tell, w.tell)
			w.tell = nil
		}
	}
	s.mu.Unlock()
	for _, a := range arrivals {
		a.done <- triggers.ErrStopped
	}
	for _, t := range tell {
		t(triggers.ErrStopped)
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

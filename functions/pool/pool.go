package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/wire"
)

// loadTimeout is how long an instance may take until its hello. An interpreter
// with many imports on a slow card needs seconds.
const loadTimeout = 60 * time.Second

// buryTimeout is how long the end of a killed instance may take before its
// sandbox is given up.
const buryTimeout = 15 * time.Second

// Pool runs the instances of one version of a function. Its methods are safe
// for concurrent use.
type Pool struct {
	cfg  Config
	room chan struct{} // one per event in the pool: Scale.Max + Scale.Queue; full: Invoke waits
	kick chan struct{} // wakes Run; one pending wake is enough

	mu        sync.Mutex // guards what follows
	running   bool
	closed    bool
	sandbox   Sandbox // nil: down
	opening   bool
	free      []int // slots with no instance
	spares    []*worker
	starting  int
	busy      int
	waiting   []*request
	peaks     peaks
	lastEvent time.Time
	failed    int       // starts that failed in a row
	notBefore time.Time // of the next start
	lastErr   error     // of the last start; nil once one became ready
	checks    []chan error
	changed   chan struct{} // closed and replaced when something ended, for Drain
}

// request is an invocation in the pool.
type request struct {
	ctx     context.Context //nolint:containedctx // of one Invoke, for its worker
	inv     Invocation
	arrived time.Time
	done    chan answer // receives once
}

type answer struct {
	out Outcome
	err error
}

// New returns a pool that does nothing until Run.
func New(cfg Config) (*Pool, error) {
	if cfg.Function == nil || cfg.Starter == nil {
		return nil, errors.New("new pool: a function and a starter are needed")
	}
	if cfg.MaxFrame == 0 {
		cfg.MaxFrame = wire.MaxFrame
	}
	if cfg.Log == nil {
		cfg.Log = func(LogLine) {}
	}
	sc := cfg.Function.Scale
	p := &Pool{
		cfg:  cfg,
		room: make(chan struct{}, sc.Max+sc.Queue), kick: make(chan struct{}, 1),
		changed: make(chan struct{}), lastEvent: time.Now(),
	}
	for slot := range sc.Max {
		p.free = append(p.free, slot)
	}
	return p, nil
}

// Run starts and ends instances as demand asks until ctx is done; then it
// kills what runs, removes the sandbox and returns nil. Events that are in the
// pool by then fail with ErrClosed.
func (p *Pool) Run(ctx context.Context) error {
	p.mu.Lock()
	p.running = true
	p.mu.Unlock()
	var wg sync.WaitGroup
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for ctx.Err() == nil {
		wait := p.step(ctx, &wg)
		again := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-p.kick:
		case <-tick.C:
		case <-again.C:
		}
		again.Stop()
	}
	p.mu.Lock()
	p.closed, p.running = true, false
	sandbox := p.sandbox
	waiting, checks := p.waiting, p.checks
	p.waiting, p.checks, p.sandbox = nil, nil, nil
	p.mu.Unlock()
	for _, r := range waiting {
		r.done <- answer{err: ErrClosed}
	}
	for _, c := range checks {
		c <- ErrClosed
	}
	var err error
	if sandbox != nil {
		err = sandbox.Close(context.WithoutCancel(ctx))
	}
	wg.Wait()
	return err
}

// step does what is due now and returns when to look again at the latest.
func (p *Pool) step(ctx context.Context, wg *sync.WaitGroup) time.Duration {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.peaks.roll(now)
	sc := p.cfg.Function.Scale
	// A check waits for a spare, which a function that is not idle has.
	idle := now.Sub(p.lastEvent) >= sc.Idle && p.busy == 0 && len(p.checks) == 0
	d := demand{
		min: sc.Min, max: sc.Max, waiting: len(p.waiting), spares: len(p.spares), starting: p.starting,
		taken: sc.Max - len(p.free), peak: p.peaks.max(), idle: idle,
	}
	if p.cfg.Function.Isolation == functions.PerInstance {
		d.again = p.busy
	}
	start, stop := plan(d)
	for range stop {
		w := p.spares[0]
		p.spares = p.spares[1:]
		close(w.work)
	}
	if idle && sc.Min == 0 && d.taken == 0 && d.waiting == 0 && p.sandbox != nil {
		p.closeSandbox(ctx, wg)
		return time.Hour
	}
	if start == 0 {
		return time.Hour
	}
	if wait := p.notBefore.Sub(now); wait > 0 {
		return wait
	}
	if p.sandbox == nil {
		if !p.opening {
			p.opening = true
			wg.Go(func() { p.open(ctx) })
		}
		return time.Hour
	}
	if p.failed > 0 {
		start = 1 // one try at a time until one becomes ready
		if p.starting > 0 {
			return time.Hour
		}
	}
	for range start {
		slot := p.free[0]
		p.free = p.free[1:]
		p.starting++
		w := &worker{p: p, slot: slot, sandbox: p.sandbox, work: make(chan *request, 1)}
		wg.Go(func() { w.run(ctx) })
	}
	return time.Hour
}

func (p *Pool) open(ctx context.Context) {
	sandbox, err := p.cfg.Starter.Open(ctx)
	p.mu.Lock()
	p.opening = false
	if err == nil && p.closed && !p.running {
		p.mu.Unlock()
		_ = sandbox.Close(context.WithoutCancel(ctx))
		return
	}
	if err != nil {
		p.mu.Unlock()
		var f *functions.Failure
		if !errors.As(err, &f) {
			f = functions.Failf(functions.FailTransient, "%v", err)
		}
		p.startFailed(f, true)
		return
	}
	p.sandbox = sandbox
	p.mu.Unlock()
	p.wake()
}

// closeSandbox takes the sandbox down; p.mu is held.
func (p *Pool) closeSandbox(ctx context.Context, wg *sync.WaitGroup) {
	s := p.sandbox
	p.sandbox, p.opening = nil, true // no other one until this is gone
	wg.Go(func() {
		err := s.Close(context.WithoutCancel(ctx))
		p.mu.Lock()
		p.opening = false
		if err != nil {
			p.lastErr = err
		}
		p.mu.Unlock()
		p.wake()
	})
}

// lost drops a sandbox that is gone or that can no longer be trusted.
func (p *Pool) lost(ctx context.Context, s Sandbox) {
	p.mu.Lock()
	if p.sandbox != s {
		p.mu.Unlock()
		return
	}
	p.sandbox, p.opening = nil, true
	p.mu.Unlock()
	err := s.Close(context.WithoutCancel(ctx))
	p.mu.Lock()
	p.opening = false
	if err != nil {
		p.lastErr = err
	}
	p.mu.Unlock()
	p.wake()
}

// startFailed accounts for a start that did not become ready: those who wait
// for it are told, one of them, or all if no instance can start at all.
func (p *Pool) startFailed(f *functions.Failure, all bool) {
	p.mu.Lock()
	p.failed++
	p.notBefore = time.Now().Add(startWait(p.failed))
	p.lastErr = f
	checks := p.checks
	p.checks = nil
	n := min(1, len(p.waiting))
	if all {
		n = len(p.waiting)
	}
	told := slices.Clone(p.waiting[:n])
	p.waiting = slices.Delete(p.waiting, 0, n)
	p.mu.Unlock()
	for _, c := range checks {
		c <- f
	}
	for _, r := range told {
		r.done <- answer{err: f}
	}
	p.wake()
}

func (p *Pool) wake() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// started makes a worker whose handler is loaded a spare.
func (p *Pool) started(w *worker) {
	p.mu.Lock()
	p.starting--
	p.lastErr, p.failed, p.notBefore = nil, 0, time.Time{}
	checks := p.checks
	p.checks = nil
	p.offer(w)
	p.mu.Unlock()
	for _, c := range checks {
		c <- nil
	}
	p.wake()
}

// served accounts for an event that is done. A worker that serves again is a
// spare from then on.
func (p *Pool) served(w *worker, again bool) {
	p.mu.Lock()
	p.busy--
	p.lastEvent = time.Now()
	close(p.changed)
	p.changed = make(chan struct{})
	if again {
		p.offer(w)
	}
	p.mu.Unlock()
	p.wake()
}

// offer hands a worker the event that waits longest and has not expired, or makes
// it a spare; p.mu is held.
func (p *Pool) offer(w *worker) {
	n := 0
	for n < len(p.waiting) && p.waiting[n].inv.expired() {
		p.waiting[n].done <- answer{err: ErrExpired}
		n++
	}
	p.waiting = slices.Delete(p.waiting, 0, n)
	if len(p.waiting) == 0 {
		p.spares = append(p.spares, w)
		return
	}
	r := p.waiting[0]
	p.waiting = slices.Delete(p.waiting, 0, 1)
	p.busy++
	w.work <- r // has room: a worker that is offered has no event
}

// unspare takes a worker that died out of the spares. It reports false if the
// worker has been given an event in the meantime.
func (p *Pool) unspare(w *worker) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.spares, w)
	if i < 0 {
		return false
	}
	p.spares = slices.Delete(p.spares, i, i+1)
	return true
}

// Invoke hands an event to an instance and waits for its outcome. It waits
// while the queue is full, or returns ErrOverloaded if inv.NoWait. If ctx ends
// the instance is killed and ctx's error returned. An invocation that did not
// succeed returns a *functions.Failure, with what it cost in the Outcome.
func (p *Pool) Invoke(ctx context.Context, inv Invocation) (Outcome, error) {
	select {
	case p.room <- struct{}{}:
	default:
		if inv.NoWait {
			return Outcome{}, ErrOverloaded
		}
		select {
		case p.room <- struct{}{}:
		case <-ctx.Done():
			return Outcome{}, ctx.Err()
		}
	}
	defer func() { <-p.room }()
	now := time.Now()
	r := &request{ctx: ctx, inv: inv, arrived: now, done: make(chan answer, 1)}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return Outcome{}, ErrClosed
	}
	if inv.expired() {
		p.mu.Unlock()
		return Outcome{}, ErrExpired
	}
	p.lastEvent = now
	if n := len(p.spares); n > 0 {
		w := p.spares[0]
		p.spares = p.spares[1:]
		p.busy++
		w.work <- r // has room: a spare has no event
	} else {
		p.waiting = append(p.waiting, r)
	}
	p.peaks.see(now, p.busy+len(p.waiting))
	p.mu.Unlock()
	p.wake()
	select {
	case a := <-r.done:
		return a.out, a.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	if i := slices.Index(p.waiting, r); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
		p.mu.Unlock()
		return Outcome{}, ctx.Err()
	}
	p.mu.Unlock()
	a := <-r.done // its worker sees ctx too
	return a.out, a.err
}

// expired reports whether it is too late to begin.
func (inv *Invocation) expired() bool {
	return !inv.Expires.IsZero() && !time.Now().Before(inv.Expires)
}

// Check starts an instance and waits until its handler is loaded. It returns a
// *functions.Failure if it cannot be.
func (p *Pool) Check(ctx context.Context) error {
	done := make(chan error, 1)
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return ErrClosed
	}
	if len(p.spares) > 0 {
		p.mu.Unlock()
		return nil
	}
	p.checks = append(p.checks, done)
	p.lastEvent = time.Now()
	p.mu.Unlock()
	p.wake()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		p.mu.Lock()
		defer p.mu.Unlock()
		p.checks = slices.DeleteFunc(p.checks, func(c chan error) bool { return c == done })
		return fmt.Errorf("wait for the first instance: %w", ctx.Err())
	}
}

// Drain takes no more events and waits until those in the pool are done.
func (p *Pool) Drain(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	for p.busy > 0 || len(p.waiting) > 0 {
		changed := p.changed
		p.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("drain pool: %w", ctx.Err())
		}
		p.mu.Lock()
	}
	p.mu.Unlock()
	return nil
}

// Stats returns a snapshot.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Stats{
		Up: p.sandbox != nil, Busy: p.busy, Spares: len(p.spares),
		Instances: p.busy + len(p.spares), Queued: len(p.waiting),
	}
	if p.lastErr != nil {
		s.LastError = p.lastErr.Error()
	}
	return s
}

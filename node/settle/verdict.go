package settle

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// MaxFailures is how many failed attempts in a row make a function lose what it
// commands: its lines go to their safe values until it succeeds again.
const MaxFailures = 3

var (
	sandboxBackoff = durable.Backoff{First: 200 * time.Millisecond, Max: 10 * time.Second} // the sandbox went away
	deadBackoff    = durable.Backoff{First: 500 * time.Millisecond, Max: 10 * time.Second} // the dead-letter queue is full
)

// verdict is what becomes of an event after a try.
type verdict int

const (
	settled    verdict = iota // nothing can lose it: tell the sender
	again                     // try again after a wait
	deadLetter                // no attempt is left: dead-letter it
	stopped                   // the node stops: the sender must keep it
	tooEarly                  // it was not tried: its time has not come, or its trigger is paused
	expired                   // it came to no instance in its time: settle it without running it
)

// judge decides what an error means for an event that had failed attempts, and
// waits tries in a row that did not count. counted says that this try was an
// attempt.
func judge(err error, failed, waits int, r functions.Retry) (v verdict, wait time.Duration, counted bool) {
	var f *functions.Failure
	switch {
	case err == nil:
		return settled, 0, false
	case errors.Is(err, context.Canceled), errors.Is(err, store.ErrClosed):
		return stopped, 0, false
	case errors.Is(err, pool.ErrExpired):
		return expired, 0, false
	case errors.As(err, &f) && f.Kind != functions.FailTransient:
		if exhausted(r, failed+1, f) {
			return deadLetter, 0, true
		}
		return again, max(retryWait(r, failed+1), f.RetryAfter), true
	case errors.Is(err, pool.ErrClosed) && waits == 0:
		return again, 0, false // it was replaced; the next version is there
	default:
		return again, sandboxBackoff.Wait(waits + 1), false
	}
}

// retryWait is how long to wait after the nth failed attempt: exponential with
// full jitter, which spreads events that failed together best (Marc Brooker,
// "Exponential Backoff And Jitter", AWS Architecture Blog, 2015):
//
//	random(0, min(First * 2^(n-1), Max))
func retryWait(r functions.Retry, n int) time.Duration {
	r.Attempts = n + 1 // a sandbox that went away may have more of them
	most, _ := r.Backoff(n)
	return rand.N(most + 1) //nolint:gosec // spreads load, keeps no secret
}

// attempt tries an event once, or dead-letters it, and says what becomes of it.
func (s *Service) attempt(ctx context.Context, w *work) verdict {
	switch {
	case s.isPaused(w): // since it was queued
		return tooEarly
	case w.failure == nil && w.expired(time.Now()):
		return s.expire(ctx, w)
	case time.Until(w.due) > 0: // an earlier run of the node has failed with it
		return tooEarly
	}
	gone, err := s.begin(ctx, w)
	switch {
	case gone: // its function was removed
		return settled
	case errors.Is(err, context.Canceled), errors.Is(err, store.ErrClosed):
		return stopped
	case err != nil:
		w.waits++
		s.waitFor(w, durable.StoreBackoff.Wait(w.waits))
		s.log.Error("event to be tried again cannot be read", "event", w.d.Event.ID, logErr, err)
		return again
	}
	if w.failure == nil {
		switch v := s.try(ctx, w); v {
		case deadLetter:
		case expired:
			return s.expire(ctx, w)
		case settled, again, stopped, tooEarly:
			return v
		}
	}
	fn := s.Spec()
	err = s.dead.Add(ctx, fn, w.letter(), s.freeze(w)...)
	s.setDeadFull(err)
	if err == nil {
		s.note("error", "", fmt.Sprintf("event %s is a dead letter: %v", w.d.Event.ID, w.failure))
		return settled
	}
	s.thaw(w)
	if ctx.Err() != nil {
		return stopped
	}
	w.waits++
	if w.waits == 1 {
		s.log.Error("dead letter cannot be kept, holding its event back", logErr, err)
		s.note("error", "", fmt.Sprintf("event %s waits: %v", w.d.Event.ID, err))
	}
	s.waitFor(w, deadBackoff.Wait(w.waits))
	return again
}

// try runs an event once.
func (s *Service) try(ctx context.Context, w *work) verdict {
	active := s.Current()
	if active == nil { // taken away a moment ago
		w.waits++
		s.waitFor(w, sandboxBackoff.Wait(w.waits))
		return again
	}
	out, err := s.exec.run(ctx, active, Request{
		Trigger: w.d.Trigger, Attempt: w.failed + 1, Event: w.d.Event, OwnID: w.d.OwnID, Expires: w.expires,
		freeze: func() []store.Op { return s.freeze(w) }, thaw: func() { s.thaw(w) }, begun: func() { s.startHold(w) },
	})
	schedule := active.Function.Retry
	v, wait, counted := judge(err, w.failed, w.waits, schedule)
	if v == stopped && ctx.Err() == nil && !errors.Is(err, store.ErrClosed) {
		v, wait = again, sandboxBackoff.Wait(w.waits+1) // its pool was stopped, not the node
	}
	s.tally(err, counted)
	s.waitFor(w, wait)
	if !counted {
		if v == again {
			w.waits++
			s.log.Debug("event is tried again", logTrigger, w.d.Trigger, "event", w.d.Event.ID, "wait", wait, logErr, err)
			if w.waits == 1 && !errors.Is(err, pool.ErrClosed) {
				s.note("warning", out.Invocation, fmt.Sprintf("event %s waits: %v", w.d.Event.ID, err))
			}
		}
		return v
	}
	var f *functions.Failure
	errors.As(err, &f) // judge counts nothing else
	s.mu.Lock()
	w.failed++
	w.waits = 0
	w.last = f
	if v == deadLetter {
		w.failure = f
	}
	s.mu.Unlock()
	text := fmt.Sprintf("attempt %d of %d failed: %v", w.failed, max(w.failed, schedule.Attempts), f)
	if f.Detail != "" {
		text += "\n" + f.Detail
	}
	s.note("error", out.Invocation, text)
	return v
}

func (s *Service) waitFor(w *work, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.waitFor(d, time.Now())
}

// isPaused reports whether an event has to wait until its trigger is resumed.
func (s *Service) isPaused(w *work) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.paused.has(w.d.Trigger)
}

// tally counts the attempts that failed in a row.
func (s *Service) tally(err error, failed bool) {
	s.mu.Lock()
	switch {
	case err == nil:
		s.failures = 0
	case failed:
		s.failures++
	}
	over := failed && s.failures == MaxFailures
	s.mu.Unlock()
	if over {
		s.failing()
	}
}

// setDeadFull keeps why nothing can be dead-lettered, for people.
func (s *Service) setDeadFull(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadFull = ""
	if err != nil {
		s.deadFull = err.Error()
	}
}

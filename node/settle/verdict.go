package settle

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/node/settle/dead"
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
	case errors.As(err, &f) && f.Kind != functions.FailTransient:
		if !f.Retryable() {
			return deadLetter, 0, true
		}
		if wait, ok := r.Backoff(failed + 1); ok {
			return again, durable.Jitter(wait), true
		}
		return deadLetter, 0, true
	case errors.Is(err, pool.ErrClosed) && waits == 0:
		return again, 0, false // it was replaced; the next version is there
	default:
		return again, sandboxBackoff.Wait(waits + 1), false
	}
}

// attempt runs an event once, or dead-letters it, and says what becomes of it.
func (s *Service) attempt(ctx context.Context, w *work) (v verdict, wait time.Duration) {
	if w.failure == nil {
		if v, wait = s.try(ctx, w); v != deadLetter {
			return v, wait
		}
	}
	fn := s.Spec()
	err := s.dead.Add(ctx, fn, w.letter())
	s.setDeadFull(err)
	switch {
	case err == nil:
		s.note("error", "", fmt.Sprintf("event %s is a dead letter: %v", w.d.Event.ID, w.failure))
		return settled, 0
	case ctx.Err() != nil:
		return stopped, 0
	}
	w.waits++
	if w.waits == 1 {
		s.log.Error("dead letter cannot be kept, holding its event back", logErr, err)
		s.note("error", "", fmt.Sprintf("event %s waits: %v", w.d.Event.ID, err))
	}
	return again, deadBackoff.Wait(w.waits)
}

// letter is the event as a dead letter.
func (w *work) letter() dead.Letter {
	return dead.Letter{
		Trigger: w.d.Trigger, Attempts: w.failed, Failure: *w.failure,
		Event: w.d.Event, OwnID: w.d.OwnID, Bytes: w.bytes, Cut: w.cut,
	}
}

// try runs an event once.
func (s *Service) try(ctx context.Context, w *work) (verdict, time.Duration) {
	active := s.Current()
	if active == nil { // taken away a moment ago
		w.waits++
		return again, sandboxBackoff.Wait(w.waits)
	}
	out, err := s.exec.run(ctx, active, Request{Trigger: w.d.Trigger, Attempt: w.failed + 1, Event: w.d.Event, OwnID: w.d.OwnID})
	retry := active.Function.Retry
	v, wait, counted := judge(err, w.failed, w.waits, retry)
	if v == stopped && ctx.Err() == nil && !errors.Is(err, store.ErrClosed) {
		v, wait = again, sandboxBackoff.Wait(w.waits+1) // its pool was stopped, not the node
	}
	s.tally(err, counted)
	if !counted {
		if v == again {
			w.waits++
			s.log.Debug("event is tried again", logTrigger, w.d.Trigger, "event", w.d.Event.ID, "wait", wait, logErr, err)
			if w.waits == 1 && !errors.Is(err, pool.ErrClosed) {
				s.note("warning", out.Invocation, fmt.Sprintf("event %s waits: %v", w.d.Event.ID, err))
			}
		}
		return v, wait
	}
	w.failed++
	w.waits = 0
	var f *functions.Failure
	errors.As(err, &f) // judge counts nothing else
	text := fmt.Sprintf("attempt %d of %d failed: %v", w.failed, retry.Attempts, f)
	if f.Detail != "" {
		text += "\n" + f.Detail
	}
	s.note("error", out.Invocation, text)
	if v == deadLetter {
		w.failure = f
	}
	return v, wait
}

// Tally is tally for a run that was no attempt of an event in work.
func (s *Service) Tally(err error) {
	var f *functions.Failure
	s.tally(err, errors.As(err, &f) && f.Kind != functions.FailTransient)
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

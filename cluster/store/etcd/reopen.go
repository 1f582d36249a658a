package etcd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cenkalti/backoff/v5"
)

const (
	// The wait before the nth start in a row is drawn evenly from half to one
	// and a half times
	//
	//	min(againFirst * 2^(n-1), againMost)
	//
	// and starts anew once a run has lasted for longer than steady.
	againFirst = 200 * time.Millisecond
	againMost  = 30 * time.Second
	steady     = time.Minute
	// stuck bounds how long a run that has failed may take to end.
	stuck = 5 * time.Second
	// maxLeft is how many runs may be left behind that did not end: each keeps
	// its memory. After that only a new process helps.
	maxLeft = 3
	// lookEvery is how often the disk and the store's health are looked at.
	lookEvery = time.Second
)

// serve makes a run the one that calls go to.
func (s *Store) serve(v *server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now, s.waits = v, nil
	s.wake()
}

// wait says why no run serves.
func (s *Store) wait(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now, s.waits = nil, why
	s.wake()
}

// wake is called with mu held.
func (s *Store) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// back waits until the store serves again, has ended, or ctx is done.
func (s *Store) back(ctx context.Context) {
	for {
		s.mu.Lock()
		ready, changed := s.now != nil || s.err != nil, s.changed
		s.mu.Unlock()
		if ready {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// lost is told, on one of etcd's goroutines, that a run cannot go on. When it
// returns, no call believes what the run answers and nothing of it reaches the
// files any more.
func (s *Store) lost(v *server, why error) {
	v.once.Do(func() {
		v.cause = why
		close(v.dead)
		v.quieten()
		s.mu.Lock()
		if s.now == v {
			s.now, s.waits = nil, fmt.Errorf("it starts anew after a failure: %w", why)
			s.wake()
		}
		for _, c := range s.calls {
			if c.run == v {
				c.cancel(unavailable(why))
			}
		}
		s.mu.Unlock()
		if errors.Is(why, errRemoved) {
			return // it has ended in order
		}
		if err := v.disarm(); err != nil {
			s.log.Error("part of a run of etcd that failed could not be kept from the store's files", keyErr, err)
		}
	})
}

// giveUp ends a run that failed or did not start. A start by Open that has not
// failed, and only takes its time, keeps the directory until it has ended.
func (e *embedded) giveUp(v *server, opening bool) {
	if v.start == nil {
		_ = os.Remove(v.alias)
		return
	}
	slow := opening && v.failed() == nil
	e.taken = slow
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		v.close()
		if slow {
			e.unlock()
		}
	}()
	t := time.NewTimer(stuck)
	defer t.Stop()
	select {
	case <-ended:
	case <-t.C:
		e.left++
	}
}

// keep is the keeper of an embedded store: it starts etcd again after each run
// that fails, looks at the disk, and ends the last run when ctx is done. v is
// the run that serves, or nil.
func (s *Store) keep(ctx context.Context, v *server) {
	e := s.embedded
	defer close(e.kept)
	defer e.unlock()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	wait := backoff.ExponentialBackOff{
		InitialInterval: againFirst, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: againMost,
	}
	wait.Reset()
	next := time.Now().Add(wait.NextBackOff())
	var begun time.Time
	roomy := false // at the last look
	if v != nil {
		begun = time.Now()
	}
	for {
		var dead <-chan struct{}
		if v != nil {
			dead = v.dead
		}
		select {
		case <-ctx.Done():
			if v != nil {
				v.close()
				e.past.Add(v.meter.total())
			}
			return
		case <-tick.C:
			had := roomy
			if roomy = s.look(v); roomy && !had {
				next = time.Now() // whatever the back-off says
			}
		case <-dead:
			s.log.Error("etcd has failed", keyErr, v.cause)
			e.giveUp(v, false)
			e.past.Add(v.meter.total())
			if s.hopeless(v.cause) {
				v = nil
				continue
			}
			if time.Since(begun) > steady {
				wait.Reset()
			}
			v, next = nil, time.Now().Add(wait.NextBackOff())
		}
		if v != nil || s.Err() != nil || time.Now().Before(next) {
			continue
		}
		again, err := s.run(ctx)
		switch {
		case err == nil:
			v, begun = again, time.Now()
			s.serve(v)
			s.log.Info("the store serves again")
		case ctx.Err() != nil, s.hopeless(err):
		default:
			s.wait(err)
			next = time.Now().Add(wait.NextBackOff())
		}
		s.look(v)
	}
}

// hopeless ends the store where another start cannot help.
func (s *Store) hopeless(why error) bool {
	switch {
	case errors.Is(why, errRemoved), errors.Is(why, ErrDamaged):
		s.fail(why)
	case s.embedded.left >= maxLeft:
		s.fail(fmt.Errorf("it could not be ended after %d failures, the last of which was: %w; start this process anew", maxLeft, why))
	default:
		return false
	}
	return true
}

// look keeps the reserve and the health up to date and reports whether there is
// room for puts.
func (s *Store) look(v *server) (roomy bool) {
	has, err := s.embedded.disk.look()
	if err != nil {
		s.log.Warn("the disk of the store could not be looked at", keyErr, err)
	}
	s.state.disk(has, err)
	if v != nil {
		v.meter.look()
	}
	s.Health() // from which Since is counted
	return err == nil && has.puts()
}

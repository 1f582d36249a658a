package mqtt

import (
	"context"
	"time"

	"golang.org/x/time/rate"
)

// Memory keeps what a Source must still know after a restart: which retained
// messages the function has had. It is small, 17 bytes a topic, in pages of its
// own naming, each a few kB at most.
type Memory interface {
	// Load returns all pages that were saved.
	Load(ctx context.Context) (map[string][]byte, error)
	// Save writes pages durably and together; an empty one may be deleted. The
	// others stay as they are.
	Save(ctx context.Context, pages map[string][]byte) error
}

// How often what a Source remembers is saved. Each save costs a flash page or
// two, so one that changes with every message is saved ever less often, while one
// that changes now and then is saved at once. What a crash catches unsaved is an
// event once more when the broker replays it; an orderly end saves all.
const (
	saveGather      = 100 * time.Millisecond // what changes within is saved together
	saveBurst       = 10                     // saves at once
	saveEvery       = 2 * time.Minute        // beyond that, for topics that are known to have a retained message
	saveDoubtful    = 10 * time.Minute       // and for others
	saveTimeout     = 10 * time.Second       // of one save
	lastSaveTimeout = 3 * time.Second        // of the one at the end
)

// savePlan spaces saves.
type savePlan struct {
	sure, doubtful *rate.Limiter
}

func newSavePlan() savePlan {
	return savePlan{rate.NewLimiter(rate.Every(saveEvery), saveBurst), rate.NewLimiter(rate.Every(saveDoubtful), saveBurst)}
}

func (p savePlan) limiter(s saving) *rate.Limiter {
	if s == savingSure {
		return p.sure
	}
	return p.doubtful
}

// wait is how long a save is to wait from now on.
func (p savePlan) wait(s saving, now time.Time) time.Duration {
	l := p.limiter(s)
	missing := 1 - l.TokensAt(now)
	if missing <= 0 {
		return 0
	}
	return time.Duration(missing / float64(l.Limit()) * float64(time.Second))
}

// saved takes note of a save that begins.
func (p savePlan) saved(s saving, now time.Time) { p.limiter(s).AllowN(now, 1) }

// recall reads what an earlier run has saved. It tries until it is there or ctx is
// done: without it each retained message would be news.
func (s *Source) recall(ctx context.Context) {
	if s.cfg.Memory == nil {
		return
	}
	for failures := 1; ; failures++ {
		pages, err := s.cfg.Memory.Load(ctx)
		if err == nil {
			for _, err := range s.in.recall(pages) {
				s.log.Warn("what was saved of retained messages is not readable; some may be events once more", keyErr, err)
			}
			return
		}
		if ctx.Err() != nil {
			return
		}
		s.set(StateConnecting, err)
		wait := s.cfg.Backoff.jittered(failures)
		s.log.Warn("not connecting yet: which retained messages the function has had cannot be read",
			keyErr, err, keyRetryIn, wait.Round(time.Millisecond).String())
		sleep(ctx, nil, wait)
		if ctx.Err() != nil {
			return
		}
	}
}

// remember saves what changes until stop is closed, and then what is left.
func (s *Source) remember(ctx context.Context, stop <-chan struct{}) {
	if s.cfg.Memory == nil {
		return
	}
	ctx = context.WithoutCancel(ctx) // it is the events that end with it
	plan, failures := newSavePlan(), 0
	for {
		var due <-chan time.Time
		what := s.in.toSave()
		if what != savingNothing {
			wait := max(plan.wait(what, time.Now()), saveGather)
			if failures > 0 {
				wait = max(wait, s.cfg.Backoff.jittered(failures))
			}
			due = time.After(wait)
		}
		select {
		case <-s.in.changed:
			continue
		case <-stop:
			if err := s.save(ctx, lastSaveTimeout); err != nil {
				s.log.Warn("which retained messages the function has had could not be saved; some may be events once more", keyErr, err)
			}
			return
		case <-due:
		}
		plan.saved(what, time.Now())
		err := s.save(ctx, saveTimeout)
		if err == nil {
			failures = 0
			continue
		}
		if failures++; failures == 1 {
			s.log.Warn("which retained messages the function has had cannot be saved; trying again", keyErr, err)
		}
	}
}

// save saves what has changed, if anything has.
func (s *Source) save(ctx context.Context, timeout time.Duration) error {
	pages, what := s.in.takePages()
	if len(pages) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := s.cfg.Memory.Save(ctx, pages)
	if err != nil {
		s.in.notSaved(pages, what)
	}
	return err
}

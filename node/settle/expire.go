package settle

import (
	"context"
	"fmt"
	"time"

	"github.com/edgefn/edgefn/node/settle/durable"
)

// lapseEvery is how often the function's log tells of events that have expired. A
// function that was away for an hour may have thousands of them.
const lapseEvery = 10 * time.Second

// lapses are the events that have expired and of which the function's log has not
// told.
type lapses struct {
	told   time.Time // when it last did
	untold int
}

// tell counts one more and reports whether to tell of it now, and with it of how
// many others.
func (l *lapses) tell(now time.Time) (others int, ok bool) {
	if !l.told.IsZero() && now.Sub(l.told) < lapseEvery {
		l.untold++
		return 0, false
	}
	others = l.untold
	*l = lapses{told: now}
	return others, true
}

// expire settles an event whose sender wants it handled in its time or not at all:
// it does not run and is no dead letter, but is counted.
func (s *Service) expire(ctx context.Context, w *work) verdict {
	if ops := s.freeze(w); len(ops) > 0 {
		if err := durable.Commit(ctx, s.exec.st, s.log, "remove an event that has expired", ops); err != nil {
			s.thaw(w)
			if ctx.Err() != nil {
				return stopped
			}
			w.waits++
			s.waitFor(w, durable.StoreBackoff.Wait(w.waits))
			return again
		}
	}
	s.exec.usage.AddExpired(s.name)
	s.mu.Lock()
	others, ok := s.lapsed.tell(time.Now())
	s.mu.Unlock()
	if ok {
		text := fmt.Sprintf("event %s has expired and is not run", w.d.Event.ID)
		if w.failed > 0 {
			text = fmt.Sprintf("event %s has expired after %d failed attempts and is not tried again", w.d.Event.ID, w.failed)
		}
		if others > 0 {
			text += fmt.Sprintf("; %d others since the last such line", others)
		}
		s.note("warning", "", text)
	}
	return settled
}

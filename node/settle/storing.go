package settle

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/node/settle/durable"
	"github.com/edgefn/edgefn/node/settle/retry"
	"github.com/edgefn/edgefn/triggers"
)

// Bounds of what is put into the retry queue in one transaction. One event alone
// is always put.
const (
	maxPutEvents = 200
	maxPutBytes  = 1 << 20
)

// addStored queues an event that is in the retry queue already. The caller holds
// mu, or is the only one who knows the service.
func (s *Service) addStored(w *work) {
	w.away = true
	s.countStored(w)
	s.queue.add(w.order, w)
}

// countStored counts an event that is stored. The caller holds mu.
func (s *Service) countStored(w *work) {
	s.stored++
	if w.key != "" {
		s.storedKeys[w.key] = true
	}
	if w.order != "" {
		s.storedOrders[w.order]++
	}
}

// forgetStored takes an event out of the count of those that are stored. The
// caller holds mu.
func (s *Service) forgetStored(w *work) {
	s.stored--
	delete(s.storedKeys, w.key)
	if w.order == "" {
		return
	}
	if s.storedOrders[w.order]--; s.storedOrders[w.order] == 0 {
		delete(s.storedOrders, w.order)
	}
}

// store has an event put into the retry queue, so that its sender is told and
// waits no longer. The event that runs before it in its order goes first. The
// caller holds mu.
func (s *Service) store(w *work) {
	if w.item != nil || w.storing != notStoring || w.frozen || w.cut || s.storeOver {
		return
	}
	if head, ok := s.queue.head(w.order); ok && head != w {
		s.store(head)
	}
	w.storing = toStore
	s.storeQueue = append(s.storeQueue, w)
	s.wakeStore()
}

// storeAll puts events into the retry queue, in the order in which they were
// given to it, until ctx is done. What cannot be put waits, and its sender with
// it.
func (s *Service) storeAll(ctx context.Context) {
	var unwanted []*retry.Item // they may be there, though their events are settled
	defer s.letGo()
	for failed := 0; ; {
		works, entries, late := s.pick()
		unwanted = append(unwanted, late...)
		if len(works) == 0 && len(unwanted) == 0 {
			// What is left waits for the event before it in its order: its end
			// wakes this up.
			select {
			case <-s.storeWake:
				failed = 0
				continue
			case <-ctx.Done():
				return
			}
		}
		n, err := s.retries.Reserve(s.name, entries)
		if err == nil {
			err = s.retries.Put(ctx, entries[:n], unwanted)
		}
		if err == nil {
			for _, it := range unwanted {
				s.retries.Removed(it)
			}
			unwanted, failed = nil, 0
			s.put(works, n)
			continue
		}
		s.notPut(works, !errors.Is(err, retry.ErrFull) && !errors.Is(err, store.ErrFull))
		if errors.Is(err, store.ErrClosed) {
			return
		}
		if failed++; failed == 1 && ctx.Err() == nil {
			s.log.Warn("events cannot be kept to be tried again, their senders wait", logErr, err)
			s.note("warning", "", "events cannot be kept to be tried again, their senders wait: "+err.Error())
		}
		if durable.Sleep(ctx, durable.StoreBackoff.Wait(failed)) != nil {
			return
		}
	}
}

// pick returns the events that are put next. late are those that an earlier try
// may have put and that are settled since.
func (s *Service) pick() (works []*work, entries []*retry.Entry, late []*retry.Item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	bytes := int64(0)
	var rest []*work
	for i, w := range s.storeQueue {
		if w.frozen {
			if w.entry != nil && w.entry.Item != nil {
				if w.unsure {
					late = append(late, w.entry.Item)
				} else {
					s.retries.Removed(w.entry.Item)
				}
			}
			w.storing, w.entry, w.unsure = notStoring, nil, false
			continue
		}
		if len(works) == maxPutEvents || (len(works) > 0 && bytes+w.size > maxPutBytes) {
			rest = append(rest, s.storeQueue[i:]...)
			break
		}
		if !s.mayPut(w) {
			rest = append(rest, w)
			continue
		}
		bytes += w.size
		if w.entry == nil {
			w.entry = &retry.Entry{Event: w.d.Event}
		}
		w.entry.Header = w.header(w.trying)
		w.storing = putting
		works, entries = append(works, w), append(entries, w.entry)
	}
	s.storeQueue = rest
	return works, entries, late
}

// mayPut reports whether the event that runs before w in its order is stored, or
// is put together with it. Otherwise w would come first after a crash. The caller
// holds mu.
func (s *Service) mayPut(w *work) bool {
	head, ok := s.queue.head(w.order)
	return !ok || head == w || head.item != nil || head.storing == putting
}

// put tells the senders of the first n events, which are stored now. The others
// are put next.
func (s *Service) put(works []*work, n int) {
	var tell []func(error)
	s.mu.Lock()
	for _, w := range works[:n] {
		w.item = w.entry.Item
		w.storing, w.entry, w.unsure = notStoring, nil, false
		if w.tell != nil {
			tell = append(tell, w.tell)
			w.tell = nil
		}
		s.held--
		s.heldBytes -= w.size
		s.countStored(w)
		if !w.trying {
			w.letGoOfData()
		}
		for _, b := range s.queue.behind(w.order) {
			s.store(b)
		}
	}
	s.putBack(works[n:])
	s.takeArrivals()
	s.putDone.Broadcast()
	s.mu.Unlock()
	for _, t := range tell {
		t(nil)
	}
}

// notPut puts events back after a try that failed. unsure says that it may have
// taken effect.
func (s *Service) notPut(works []*work, unsure bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range works {
		w.puts++
		w.unsure = w.unsure || (unsure && w.entry.Item != nil)
	}
	s.putBack(works)
	s.putDone.Broadcast()
}

// putBack has events be put at the next try. The caller holds mu.
func (s *Service) putBack(works []*work) {
	for _, w := range works {
		w.storing = toStore
	}
	s.storeQueue = append(slices.Clip(works), s.storeQueue...)
}

// letGo gives back the events that were not stored when the service ended.
func (s *Service) letGo() {
	s.mu.Lock()
	var tell []func(error)
	for _, w := range s.storeQueue {
		w.puts++
		if w.tell != nil && !w.trying {
			tell = append(tell, w.tell)
			w.tell = nil
		}
	}
	s.storeQueue, s.storeOver = nil, true
	s.putDone.Broadcast()
	s.mu.Unlock()
	for _, t := range tell {
		t(triggers.ErrStopped)
	}
}

// startHold has the sender of an event wait for its outcome from now on, and not
// longer than hold: an instance has it.
func (s *Service) startHold(w *work) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.item != nil || w.hold != nil {
		return
	}
	limit := s.function.Hold
	w.held = time.Now().Add(limit)
	w.hold = time.AfterFunc(limit, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.store(w)
	})
}

// begin prepares a try of an event. One that is stored is read from there, and
// the attempt is counted there before it takes place, so that an event that ends
// the node ends as a dead letter. gone says that the event is not there any more.
func (s *Service) begin(ctx context.Context, w *work) (gone bool, err error) {
	s.mu.Lock()
	item, away, h := w.item, w.away, w.header(w.failure == nil)
	if item == nil {
		if w.d.Repeat {
			s.storeNow(w)
		}
		s.mu.Unlock()
		return false, nil
	}
	s.mu.Unlock()
	if away {
		e, err := s.retries.Read(ctx, item)
		if errors.Is(err, retry.ErrGone) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		s.mu.Lock()
		e.Expires = w.expires
		w.d.Event, w.away = e, false
		s.mu.Unlock()
	}
	if !h.Running {
		return false, nil
	}
	return false, s.retries.Update(ctx, item, h)
}

// storeNow puts an event into the retry queue before it is tried, if one call of
// the store can do that: its sender has handed it over before, and it may be what
// ended the node then. The caller holds mu, which is let go of meanwhile.
func (s *Service) storeNow(w *work) {
	s.store(w)
	for puts := w.puts; w.storing != notStoring && w.puts == puts; {
		s.putDone.Wait()
	}
}

// noteRested writes down how a try of a stored event ended that did not settle
// it. An event that has failed and is not stored yet is stored.
func (s *Service) noteRested(ctx context.Context, w *work, v verdict) {
	s.mu.Lock()
	w.trying = false
	item, h := w.item, w.header(false)
	if item == nil && v == again && w.failed > 0 && w.failure == nil {
		s.store(w)
	}
	s.mu.Unlock()
	if item == nil {
		return
	}
	if v == stopped { // the event is not to blame for that
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
	}
	if err := s.retries.Update(ctx, item, h); err != nil {
		s.log.Warn("attempt is not written down", logErr, err)
	}
}

// freeze keeps an event from being stored from now on, since it is about to be
// settled, and returns what that has to delete from the retry queue.
func (s *Service) freeze(w *work) []store.Op {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w.storing == putting {
		s.putDone.Wait() // for one call of the store
	}
	w.frozen = true
	switch {
	case w.item != nil:
		return w.item.Delete()
	case w.unsure:
		return w.entry.Item.Delete()
	}
	return nil
}

// thaw undoes freeze: the event was not settled.
func (s *Service) thaw(w *work) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.frozen = false
	if w.item == nil && w.hold != nil {
		w.hold.Reset(max(0, time.Until(w.held)))
	}
	s.wakeStore()
}

// wakeStore has storeAll look again. The caller holds mu.
func (s *Service) wakeStore() {
	if len(s.storeQueue) == 0 {
		return
	}
	select {
	case s.storeWake <- struct{}{}:
	default:
	}
}

// pause says which triggers are paused.
type pause struct {
	all      bool
	triggers []string
}

func (p *pause) has(trigger string) bool { return p.all || slices.Contains(p.triggers, trigger) }

// SetPaused says whether all triggers of the function are paused, or which. The
// events of a paused trigger do not run; they are stored, those that come as
// well, until there is no more room and their senders wait. An event that runs
// already ends.
func (s *Service) SetPaused(all bool, triggers []string) {
	s.mu.Lock()
	s.paused = pause{all, slices.Clone(triggers)}
	for _, w := range s.queue.all() {
		if s.paused.has(w.d.Trigger) {
			s.store(w)
		}
	}
	for w := range s.delayed {
		if w.paused && !s.paused.has(w.d.Trigger) {
			w.paused = false
			delete(s.delayed, w)
			s.queue.again(w)
		}
	}
	s.mu.Unlock()
	s.nudge()
}

package drivers

import "time"

// Back-off of a sensor that does not work.
const (
	// maxWait is the longest time between two attempts. A sensor that has worked
	// for as long starts anew when it fails.
	maxWait = time.Minute
	// minWait is the shortest, for a sensor that nobody reads regularly.
	minWait = time.Second
)

// tickAfter returns the first multiple of every, counted from epoch, that is
// after now.
func tickAfter(epoch, now time.Time, every time.Duration) time.Time {
	return epoch.Add(time.Duration(int64(now.Sub(epoch)/every)+1) * every)
}

// health is what is known of a sensor's ability to work.
type health struct {
	failed int           // readings in a row that failed; 0: it works
	since  time.Time     // when it began to work, or to fail
	wait   time.Duration // before the next attempt while it fails, and kept for a while after
	tried  time.Time     // when it was read last
}

// failure takes a reading that failed at now. every is how often the sensor is to
// be read; 0: nobody asks. It returns whether that is news.
//
//	wait = min(2 * wait, maxWait), beginning with every
//
// A sensor that works again, but not for maxWait, goes on where it was: one
// that comes and goes is read, and told of, ever more rarely.
func (h *health) failure(now time.Time, every time.Duration) (news bool) {
	first := min(max(every, minWait), maxWait)
	news = h.failed == 0
	if news {
		if h.wait == 0 || now.Sub(h.since) >= maxWait {
			h.wait = first
		} else {
			h.wait = min(2*h.wait, maxWait)
		}
		h.since = now
	} else {
		h.wait = min(2*h.wait, maxWait)
	}
	h.failed++
	h.tried = now
	return news
}

// success takes a reading at now. If the sensor had failed it returns since when,
// and how many readings failed.
func (h *health) success(now time.Time) (since time.Time, missed int, news bool) {
	since, missed, news = h.since, h.failed, h.failed > 0
	if news || h.tried.IsZero() {
		h.since = now
	}
	h.failed = 0
	h.tried = now
	return since, missed, news
}

// wake returns when a sensor is to be read again. A sensor that fails is read
// when its back-off says so, but never before the earliest listener wants it.
func (h *health) wake(earliest time.Time) time.Time {
	if h.failed == 0 {
		return earliest
	}
	if t := h.tried.Add(h.wait); t.After(earliest) {
		return t
	}
	return earliest
}

// maxSamples bounds the faults and recoveries that wait for one listener. One
// more drops the oldest.
const maxSamples = 64

// put adds a sample to those that wait for a listener. A reading takes the place
// of one that waits: what counts is the latest. Faults and recoveries are kept,
// up to maxSamples.
func put(waiting []Sample, s Sample) []Sample {
	if n := len(waiting); n > 0 && s.Kind == Read && waiting[n-1].Kind == Read {
		waiting[n-1] = s
		return waiting
	}
	waiting = append(waiting, s)
	if len(waiting) > maxSamples {
		waiting = waiting[1:]
	}
	return waiting
}

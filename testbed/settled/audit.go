package main

import (
	"time"
)

// promise is how often an acknowledged event takes effect.
type promise int

const (
	once        promise = iota // exactly once
	atLeastOnce                // a repeat is allowed
)

// event is one message of a publisher.
type event struct {
	subject, seq int
	id           string
	published    time.Time // the first time
	acked        time.Time // PUBACK or PUBCOMP; zero: none came
	excused      bool      // whom the client had it from may have lost it itself: the outside broker was killed
	big          bool      // its output is more than the outside broker takes
}

// sightings are what became of the events of a stream, as one place shows it.
type sightings struct {
	seen map[int][]int  // by subject: the numbers of events in the order in which they took effect
	dead map[string]int // by id: how many dead letters
}

// finding is what is wrong with one event, or remarkable.
type finding struct {
	lost       bool // acknowledged and nowhere
	excused    bool // nowhere, but excused
	twice      bool // took effect more than once and must not
	repeated   bool // took effect more than once and may, or has more than one dead letter
	outOfOrder bool // took effect for the first time after a later event of its subject
}

// judge compares what was published with what became of it.
//
// An event that was acknowledged must be seen or be a dead letter; one that was
// not may be either or neither. A dead letter is no effect: one beside an
// effect, or two of them, is counted as a repeat and is no fault. For the order
// only the first effect of each acknowledged event counts, since a repeat may
// come at any time.
func judge(events []*event, p promise, ordered bool, s sightings) map[*event]finding {
	type place struct{ subject, seq int }
	known := make(map[place]*event, len(events))
	for _, e := range events {
		known[place{e.subject, e.seq}] = e
	}
	times := make(map[*event]int, len(events))
	found := make(map[*event]finding)
	for subject, seqs := range s.seen {
		last := -1
		for _, seq := range seqs {
			e := known[place{subject, seq}]
			if e == nil {
				continue // not one of these
			}
			times[e]++
			if times[e] > 1 || e.acked.IsZero() {
				continue
			}
			if ordered && seq < last {
				f := found[e]
				f.outOfOrder = true
				found[e] = f
			}
			last = max(last, seq)
		}
	}
	for _, e := range events {
		f := found[e]
		n, dead := times[e], s.dead[e.id]
		f.twice = p == once && n > 1
		f.repeated = (p != once && n > 1) || dead > 1 || (dead > 0 && n > 0)
		if n+dead == 0 && !e.acked.IsZero() {
			f.lost, f.excused = !e.excused, e.excused
		}
		if f != (finding{}) {
			found[e] = f
		}
	}
	return found
}

// and joins what two places show of one event.
func (f finding) and(g finding) finding {
	return finding{
		lost: f.lost || g.lost, excused: f.excused || g.excused, twice: f.twice || g.twice,
		repeated: f.repeated || g.repeated, outOfOrder: f.outOfOrder || g.outOfOrder,
	}
}

package drivers

// maxEdges bounds the edges that wait for a listener. One more drops the oldest
// and counts it in Lost of the next one.
const maxEdges = 1024

// tally counts the edges of one watch of a line.
type tally struct {
	seen bool
	last uint32 // the kernel's number of the last edge
	high bool   // the level after it
	seq  uint64 // of the edges that there were, seen or not
}

// next takes an edge and returns its own number and how many were lost before
// it. The kernel's numbers begin at 1 and wrap after 2^32. blind edges have
// none: they are counted as they come.
//
// Of edges that come faster than its thread the kernel makes one, without a gap
// in its numbers. Where both directions are watched the levels tell: they take
// turns, so one that does not has another edge before it.
func (t *tally) next(e RawEdge, both, blind bool) (seq, lost uint64) {
	if !blind {
		step := uint64(e.Seq - t.last) // wraps as the numbers do
		if !t.seen {
			step = uint64(e.Seq)
		}
		lost = max(step, 1) - 1 // the same number again, which no kernel gives, loses nothing
	}
	if turned := t.high != e.Rising; both && t.seen && turned != (lost%2 == 0) {
		lost++
	}
	t.seen, t.last, t.high = true, e.Seq, e.Rising
	t.seq += lost + 1
	return t.seq, lost
}

// edgeQueue holds the edges that wait for one listener, and accounts for those
// that it has no room for: over all edges that take gives out, the sum of
// 1 + Lost + Coalesced is the number of the line's edges that the listener asked
// for, and of those that nobody saw.
type edgeQueue struct {
	want    EdgeOptions
	waiting []Edge // at most maxEdges; see there
	lost    uint64 // before the next edge that is added
	dropped uint64 // for want of room, since the beginning
}

// add takes an edge of the line. It returns whether there is something new to
// take.
func (q *edgeQueue) add(e Edge) bool {
	q.lost += e.Lost
	if (e.On && !q.want.Rising) || (!e.On && !q.want.Falling) {
		return false
	}
	e.Lost, q.lost = q.lost, 0
	if n := len(q.waiting); n > 0 && q.want.Coalesce {
		o := q.waiting[n-1]
		e.Lost += o.Lost
		e.Coalesced += o.Coalesced + 1
		q.waiting[n-1] = e
		return true
	}
	q.waiting = append(q.waiting, e)
	if len(q.waiting) > maxEdges {
		o := q.waiting[0]
		q.waiting = q.waiting[1:]
		q.waiting[0].Lost += o.Lost + o.Coalesced + 1
		q.dropped += o.Coalesced + 1
	}
	return true
}

// take gives out the oldest edge.
func (q *edgeQueue) take() (Edge, bool) {
	if len(q.waiting) == 0 {
		return Edge{}, false
	}
	e := q.waiting[0]
	q.waiting = q.waiting[1:]
	if len(q.waiting) == 0 {
		q.waiting = nil // let go of the array
	}
	return e, true
}

package drivers

// maxEdges bounds the edges that wait for a listener. One more drops the oldest
// and counts it in Lost of the next one.
const maxEdges = 1024

// tally counts the edges of one watch of a line.
type tally struct {
	seen bool
	last uint32 // the kernel's number of the last edge
	seq  uint64 // the same without the wrap
}

// next takes the kernel's number of an edge and returns the edge's own number
// and how many were lost before it. The numbers begin at 1 and wrap after 2^32.
// blind edges have none: they are counted as they come.
func (t *tally) next(number uint32, blind bool) (seq, lost uint64) {
	if blind {
		t.seq++
		return t.seq, 0
	}
	step := uint64(number - t.last) // wraps as the numbers do
	if !t.seen {
		step = uint64(number)
	}
	if step == 0 { // the same number again, which no kernel does: nothing is lost
		step = 1
	}
	t.seen, t.last = true, number
	t.seq += step
	return t.seq, step - 1
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

package node

// lanes decides which waiting event may start. Items of one lane start one at
// a time and in the order in which they came; items with no lane start as they
// come. Lanes take turns, so a busy subject does not hold the others up. It is
// not safe for concurrent use and does no I/O.
type lanes[T any] struct {
	ready fifo[turn[T]]       // what may start, in that order
	byKey map[string]*lane[T] // lanes that are busy or have items waiting
	n     int                 // items that wait
}

// turn is an item that may start, or a lane whose head may.
type turn[T any] struct {
	item T
	lane *lane[T] // nil: item has no lane
}

// lane is in lanes.ready just when it is not busy; it then has items.
type lane[T any] struct {
	items fifo[T]
	busy  bool
}

// add puts an item at the end of its lane; key "" is none.
func (l *lanes[T]) add(key string, item T) {
	l.n++
	if key == "" {
		l.ready.push(turn[T]{item: item})
		return
	}
	ln := l.byKey[key]
	if ln == nil {
		if l.byKey == nil {
			l.byKey = map[string]*lane[T]{}
		}
		ln = &lane[T]{}
		l.byKey[key] = ln
		l.ready.push(turn[T]{lane: ln})
	}
	ln.items.push(item)
}

// again puts back an item that next gave out and that is to start once more.
// Its lane stays its own: nothing of it starts before.
func (l *lanes[T]) again(item T) {
	l.n++
	l.ready.push(turn[T]{item: item})
}

// next returns the item that starts now; its lane is busy until done. ok is
// false when nothing waits, or only items behind busy lanes.
func (l *lanes[T]) next() (item T, ok bool) {
	t, ok := l.ready.pop()
	if !ok {
		return item, false
	}
	l.n--
	if t.lane == nil {
		return t.item, true
	}
	t.lane.busy = true
	return t.lane.items.pop()
}

// done frees the lane of an item that is settled.
func (l *lanes[T]) done(key string) {
	ln := l.byKey[key]
	if ln == nil {
		return
	}
	ln.busy = false
	if ln.items.len() == 0 {
		delete(l.byKey, key)
		return
	}
	l.ready.push(turn[T]{lane: ln})
}

// waiting is how many items wait.
func (l *lanes[T]) waiting() int { return l.n }

// drain takes out every item that waits, each lane's in its order.
func (l *lanes[T]) drain() []T {
	out := make([]T, 0, l.n)
	for t, ok := l.ready.pop(); ok; t, ok = l.ready.pop() {
		if t.lane == nil {
			out = append(out, t.item)
		}
	}
	for key, ln := range l.byKey {
		for item, ok := ln.items.pop(); ok; item, ok = ln.items.pop() {
			out = append(out, item)
		}
		if !ln.busy {
			delete(l.byKey, key)
		}
	}
	l.n = 0
	return out
}

// fifo is a queue. Its zero value is empty.
type fifo[T any] struct {
	items []T
	head  int
}

func (q *fifo[T]) len() int { return len(q.items) - q.head }

func (q *fifo[T]) push(v T) {
	if q.head > 32 && q.head > len(q.items)/2 {
		q.items = append(q.items[:0:0], q.items[q.head:]...)
		q.head = 0
	}
	q.items = append(q.items, v)
}

func (q *fifo[T]) pop() (v T, ok bool) {
	if q.len() == 0 {
		return v, false
	}
	v, q.items[q.head] = q.items[q.head], v
	q.head++
	if q.head == len(q.items) {
		q.items, q.head = nil, 0
	}
	return v, true
}

package settle

// queue decides which waiting event may start. Items of one subject start
// one at a time and in the order in which they came; items with no subject start
// as they come. Subjects take turns, so a busy one does not hold the others up.
// It is not safe for concurrent use and does no I/O.
type queue[T any] struct {
	ready fifo[turn[T]]          // what may start, in that order
	byKey map[string]*subject[T] // subjects that are busy or have items waiting
	n     int                    // items that wait
}

// turn is an item that may start, or a subject whose head may.
type turn[T any] struct {
	item    T
	subject *subject[T] // nil: item has no subject
}

// subject is in queue.ready just when it is not busy; it then has items.
type subject[T any] struct {
	items fifo[T]
	busy  bool
	head  T // while busy
}

// add puts an item at the end of its subject; key "" is none.
func (q *queue[T]) add(key string, item T) {
	q.n++
	if key == "" {
		q.ready.push(turn[T]{item: item})
		return
	}
	sub := q.byKey[key]
	if sub == nil {
		if q.byKey == nil {
			q.byKey = map[string]*subject[T]{}
		}
		sub = &subject[T]{}
		q.byKey[key] = sub
		q.ready.push(turn[T]{subject: sub})
	}
	sub.items.push(item)
}

// again puts back an item that next gave out and that is to start once more.
// Its subject stays its own: nothing of it starts before.
func (q *queue[T]) again(item T) {
	q.n++
	q.ready.push(turn[T]{item: item})
}

// next returns the item that starts now; its subject is busy until done. ok is
// false when nothing waits, or only items behind busy subjects.
func (q *queue[T]) next() (item T, ok bool) {
	t, ok := q.ready.pop()
	if !ok {
		return item, false
	}
	q.n--
	if t.subject == nil {
		return t.item, true
	}
	t.subject.busy = true
	t.subject.head, ok = t.subject.items.pop()
	return t.subject.head, ok
}

// done frees the subject of an item that is settled.
func (q *queue[T]) done(key string) {
	sub := q.byKey[key]
	if sub == nil {
		return
	}
	var none T
	sub.busy, sub.head = false, none
	if sub.items.len() == 0 {
		delete(q.byKey, key)
		return
	}
	q.ready.push(turn[T]{subject: sub})
}

// head returns the item of a subject that next gave out and that is not done.
func (q *queue[T]) head(key string) (item T, ok bool) {
	sub := q.byKey[key]
	if sub == nil || !sub.busy {
		return item, false
	}
	return sub.head, true
}

// behind returns the items of a subject that wait, in their order.
func (q *queue[T]) behind(key string) []T {
	if sub := q.byKey[key]; sub != nil {
		return sub.items.items[sub.items.head:]
	}
	return nil
}

// all returns every item that waits, each subject's in its order.
func (q *queue[T]) all() []T {
	var out []T
	for _, t := range q.ready.items[q.ready.head:] {
		if t.subject == nil {
			out = append(out, t.item)
		}
	}
	for _, sub := range q.byKey {
		out = append(out, sub.items.items[sub.items.head:]...)
	}
	return out
}

// waiting is how many items wait.
func (q *queue[T]) waiting() int { return q.n }

// drain takes out every item that waits, each subject's in its order.
func (q *queue[T]) drain() []T {
	out := make([]T, 0, q.n)
	for t, ok := q.ready.pop(); ok; t, ok = q.ready.pop() {
		if t.subject == nil {
			out = append(out, t.item)
		}
	}
	for key, sub := range q.byKey {
		for item, ok := sub.items.pop(); ok; item, ok = sub.items.pop() {
			out = append(out, item)
		}
		if !sub.busy {
			delete(q.byKey, key)
		}
	}
	q.n = 0
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

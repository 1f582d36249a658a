package broker

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// waiter counts what must happen before a message is finished and calls fn
// once all of it has. It begins with one that its maker must end with done. An
// error of the store counts more than one of a function: only then must the
// whole message come again.
type waiter struct {
	n   atomic.Int32
	err atomic.Pointer[error]
	fn  func(err error) // called once, from any goroutine, with an error if there was one
}

func newWaiter(fn func(error)) *waiter {
	w := &waiter{fn: fn}
	w.n.Store(1)
	return w
}

func (w *waiter) add() {
	if w != nil {
		w.n.Add(1)
	}
}

func (w *waiter) done(err error) {
	if w == nil {
		return
	}
	if errors.Is(err, errNotStored) {
		w.err.Store(&err)
	} else if err != nil {
		w.err.CompareAndSwap(nil, &err)
	}
	if w.n.Add(-1) == 0 {
		if p := w.err.Load(); p != nil {
			w.fn(*p)
			return
		}
		w.fn(nil)
	}
}

// budget bounds a number of things and their bytes. One thing is always let
// in, however large.
type budget struct {
	maxCount, maxBytes int64

	mu           sync.Mutex
	count, bytes int64
	room         chan struct{} // closed when something was given back; nil when nobody waits
}

// take waits for room until done is closed. It reports whether the room was taken.
func (b *budget) take(size int64, done <-chan struct{}) bool {
	for {
		b.mu.Lock()
		if b.count == 0 || (b.count < b.maxCount && b.bytes+size <= b.maxBytes) {
			b.count++
			b.bytes += size
			b.mu.Unlock()
			return true
		}
		if b.room == nil {
			b.room = make(chan struct{})
		}
		room := b.room
		b.mu.Unlock()
		select {
		case <-room:
		case <-done:
			return false
		}
	}
}

// force takes the room even where there is none.
func (b *budget) force(size int64) {
	b.mu.Lock()
	b.count++
	b.bytes += size
	b.mu.Unlock()
}

func (b *budget) give(size int64) {
	b.mu.Lock()
	b.count--
	b.bytes -= size
	if b.room != nil {
		close(b.room)
		b.room = nil
	}
	b.mu.Unlock()
}

func (b *budget) idle() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.count == 0
}

// task is one event on its way to the Sink.
type task struct {
	deliver func(ctx context.Context, settle func(error)) error
	settled func(err error) // called exactly once
}

// lane hands events for one trigger to the Sink, one after the other: those of
// one client's messages, of function outputs, or of retained messages. So a
// function that is full holds back its own events only, and of those each client
// has one that is next. Its goroutine lives while it has something to do. Its
// length is bounded by its budget, which every sender takes from before it
// pushes, and for clients' messages by the intake.
type lane struct {
	key    string
	budget budget
	users  int // calls of open without close; guarded by lanes.mu

	mu      sync.Mutex
	queue   []task
	running bool
}

// lanes are the lanes in use, by key.
type lanes struct {
	quit chan struct{} // closed when nothing is handed over any more
	wg   sync.WaitGroup

	mu     sync.Mutex
	byKey  map[string]*lane
	closed bool
}

func newLanes() *lanes {
	return &lanes{quit: make(chan struct{}), byKey: map[string]*lane{}}
}

// open returns the lane of a key, with bounds on its events and their bytes;
// close gives it back. A lane that still has
// something to do is found again by the next open.
func (ls *lanes) open(key string, count, bytes int64) *lane {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.byKey[key]
	if l == nil {
		l = &lane{key: key, budget: budget{maxCount: count, maxBytes: bytes}}
		ls.byKey[key] = l
	}
	l.users++
	return l
}

func (ls *lanes) close(l *lane) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l.users--
	ls.forget(l)
}

// give returns room to a lane.
func (ls *lanes) give(l *lane, size int64) {
	l.budget.give(size)
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.forget(l)
}

// forget removes a lane that nobody uses and that is empty; mu is held.
func (ls *lanes) forget(l *lane) {
	if l.users == 0 && l.budget.idle() && ls.byKey[l.key] == l {
		delete(ls.byKey, l.key)
	}
}

// push adds a task. After stop the task is settled with ErrNotRunning.
func (ls *lanes) push(l *lane, t task) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = append(l.queue, t)
	if l.running {
		return
	}
	ls.mu.Lock()
	closed := ls.closed
	if !closed {
		ls.wg.Add(1)
	}
	ls.mu.Unlock()
	if closed {
		l.queue = nil
		go t.settled(ErrNotRunning) // not here: the caller may hold locks
		return
	}
	l.running = true
	go ls.drain(l)
}

func (ls *lanes) drain(l *lane) {
	defer ls.wg.Done()
	ctx := quitContext{ls.quit}
	for {
		l.mu.Lock()
		if len(l.queue) == 0 {
			l.queue, l.running = nil, false
			l.mu.Unlock()
			return
		}
		t := l.queue[0]
		l.queue[0] = task{}
		l.queue = l.queue[1:]
		l.mu.Unlock()

		var once sync.Once
		settle := func(err error) { once.Do(func() { t.settled(err) }) }
		if ctx.Err() != nil {
			settle(ErrNotRunning)
			continue
		}
		if err := t.deliver(ctx, settle); err != nil {
			settle(err)
		}
	}
}

// stop ends all hand-overs and waits for the lanes' goroutines.
func (ls *lanes) stop() {
	ls.mu.Lock()
	if !ls.closed {
		ls.closed = true
		close(ls.quit)
	}
	ls.mu.Unlock()
	ls.wg.Wait()
}

// quitContext is a context that is done when a channel is closed.
type quitContext struct{ quit <-chan struct{} }

// Deadline is part of context.Context.
func (quitContext) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done is part of context.Context.
func (c quitContext) Done() <-chan struct{} { return c.quit }

// Value is part of context.Context.
func (quitContext) Value(any) any { return nil }

// Err is part of context.Context.
func (c quitContext) Err() error {
	select {
	case <-c.quit:
		return context.Canceled
	default:
		return nil
	}
}

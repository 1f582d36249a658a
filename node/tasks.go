package node

import (
	"context"
	"sync"
)

// task is something that runs in the background.
type task struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when it has ended
}

// stop ends the task and waits for it.
func (t *task) stop() {
	t.cancel()
	<-t.done
}

// wait waits until the task has ended by itself, or ctx is done.
func (t *task) wait(ctx context.Context) bool {
	select {
	case <-t.done:
		return true
	case <-ctx.Done():
		return false
	}
}

// spawner returns a function that runs f until its task is stopped or parent is
// done. wg counts what runs.
func spawner(parent context.Context, wg *sync.WaitGroup) func(f func(context.Context)) *task {
	return func(f func(context.Context)) *task {
		ctx, cancel := context.WithCancel(parent)
		t := &task{cancel, make(chan struct{})}
		wg.Go(func() {
			defer close(t.done)
			defer cancel()
			f(ctx)
		})
		return t
	}
}

// nameLocks holds a lock per function, so that deploys, rollbacks and the
// removal of one function come one after the other.
type nameLocks struct {
	mu    sync.Mutex
	locks map[string]*nameLock
}

type nameLock struct {
	held  chan struct{} // capacity 1
	users int           // holders and those who wait
}

// lock waits for a name's lock, until ctx is done.
func (l *nameLocks) lock(ctx context.Context, name string) (unlock func(), err error) {
	l.mu.Lock()
	if l.locks == nil {
		l.locks = map[string]*nameLock{}
	}
	k := l.locks[name]
	if k == nil {
		k = &nameLock{held: make(chan struct{}, 1)}
		l.locks[name] = k
	}
	k.users++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if k.users--; k.users == 0 {
			delete(l.locks, name)
		}
	}
	select {
	case k.held <- struct{}{}:
		return func() { <-k.held; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, context.Cause(ctx)
	}
}

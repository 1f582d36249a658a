package deploy

import (
	"context"
	"sync"
)

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

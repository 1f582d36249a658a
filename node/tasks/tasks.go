// Package tasks runs what goes on in the background of a node.
package tasks

import (
	"context"
	"sync"
)

// Task is something that runs in the background.
type Task struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when it has ended
}

// Stop ends the task and waits for it.
func (t *Task) Stop() {
	t.cancel()
	<-t.done
}

// Cancel has the task end, and does not wait for it.
func (t *Task) Cancel() { t.cancel() }

// Wait waits until the task has ended by itself, or ctx is done.
func (t *Task) Wait(ctx context.Context) bool {
	select {
	case <-t.done:
		return true
	case <-ctx.Done():
		return false
	}
}

// Spawn runs f in the background until its task is stopped.
type Spawn func(f func(context.Context)) *Task

// In returns what runs tasks until parent is done. wg counts those that run.
func In(parent context.Context, wg *sync.WaitGroup) Spawn {
	return func(f func(context.Context)) *Task {
		ctx, cancel := context.WithCancel(parent)
		t := &Task{cancel, make(chan struct{})}
		wg.Go(func() {
			defer close(t.done)
			defer cancel()
			f(ctx)
		})
		return t
	}
}

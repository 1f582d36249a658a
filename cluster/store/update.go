package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// The wait after the nth conflict is drawn evenly from half to one and a half
// times
//
//	min(firstWait * 2^(n-1), maxWait)
//
// A commit takes well under a millisecond, so a few milliseconds let several
// other writers through.
const (
	firstWait = 2 * time.Millisecond
	maxWait   = 250 * time.Millisecond
)

// Update reads, modifies and commits until no other writer was first: it calls
// f, commits what f returned and starts over when that is ErrConflict, with a
// jittered wait between tries, until ctx is done. f reads afresh each time and
// guards what it read; it has no effects of its own. Where f returns neither
// guards nor ops nothing is committed and the revision is 0.
func Update(ctx context.Context, s Store, f func(ctx context.Context) (guards []Guard, ops []Op, err error)) (revision int64, err error) {
	wait := backoff.ExponentialBackOff{
		InitialInterval:     firstWait,
		RandomizationFactor: 0.5,
		Multiplier:          2,
		MaxInterval:         maxWait,
	}
	wait.Reset()
	for tries := 1; ; tries++ {
		guards, ops, err := f(ctx)
		if err != nil {
			return 0, err
		}
		if len(guards) == 0 && len(ops) == 0 {
			return 0, nil
		}
		revision, err := s.Commit(ctx, guards, ops)
		if !errors.Is(err, ErrConflict) {
			return revision, err
		}
		t := time.NewTimer(wait.NextBackOff())
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return 0, fmt.Errorf("update the store, try %d: %w, and then %w", tries, err, context.Cause(ctx))
		}
	}
}

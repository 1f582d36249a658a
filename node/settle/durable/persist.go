package durable

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
)

// StoreTime bounds one call of the store.
const StoreTime = 10 * time.Second

// StoreBackoff is for a store that is full or away.
var StoreBackoff = Backoff{100 * time.Millisecond, 5 * time.Second}

// Lasting reports whether an error of the store is an answer, and not one that
// may be gone in a moment.
func Lasting(err error) bool {
	for _, e := range []error{store.ErrConflict, store.ErrTooLarge, store.ErrInvalid, store.ErrClosed, store.ErrLeaseGone, store.ErrCompacted} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Persist calls f, each time with a bound of its own, until it succeeds, its
// error is lasting or ctx is done. f must bear being called again after it may
// have taken effect. what says for the log what is being done.
func Persist(ctx context.Context, log *slog.Logger, what string, f func(ctx context.Context) error) error {
	for n := 1; ; n++ {
		err := func() error {
			ctx, cancel := context.WithTimeout(ctx, StoreTime)
			defer cancel()
			return f(ctx)
		}()
		switch {
		case err == nil:
			if n > 1 {
				log.Info("store answers again", "to", what)
			}
			return nil
		case Lasting(err):
			return err
		case ctx.Err() != nil:
			return fmt.Errorf("%s: %w", what, context.Cause(ctx))
		}
		if n == 1 {
			log.Warn("store does not take it, trying again", "to", what, "err", err)
		}
		if err := Sleep(ctx, StoreBackoff.Wait(n)); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

// Commit is Persist for a transaction without guards: one that may take effect
// twice.
func Commit(ctx context.Context, st store.Store, log *slog.Logger, what string, ops []store.Op) error {
	return Persist(ctx, log, what, func(ctx context.Context) error {
		_, err := st.Commit(ctx, nil, ops)
		return err
	})
}

package durable

import (
	"context"
	"fmt"

	"github.com/edgefn/edgefn/cluster/store"
)

// EachKey calls f with every key under prefix.
func EachKey(ctx context.Context, st store.Store, prefix string, f func(key string)) error {
	return EachEntry(ctx, st, prefix, store.Read{KeysOnly: true, Limit: 1000}, func(e store.Entry) error {
		f(e.Key)
		return nil
	})
}

// EachEntry calls f with every entry under prefix, read in pages of r.Limit at
// one revision.
func EachEntry(ctx context.Context, st store.Store, prefix string, r store.Read, f func(store.Entry) error) error {
	for {
		es, revision, err := func() ([]store.Entry, int64, error) {
			ctx, cancel := context.WithTimeout(ctx, StoreTime)
			defer cancel()
			return st.List(ctx, prefix, r)
		}()
		if err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		for _, e := range es {
			if err := f(e); err != nil {
				return err
			}
		}
		if len(es) < r.Limit {
			return nil
		}
		r.Revision, r.After = revision, es[len(es)-1].Key
	}
}

package store

import (
	"fmt"
	"slices"
	"strings"
)

// Check reports what is wrong with a transaction before any store is asked:
// ErrInvalid for one that makes no sense, ErrTooLarge for one beyond the
// bounds. Every Store applies it.
func Check(guards []Guard, ops []Op) error {
	if len(ops) > MaxOps {
		return fmt.Errorf("%w: %d operations, at most %d", ErrTooLarge, len(ops), MaxOps)
	}
	n, bytes := 0, 0
	for _, g := range guards {
		switch {
		case g.Version < 0 || g.Count < 0:
			return fmt.Errorf("%w: guard of %q has a negative version or count", ErrInvalid, g.Key)
		case g.Prefix:
			n += g.Count
		case g.Key == "":
			return fmt.Errorf("%w: guard of an empty key", ErrInvalid)
		}
		n++
		bytes += len(g.Key)
		if n > MaxGuards {
			return fmt.Errorf("%w: more than %d guards, the keys of guarded ranges among them", ErrTooLarge, MaxGuards)
		}
	}
	for _, o := range ops {
		bytes += len(o.Key) + len(o.Value)
	}
	if bytes > MaxBytes {
		return fmt.Errorf("%w: %d bytes of keys and values, at most %d", ErrTooLarge, bytes, MaxBytes)
	}
	return checkOps(ops)
}

// checkOps refuses ops that are malformed or that touch one key twice.
func checkOps(ops []Op) error {
	sorted := make([]*Op, len(ops))
	for i := range ops {
		o := &ops[i]
		switch {
		case o.Key == "" && !o.Prefix:
			return fmt.Errorf("%w: operation on an empty key", ErrInvalid)
		case o.Prefix && !o.Delete:
			return fmt.Errorf("%w: put of %q with Prefix set", ErrInvalid, o.Key)
		case o.Delete && (o.Lease != 0 || o.Value != nil):
			return fmt.Errorf("%w: delete of %q with a value or lease", ErrInvalid, o.Key)
		}
		sorted[i] = o
	}
	// By key, a range before the single key of its name: whatever a range
	// covers then follows it before anything that it does not cover.
	slices.SortFunc(sorted, func(a, b *Op) int {
		if c := strings.Compare(a.Key, b.Key); c != 0 {
			return c
		}
		return rank(a) - rank(b)
	})
	var cover *Op // the range last seen
	for i, o := range sorted {
		if cover != nil && strings.HasPrefix(o.Key, cover.Key) {
			return fmt.Errorf("%w: operations on %q and on all keys under %q touch one key", ErrInvalid, o.Key, cover.Key)
		}
		if i > 0 && sorted[i-1].Key == o.Key {
			return fmt.Errorf("%w: two operations on key %q", ErrInvalid, o.Key)
		}
		if o.Prefix {
			cover = o
		}
	}
	return nil
}

func rank(o *Op) int {
	if o.Prefix {
		return 0
	}
	return 1
}

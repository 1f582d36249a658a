package store_test

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/edgefn/edgefn/cluster/store"
)

// TestCheckOverlap: ops are refused if and only if some two of them touch a
// common key, whatever their order.
func TestCheckOverlap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ops := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) store.Op {
			o := store.Op{Key: rapid.StringMatching(`[ab/]{1,4}`).Draw(t, "key")}
			o.Delete = rapid.Bool().Draw(t, "delete")
			o.Prefix = o.Delete && rapid.Bool().Draw(t, "prefix")
			return o
		}), 0, 8).Draw(t, "ops")
		want := false
		for i, a := range ops {
			for _, b := range ops[i+1:] {
				want = want || a.Key == b.Key ||
					a.Prefix && strings.HasPrefix(b.Key, a.Key) || b.Prefix && strings.HasPrefix(a.Key, b.Key)
			}
		}
		err := store.Check(nil, ops)
		if errors.Is(err, store.ErrInvalid) != want || (err != nil) != want {
			t.Fatalf("%+v: touch a common key: %v, check says %v", ops, want, err)
		}
	})
}

package settle

import (
	"errors"
	"strings"
	"testing"

	"github.com/edgefn/edgefn/cluster/store/memstore"
	"github.com/edgefn/edgefn/functions"
)

func TestStateQuota(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(memstore.Config{})
	q := newQuota(st, discard(), StateLimits{Keys: 4, Bytes: 100})
	put := func(values map[string]string, deletes ...string) error {
		tx := newTransaction(testFunction(), st, place{}, 1000)
		for k, v := range values {
			tx.writes[statePrefix+"fan/"+k] = write{value: []byte(v)}
		}
		for _, k := range deletes {
			tx.writes[statePrefix+"fan/"+k] = write{deleted: true}
		}
		undo, err := q.admit(ctx, tx)
		if err != nil {
			return err
		}
		if _, err := st.Commit(ctx, nil, tx.stateOps()); err != nil {
			undo()
			return err
		}
		return nil
	}
	full := func(err error) {
		t.Helper()
		var f *functions.Failure
		if !errors.As(err, &f) || f.Kind != functions.FailEffect || !strings.Contains(f.Message, `state of function "fan" is full`) {
			t.Errorf("got %v, want a state that is full", err)
		}
	}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	for range 20 { // one key, written again and again, stays one key
		ok(put(map[string]string{"a": "12345"}))
	}
	ok(put(map[string]string{"b": "1", "c": "1", "d": "1"}))
	full(put(map[string]string{"e": "1"}))
	ok(put(map[string]string{"a": "1", "b": "2"}))
	full(put(map[string]string{"a": strings.Repeat("x", 100)}))
	ok(put(nil, "b"))
	ok(put(map[string]string{"e": "1"}))
	full(put(map[string]string{"f": "1"}))
	ok(put(map[string]string{"f": "1"}, "e"))
}

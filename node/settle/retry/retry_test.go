package retry_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/cluster/store/memstore"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/settle/durable"
	"github.com/edgefn/edgefn/node/settle/retry"
)

func open(t *testing.T, st store.Store, b *durable.Budget) *retry.Queue {
	t.Helper()
	q := retry.New(st, b, slog.New(slog.DiscardHandler))
	if err := q.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return q
}

func entry(id string) *retry.Entry {
	return &retry.Entry{
		Header: retry.Header{EventID: id, Trigger: "in"},
		Event:  functions.Event{ID: id, Type: functions.TypeMQTT, Source: "mqtt://local", Subject: "a/" + id, Data: []byte("data of " + id)},
	}
}

// put keeps events and returns their items.
func put(t *testing.T, q *retry.Queue, entries ...*retry.Entry) (items []*retry.Item) {
	t.Helper()
	n, err := q.Reserve("fan", entries)
	if err != nil || n != len(entries) {
		t.Fatalf("reserved %d of %d: %v", n, len(entries), err)
	}
	if err := q.Put(t.Context(), entries, nil); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		items = append(items, e.Item)
	}
	return items
}

func ids(left []retry.Stored) (out []string) {
	for _, s := range left {
		out = append(out, s.Header.EventID)
	}
	return out
}

// Events come back in the order of their arrival, with what was counted, though
// the clock was set back between two runs.
func TestQueueOverARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, b := memstore.New(memstore.Config{}), durable.NewBudget(0)
		future := fmt.Sprintf("%sfan/%016x-", retry.Prefix, time.Now().Add(24*time.Hour).UnixNano())
		q := open(t, st, b)
		first := put(t, q, entry("1"))[0]
		if err := q.Update(t.Context(), first, retry.Header{EventID: "1", Failed: 3, Running: true}); err != nil {
			t.Fatal(err)
		}
		// As if the clock had been a day ahead when the second came.
		es, _, err := st.List(t.Context(), retry.Prefix, store.Read{})
		if err != nil {
			t.Fatal(err)
		}
		ahead := fmt.Sprintf("%s%d", future, len(es[0].Value))
		if _, err := st.Commit(t.Context(), nil, []store.Op{{Key: ahead, Value: es[0].Value}}); err != nil {
			t.Fatal(err)
		}
		b = durable.NewBudget(0)
		q = open(t, st, b)
		put(t, q, entry("3"))
		q = open(t, st, durable.NewBudget(0))
		left := q.Left("fan")
		if diff := cmp.Diff([]string{"1", "", "3"}, ids(left)); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
		if h := left[0].Header; h.Failed != 3 || !h.Running {
			t.Errorf("header of the first: %+v", h)
		}
		if again := q.Left("fan"); len(again) != 0 {
			t.Errorf("given out twice: %v", again)
		}
		e, err := q.Read(t.Context(), left[2].Item)
		if err != nil || e.Subject != "a/3" || !bytes.Equal(e.Data, []byte("data of 3")) {
			t.Errorf("event: %+v, %v", e, err)
		}
		if _, err := st.Commit(t.Context(), nil, left[2].Item.Delete()); err != nil {
			t.Fatal(err)
		}
		if _, err := q.Read(t.Context(), left[2].Item); !errors.Is(err, retry.ErrGone) {
			t.Errorf("event that was settled: %v, want ErrGone", err)
		}
	})
}

func TestQueueIsBounded(t *testing.T) {
	st := memstore.New(memstore.Config{})
	b := durable.NewBudget(4000) // 2400 bytes for queues
	q := open(t, st, b)
	entries := []*retry.Entry{entry("1"), entry("2"), entry("3"), entry("4"), entry("5")}
	n, err := q.Reserve("fan", entries)
	if err != nil || n == 0 || n == len(entries) {
		t.Fatalf("room for %d, %v", n, err)
	}
	if _, err := q.Reserve("fan", entries[n:]); !errors.Is(err, retry.ErrFull) || !strings.Contains(err.Error(), `function "fan"`) {
		t.Errorf("got %v, want ErrFull", err)
	}
	// A try that is made again needs no more room.
	if again, err := q.Reserve("fan", entries[:n]); again != n || err != nil {
		t.Errorf("again: %d, %v", again, err)
	}
	for _, e := range entries[:n] {
		q.Removed(e.Item)
	}
	if b.Used() != 0 || q.Count("fan") != 0 {
		t.Errorf("%d bytes and %d events are left", b.Used(), q.Count("fan"))
	}
	if m, err := q.Reserve("fan", []*retry.Entry{entry("6")}); m != 1 || err != nil {
		t.Errorf("with room again: %d, %v", m, err)
	}
	q.Forget("fan")
	if b.Used() != 0 {
		t.Errorf("%d bytes are left of a function that was removed", b.Used())
	}
}

// What cannot be read costs its counts, not the event and not the others.
func TestDamagedRecords(t *testing.T) {
	st := memstore.New(memstore.Config{})
	q := open(t, st, durable.NewBudget(0))
	put(t, q, entry("1"), entry("2"))
	es, _, err := st.List(t.Context(), retry.HeaderPrefix, store.Read{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = st.Commit(t.Context(), nil, []store.Op{
		{Key: es[0].Key, Value: []byte{0xff}},
		{Key: retry.Prefix + "fan/no-number", Value: []byte("x")},
	})
	if err != nil {
		t.Fatal(err)
	}
	q = open(t, st, durable.NewBudget(0))
	left := q.Left("fan")
	if diff := cmp.Diff([]string{"", "2"}, ids(left)); diff != "" {
		t.Fatalf("events (-want +got):\n%s", diff)
	}
	if e, err := q.Read(t.Context(), left[0].Item); err != nil || e.ID != "1" {
		t.Errorf("event: %+v, %v", e, err)
	}
}

// A wait ends in its time or sooner, whatever became of the clock.
func TestRemaining(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	h := retry.Header{Wait: time.Minute, DueNS: now.Add(20 * time.Second).UnixNano()}
	for _, tt := range []struct {
		name string
		now  time.Time
		want time.Duration
	}{
		{"in its time", now, 20 * time.Second},
		{"over", now.Add(time.Hour), 0},
		{"clock at 1970", time.Unix(0, 0), time.Minute},
		{"clock far ahead", now.AddDate(100, 0, 0), 0},
		{"clock a bit back", now.Add(-time.Minute), time.Minute},
	} {
		if got := h.Remaining(tt.now); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
	if got := (&retry.Header{}).Remaining(now); got != 0 {
		t.Errorf("no wait: %v", got)
	}
}

package usage

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/cluster/store/memstore"
	"github.com/edgefn/edgefn/functions"
)

func TestUsageIsWrittenOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := memstore.New(memstore.Config{})
		b := New(st, slog.New(slog.DiscardHandler), "gate")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { b.Run(ctx); close(done) }()
		version := func() int64 {
			e, _, err := st.Get(t.Context(), b.key("fan"), store.Read{})
			if err != nil {
				t.Fatal(err)
			}
			return e.Version
		}
		var seen []int64
		for range 180 { // three minutes and a bit, an event each second
			time.Sleep(time.Second)
			b.Add("fan", functions.Usage{Wall: time.Millisecond}, false)
			synctest.Wait()
			if v := version(); v != 0 && (len(seen) == 0 || seen[len(seen)-1] != v) {
				seen = append(seen, v)
			}
		}
		if len(seen) < 2 || len(seen) > 3 {
			t.Errorf("written %d times in three minutes", len(seen))
		}
		time.Sleep(time.Hour) // quiet
		synctest.Wait()
		last := version()
		time.Sleep(time.Hour)
		synctest.Wait()
		if version() != last {
			t.Error("usage is written although nothing ran")
		}
		cancel()
		<-done
		again := New(st, slog.New(slog.DiscardHandler), "gate")
		if err := again.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := again.Of("fan"); got.Invocations != 180 || got.WallMS != 180 {
			t.Errorf("after a restart: %+v", got)
		}
	})
}

// metered is a store that says what it has written.
type metered struct {
	store.Store
	written int64
}

func (m *metered) Written() int64 { return m.written }

func TestWrittenIsSharedByWhatWasCommitted(t *testing.T) {
	m := &metered{Store: memstore.New(memstore.Config{}), written: 1000}
	u := New(m, slog.New(slog.DiscardHandler), "gate")
	st := u.Metered("marks/")
	u.seen = m.written
	u.Of("fan")
	u.Of("lamp")
	value := make([]byte, commitWeight)
	for _, ops := range [][]store.Op{
		{{Key: "/edgefn/state/fan/a", Value: value}, {Key: "/edgefn/marks/gate/1", Value: []byte("x")}},
		{{Key: "/edgefn/retry/lamp/1-2", Value: value}},
		{{Key: "/edgefn/marks/gate/2", Value: value}},
	} {
		if _, err := st.Commit(t.Context(), nil, ops); err != nil {
			t.Fatal(err)
		}
	}
	m.written += 90_000
	fan, lamp := u.Of("fan").WrittenBytes, u.Of("lamp").WrittenBytes
	if fan < 29_000 || fan > 31_000 || lamp < 29_000 || lamp > 31_000 {
		t.Errorf("fan %d, lamp %d, want about 30,000 each: a third was the node's own", fan, lamp)
	}
	if again := u.Of("fan").WrittenBytes; again != fan {
		t.Errorf("counted twice: %d, then %d", fan, again)
	}
}

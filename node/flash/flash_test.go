package flash

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/edgefn/edgefn/cluster/store/memstore"
)

func TestDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := memstore.New(memstore.Config{})
		var mu sync.Mutex
		written := int64(0)
		run := func(forTime time.Duration, perMinute int64) (int64, time.Duration) {
			m := New(st, "gate", slog.New(slog.DiscardHandler))
			mu.Lock()
			written = 0 // a process of its own
			mu.Unlock()
			m.read = func() (int64, error) { mu.Lock(); defer mu.Unlock(); return written, nil }
			if err := m.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() { m.Run(ctx) })
			for range int(forTime / time.Minute) {
				mu.Lock()
				written += perMinute
				mu.Unlock()
				time.Sleep(time.Minute)
			}
			synctest.Wait()
			cancel()
			wg.Wait()
			return m.Day()
		}
		if n, known := run(30*time.Minute, 10); n != 300 || known != 30*time.Minute {
			t.Errorf("after half an hour: %d bytes, %v known", n, known)
		}
		if n, known := run(3*time.Hour, 10); n != 1800 || known != 3*time.Hour {
			t.Errorf("after three hours: %d bytes, %v known", n, known)
		}
		if n, known := run(time.Hour, 1); n < 1860-10 || n > 1860+10 || known != 4*time.Hour {
			t.Errorf("an hour after a restart: %d bytes, %v known", n, known)
		}
		// A byte that is written as an hour ends counts for the one or the other.
		if n, known := run(100*time.Hour, 1); n < 23*60-1 || n > 23*60+1 || known != 23*time.Hour {
			t.Errorf("after days: %d bytes, %v known", n, known)
		}
	})
}

func TestParse(t *testing.T) {
	if n, err := parse("rchar: 1\nwrite_bytes: 4096\ncancelled_write_bytes: 0\n"); n != 4096 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	if _, err := parse("rchar: 1\n"); err == nil {
		t.Error("a text without write_bytes is no error")
	}
	if _, err := writtenBySelf(); err != nil {
		t.Errorf("this process: %v", err)
	}
}

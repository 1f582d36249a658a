package etcd_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/cluster/store/etcd"
)

// BenchmarkEvent is what the commit of an event costs its disk, at several
// paces: bytes by the store's own count and by the kernel's, which writes whole
// pages, and syncs. Run it with -benchtime 100x.
func BenchmarkEvent(b *testing.B) {
	for _, pace := range []time.Duration{0, 100 * time.Millisecond, 300 * time.Millisecond, time.Second} {
		b.Run("every "+pace.String(), func(b *testing.B) {
			s, err := etcd.Open(b.Context(), etcd.Config{Dir: b.TempDir()})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			lease, err := s.Grant(b.Context(), time.Hour)
			if err != nil {
				b.Fatal(err)
			}
			value := []byte(strings.Repeat("v", 200))
			event := func(i int) {
				_, err := s.Commit(b.Context(), []store.Guard{{Key: fmt.Sprintf("/edgefn/done/f/%08d", i)}}, []store.Op{
					{Key: fmt.Sprintf("/edgefn/state/f/%d", i%20), Value: value},
					{Key: fmt.Sprintf("/edgefn/done/f/%08d", i), Value: []byte("1"), Lease: lease},
					{Key: fmt.Sprintf("/edgefn/outbox/f/%08d", i), Value: value},
					{Key: fmt.Sprintf("/edgefn/outbox/f/%08d", i-1), Delete: true},
					{Key: "/edgefn/usage/f", Value: value[:60]},
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			for i := range 200 {
				event(i)
			}
			time.Sleep(2 * time.Second) // the batch
			own, kernel, log, batches := s.Written(), kernelWrites(b), syncs(b, "etcd_disk_wal_fsync_duration_seconds"), syncs(b, "etcd_disk_backend_commit_duration_seconds")
			i := 200
			for b.Loop() {
				event(i)
				i++
				time.Sleep(pace)
			}
			b.StopTimer()
			time.Sleep(2 * time.Second)
			n := float64(b.N)
			b.ReportMetric(float64(s.Written()-own)/n, "store-B/op")
			b.ReportMetric(float64(kernelWrites(b)-kernel)/n, "device-B/op")
			b.ReportMetric(float64(syncs(b, "etcd_disk_wal_fsync_duration_seconds")-log)/n, "log-syncs/op")
			// A transaction of the database syncs its pages, and then its root.
			b.ReportMetric(2*float64(syncs(b, "etcd_disk_backend_commit_duration_seconds")-batches)/n, "database-syncs/op")
		})
	}
}

// kernelWrites is what this process has caused to be written to devices.
func kernelWrites(b *testing.B) (n int64) {
	b.Helper()
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(line, "write_bytes: %d", &n); err == nil {
			return n
		}
	}
	b.Fatal("no write_bytes")
	return 0
}

// syncs is how often etcd has measured one.
func syncs(b *testing.B, name string) uint64 {
	b.Helper()
	all, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		b.Fatal(err)
	}
	for _, m := range all {
		if m.GetName() == name {
			return m.GetMetric()[0].GetHistogram().GetSampleCount()
		}
	}
	b.Fatal("no metric ", name)
	return 0
}

package sandbox_test

import (
	"os/exec"
	"slices"
	"testing"
	"time"
)

// BenchmarkStart starts and buries instances one after the other in one slot,
// beside fork, exec and wait of a small program in the same run.
func BenchmarkStart(b *testing.B) {
	h := host(b, nil)
	sb, err := h.Starter(probeSpec(b, h, nil)).Open(b.Context())
	must(b, err)
	defer func() { must(b, sb.Close(b.Context())) }()
	var cells, plain []time.Duration
	for b.Loop() {
		begin := time.Now()
		must(b, exec.Command("/bin/true").Run())
		plain = append(plain, time.Since(begin))
		begin = time.Now()
		in, err := sb.Start(b.Context(), 0)
		must(b, err)
		cells = append(cells, time.Since(begin))
		in.Kill()
		<-in.Exited()
		for _, f := range []interface{ Close() error }{in.Socket(), in.Stdout(), in.Stderr()} {
			must(b, f.Close())
		}
	}
	p50 := func(ds []time.Duration) float64 {
		slices.Sort(ds)
		return float64(ds[len(ds)/2].Microseconds())
	}
	b.ReportMetric(p50(cells), "start-p50-us")
	b.ReportMetric(p50(plain), "exec-p50-us")
	b.ReportMetric(p50(cells)/p50(plain), "start/exec")
}

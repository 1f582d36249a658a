// Package flash counts what the node writes to its disk, since a card bears only
// so much. It asks the kernel once a minute what this process has caused to be
// written (write_bytes in /proc/self/io, proc(5)), keeps a sum per hour of the
// last day, by a clock that nobody sets, and writes the sums down once an hour,
// so that a restart forgets no more than that.
package flash

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// hours is how much is looked back at.
const hours = 24

// key is where a node's sums are in the store: written/NODE.
func key(node string) string { return durable.Root + "written/" + node }

// Meter counts for one node.
type Meter struct {
	st   store.Store
	log  *slog.Logger
	key  string
	read func() (int64, error) // bytes written by this process since it started

	mu     sync.Mutex
	sums   [hours]int64 // bytes, the current hour first
	known  int          // hours that are known, the current one included
	last   int64        // what read said last
	minute int          // of the current hour
}

// New makes a meter. Run it.
func New(st store.Store, node string, log *slog.Logger) *Meter {
	return &Meter{st: st, log: log, key: key(node), read: writtenBySelf, known: 1}
}

// record is what is written down.
type record struct {
	Sums []int64 `json:"sums"` // bytes an hour, the newest first
}

// Load reads what an earlier run has written down. The time between the runs is
// not known, and is not counted.
func (m *Meter) Load(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, durable.StoreTime)
	defer cancel()
	e, _, err := m.st.Get(ctx, m.key, store.Read{})
	if err != nil {
		return fmt.Errorf("read what was written to the disk: %w", err)
	}
	var r record
	if e.Version != 0 {
		if err := json.Unmarshal(e.Value, &r); err != nil {
			return fmt.Errorf("read what was written to the disk: %w", err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n := copy(m.sums[1:], r.Sums)
	m.known = 1 + n
	return nil
}

// Run counts until ctx is done.
func (m *Meter) Run(ctx context.Context) {
	t := time.NewTicker(time.Minute)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		if m.step() {
			m.keep(ctx)
		}
	}
}

// step counts the last minute. It reports whether an hour has ended.
func (m *Meter) step() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count()
	if m.minute++; m.minute < 60 {
		return false
	}
	m.minute = 0
	copy(m.sums[1:], m.sums[:])
	m.sums[0] = 0
	m.known = min(m.known+1, hours)
	return true
}

// count adds what was written since the last time. The caller holds mu.
func (m *Meter) count() {
	n, err := m.read()
	if err != nil {
		m.log.Debug("what was written to the disk is not known", "err", err)
		return
	}
	m.sums[0] += n - m.last
	m.last = n
}

func (m *Meter) keep(ctx context.Context) {
	m.mu.Lock()
	text, err := json.Marshal(record{m.sums[1:m.known]})
	m.mu.Unlock()
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, durable.StoreTime)
		defer cancel()
		_, err = m.st.Commit(ctx, nil, []store.Op{{Key: m.key, Value: text}})
	}
	if err != nil && ctx.Err() == nil {
		m.log.Warn("what was written to the disk is not written down", "err", err)
	}
}

// Day is how many bytes were written in the last day, and how much of that day
// is known.
func (m *Meter) Day() (bytes int64, known time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count()
	for _, n := range m.sums {
		bytes += n
	}
	return bytes, time.Duration(m.known-1)*time.Hour + time.Duration(m.minute)*time.Minute
}

// writtenBySelf reads write_bytes of this process.
func writtenBySelf() (int64, error) {
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0, err
	}
	return parse(string(text))
}

func parse(text string) (int64, error) {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, "write_bytes:"); ok {
			return strconv.ParseInt(strings.TrimSpace(v), 10, 64)
		}
	}
	return 0, fmt.Errorf("no write_bytes in %q", text)
}

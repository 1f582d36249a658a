package gpiosim

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
)

// tracing is an instance of the kernel's tracer for ourselves alone.
const tracing = "/sys/kernel/tracing/instances/hardware"

// kept bounds a line's history; the oldest go.
const kept = 10000

// Driven is one time that something set the level of a line.
type Driven struct {
	Seconds float64 // since boot, the kernel's CLOCK_MONOTONIC
	High    bool
	By      string // the thread's name and number
}

// History records each level that is driven on any line of the machine, as
// the kernel traces it. gpio-sim puts a line back to its pull as soon as
// nothing holds it, so that a look at the line later does not tell what a
// program has driven that is gone.
type History struct {
	mu    sync.Mutex
	lines map[int][]Driven // by the kernel's number of a line
}

// Record begins a history. It goes on until the process ends.
func Record() (*History, error) {
	if err := os.MkdirAll(tracing, 0o700); err != nil {
		return nil, fmt.Errorf("make an instance of the kernel's tracer: %w", err)
	}
	for file, value := range map[string]string{
		"trace_clock":                   "mono",
		"events/gpio/gpio_value/filter": "get == 0",
		"events/gpio/gpio_value/enable": "1",
	} {
		if err := write(filepath.Join(tracing, file), value); err != nil {
			return nil, fmt.Errorf("trace GPIO lines: %w", err)
		}
	}
	pipe, err := os.Open(filepath.Join(tracing, "trace_pipe"))
	if err != nil {
		return nil, fmt.Errorf("trace GPIO lines: %w", err)
	}
	h := &History{lines: map[int][]Driven{}}
	go func() {
		defer pipe.Close()
		h.read(pipe)
	}()
	return h, nil
}

// traced is a line of the kernel's trace: a thread, a processor, flags, a time
// and the event.
var traced = regexp.MustCompile(`^\s*(\S.*-\d+)\s+\[\d+\]\s+\S+\s+([\d.]+): gpio_value: (\d+) set (\d+)`)

func (h *History) read(r io.Reader) {
	for in := bufio.NewScanner(r); in.Scan(); {
		m := traced.FindStringSubmatch(in.Text())
		if m == nil {
			continue
		}
		seconds, _ := strconv.ParseFloat(m[2], 64)
		number, _ := strconv.Atoi(m[3])
		h.mu.Lock()
		all := append(h.lines[number], Driven{seconds, m[4] != "0", m[1]})
		h.lines[number] = all[max(0, len(all)-kept):]
		h.mu.Unlock()
	}
}

// Of returns the history of a line by the kernel's number of it.
func (h *History) Of(number int) []Driven {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Driven(nil), h.lines[number]...)
}

package sandbox

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// slotGroup is the control group of one slot, used by one instance after the
// other. Its files stay open: reading a counter is one system call.
//
// On v2 its highest use of memory can be counted anew for the next instance
// from Linux 6.12 on. Before that each instance gets a group made anew; before
// 5.19 there is no such count.
type slotGroup struct {
	c      *cgroups
	paths  []string // of the group, one per hierarchy
	memory int64    // bytes
	procs  uint64   // processes and threads
	owner  uint32   // who may move processes into it; v2

	mu   sync.Mutex // guards what follows between begin and close; counters are read by the instance alone
	gone bool       // closed for good
	used bool       // had an instance
	torn bool       // it could not be made anew
	join []*os.File // what an instance gets to be in the group: v1 cgroup.procs files, v2 the folder
	cpu  *os.File
	peak *os.File // nil: not known
	oom  *os.File // nil: not known
	base int64    // OOM kills before the instance
}

func (c *cgroups) slot(sandbox string, slot int, memory int64, procs uint64, owner uint32) (*slotGroup, error) {
	g := &slotGroup{c: c, memory: memory, procs: procs, owner: owner}
	for _, d := range c.dirs {
		g.paths = append(g.paths, filepath.Join(d, sandbox, "slot-"+strconv.Itoa(slot)))
	}
	if err := g.make(); err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

// in is the group's folder in the hierarchy of a controller.
func (g *slotGroup) in(controller string) string {
	for i, d := range g.c.dirs {
		if d == controller {
			return g.paths[i]
		}
	}
	return ""
}

// make makes the group with its limits and opens its files.
func (g *slotGroup) make() (err error) {
	for _, dir := range g.paths {
		if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // cgroupfs
			return fmt.Errorf("make control group: %w", err)
		}
		join, flags := dir+"/cgroup.procs", os.O_WRONLY
		if g.c.v2 {
			if err := os.Chown(join, int(g.owner), int(g.owner)); err != nil {
				return fmt.Errorf("hand control group over: %w", err)
			}
			join, flags = dir, unix.O_PATH|unix.O_DIRECTORY
		}
		f, err := os.OpenFile(join, flags, 0)
		if err != nil {
			return fmt.Errorf("open control group: %w", err)
		}
		g.join = append(g.join, f)
	}
	set := func(file, value string, optional bool) {
		if werr := os.WriteFile(file, []byte(value), 0); werr != nil && !optional && err == nil {
			err = fmt.Errorf("set limit: %w", werr)
		}
	}
	open := func(file string) *os.File {
		f, operr := os.OpenFile(file, os.O_RDWR, 0)
		if operr != nil {
			f, _ = os.Open(file)
		}
		return f
	}
	if g.c.memory != "" {
		m, d := strconv.FormatInt(g.memory, 10), g.in(g.c.memory)
		if g.c.v2 {
			set(d+"/memory.max", m, false)
			set(d+"/memory.swap.max", "0", true)
			set(d+"/memory.oom.group", "1", true)
			g.peak, g.oom = open(d+"/memory.peak"), open(d+"/memory.events")
		} else {
			set(d+"/memory.limit_in_bytes", m, false)
			set(d+"/memory.memsw.limit_in_bytes", m, true)
			g.peak, g.oom = open(d+"/memory.max_usage_in_bytes"), open(d+"/memory.oom_control")
		}
	}
	if g.c.pids != "" {
		set(g.in(g.c.pids)+"/pids.max", strconv.FormatUint(g.procs, 10), false)
	}
	if g.c.v2 {
		g.cpu = open(g.in(g.c.cpu) + "/cpu.stat")
	} else {
		g.cpu = open(g.in(g.c.cpu) + "/cpuacct.usage")
	}
	if g.cpu == nil && err == nil {
		err = errors.New("open CPU accounting: no such counter")
	}
	return err
}

// begin starts the counters anew for the next instance of the slot.
func (g *slotGroup) begin() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gone {
		return errors.New("sandbox is gone")
	}
	stale := g.torn
	if g.peak != nil && g.used {
		// v1 takes any number, v2 any text, and counts anew for this open file.
		_, err := g.peak.WriteAt([]byte("0"), 0)
		stale = stale || (err != nil && g.c.v2)
	}
	if stale {
		if err := g.renew(); err != nil {
			return err
		}
	}
	g.used = true
	g.base = g.oomKills()
	return nil
}

// renew puts a new group in the place of the old one.
func (g *slotGroup) renew() error {
	g.closeFiles()
	g.join, g.cpu, g.peak, g.oom = nil, nil, nil, nil
	for _, dir := range g.paths {
		removeTree(dir)
	}
	err := g.make()
	g.torn = err != nil
	return err
}

// cpuTime is the CPU time of all processes that were ever in the group.
func (g *slotGroup) cpuTime() time.Duration {
	var b [1024]byte
	n, _ := g.cpu.ReadAt(b[:], 0)
	buf := b[:n]
	if !g.c.v2 {
		return time.Duration(parseInt(buf))
	}
	return time.Duration(field(buf, "usage_usec")) * time.Microsecond
}

func (g *slotGroup) peakBytes() int64 {
	if g.peak == nil {
		return 0
	}
	var b [32]byte
	n, _ := g.peak.ReadAt(b[:], 0)
	return parseInt(b[:n])
}

func (g *slotGroup) oomKills() int64 {
	if g.oom == nil {
		return 0
	}
	var b [512]byte
	n, _ := g.oom.ReadAt(b[:], 0)
	return field(b[:n], "oom_kill")
}

func (g *slotGroup) oomed() bool { return g.oomKills() > g.base }

func (g *slotGroup) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gone = true
	g.closeFiles()
}

func (g *slotGroup) closeFiles() {
	for _, f := range append(g.join, g.cpu, g.peak, g.oom) {
		if f != nil {
			_ = f.Close()
		}
	}
}

func parseInt(b []byte) int64 {
	n, _ := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
	return n
}

// field returns the number behind a name in a file of "name number" lines.
func field(b []byte, name string) int64 {
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		if k, v, ok := bytes.Cut(sc.Bytes(), []byte(" ")); ok && string(k) == name {
			return parseInt(v)
		}
	}
	return 0
}

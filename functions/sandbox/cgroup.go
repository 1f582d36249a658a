package sandbox

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// cgroups makes the control groups of one node, under /edgefn/NODE. The same
// code serves the unified hierarchy (v2) and the one-per-controller layout (v1).
type cgroups struct {
	v2     bool
	prefix string   // "/edgefn/NODE", as containerd takes it
	dirs   []string // v1: one folder per controller; v2: one
	memory string   // folder of the memory controller, or empty if it is off
	pids   string
	cpu    string
}

func newCgroups(node string) (*cgroups, error) {
	c := &cgroups{prefix: "/edgefn/" + node}
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &st); err != nil {
		return nil, fmt.Errorf("find control groups at %s: %w", cgroupRoot, err)
	}
	c.v2 = st.Type == unix.CGROUP2_SUPER_MAGIC
	if c.v2 {
		have, err := os.ReadFile(cgroupRoot + "/cgroup.controllers")
		if err != nil {
			return nil, fmt.Errorf("read controllers: %w", err)
		}
		dir := cgroupRoot + c.prefix
		c.dirs, c.cpu = []string{dir}, dir
		for name := range strings.FieldsSeq(string(have)) {
			switch name {
			case "memory":
				c.memory = dir
			case "pids":
				c.pids = dir
			}
		}
		return c, c.enable(dir)
	}
	// Not pids: joining a group of a v1 hierarchy waits for the kernel's RCU,
	// milliseconds each time, and the limit on a slot's own user bounds the same.
	for name, to := range map[string]*string{"memory": &c.memory, "cpuacct": &c.cpu} {
		if _, err := os.Stat(filepath.Join(cgroupRoot, name, "cgroup.procs")); err == nil {
			*to = filepath.Join(cgroupRoot, name) + c.prefix
			c.dirs = append(c.dirs, *to)
		}
	}
	if c.cpu == "" {
		return nil, fmt.Errorf("no cpuacct controller at %s: execution cannot be metered", cgroupRoot)
	}
	return c, nil
}

// enable makes the controllers available below dir and each folder above it.
func (c *cgroups) enable(dir string) error {
	if !c.v2 {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // cgroupfs
		return fmt.Errorf("make control group: %w", err)
	}
	at := cgroupRoot
	for _, part := range append([]string{""}, strings.Split(strings.TrimPrefix(dir, cgroupRoot+"/"), "/")...) {
		at = filepath.Join(at, part)
		for _, name := range []string{"memory", "pids", "cpu"} {
			err := os.WriteFile(at+"/cgroup.subtree_control", []byte("+"+name), 0)
			if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("enable %s controller in %s: %w", name, at, err)
			}
		}
	}
	return nil
}

// everywhere are the node's folders in every hierarchy: on v1 the container
// runtime makes a container's group in those that edgefn does not use as well.
func (c *cgroups) everywhere() []string {
	if c.v2 {
		return c.dirs
	}
	dirs, _ := filepath.Glob(cgroupRoot + "/*" + c.prefix)
	return dirs
}

// removeAll removes every group of the node that has no process left.
func (c *cgroups) removeAll() {
	for _, d := range c.everywhere() {
		removeTree(d)
		_ = unix.Rmdir(filepath.Dir(d)) // /edgefn, if no other node uses it
	}
}

func (c *cgroups) removeSandbox(id string) {
	for _, d := range c.everywhere() {
		removeTree(filepath.Join(d, id))
	}
}

// removeTree removes a group and those in it; the kernel lets go of a group a
// moment after its last process.
func removeTree(dir string) {
	subs, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, s := range subs {
		if s.IsDir() {
			removeTree(filepath.Join(dir, s.Name()))
		}
	}
	for range 50 {
		if err := unix.Rmdir(dir); !errors.Is(err, unix.EBUSY) {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// slotGroup is the control group of one slot, used by one instance after the
// other. Its files stay open: reading a counter is one system call.
type slotGroup struct {
	v2    bool
	dirs  []string
	procs []*os.File
	cpu   *os.File
	peak  *os.File // nil: not known
	oom   *os.File // nil: not known
	base  int64    // OOM kills before the instance
}

func (c *cgroups) slot(sandbox string, slot int, memory int64, maxProcs uint64) (*slotGroup, error) {
	name := "slot-" + strconv.Itoa(slot)
	g := &slotGroup{v2: c.v2}
	if err := c.enableSandbox(sandbox); err != nil {
		return nil, err
	}
	for _, d := range c.dirs {
		dir := filepath.Join(d, sandbox, name)
		if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // cgroupfs
			g.close()
			return nil, fmt.Errorf("make control group: %w", err)
		}
		g.dirs = append(g.dirs, dir)
		f, err := os.OpenFile(dir+"/cgroup.procs", os.O_WRONLY, 0)
		if err != nil {
			g.close()
			return nil, fmt.Errorf("open control group: %w", err)
		}
		g.procs = append(g.procs, f)
	}
	in := func(d string) string { return filepath.Join(d, sandbox, name) }
	var err error
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
	if c.memory != "" {
		m, d := strconv.FormatInt(memory, 10), in(c.memory)
		if c.v2 {
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
	if c.pids != "" {
		set(in(c.pids)+"/pids.max", strconv.FormatUint(maxProcs, 10), false)
	}
	if c.v2 {
		g.cpu = open(in(c.cpu) + "/cpu.stat")
	} else {
		g.cpu = open(in(c.cpu) + "/cpuacct.usage")
	}
	if g.cpu == nil && err == nil {
		err = errors.New("open CPU accounting: no such counter")
	}
	if err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

func (c *cgroups) enableSandbox(id string) error {
	if !c.v2 {
		return nil
	}
	return c.enable(filepath.Join(c.dirs[0], id))
}

// begin starts the counters anew for the next instance of the slot.
func (g *slotGroup) begin() {
	if g.peak != nil {
		// v1 takes any number, v2 from Linux 6.12 on any text; before that the
		// peak is the highest of all instances of the slot.
		_, _ = g.peak.WriteAt([]byte("0"), 0)
	}
	g.base = g.oomKills()
}

// cpuTime is the CPU time of all processes that were ever in the group.
func (g *slotGroup) cpuTime() time.Duration {
	var b [1024]byte
	n, _ := g.cpu.ReadAt(b[:], 0)
	buf := b[:n]
	if !g.v2 {
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
	for _, f := range append(g.procs, g.cpu, g.peak, g.oom) {
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

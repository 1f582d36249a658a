package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// cgroups makes the control groups of one node, under /edgefn/NODE. The same
// code serves the unified hierarchy (v2) and the one-per-controller layout (v1).
//
// On v2 a sandbox is laid out as the kernel wants it, with processes in leaves
// only (cgroups(7), "no internal processes"):
//
//	/edgefn/NODE/SANDBOX         the container's, root of its cgroup namespace; its filter of devices holds below it too
//	/edgefn/NODE/SANDBOX/init    edgefn-init
//	/edgefn/NODE/SANDBOX/slot-N  one instance after the other
//
// The groups are beside those of systemd and not in the node's own unit: a
// group that holds a node has no controllers to give to those below it, and the
// unit's bounds (TasksMax, MemoryMax) are the node's and not its functions'.
type cgroups struct {
	v2     bool
	prefix string   // "/edgefn/NODE", as containerd takes it
	dirs   []string // v1: one folder per controller; v2: one
	want   []string // v2: the controllers that slots get
	memory string   // folder of the memory controller, or empty if it is off
	pids   string
	cpu    string
}

// Hierarchy is what a machine has of control groups.
type Hierarchy struct {
	V2     bool // the unified hierarchy; else one per controller
	Memory bool // memory can be limited
	PIDs   bool
	CPU    bool // CPU time can be metered
}

// NoMemoryGroup is what a node says where Hierarchy has no Memory.
const NoMemoryGroup = "memory limits are not enforced: the memory control group is off"

// FindHierarchy looks at /sys/fs/cgroup below root. An error says that there
// are no control groups.
func FindHierarchy(root fs.FS) (Hierarchy, error) {
	dir := strings.TrimPrefix(cgroupRoot, "/")
	have, err := fs.ReadFile(root, dir+"/cgroup.controllers") // only the unified root has it
	if err == nil {
		names := strings.Fields(string(have))
		return Hierarchy{V2: true, Memory: slices.Contains(names, "memory"), PIDs: slices.Contains(names, "pids"), CPU: true}, nil
	}
	has := func(controller string) bool {
		_, err := fs.Stat(root, dir+"/"+controller+"/cgroup.procs")
		return err == nil
	}
	h := Hierarchy{Memory: has("memory"), PIDs: has("pids"), CPU: has("cpuacct")}
	if !h.CPU {
		return h, fmt.Errorf("no control groups at %s that meter CPU time: %w", cgroupRoot, err)
	}
	return h, nil
}

func newCgroups(node string) (*cgroups, error) {
	h, err := FindHierarchy(os.DirFS("/"))
	if err != nil {
		return nil, err
	}
	c := &cgroups{v2: h.V2, prefix: "/edgefn/" + node}
	if c.v2 {
		return c, c.unified()
	}
	// Not pids: joining a group of a v1 hierarchy waits for the kernel's RCU,
	// milliseconds each time, and the limit on a slot's own user bounds the same.
	c.cpu = filepath.Join(cgroupRoot, "cpuacct") + c.prefix
	c.dirs = append(c.dirs, c.cpu)
	if h.Memory {
		c.memory = filepath.Join(cgroupRoot, "memory") + c.prefix
		c.dirs = append(c.dirs, c.memory)
	}
	return c, nil
}

// unified makes the node's group in the unified hierarchy, with the controllers
// that there are. CPU time is accounted without one.
func (c *cgroups) unified() error {
	have, err := os.ReadFile(cgroupRoot + "/cgroup.controllers")
	if err != nil {
		return fmt.Errorf("read controllers: %w", err)
	}
	dir := cgroupRoot + c.prefix
	c.dirs, c.cpu = []string{dir}, dir
	for name := range strings.FieldsSeq(string(have)) {
		switch name {
		case "memory":
			c.memory = dir
		case "pids":
			c.pids = dir
		case "cpu": // a fair share for each sandbox and each slot
		default:
			continue
		}
		c.want = append(c.want, name)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // cgroupfs
		return fmt.Errorf("make control group: %w%s", err, hint(err))
	}
	for _, at := range []string{cgroupRoot, filepath.Dir(dir), dir} {
		if err := c.enable(at); err != nil {
			return err
		}
	}
	return nil
}

// enable gives the groups right below dir their controllers.
func (c *cgroups) enable(dir string) error {
	for _, name := range c.want {
		err := os.WriteFile(dir+"/cgroup.subtree_control", []byte("+"+name), 0)
		if err != nil && name != "cpu" { // which real-time processes anywhere can forbid
			return fmt.Errorf("enable %s controller below %s: %w%s", name, dir, err, hint(err))
		}
	}
	return nil
}

// hint says what to do about an error of the control group file system.
func hint(err error) string {
	switch {
	case errors.Is(err, unix.EROFS):
		return ": the node's unit may not say ProtectControlGroups=yes"
	case errors.Is(err, unix.EBUSY):
		return ": processes are in that very group: give the node the host's cgroup namespace"
	}
	return ""
}

// container is the group to name to the OCI runtime.
func (c *cgroups) container(sandbox string) string {
	if c.v2 {
		return filepath.Join(c.prefix, sandbox)
	}
	return filepath.Join(c.prefix, sandbox, "init")
}

// adopt makes the group of a container that has been created and not started,
// with pid its only process, one that slots can be made in. On v2 the process
// moves to a leaf, and owner, the user of edgefn-init, may then clone into the
// slots: that takes the right to write the target's cgroup.procs and that of
// the group above it and the source, and a cgroup namespace that holds both
// (kernel/cgroup/cgroup.c, cgroup_attach_permissions).
func (c *cgroups) adopt(sandbox string, pid int, owner uint32) error {
	if !c.v2 {
		return nil
	}
	dir := filepath.Join(c.dirs[0], sandbox)
	leaf := filepath.Join(dir, "init")
	if err := os.Mkdir(leaf, 0o755); err != nil { //nolint:gosec // cgroupfs
		return fmt.Errorf("make control group: %w", err)
	}
	if err := os.WriteFile(leaf+"/cgroup.procs", []byte(strconv.Itoa(pid)), 0); err != nil {
		return fmt.Errorf("move edgefn-init to its control group: %w", err)
	}
	if err := c.enable(dir); err != nil {
		return err
	}
	return os.Chown(dir+"/cgroup.procs", int(owner), int(owner))
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

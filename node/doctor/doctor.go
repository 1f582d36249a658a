package doctor

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node"
	"github.com/edgefn/edgefn/node/api"
)

// State of what a check looked at.
type State string

// States. Only Failed keeps a node from doing what it is for.
const (
	OK      State = "ok"
	Warning State = "warning"
	Failed  State = "failed"
)

// Finding is what a check found.
type Finding struct {
	Check  string   `json:"check"`
	State  State    `json:"state"`
	Detail string   `json:"detail"`
	Fix    []string `json:"fix,omitempty"` // lines for a shell of root; a comment where a person has to do it
}

// Space is the room of a file system.
type Space struct {
	Bytes, FreeBytes   uint64 // free: for others than root
	Inodes, FreeInodes uint64 // 0 Inodes: it makes them as needed
	ReadOnly           bool
	Memory             bool // a tmpfs, gone with a reboot
}

// Machine is what the checks look at. Here is the one that runs this program.
type Machine struct {
	Root   fs.FS  // "/", with its /proc and /sys
	Arch   string // that this program is built for: runtime.GOARCH
	UID    int    // of whoever asks
	Groups []int  // of whoever asks
	Now    func() time.Time

	// Kernel returns the release and the machine of uname(2).
	Kernel func() (release, machine string, err error)
	// Synchronised reports whether the kernel's clock follows another.
	Synchronised func() (bool, error)
	// Space is that of the file system with an absolute path.
	Space func(path string) (Space, error)
	// Flush writes a few small files below an absolute path, waits for the disk
	// each time, and returns how long each took.
	Flush func(ctx context.Context, dir string) ([]time.Duration, error)
	// Version is what a program, an absolute path, says with --version.
	Version func(ctx context.Context, program string) (string, error)
	// Answers reports whether something listens at a Unix socket.
	Answers func(path string) bool
	// Listen takes an address and lets go of it.
	Listen func(ctx context.Context, addr string) error
	// Runtimes are those that the node would find.
	Runtimes func(ctx context.Context) map[functions.Runtime]string
	// Status is the node's, if one answers.
	Status func(ctx context.Context) (api.Status, error)
}

// Examine runs every check and returns what they found, in a fixed order.
// cfg is the config of the node in question, and configErr why it could not be
// read, if so.
func Examine(ctx context.Context, m Machine, cfg node.Config, configErr error) []Finding {
	e := &examination{Machine: m, cfg: cfg}
	e.config(configErr)
	st, statusErr := m.Status(ctx)
	for _, check := range []func(context.Context){
		e.kernel, e.userland, e.cgroups, e.memoryGroup, e.userNamespaces,
		e.memory, e.power, e.clock, e.disk, e.flushes, e.wear,
		e.containerd, e.runc, e.runtimes,
		e.hardware, e.secrets,
	} {
		check(ctx)
	}
	e.port(ctx, statusErr == nil)
	e.node(st, statusErr)
	return e.findings
}

// examination is one run of all checks.
type examination struct {
	Machine
	cfg      node.Config
	findings []Finding
}

func (e *examination) add(check string, state State, fix []string, format string, args ...any) {
	e.findings = append(e.findings, Finding{Check: check, State: state, Detail: fmt.Sprintf(format, args...), Fix: fix})
}

// text is what is in a file, without blanks around it; empty: it is not there.
func (e *examination) text(name string) string {
	b, err := fs.ReadFile(e.Root, strings.TrimPrefix(name, "/"))
	if err != nil {
		return ""
	}
	return strings.Trim(string(b), " \n\t\x00")
}

func (e *examination) exists(name string) bool {
	_, err := fs.Stat(e.Root, strings.TrimPrefix(name, "/"))
	return err == nil
}

// glob lists files, as absolute paths in order of name.
func (e *examination) glob(pattern string) []string {
	found, _ := fs.Glob(e.Root, strings.TrimPrefix(pattern, "/")) // the patterns are constants
	for i, f := range found {
		found[i] = "/" + f
	}
	return found
}

// program finds a program where a service's PATH would.
func (e *examination) program(name string) (string, bool) {
	for dir := range strings.SplitSeq(node.HostPath, ":") {
		file := dir + "/" + name
		if fi, err := fs.Stat(e.Root, strings.TrimPrefix(file, "/")); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return file, true
		}
	}
	return "", false
}

// config tells of a config file that a node would refuse.
func (e *examination) config(err error) {
	if err != nil {
		e.add("config", Failed, []string{"# correct the file; every key is explained in the sample, /etc/edgefn/config.yaml of the package"}, "%v", err)
		return
	}
	e.add("config", OK, nil, "node %s, data in %s", e.cfg.Name, e.cfg.DataDir)
}

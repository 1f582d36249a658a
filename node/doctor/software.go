package doctor

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"syscall"

	"github.com/Masterminds/semver/v3"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/sandbox"
	"github.com/edgefn/edgefn/node/api"
)

// leastContainerd is the oldest containerd that a node works with: Debian 12's.
var leastContainerd = semver.MustParse("1.6.0")

// versionWord is a version in what a program says of itself.
var versionWord = regexp.MustCompile(`\bv?(\d+\.\d+\.\d+)`)

// containerd checks that there is one to use.
func (e *examination) containerd(ctx context.Context) {
	const check = "containerd"
	socket := e.cfg.Containerd
	if socket == "" {
		socket = sandbox.SystemSocket
	}
	answers := e.Answers(socket)
	program, ok := e.program(check)
	if !ok {
		if answers {
			e.add(check, OK, nil, "listens at %s", socket)
			return
		}
		e.add(check, Failed, []string{"apt install containerd"}, "is not installed")
		return
	}
	said, err := e.Version(ctx, program)
	if err != nil {
		e.add(check, Failed, []string{"apt install --reinstall containerd"}, "%v", err)
		return
	}
	m := versionWord.FindStringSubmatch(said)
	if m == nil {
		e.add(check, Warning, nil, "%s does not tell its version: %q", program, said)
		return
	}
	v, err := semver.NewVersion(m[1])
	if err != nil {
		e.add(check, Warning, nil, "%s does not tell its version: %v", program, err)
		return
	}
	switch {
	case v.LessThan(leastContainerd):
		e.add(check, Failed, []string{"apt update && apt install containerd"}, "%s is too old: at least %s is needed", v, leastContainerd)
	case answers:
		e.add(check, OK, nil, "%s, listens at %s", v, socket)
	case e.cfg.Containerd != "":
		e.add(check, Failed, []string{"systemctl enable --now containerd"}, "%s, but nothing listens at %s, which the config names", v, socket)
	default:
		e.add(check, OK, nil, "%s, does not run: the node starts one for itself", v)
	}
}

// runc checks for what makes the containers: containerd's runtime, as a node
// asks for it, looks for that name.
func (e *examination) runc(context.Context) {
	const check = "runc"
	if file, ok := e.program(check); ok {
		e.add(check, OK, nil, "%s", file)
		return
	}
	if file, ok := e.program("crun"); ok {
		e.add(check, Failed, []string{"apt install runc"}, "is not installed; %s is, and containerd does not look for it", file)
		return
	}
	e.add(check, Failed, []string{"apt install runc"}, "is not installed")
}

// runtimes checks for the interpreters that functions want.
func (e *examination) runtimes(ctx context.Context) {
	found := e.Runtimes(ctx)
	for _, r := range []struct {
		runtime functions.Runtime
		pack    string
	}{{functions.Python, "python3"}, {functions.Node, "nodejs"}} {
		check := "runtime " + string(r.runtime)
		if v, ok := found[r.runtime]; ok {
			e.add(check, OK, nil, "%s", v)
			continue
		}
		e.add(check, Warning, []string{"apt install " + r.pack}, "is not installed: functions that need it must name an image that has it")
	}
}

// port checks that the broker's addresses are free, unless a node has them.
func (e *examination) port(ctx context.Context, running bool) {
	if running {
		return
	}
	const check = "mqtt port"
	for _, addr := range e.cfg.MQTT.Addrs() {
		err := e.Listen(ctx, addr)
		switch {
		case err == nil:
			e.add(check, OK, nil, "%s is free", addr)
		case errors.Is(err, syscall.EADDRINUSE):
			e.add(check, Failed, []string{
				fmt.Sprintf("ss -ltnp 'sport = :%s'   # who has it", addr[strings.LastIndex(addr, ":")+1:]),
				"# stop that program, or write another address, or off, under mqtt.listen in the config",
			}, "%s is in use by another program", addr)
		default:
			e.add(check, Failed, []string{"# correct mqtt.listen in the config"}, "%v", err)
		}
	}
}

// node adds what the node itself says.
func (e *examination) node(st api.Status, err error) {
	const check = "node"
	switch {
	case errors.Is(err, syscall.EACCES):
		e.add(check, Warning, []string{fmt.Sprintf("usermod -aG %s $(id -un %d)   # and log in again", api.Group, e.UID)}, "%v", err)
		return
	case err != nil:
		e.add(check, Warning, []string{"systemctl start edgefn", "journalctl -u edgefn   # why it does not"}, "none answers: %v", err)
		return
	case !st.Ready:
		e.add(check, Failed, []string{"journalctl -u edgefn"}, "%s runs and is not ready", st.Node)
	case len(st.Reasons) > 0:
		e.add(check, Failed, []string{"journalctl -u edgefn"}, "%s is degraded: %s", st.Node, strings.Join(st.Reasons, "; "))
	default:
		e.add(check, OK, nil, "%s is ready, version %s", st.Node, st.Version)
	}
	parts := []struct {
		name string
		part api.ComponentStatus
	}{{"containerd", st.Containerd}, {"store", st.Store}, {"broker", st.Broker}}
	for _, p := range parts {
		if p.part.State == "down" {
			e.add("node's "+p.name, Failed, []string{"journalctl -u edgefn"}, "is down: %s", p.part.Detail)
		}
	}
	for _, w := range st.Warnings {
		if strings.HasPrefix(w, sandbox.NoMemoryGroup) {
			continue // told by memoryGroup, with what helps
		}
		e.add(check, Warning, nil, "%s", w)
	}
}

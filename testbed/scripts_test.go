package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/edgefn/edgefn/node/api/apitest"
)

// patience bounds every wait of a script.
const patience = 2 * time.Minute

func TestScripts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("sandboxes need root")
	}
	bin, err := filepath.Abs("../bin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(bin, "edgefn")); err != nil {
		t.Fatal("bin/edgefn is not there: make build")
	}
	examples, err := filepath.Abs("../functions/examples")
	if err != nil {
		t.Fatal(err)
	}
	cache, err := exec.Command("go", "env", "GOCACHE", "GOMODCACHE", "GOPATH").Output()
	if err != nil {
		t.Fatal(err)
	}
	dirs := strings.Fields(string(cache))
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			run, err := os.MkdirTemp("", "ef") //nolint:usetesting // a short path: Unix sockets are below it
			if err != nil {
				return err
			}
			if err := os.Chmod(run, 0o755); err != nil {
				return err
			}
			m := &machine{run: run, bin: bin, started: map[string]*process{}}
			env.Values[machineKey{}] = m
			env.Defer(func() { m.stop(); _ = os.RemoveAll(run) })
			mqtt, err := freePort()
			if err != nil {
				return err
			}
			other, err := freePort()
			if err != nil {
				return err
			}
			env.Vars = append(
				env.Vars,
				"PATH="+bin+":"+os.Getenv("PATH"), "HOME="+env.WorkDir, "RUN="+run, "EXAMPLES="+examples,
				"EDGEFN_NODE=unix://"+run+"/r/edgefn.sock", "MQTT="+mqtt, "MQTT2="+other,
				"GOCACHE="+dirs[0], "GOMODCACHE="+dirs[1], "GOPATH="+dirs[2], "GOFLAGS=-mod=mod", "NO_COLOR=1",
			)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"node":       cmdNode,
			"mosquitto":  cmdMosquitto,
			"sshd":       cmdSSHD,
			"subscribe":  cmdSubscribe,
			"received":   cmdReceived,
			"eventually": cmdEventually,
			"publish":    cmdPublish,
			"exits":      cmdExits,
			"absent":     cmdAbsent,
			"killpid":    cmdKillPid,
			"disk":       cmdDisk,
			"tmpfs":      cmdTmpfs,
			"hold":       cmdHold,
			"watchdog":   cmdWatchdog,
			"background": cmdBackground,
			"end":        cmdEnd,
		},
	})
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

type machineKey struct{}

// machine is what a script has started.
type machine struct {
	run     string
	bin     string // folder of edgefn
	started map[string]*process
	mounts  []string
	sshd    *apitest.SSHD // nil: none was started
	held    []net.Conn    // to the node
	watch   *watchdog     // nil: the node has none
}

type process struct {
	cmd  *exec.Cmd
	out  *os.File
	done chan struct{}
}

func machineOf(ts *testscript.TestScript) *machine { return ts.Value(machineKey{}).(*machine) }

func (m *machine) stop() {
	for _, p := range m.started {
		p.end(syscall.SIGTERM)
	}
	for _, c := range m.held {
		_ = c.Close()
	}
	if m.watch != nil {
		m.watch.stop()
	}
	if m.sshd != nil {
		m.sshd.Stop()
	}
	for _, dir := range m.mounts {
		_ = syscall.Unmount(dir, syscall.MNT_DETACH)
	}
}

// end signals a process and waits for it; one that does not end is killed.
func (p *process) end(sig syscall.Signal) {
	_ = p.cmd.Process.Signal(sig)
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	_ = p.out.Close()
}

func (m *machine) start(ts *testscript.TestScript, name string, argv ...string) *process {
	if p := m.started[name]; p != nil {
		select {
		case <-p.done:
		default:
			ts.Fatalf("%s runs already", name)
		}
	}
	out, err := os.OpenFile(m.log(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = ts.Getenv("WORK")
	cmd.Env = append(os.Environ(), "PATH="+ts.Getenv("PATH"))
	if name == "node" && m.watch != nil {
		cmd.Env = append(cmd.Env, m.watch.env()...)
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	ts.Check(cmd.Start())
	p := &process{cmd: cmd, out: out, done: make(chan struct{})}
	go func() { _ = cmd.Wait(); close(p.done) }()
	m.started[name] = p
	return p
}

func (m *machine) log(name string) string { return filepath.Join(m.run, name+".log") }

func (m *machine) output(name string) string {
	b, _ := os.ReadFile(m.log(name))
	return string(b)
}

// wait calls ok until it is true, and fails the script when patience ends.
func wait(ts *testscript.TestScript, what string, ok func() bool) {
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			ts.Fatalf("gave up waiting for %s", what)
		}
	}
}

// node start [FLAG...] | node stop | node kill | node log PATTERN
func cmdNode(ts *testscript.TestScript, neg bool, args []string) {
	m := machineOf(ts)
	if len(args) == 0 {
		ts.Fatalf("usage: node start|stop|kill|log")
	}
	switch args[0] {
	case "start":
		argv := append([]string{
			"edgefn", "node", "--name", "n1", "--data", m.run + "/d", "--run", m.run + "/r",
			"--mqtt", "127.0.0.1:" + ts.Getenv("MQTT"),
		}, args[1:]...)
		path, err := exec.LookPath(filepath.Join(machineOf(ts).bin, "edgefn"))
		ts.Check(err)
		argv[0] = path
		before := strings.Count(m.output("node"), " is ready: ")
		p := m.start(ts, "node", argv...)
		wait(ts, "the node to be ready:\n"+m.output("node"), func() bool {
			select {
			case <-p.done:
				ts.Fatalf("node ended:\n%s", m.output("node"))
			default:
			}
			return strings.Count(m.output("node"), " is ready: ") > before
		})
	case "stop", "kill":
		p := m.started["node"]
		if p == nil {
			ts.Fatalf("no node was started")
		}
		p.end(map[string]syscall.Signal{"stop": syscall.SIGTERM, "kill": syscall.SIGKILL}[args[0]])
		if args[0] == "stop" && p.cmd.ProcessState.ExitCode() != 0 {
			ts.Fatalf("node stopped with %v:\n%s", p.cmd.ProcessState, m.output("node"))
		}
	case "log":
		re := regexp.MustCompile(args[1])
		if got := re.MatchString(m.output("node")); got == neg {
			ts.Fatalf("log of the node matches %q: %v\n%s", args[1], got, m.output("node"))
		}
	default:
		ts.Fatalf("node cannot %s", args[0])
	}
}

// mosquitto start [LINE OF ITS CONFIG...] | stop | kill: a real broker on $MQTT2
func cmdMosquitto(ts *testscript.TestScript, _ bool, args []string) {
	m := machineOf(ts)
	switch args[0] {
	case "start":
		conf := filepath.Join(m.run, "mosquitto.conf")
		ts.Check(os.WriteFile(conf, fmt.Appendf(nil, "listener %s 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\npersistence true\npersistence_location %s/\nautosave_interval 1\nautosave_on_changes true\nmax_queued_messages 10000\nuser root\n%s\n", ts.Getenv("MQTT2"), m.run, strings.Join(args[1:], "\n")), 0o600))
		m.start(ts, "mosquitto", "/usr/sbin/mosquitto", "-c", conf)
		wait(ts, "mosquitto to listen", func() bool {
			c, err := net.DialTimeout("tcp", "127.0.0.1:"+ts.Getenv("MQTT2"), time.Second)
			if err == nil {
				_ = c.Close()
			}
			return err == nil
		})
	case "stop":
		m.started["mosquitto"].end(syscall.SIGTERM)
	case "kill":
		m.started["mosquitto"].end(syscall.SIGKILL)
	}
}

// sshd start: a real OpenSSH server at $SSHD that lets root in, and in front of
// PATH an ssh that has the key | sshd stop
func cmdSSHD(ts *testscript.TestScript, _ bool, args []string) {
	m := machineOf(ts)
	if args[0] == "stop" {
		m.sshd.Stop()
		m.sshd = nil
		return
	}
	dir := filepath.Join(m.run, "ssh")
	ts.Check(os.Mkdir(dir, 0o700))
	var err error
	m.sshd, err = apitest.StartSSHD(dir)
	ts.Check(err)
	ts.Setenv("SSHD", m.sshd.Addr)
	ts.Setenv("PATH", m.sshd.Bin+":"+ts.Getenv("PATH"))
}

// subscribe NAME PORT TOPIC: starts a mosquitto_sub, ready when it returns
func cmdSubscribe(ts *testscript.TestScript, _ bool, args []string) {
	m := machineOf(ts)
	name := "sub-" + args[0]
	m.start(ts, name, "stdbuf", "-oL", "mosquitto_sub", "-h", "127.0.0.1", "-p", args[1], "-q", "1", "-t", args[2], "-d", "-F", "got %t %p")
	wait(ts, "a subscription to "+args[2], func() bool { return strings.Contains(m.output(name), "Subscribed (mid") })
}

// received NAME COUNT PATTERN: waits until that many different lines matched
func cmdReceived(ts *testscript.TestScript, neg bool, args []string) {
	m := machineOf(ts)
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	re := regexp.MustCompile("(?m)^got .*" + args[2] + ".*$")
	count := func() int {
		seen := map[string]bool{}
		for _, l := range re.FindAllString(m.output("sub-"+args[0]), -1) {
			seen[l] = true
		}
		return len(seen)
	}
	if neg {
		if n := count(); n >= want {
			ts.Fatalf("%d messages match %q", n, args[2])
		}
		return
	}
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		got := count()
		if got >= want {
			return
		}
		if time.Now().After(end) {
			out := m.output("sub-" + args[0])
			ts.Fatalf("%d different messages match %q, want %d; the last received:\n%s\nnode:\n%s", got, args[2], want, out[max(0, len(out)-2000):], m.output("node"))
		}
	}
}

// publish PORT QOS TOPIC FROM TO: publishes numbers, one QoS 1 or 2 connection,
// each acknowledged when it returns
func cmdPublish(ts *testscript.TestScript, neg bool, args []string) {
	from, _ := strconv.Atoi(args[3])
	to, _ := strconv.Atoi(args[4])
	var in bytes.Buffer
	for i := from; i <= to; i++ {
		fmt.Fprintf(&in, "%d\n", i)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "mosquitto_pub", "-h", "127.0.0.1", "-p", args[0], "-q", args[1], "-t", args[2], "-l")
	cmd.Stdin = &in
	out, err := cmd.CombinedOutput()
	if (err != nil) != neg {
		ts.Fatalf("publish: %v\n%s", err, out)
	}
}

// eventually PATTERN COMMAND...: runs a command until its output matches
func cmdEventually(ts *testscript.TestScript, neg bool, args []string) {
	re := regexp.MustCompile(args[0])
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		err := ts.Exec(args[1], args[2:]...)
		last := fmt.Sprintf("%s%s%v", ts.ReadFile("stdout"), ts.ReadFile("stderr"), err)
		if re.MatchString(last) != neg {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("gave up waiting for %q, last:\n%s\nnode:\n%s", args[0], last, machineOf(ts).output("node"))
		}
	}
}

// exits CODE COMMAND...: runs a command and wants that exit code
func cmdExits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var ee *exec.ExitError
		if !errors.As(err, &ee) {
			ts.Fatalf("%v", err)
		}
		got = ee.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d\nnode:\n%s", got, want, machineOf(ts).output("node"))
	}
}

// absent WORD: no process, mount or control group with the script's folder or
// node in its name is left
func cmdAbsent(ts *testscript.TestScript, _ bool, _ []string) {
	m := machineOf(ts)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	ts.Check(err)
	if strings.Contains(string(mounts), m.run) {
		ts.Fatalf("mounts are left:\n%s", mounts)
	}
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	ts.Check(err)
	for _, p := range procs {
		if b, _ := os.ReadFile(p); bytes.Contains(b, []byte(m.run+"/")) {
			ts.Fatalf("process %s is left: %s", p, bytes.ReplaceAll(b, []byte{0}, []byte(" ")))
		}
	}
	for _, f := range []string{"/r/sandboxes", "/r/edgefn.sock", "/r/containerd"} {
		if _, err := os.Stat(m.run + f); err == nil {
			ts.Fatalf("%s is left", m.run+f)
		}
	}
}

// background COMMAND...: runs a command until `end`
func cmdBackground(ts *testscript.TestScript, _ bool, args []string) {
	path := filepath.Join(machineOf(ts).bin, args[0])
	machineOf(ts).start(ts, "background", append([]string{path}, args[1:]...)...)
}

// end: ends what background started, in good order
func cmdEnd(ts *testscript.TestScript, _ bool, _ []string) {
	p := machineOf(ts).started["background"]
	p.end(syscall.SIGTERM)
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		ts.Fatalf("it ended with %d:\n%s", code, machineOf(ts).output("background"))
	}
}

// tmpfs DIR SIZE: a small disk of its own, gone with the script
func cmdTmpfs(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.MkdirAll(args[0], 0o755))
	ts.Check(syscall.Mount("tmpfs", args[0], "tmpfs", 0, "mode=755,size="+args[1]))
	m := machineOf(ts)
	m.mounts = append(m.mounts, args[0])
}

// disk DIR SIZE: a small ext4 of its own, gone with the script
func cmdDisk(ts *testscript.TestScript, _ bool, args []string) {
	m := machineOf(ts)
	image := filepath.Join(m.run, "disk.img")
	ts.Check(os.MkdirAll(args[0], 0o755))
	for _, argv := range [][]string{
		{"truncate", "-s", args[1], image},
		{"/sbin/mkfs.ext4", "-q", "-m", "0", image},
		{"mount", "-o", "loop", image, args[0]},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			ts.Fatalf("%v: %v\n%s", argv, err, out)
		}
	}
	m.mounts = append(m.mounts, args[0])
}

// killpid FILE: ends the process whose number is in a file that the node made
func cmdKillPid(ts *testscript.TestScript, _ bool, args []string) {
	b, err := os.ReadFile(args[0])
	ts.Check(err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	ts.Check(err)
	ts.Check(syscall.Kill(pid, syscall.SIGKILL))
}

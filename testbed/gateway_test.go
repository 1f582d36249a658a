package testbed

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/edgefn/edgefn/testbed/gateway"
)

// TestGateway runs the sessions of testdata/gateway on one emulated arm64
// gateway, one after the other in the order of their names: a later one finds
// what the earlier ones left. The package under test is the one that `make deb`
// makes; commands on the gateway go through ssh, as a person's do.
func TestGateway(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making the gateway's image needs root")
	}
	if testing.Short() {
		t.Skip("an emulated machine takes minutes")
	}
	if _, err := exec.LookPath("qemu-system-aarch64"); err != nil {
		t.Skip("no qemu-system-aarch64 here")
	}
	ctx := t.Context()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	deb := buildPackage(t)
	image, err := gateway.Build(ctx, log)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "gw") //nolint:usetesting // a short path: ssh's sockets are in it; and it stays after a failure
	if err != nil {
		t.Fatal(err)
	}
	m, err := gateway.Start(ctx, image, dir, log)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Stop()
	defer func() {
		if t.Failed() {
			keepLogs(ctx, t, m, dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	}()
	scripts, err := filepath.Glob("testdata/gateway/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("lines", func(t *testing.T) { runKernelLines(ctx, t, m) })
	runOnGateway(t, m, deb, scripts)
}

// runKernelLines runs the tests of the driver of lines that need a kernel which
// simulates some.
func runKernelLines(ctx context.Context, t *testing.T, m *gateway.Machine) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "periph.test")
	build := exec.Command("go", "test", "-c", "-o", program, "./drivers/periph")
	build.Dir, build.Env = "..", append(os.Environ(), "GOARCH=arm64", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the test: %v\n%s", err, out)
	}
	f, err := os.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := m.Put(ctx, f, "/root/periph.test"); err != nil {
		t.Fatal(err)
	}
	out, err := m.Run(ctx, "chmod +x /root/periph.test && EDGEFN_TEST_KERNEL=1 /root/periph.test -test.run TestKernelLines -test.v")
	if err != nil || !strings.Contains(out, "--- PASS: TestKernelLines") {
		t.Errorf("%v\n%s", err, out)
	}
}

func runOnGateway(t *testing.T, m *gateway.Machine, deb string, scripts []string) {
	t.Helper()
	paths := map[string]string{"BIN": "../bin", "EXAMPLES": "../functions/examples", "PAGE": "../docs/raspberry-pi.md"}
	vars := []string{"DEB=" + deb, "EDGEFN_NODE=ssh://root@gateway", "GOFLAGS=-mod=mod", "NO_COLOR=1"}
	for name, path := range paths {
		abs, err := filepath.Abs(path)
		if err != nil {
			t.Fatal(err)
		}
		paths[name] = abs
		vars = append(vars, name+"="+abs)
	}
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOPATH"} {
		dir, err := exec.Command("go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		vars = append(vars, name+"="+strings.TrimSpace(string(dir)))
	}
	vars = append(vars, "PATH="+m.Bin()+":"+paths["BIN"]+":"+os.Getenv("PATH"))
	testscript.RunT(inTurn{t}, testscript.Params{
		Files: scripts,
		Setup: func(env *testscript.Env) error {
			if t.Failed() {
				env.T().Skip("an earlier session failed")
			}
			env.Values[machineKey{}] = &machine{run: env.WorkDir, bin: paths["BIN"], started: map[string]*process{}}
			env.Vars = append(append(env.Vars, vars...), "HOME="+env.WorkDir)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"eventually": cmdEventually,
			"exits":      cmdExits,
			"page":       cmdPage,
			"history":    func(ts *testscript.TestScript, neg bool, args []string) { cmdHistory(ts, neg, m, args) },
			"reboot":     func(ts *testscript.TestScript, _ bool, _ []string) { ts.Check(m.Reboot(context.Background())) },
		},
	})
}

// inTurn is a test whose scripts wait for each other.
type inTurn struct{ *testing.T }

func (t inTurn) Parallel() {}

func (t inTurn) Verbose() bool { return testing.Verbose() }

func (t inTurn) Run(name string, f func(testscript.T)) {
	t.T.Run(name, func(t *testing.T) { f(inTurn{t}) })
}

// buildPackage makes the arm64 package as `make deb` does.
func buildPackage(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	nfpm := filepath.Join(root, "bin/tools/nfpm")
	if _, err := os.Stat(nfpm); err != nil {
		t.Fatal("bin/tools/nfpm is not there: make bin/tools/nfpm")
	}
	dist := t.TempDir()
	cmd := exec.Command("go", "run", "./cross/package", "-nfpm", nfpm, "-arch", "arm64", "-o", dist)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make the package: %v\n%s", err, out)
	}
	debs, err := filepath.Glob(filepath.Join(dist, "*_arm64.deb"))
	if err != nil || len(debs) != 1 {
		t.Fatalf("packages made: %v, %v", debs, err)
	}
	return debs[0]
}

// keepLogs writes what tells why a session failed beside the serial console.
func keepLogs(ctx context.Context, t *testing.T, m *gateway.Machine, dir string) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for file, command := range map[string]string{
		"node.log":    "journalctl --no-pager -u edgefn",
		"journal.log": "journalctl --no-pager",
	} {
		out, err := m.Run(ctx, command)
		if err != nil {
			out += "\n" + err.Error() + "\n"
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(out), 0o600); err != nil {
			t.Log(err)
		}
	}
	t.Logf("kept in %s: console.log, node.log, journal.log", dir)
}

// page SECTION: runs the commands of a section of the page for a bare Pi, as
// they stand there: at pi# on the gateway, at laptop$ here.
func cmdPage(ts *testscript.TestScript, _ bool, args []string) {
	commands, err := pageCommands(ts.ReadFile(ts.Getenv("PAGE")), args[0])
	ts.Check(err)
	for _, c := range commands {
		argv := []string{"sh", "-ec", c.text}
		if c.prompt == "pi#" {
			argv = []string{"ssh", "gateway", c.text}
		}
		ts.Check(ts.Exec(argv[0], argv[1:]...))
	}
}

// pageCommand is a command of a page, with the lines that go with it.
type pageCommand struct{ prompt, text string }

// pageCommands reads the commands of the section of a page whose heading has a
// word in it. A line that begins with ">" continues the command before it.
func pageCommands(page, heading string) ([]pageCommand, error) {
	var commands []pageCommand
	inside, block := false, false
	for line := range strings.Lines(page) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "## "):
			inside = strings.Contains(line, heading)
		case !inside:
		case strings.HasPrefix(line, "```"):
			block = line == "```console"
		case !block:
		case strings.HasPrefix(line, ">") && len(commands) > 0:
			commands[len(commands)-1].text += "\n" + strings.TrimPrefix(strings.TrimPrefix(line, ">"), " ")
		default:
			if m := pagePrompt.FindStringSubmatch(line); m != nil {
				commands = append(commands, pageCommand{m[1], m[2]})
			}
		}
	}
	if len(commands) == 0 {
		return nil, fmt.Errorf("the page has no commands below a heading with %q", heading)
	}
	return commands, nil
}

var pagePrompt = regexp.MustCompile(`^(pi#|laptop\$) (.*)$`)

// history LINE PATTERN: waits until what was driven on a line so far, such as
// "1 0 1", ends in a match
func cmdHistory(ts *testscript.TestScript, neg bool, m *gateway.Machine, args []string) {
	if neg {
		ts.Fatalf("history cannot be negated")
	}
	re, err := regexp.Compile("(" + args[1] + ")$")
	ts.Check(err)
	for end := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		out, err := m.Hardware(context.Background(), "history", args[0])
		var levels []string
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) > 1 {
				levels = append(levels, f[1])
			}
		}
		if err == nil && re.MatchString(strings.Join(levels, " ")) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("gave up waiting for %s to be driven to %q: %v\n%s", args[0], args[1], err, out)
		}
	}
}

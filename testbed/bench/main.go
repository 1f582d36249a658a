// Command bench measures edgefn against the plain thing, both in one run, and
// prints a table and JSON of ratios. It starts a node of its own with a
// private containerd, then the emulated arm64 gateway, and needs root and a
// built bin/edgefn.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"golang.org/x/sys/unix"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/wire"
	"github.com/edgefn/edgefn/node/api"
)

// row is one measurement.
type row struct {
	Name     string  `json:"name"`
	Unit     string  `json:"unit"`
	Edgefn   float64 `json:"edgefn"`
	Plain    float64 `json:"plain"`
	Against  string  `json:"against"`
	Ratio    float64 `json:"ratio"` // edgefn / plain
	Detail   string  `json:"detail,omitempty"`
	EdgefnP9 float64 `json:"edgefn_p90,omitempty"`
	PlainP9  float64 `json:"plain_p90,omitempty"`
}

func main() {
	out := flag.String("o", "", "also write JSON to this file")
	rounds := flag.Int("n", 200, "pairs of each latency row")
	emulate := flag.Bool("gateway", true, "measure on the emulated gateway too")
	only := flag.String("only", "", "measure only this: plain, stored, disk, queued, brokers or gateway")
	flag.Parse()
	rows, err := run(*rounds, *emulate, *only)
	if len(rows) > 0 {
		show(rows)
		if b, jerr := json.MarshalIndent(rows, "", "  "); jerr == nil && *out != "" {
			err = errors.Join(err, os.WriteFile(*out, append(b, '\n'), 0o644))
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func show(rows []row) {
	tw := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "WHAT\tEDGEFN\tPLAIN\tUNIT\tRATIO\tAGAINST")
	for _, r := range rows {
		fmt.Fprintf(tw, "%s\t%.2f\t%.2f\t%s\t%.2g\t%s\n", r.Name, r.Edgefn, r.Plain, r.Unit, r.Ratio, r.Against)
	}
	_ = tw.Flush()
}

// bench is a running node with what measures it.
type bench struct {
	dir, bin, addr string
	data           string    // the node's data folder
	node           *exec.Cmd // nil: it does not run
	killed         bool      // and what it started is still there
	client         mqtt.Client
	results        chan time.Time
	program        string // the Go function's own binary
}

// newBench makes what a node needs to run; end takes it away.
func newBench() (*bench, error) {
	b := &bench{results: make(chan time.Time, 4096)}
	var err error
	if b.bin, err = filepath.Abs("bin/edgefn"); err != nil {
		return nil, err
	}
	if b.dir, err = os.MkdirTemp("", "efb"); err != nil {
		return nil, err
	}
	b.data = b.dir + "/d"
	return b, os.Chmod(b.dir, 0o755)
}

// end stops the node and removes what is left. What a killed node has left the
// next one ends.
func (b *bench) end() {
	if b.killed && b.node == nil {
		if err := b.start(); err != nil {
			fmt.Fprintln(os.Stderr, "bench: containerd and sandboxes of a killed node may be left:", err)
		}
	}
	b.stop()
	_ = os.RemoveAll(b.dir)
}

// run measures part after part, each on a node of its own.
func run(rounds int, emulate bool, only string) (rows []row, err error) {
	parts := []struct {
		name    string
		measure func() ([]row, error)
	}{
		{"plain", func() ([]row, error) { return plainRows(rounds) }},
		{"stored", func() ([]row, error) { return storedRows(rounds) }},
		{"disk", diskRows},
		{"queued", queuedRows},
		{"brokers", func() ([]row, error) { return brokerRows(rounds) }},
		{"gateway", gatewayRows},
	}
	found := false
	for _, p := range parts {
		if (only != "" && p.name != only) || (p.name == "gateway" && !emulate) {
			continue
		}
		found = true
		r, err := p.measure()
		rows = append(rows, r...)
		if err != nil {
			return rows, fmt.Errorf("%s: %w", p.name, err)
		}
	}
	if !found {
		return nil, fmt.Errorf("there is no part %q", only)
	}
	return rows, nil
}

// plainRows measures events that write nothing.
func plainRows(rounds int) (rows []row, err error) {
	b, err := newBench()
	if err != nil {
		return nil, err
	}
	defer b.end()
	if err := b.start(); err != nil {
		return nil, err
	}
	pss, err := b.idleMemory()
	if err != nil {
		return nil, err
	}
	if err := b.connect(); err != nil {
		return nil, err
	}
	for _, f := range []string{"goecho", "pyecho", "goedge"} {
		if _, err := b.edgefn("deploy", "testbed/bench/testdata/"+f); err != nil {
			return nil, err
		}
	}
	if err := b.extractProgram(); err != nil {
		return nil, err
	}
	steps := []func() (row, error){
		func() (row, error) {
			return b.latency("MQTT publish to result, fresh Go process, p50", "fork+exec+wait of the same program with the same event", "bench/go/in/1", rounds, b.forkExec)
		},
		func() (row, error) {
			return b.latency("MQTT publish to result, fresh Python process, p50", "python3 -I -S -c pass", "bench/py/in/1", rounds, startPython)
		},
		b.firstStart,
		func() (row, error) { return b.sustained(2000) },
		func() (row, error) { return b.simulatedEdge(rounds) },
	}
	for _, s := range steps {
		r, err := s()
		if err != nil {
			return rows, err
		}
		rows = append(rows, r)
	}
	rows = append(rows, pss)
	changes, err := changeRows("by the control socket", b.dir+"/change", b.edgefn)
	return append(rows, changes...), err
}

func (b *bench) start() error {
	logf, err := os.Create(b.dir + "/node.log")
	if err != nil {
		return err
	}
	defer logf.Close()
	config := b.dir + "/node.yaml"
	if err := os.WriteFile(config, []byte("hardware: sim\ndevices:\n  edge: {line: GPIO5}\n"), 0o644); err != nil {
		return err
	}
	b.node = exec.Command(b.bin, "node", "--config", config, "--name", "bench", "--data", b.data, "--run", b.dir+"/r", "--mqtt", "127.0.0.1:0")
	b.node.Stdout, b.node.Stderr = logf, logf
	if err := b.node.Start(); err != nil {
		return err
	}
	for range 6000 {
		text, _ := os.ReadFile(b.dir + "/node.log")
		_, line, ready := strings.Cut(string(text), " is ready: ")
		if _, rest, ok := strings.Cut(line, "mqtt "); ready && ok {
			b.addr = strings.FieldsFunc(rest, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })[0]
			b.killed = false
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	text, _ := os.ReadFile(b.dir + "/node.log")
	return fmt.Errorf("node is not ready:\n%s", text)
}

func (b *bench) stop() { b.quit(syscall.SIGTERM) }

// kill ends the node at once; its containerd and sandboxes stay.
func (b *bench) kill() {
	b.quit(syscall.SIGKILL)
	b.killed = true
}

func (b *bench) disconnect() {
	if b.client != nil {
		b.client.Disconnect(100)
		b.client = nil
	}
}

func (b *bench) quit(s syscall.Signal) {
	b.disconnect()
	if b.node == nil || b.node.Process == nil {
		return
	}
	_ = b.node.Process.Signal(s)
	_ = b.node.Wait()
	b.node = nil
}

func (b *bench) edgefn(args ...string) ([]byte, error) {
	cmd := exec.Command(b.bin, args...)
	cmd.Env = append(os.Environ(), "EDGEFN_NODE=unix://"+b.dir+"/r/edgefn.sock")
	return outputOf(cmd)
}

// connect connects to the broker, anew if it is connected: of two clients with
// one name each ends the other.
func (b *bench) connect() error {
	b.disconnect()
	o := mqtt.NewClientOptions().AddBroker("tcp://" + b.addr).SetClientID("bench").SetOrderMatters(true)
	b.client = mqtt.NewClient(o)
	if t := b.client.Connect(); !t.WaitTimeout(10*time.Second) || t.Error() != nil {
		return fmt.Errorf("connect: %w", t.Error())
	}
	t := b.client.Subscribe("bench/+/out", 1, func(mqtt.Client, mqtt.Message) { b.results <- time.Now() })
	if !t.WaitTimeout(10*time.Second) || t.Error() != nil {
		return fmt.Errorf("subscribe: %w", t.Error())
	}
	return nil
}

// latency measures pairs: one message to its result, then one plain run.
func (b *bench) latency(name, against, topic string, rounds int, plain func() error) (row, error) {
	return b.pairs(name, against, rounds, func(int) error { b.client.Publish(topic, 1, false, "x"); return nil }, plain)
}

// simulatedEdge measures an edge to its function's result on this machine, which
// has no lines but simulated ones: each is made by a call of the control API.
func (b *bench) simulatedEdge(rounds int) (row, error) {
	c, err := api.Dial("unix://" + b.dir + "/r/edgefn.sock")
	if err != nil {
		return row{}, err
	}
	defer c.Close()
	edge := func(i int) error {
		return c.Simulate(context.Background(), "edge", map[bool]string{true: "on", false: "off"}[i%2 == 0])
	}
	idle := func() error { return c.Simulate(context.Background(), "edge", "ok") }
	return b.pairs("simulated edge to function result, fresh Go process, p50", "the call that makes the edge alone", rounds, edge, idle)
}

// pairs measures how long it is from begin to a result, and then how long a
// plain run takes. A pause before each lets the node make its spare, as events
// of a field do.
func (b *bench) pairs(name, against string, rounds int, start func(i int) error, plain func() error) (row, error) {
	var ours, theirs []float64
	for i := range rounds + 5 {
		time.Sleep(60 * time.Millisecond)
		begin := time.Now()
		if err := start(i); err != nil {
			return row{}, fmt.Errorf("%s: %w", name, err)
		}
		select {
		case at := <-b.results:
			if i >= 5 {
				ours = append(ours, ms(at.Sub(begin)))
			}
		case <-time.After(20 * time.Second):
			return row{}, fmt.Errorf("%s: no result", name)
		}
		time.Sleep(60 * time.Millisecond)
		begin = time.Now()
		if err := plain(); err != nil {
			return row{}, fmt.Errorf("%s: %w", against, err)
		}
		if i >= 5 {
			theirs = append(theirs, ms(time.Since(begin)))
		}
	}
	r := pair(name, "ms", against, quantile(ours, .5), quantile(theirs, .5))
	r.EdgefnP9, r.PlainP9 = quantile(ours, .9), quantile(theirs, .9)
	return r, nil
}

func pair(name, unit, against string, ours, plain float64) row {
	return row{Name: name, Unit: unit, Against: against, Edgefn: ours, Plain: plain, Ratio: ours / plain}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func quantile(v []float64, q float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[int(q*float64(len(s)-1))]
}

// extractProgram builds the layout of the Go function and takes its program out.
func (b *bench) extractProgram() error {
	layout := b.dir + "/layout"
	if _, err := b.edgefn("build", "testbed/bench/testdata/goecho", "-o", layout); err != nil {
		return err
	}
	blobs, err := filepath.Glob(layout + "/blobs/sha256/*")
	if err != nil {
		return err
	}
	for _, blob := range blobs {
		cmd := exec.Command("tar", "-xf", blob, "-C", b.dir, "app/function")
		if cmd.Run() == nil {
			b.program = b.dir + "/app/function"
			return nil
		}
	}
	return errors.New("no program in the image")
}

// forkExec runs the Go function's program once, hands it the event, reads its
// result and waits for its end.
func (b *bench) forkExec() error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	defer ours.Close()
	cmd := exec.Command(b.program)
	cmd.ExtraFiles = []*os.File{theirs}
	if err := cmd.Start(); err != nil {
		return err
	}
	_ = theirs.Close()
	c := wire.NewConn(ours, wire.MaxFrame)
	e := functions.Event{ID: "1", Type: functions.TypeMQTT, Source: "mqtt://local", Data: []byte("x")}
	if err := c.Write(wire.KindEvent, 1, wire.EventBody{Event: wire.EventMap(&e), Context: wire.Context{DeadlineMS: 5000}}); err != nil {
		return err
	}
	for {
		f, err := c.Read()
		if err != nil {
			return err
		}
		if f.Kind == wire.KindResult {
			break
		}
	}
	_ = ours.Close()
	_ = cmd.Wait()
	return nil
}

func startPython() error { return exec.Command("/usr/bin/python3", "-I", "-S", "-c", "pass").Run() }

// firstStart measures an event that finds its function with no sandbox up,
// against ctr making a container of the same image and removing it.
func (b *bench) firstStart() (row, error) {
	var ours, theirs []float64
	sock := b.dir + "/r/containerd/c.sock"
	ns, err := exec.Command("ctr", "-a", sock, "namespaces", "ls", "-q").Output()
	if err != nil {
		return row{}, fmt.Errorf("ctr namespaces: %w", err)
	}
	namespace := ""
	for n := range strings.FieldsSeq(string(ns)) {
		if strings.HasPrefix(n, "edgefn-") {
			namespace = n
		}
	}
	info := struct{ Version string }{}
	out, err := b.edgefn("describe", "goecho", "-o", "json")
	if err != nil {
		return row{}, err
	}
	if err := json.Unmarshal(out, &info); err != nil {
		return row{}, err
	}
	for i := range 7 {
		if err := b.untilIdle("goecho"); err != nil {
			return row{}, err
		}
		begin := time.Now()
		b.client.Publish("bench/go/in/1", 1, false, "x")
		select {
		case at := <-b.results:
			ours = append(ours, ms(at.Sub(begin)))
		case <-time.After(20 * time.Second):
			return row{}, errors.New("first start: no result")
		}
		begin = time.Now()
		cmd := exec.Command("ctr", "-a", sock, "-n", namespace, "run", "--rm", "edgefn/"+info.Version, "b"+strconv.Itoa(i), "/app/function")
		var ee *exec.ExitError
		if err := cmd.Run(); err != nil && !errors.As(err, &ee) { // with no node to speak to it ends at once
			return row{}, fmt.Errorf("ctr run: %w", err)
		}
		theirs = append(theirs, ms(time.Since(begin)))
	}
	return pair("first start: event to result with no sandbox up, p50", "ms", "ctr run --rm of the same image", quantile(ours, .5), quantile(theirs, .5)), nil
}

func (b *bench) untilIdle(name string) error {
	for range 300 {
		out, err := b.edgefn("describe", name, "-o", "json")
		if err != nil {
			return err
		}
		info := struct{ State string }{}
		if err := json.Unmarshal(out, &info); err != nil {
			return err
		}
		if info.State == "idle" {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("%s does not become idle", name)
}

// sustained measures events per second with the broker's window full, against
// a loop of two processes at a time.
func (b *bench) sustained(n int) (row, error) {
	begin := time.Now()
	go func() {
		for i := range n {
			b.client.Publish("bench/go/in/"+strconv.Itoa(i%16), 1, false, "x")
		}
	}()
	for range n {
		select {
		case <-b.results:
		case <-time.After(30 * time.Second):
			return row{}, errors.New("sustained: a result is missing")
		}
	}
	ours := float64(n) / time.Since(begin).Seconds()
	begin = time.Now()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	errs := make(chan error, 2)
	for range 2 {
		go func() {
			for range n / 2 {
				if ctx.Err() != nil {
					return
				}
				if err := b.forkExec(); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range 2 {
		if err := <-errs; err != nil {
			return row{}, err
		}
	}
	return pair("sustained events, a fresh Go process each", "events/s", "fork+exec loop, 2 at a time", ours, float64(n)/time.Since(begin).Seconds()), nil
}

// idleMemory compares the node with no function to its idle containerd.
func (b *bench) idleMemory() (row, error) {
	time.Sleep(5 * time.Second)
	pid, err := os.ReadFile(b.dir + "/r/containerd/pid")
	if err != nil {
		return row{}, err
	}
	cpid, err := strconv.Atoi(strings.TrimSpace(string(pid)))
	if err != nil {
		return row{}, err
	}
	ours, err := pss(b.node.Process.Pid)
	if err != nil {
		return row{}, err
	}
	theirs, err := pss(cpid)
	return pair("PSS of the node, idle, no function", "MB", "its containerd, idle", ours, theirs), err
}

// pss is a process's proportional set size in MB, proc(5).
func pss(pid int) (float64, error) { return rollup(pid, "Pss:") }

// rollup is a line of a process's smaps_rollup in MB.
func rollup(pid int, name string) (float64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if v, ok := strings.CutPrefix(sc.Text(), name); ok {
			kb, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(v, "kB")), 64)
			return kb / 1000, err
		}
	}
	return 0, fmt.Errorf("the kernel does not say %s of process %d", name, pid)
}

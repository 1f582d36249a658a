package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/edgefn/edgefn/testbed/settled/powercut"
)

// Sizes and bounds of a site.
const (
	diskSize   = 1 << 30
	readyIn    = 90 * time.Second // from the start of a node until it is ready
	cliTimeout = 2 * time.Minute
)

// site is a node with its own disk, containerd and functions, and an outside
// broker. The node is known by its program, its ports and its folders alone.
type site struct {
	dir      string // everything; short, for Unix sockets are below it
	home     string // of the node: what names it in its arguments is the node's
	bin      string
	skewed   string // a node with a clock of its own; empty: not built
	mqtt     string // of the embedded broker
	freeze   time.Duration
	disk     *powercut.Disk // nil: its data is on the machine's disk
	node     *program
	outside  *outside
	listener *listener
	stop     context.CancelFunc // of the listener
	wg       sync.WaitGroup
	pubs     map[string]*publisher
	revision map[string]int    // by function
	letters  map[string]string // by id: the id in the data of a dead letter
}

var _ system = (*site)(nil)

// audited are the functions whose events are counted.
var audited = []string{"counter", "plain", "exact", "flaky", "plant", "free", "echo", "sink"}

// siteOptions says what a site is made of.
type siteOptions struct {
	root   string        // of the repository
	freeze time.Duration // how long a node is stopped at most
	clock  bool          // build a node with a clock of its own
	disk   bool
}

func newSite(ctx context.Context, o siteOptions) (_ *site, err error) {
	root, err := filepath.Abs(o.root)
	if err != nil {
		return nil, err
	}
	s := &site{bin: filepath.Join(root, "bin", "edgefn"), freeze: o.freeze, pubs: map[string]*publisher{}, revision: map[string]int{}, letters: map[string]string{}, stop: func() {}}
	if _, err := os.Stat(s.bin); err != nil {
		return nil, fmt.Errorf("%w: make build", err)
	}
	if s.dir, err = os.MkdirTemp("", "ef"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	s.home = filepath.Join(s.dir, "n")
	if err := errors.Join(os.Chmod(s.dir, 0o755), os.MkdirAll(s.home+"/d", 0o755)); err != nil {
		return nil, err
	}
	if o.clock {
		if s.skewed, err = buildSkewed(ctx, root, s.dir, "./cmd/edgefn"); err != nil {
			return nil, err
		}
	}
	if o.disk {
		if err := os.Mkdir(s.dir+"/disk", 0o700); err != nil {
			return nil, err
		}
		if s.disk, err = powercut.Create(s.dir+"/disk", diskSize); err != nil {
			return nil, err
		}
		if err := s.disk.Mount(s.home + "/d"); err != nil {
			return nil, err
		}
	}
	if s.outside, err = newOutside(s.dir); err != nil {
		return nil, err
	}
	if err := s.outside.start(ctx); err != nil {
		return nil, err
	}
	lctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	s.listener = newListener(s.outside.addr, "settled-listener", "settled/planted")
	s.wg.Go(func() { s.listener.run(lctx) })
	if !poll(ctx, 10*time.Second, func() bool { return s.listener.subscriptions() > 0 }) {
		return nil, errors.New("the listener cannot subscribe to the outside broker")
	}
	s.outside.gate.set(true)
	if err := s.startNode(ctx); err != nil {
		return nil, err
	}
	return s, s.deployAll(ctx, root)
}

func (s *site) startNode(ctx context.Context) error {
	var err error
	if s.mqtt, err = freePort(); err != nil {
		return err
	}
	config := filepath.Join(s.home, "node.yaml")
	text := fmt.Sprintf("brokers:\n  plant: {url: \"mqtt://%s\"}\n", s.outside.gate.addr())
	if err := errors.Join(os.WriteFile(config, []byte(text), 0o644), setSkew(s.skewFile(), 0)); err != nil {
		return err
	}
	s.node = &program{
		argv:    []string{s.bin, "node", "--config", config, "--name", "n1", "--data", s.home + "/d/data", "--run", s.home + "/r", "--mqtt", s.mqtt},
		env:     []string{skewVariable + "=" + s.skewFile()},
		logPath: s.dir + "/node.log",
		ready:   func(log string) bool { return strings.Contains(log, " is ready: ") },
	}
	if err := s.node.start(); err != nil {
		return err
	}
	return s.untilReady(ctx)
}

func (s *site) skewFile() string { return s.dir + "/skew" }

func (s *site) untilReady(ctx context.Context) error {
	if !poll(ctx, readyIn, s.node.isReady) {
		return fmt.Errorf("the node is not ready:\n%s", s.lastLines(20))
	}
	return nil
}

// lastLines is the end of the node's log.
func (s *site) lastLines(n int) string {
	b, _ := os.ReadFile(s.node.logPath)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// deployAll copies the functions, so that a redeploy can change them, and
// deploys them.
func (s *site) deployAll(ctx context.Context, root string) error {
	from := filepath.Join(root, "testbed/settled/testdata")
	for _, name := range append([]string{"gone"}, audited...) {
		to := s.folder(name)
		if err := os.CopyFS(to, os.DirFS(filepath.Join(from, name))); err != nil {
			return err
		}
		if _, err := os.Stat(filepath.Join(to, "main.py")); err == nil {
			journal, err := os.ReadFile(filepath.Join(from, "journal.py"))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(to, "journal.py"), journal, 0o644); err != nil {
				return err
			}
		}
	}
	// What an output triggers is there before what sends it.
	for _, name := range append([]string{"gone", "sink"}, audited...) {
		if _, err := s.edgefn(ctx, "deploy", s.folder(name)); err != nil {
			return err
		}
	}
	if !poll(ctx, 15*time.Second, func() bool { return s.outside.subscribed("settled/plant/+") }) {
		return errors.New("the node does not subscribe at the outside broker")
	}
	return nil
}

func (s *site) folder(function string) string { return filepath.Join(s.dir, "functions", function) }

// redeploy changes a function without changing what it does, and deploys it.
func (s *site) redeploy(ctx context.Context, function string) error {
	s.revision[function]++
	n := strconv.Itoa(s.revision[function])
	name, text := "revision.txt", n
	if _, err := os.Stat(filepath.Join(s.folder(function), "main.go")); err == nil {
		name, text = "revision.go", "package main\n\n// revision makes each version another program.\nvar revision = \""+n+"\"\n\nfunc init() { _ = len(revision) }\n"
	}
	if err := os.WriteFile(filepath.Join(s.folder(function), name), []byte(text), 0o644); err != nil {
		return err
	}
	_, err := s.edgefn(ctx, "deploy", s.folder(function))
	return err
}

// edgefn runs the command line and returns its stdout.
func (s *site) edgefn(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, cliTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.bin, args...)
	cmd.Env = append(os.Environ(), "EDGEFN_NODE=unix://"+s.home+"/r/edgefn.sock")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("edgefn %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

// streams implements system.
func (s *site) streams(rate float64) []*stream {
	local := func(name, topic string, qos byte, views ...view) *stream {
		return &stream{name: name, addr: s.mqtt, topic: topic, qos: qos, subjects: 4, views: views}
	}
	// Where an event is found: what read shows, or the dead letters of functions.
	in := func(name string, p promise, ordered bool, read func(context.Context) (sightings, error), functions ...string) view {
		return view{name: name, promise: p, ordered: ordered, read: func(ctx context.Context) (sightings, error) {
			seen, err := read(ctx)
			if err == nil {
				seen.dead, err = s.deadLetters(ctx, functions)
			}
			return seen, err
		}}
	}
	journal := func(function string, p promise, others ...string) view {
		read := func(ctx context.Context) (sightings, error) { return s.journal(ctx, function) }
		return in(function, p, true, read, append(others, function)...)
	}
	planted := in("planted", atLeastOnce, true, s.listener.sightings, "plant")
	planted.skip = func(e *event) bool { return e.big } // the outside broker does not take it
	all := []*stream{
		local("counter", "settled/counter/%d", 1, journal("counter", once)),
		local("plain", "settled/plain/%d", 1, journal("plain", atLeastOnce)),
		local("exact", "settled/exact/%d", 2, journal("exact", once)),
		local("flaky", "settled/flaky/%d", 1, journal("flaky", once)),
		local("free", "settled/free/%d", 1, in("free", once, false, s.counts, "free")),
		local("echo", "settled/echo/%d", 1, journal("sink", once, "echo")),
		local("gone", "settled/gone/%d", 1),
		{
			name: "plant", addr: s.outside.addr, topic: "settled/plant/%d", qos: 1, subjects: 4, outside: true,
			views: []view{
				journal("plant", once),
				planted,
			},
		},
	}
	all[3].form = func(p *payload, rnd *rand.Rand) {
		switch n := rnd.IntN(20); {
		case n == 0:
			p.Bad = true
		case n < 4:
			p.Until = float64(time.Now().Add(time.Duration(rnd.IntN(250))*time.Millisecond).UnixMilli()) / 1000
		}
	}
	for _, st := range all {
		st.rate = rate / float64(len(all))
	}
	return all
}

// attach implements system.
func (s *site) attach(p *publisher) { s.pubs[p.s.name] = p }

// journal reads the journal that a function keeps in its state.
func (s *site) journal(ctx context.Context, function string) (sightings, error) {
	found := sightings{seen: map[int][]int{}}
	out, err := s.edgefn(ctx, "state", "list", function, "j/", "-o", "json")
	if err != nil {
		return found, err
	}
	var keys []struct{ Key string }
	if err := json.Unmarshal(out, &keys); err != nil {
		return found, fmt.Errorf("state list %s: %w", function, err)
	}
	slices.SortFunc(keys, func(a, b struct{ Key string }) int { return strings.Compare(a.Key, b.Key) })
	for _, k := range keys {
		parts := strings.Split(k.Key, "/")
		subject, err := strconv.Atoi(parts[1])
		if err != nil {
			return found, fmt.Errorf("state of %s: key %q: %w", function, k.Key, err)
		}
		value, err := s.edgefn(ctx, "state", "get", function, k.Key)
		if err != nil {
			return found, err
		}
		for f := range strings.FieldsSeq(string(value)) {
			seq, err := strconv.Atoi(f)
			if err != nil {
				return found, fmt.Errorf("state of %s: key %q: %w", function, k.Key, err)
			}
			found.seen[subject] = append(found.seen[subject], seq)
		}
	}
	return found, nil
}

// counts reads the state of free: a key for each event, a byte for each effect.
func (s *site) counts(ctx context.Context) (sightings, error) {
	found := sightings{seen: map[int][]int{}}
	out, err := s.edgefn(ctx, "state", "list", "free", "c/", "-o", "json")
	if err != nil {
		return found, err
	}
	var keys []struct {
		Key   string
		Bytes int
	}
	if err := json.Unmarshal(out, &keys); err != nil {
		return found, fmt.Errorf("state list free: %w", err)
	}
	for _, k := range keys {
		var subject, seq int
		if _, err := fmt.Sscanf(k.Key, "c/%d/%d", &subject, &seq); err != nil {
			return found, fmt.Errorf("state of free: key %q: %w", k.Key, err)
		}
		for range k.Bytes {
			found.seen[subject] = append(found.seen[subject], seq)
		}
	}
	return found, nil
}

// deadLetters counts the dead letters of functions by the id in their data. Each
// is read once: it does not change.
func (s *site) deadLetters(ctx context.Context, functions []string) (map[string]int, error) {
	dead := map[string]int{}
	for _, function := range functions {
		out, err := s.edgefn(ctx, "dead", "list", function, "-o", "json")
		if err != nil {
			return nil, err
		}
		var letters []struct{ ID string }
		if err := json.Unmarshal(out, &letters); err != nil {
			return nil, fmt.Errorf("dead list %s: %w", function, err)
		}
		for _, l := range letters {
			id, ok := s.letters[l.ID]
			if !ok {
				data, err := s.edgefn(ctx, "dead", "show", function, l.ID, "-o", "data")
				if err != nil {
					return nil, err
				}
				var p payload
				if err := json.Unmarshal(data, &p); err != nil {
					return nil, fmt.Errorf("dead letter %s of %s: %w", l.ID, function, err)
				}
				id = p.ID
				s.letters[l.ID] = id
			}
			dead[id]++
		}
	}
	return dead, nil
}

// idle implements system.
func (s *site) idle(ctx context.Context) (bool, error) {
	out, err := s.edgefn(ctx, "functions", "-o", "json")
	if err != nil {
		return false, err
	}
	var functions []struct{ Queued int }
	if err := json.Unmarshal(out, &functions); err != nil {
		return false, fmt.Errorf("functions: %w", err)
	}
	for _, f := range functions {
		if f.Queued > 0 {
			return false, nil
		}
	}
	return true, nil
}

// ended implements system.
func (s *site) ended() int {
	if s.node == nil {
		return 0
	}
	return s.node.endedBySelf()
}

// explain implements system.
func (s *site) explain() string { return s.lastLines(30) }

// crash ends everything that is the node's, as a loss of power does.
func (s *site) crash() error {
	var groupsOf []process
	all := processes()
	for _, shim := range shims(all, s.home) {
		groupsOf = append(groupsOf, below(all, shim.pid)...)
	}
	dirs := groups(groupsOf)
	s.node.end(syscall.SIGKILL)
	if err := killAll(s.home); err != nil {
		return err
	}
	if err := unmountBelow(s.home + "/r"); err != nil {
		return err
	}
	removeGroups(dirs)
	return os.RemoveAll(s.home + "/r")
}

// removeGroups removes control groups and those above them, up to the node's.
func removeGroups(dirs []string) {
	slices.SortFunc(dirs, func(a, b string) int { return len(b) - len(a) })
	for _, dir := range dirs {
		for strings.Contains(dir, "/edgefn/") {
			if os.Remove(dir) != nil {
				break // it has others
			}
			dir = filepath.Dir(dir)
		}
	}
}

// close implements system: it ends and unmounts everything.
func (s *site) close() error {
	var errs []error
	if s.node != nil {
		s.node.end(syscall.SIGTERM)
		errs = append(errs, s.crash())
	}
	s.stop()
	s.wg.Wait()
	if s.outside != nil {
		s.outside.close()
	}
	if s.disk != nil {
		errs = append(errs, s.disk.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/edgefn/edgefn/testbed/settled/powercut"
)

var seed = flag.Uint64("seed", 1, "of the schedule of faults")

// interruptible is the test's context, done at Ctrl-C too, so that what it has
// started is ended.
func interruptible(t *testing.T) context.Context {
	t.Helper()
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM)
	t.Cleanup(stop)
	return ctx
}

// siteFor starts a site, or skips for want of what it needs.
func siteFor(ctx context.Context, t *testing.T, o siteOptions) *site {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("sandboxes need root")
	}
	o.root = "../.."
	s, err := newSite(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestSettled does 40 faults to a node under load; nothing is lost, nothing is
// taken twice, nothing is out of order.
func TestSettled(t *testing.T) {
	ctx := interruptible(t)
	s := siteFor(ctx, t, siteOptions{freeze: 3 * time.Second, clock: true, disk: powercut.Why() == ""})
	r, err := run(ctx, s, options{
		faults: 40, seed: *seed, rate: 24, recover: time.Minute, settle: time.Minute,
		progress: func(done int, f *fault) { t.Logf("%d %s %s %s", done, f.kind, f.detail, f.wrong()) },
	})
	if r != nil {
		var table strings.Builder
		r.print(&table)
		t.Log("\n" + table.String())
	}
	if err != nil {
		t.Fatal(err)
	}
	if r.faulty() {
		t.Errorf("not everything is as promised; the node's last words:\n%s", s.explain())
	}
}

// TestSettledSees proves that the checker finds losses: of a subscriber that
// acknowledges before it writes, when that is killed, and only then.
func TestSettledSees(t *testing.T) {
	ctx := interruptible(t)
	if _, err := exec.LookPath("/usr/sbin/mosquitto"); err != nil {
		t.Skip("a broker of its own needs mosquitto")
	}
	bin := filepath.Join(t.TempDir(), "naive")
	if out, err := exec.Command("go", "build", "-trimpath", "-o", bin, "./naive").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, tt := range []struct {
		name  string
		kills int
		loses bool
	}{
		{"killed", 5, true},
		{"left alone", 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNaive(ctx, t, bin)
			r, err := run(ctx, n, options{faults: tt.kills, seed: *seed, rate: 50, recover: 20 * time.Second, settle: 4 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			if got := r.Total.Lost > 0; got != tt.loses {
				t.Errorf("%d of %d acknowledged events are lost; want losses: %v", r.Total.Lost, r.Total.Acked, tt.loses)
			}
			if r.Total.Acked == 0 || r.Unacked > 0 {
				t.Errorf("%d events acknowledged, %d not", r.Total.Acked, r.Unacked)
			}
		})
	}
}

// naive is the system that loses.
type naive struct {
	outside *outside
	prog    *program
	path    string
}

var _ system = (*naive)(nil)

func newNaive(ctx context.Context, t *testing.T, bin string) *naive {
	t.Helper()
	dir := t.TempDir()
	o, err := newOutside(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := &naive{outside: o, path: filepath.Join(dir, "messages")}
	n.prog = &program{
		argv:    []string{bin, "-broker", o.addr, "-topic", "settled/naive/+", "-o", n.path},
		logPath: filepath.Join(dir, "naive.log"), ready: func(string) bool { return true },
	}
	t.Cleanup(func() { _ = n.close() })
	if err := errors.Join(o.start(ctx), n.prog.start()); err != nil {
		t.Fatal(err)
	}
	if !poll(ctx, 10*time.Second, func() bool { return o.subscribed("settled/naive/+") }) {
		t.Fatal("it does not subscribe")
	}
	return n
}

func (n *naive) streams(rate float64) []*stream {
	return []*stream{{
		name: "naive", addr: n.outside.addr, topic: "settled/naive/%d", qos: 1, subjects: 2, rate: rate,
		views: []view{{name: "file", promise: atLeastOnce, ordered: true, read: n.read}},
	}}
}

func (n *naive) read(context.Context) (sightings, error) {
	b, err := os.ReadFile(n.path)
	found := sightings{seen: map[int][]int{}}
	for line := range strings.Lines(string(b)) {
		var p payload
		if json.Unmarshal([]byte(line), &p) == nil { // the last line may be cut
			found.seen[p.Subject] = append(found.seen[p.Subject], p.Seq)
		}
	}
	return found, err
}

func (n *naive) attach(*publisher) {}

func (n *naive) kinds(context.Context) []kind {
	return []kind{{"kill", "", func(_ context.Context, f *fault, _ *rand.Rand) error {
		f.at = time.Now()
		n.prog.end(syscall.SIGKILL)
		return n.prog.start()
	}}}
}

func (n *naive) idle(context.Context) (bool, error) { return true, nil }
func (n *naive) ended() int                         { return n.prog.endedBySelf() }
func (n *naive) explain() string                    { return "" }

func (n *naive) close() error {
	n.prog.end(syscall.SIGTERM)
	n.outside.close()
	return nil
}

// lying is a site whose disk ignores flushes before it loses its power.
type lying struct{ *site }

func (l lying) kinds(context.Context) []kind {
	return []kind{{"power-cut of a disk that lies", "", func(ctx context.Context, f *fault, rnd *rand.Rand) error {
		if err := l.disk.Flush(); err != nil {
			return err
		}
		l.disk.IgnoreFlush(true)
		defer l.disk.IgnoreFlush(false)
		counter := l.pubs["counter"]
		before := counter.acked()
		if !poll(ctx, 30*time.Second, func() bool { return counter.acked() >= before+20 }) {
			return errors.New("the node acknowledges nothing")
		}
		return l.cutPowerKeeping(ctx, f, rnd, 0)
	}}}
}

// TestPowerCutBites proves that a power cut takes what was not flushed: on a
// disk that ignores flushes acknowledged events are lost.
func TestPowerCutBites(t *testing.T) {
	if why := powercut.Why(); why != "" {
		t.Skip(why)
	}
	ctx := interruptible(t)
	s := siteFor(ctx, t, siteOptions{freeze: time.Second, disk: true})
	r, err := run(ctx, lying{s}, options{faults: 1, seed: *seed, rate: 40, recover: time.Minute, settle: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if r.Total.Lost == 0 {
		t.Errorf("of %d acknowledged events none is lost: the cut does not bite", r.Total.Acked)
	}
}

func TestScheduleDealsEveryKindBeforeItRepeats(t *testing.T) {
	var kinds []kind
	for i := range 7 {
		kinds = append(kinds, kind{name: fmt.Sprint(i)})
	}
	names := func(seed uint64) (list []string) {
		for _, k := range schedule(kinds, 17, seed) {
			list = append(list, k.name)
		}
		return list
	}
	a, b := names(3), names(3)
	if strings.Join(a, " ") != strings.Join(b, " ") {
		t.Errorf("one seed, two schedules: %v and %v", a, b)
	}
	if strings.Join(a, " ") == strings.Join(names(4), " ") {
		t.Error("two seeds, one schedule")
	}
	for deck := range 2 {
		seen := map[string]bool{}
		for _, n := range a[deck*7 : deck*7+7] {
			seen[n] = true
		}
		if len(seen) != 7 {
			t.Errorf("of 7 kinds %d are among 7 faults: %v", len(seen), a)
		}
	}
	if len(a) != 17 {
		t.Errorf("%d faults, want 17", len(a))
	}
}

func TestChooseRefusesUnknownKinds(t *testing.T) {
	kinds := []kind{{name: "a"}, {name: "b", why: "no b here"}}
	if _, _, err := choose(kinds, []string{"c"}); err == nil {
		t.Error("a kind that there is not was taken")
	}
	chosen, left, err := choose(kinds, nil)
	if err != nil || len(chosen) != 1 || len(left) != 1 || left[0] != "b: no b here" {
		t.Errorf("chosen %v, left out %v, %v", chosen, left, err)
	}
}

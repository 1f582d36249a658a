package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// kinds implements system: the table of all faults that a site can suffer.
func (s *site) kinds(ctx context.Context) []kind {
	disk, clock, pauses := "", "", ""
	if s.disk == nil {
		disk = "the node's data is on no disk of its own"
	}
	if s.skewed == "" {
		clock = "no node with a clock of its own was built"
	}
	// A command that there is not shows the help of edgefn itself.
	if out, err := s.edgefn(ctx, "pause", "--help"); err != nil || !strings.Contains(string(out), "edgefn pause ") {
		pauses = "edgefn has no pause"
	}
	return []kind{
		{"node-kill", "", s.killNode},
		{"node-kill-starting", "", s.killNodeStarting},
		{"node-restart", "", s.restartNode},
		{"node-freeze", "", s.freezeNode},
		{"containerd-kill", "", s.killContainerd},
		{"shim-kill", "", s.killShim},
		{"sandbox-kill", "", s.killSandbox},
		{"instance-kill", "", s.killInstance},
		{"outside-restart", "", s.restartOutside},
		{"outside-kill", "", s.killOutside},
		{"outside-forgets", "", s.forgetOutside},
		{"outside-cut", "", s.cutOutside},
		{"outside-refuses", "", s.refuseOutside},
		{"disk-full", disk, s.fillDisk},
		{"disk-slow", disk, s.slowDisk},
		{"power-cut", disk, s.cutPower},
		{"power-cut-deploy", disk, s.cutPowerAtDeploy},
		{"redeploy", "", s.redeployOne},
		{"rollback", "", s.rollbackOne},
		{"pause", pauses, s.pauseOne},
		{"remove", "", s.removeOne},
		{"clock-1970", clock, s.startIn1970},
		{"clock-jump", clock, s.jumpClock},
	}
}

// upTo is a random time of at most d.
func upTo(rnd *rand.Rand, d time.Duration) time.Duration {
	return time.Duration(rnd.Int64N(int64(d) + 1))
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// start starts the node with the machine's clock.
func (s *site) start() error {
	s.node.argv[0] = s.bin
	return errors.Join(setSkew(s.skewFile(), 0), s.node.start())
}

func (s *site) killNode(_ context.Context, f *fault, _ *rand.Rand) error {
	f.at = time.Now()
	s.node.end(syscall.SIGKILL)
	return s.start()
}

func (s *site) killNodeStarting(ctx context.Context, f *fault, rnd *rand.Rand) error {
	f.at = time.Now()
	s.node.end(syscall.SIGKILL)
	if err := s.start(); err != nil {
		return err
	}
	after := upTo(rnd, 2*time.Second)
	f.detail = "after " + after.Round(time.Millisecond).String()
	wait(ctx, after)
	s.node.end(syscall.SIGKILL)
	return s.start()
}

func (s *site) restartNode(_ context.Context, f *fault, _ *rand.Rand) error {
	f.at = time.Now()
	s.node.end(syscall.SIGTERM)
	return s.start()
}

func (s *site) freezeNode(ctx context.Context, f *fault, rnd *rand.Rand) error {
	pid := s.node.pid()
	if pid == 0 {
		return errors.New("the node does not run")
	}
	d := s.freeze/4 + upTo(rnd, s.freeze*3/4)
	f.detail = d.Round(time.Millisecond).String()
	f.at = time.Now()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return err
	}
	wait(ctx, d)
	return syscall.Kill(pid, syscall.SIGCONT)
}

func (s *site) killContainerd(_ context.Context, f *fault, _ *rand.Rand) error {
	b, err := os.ReadFile(s.home + "/r/containerd/pid")
	if err != nil {
		return fmt.Errorf("find the node's own containerd: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return err
	}
	f.at = time.Now()
	return syscall.Kill(pid, syscall.SIGKILL)
}

// victim looks for a process for a while, since sandboxes and instances come and
// go, and kills one.
func (s *site) victim(ctx context.Context, f *fault, rnd *rand.Rand, find func([]process) []process) error {
	var err error
	ok := poll(ctx, 10*time.Second, func() bool {
		found := find(processes())
		if len(found) == 0 {
			return false
		}
		p := found[rnd.IntN(len(found))]
		f.at, f.detail = time.Now(), filepath.Base(p.argv[0])
		err = syscall.Kill(p.pid, syscall.SIGKILL)
		return err == nil
	})
	if !ok {
		return errors.Join(errors.New("there was nothing to kill"), err)
	}
	return nil
}

func (s *site) killShim(ctx context.Context, f *fault, rnd *rand.Rand) error {
	return s.victim(ctx, f, rnd, func(all []process) []process { return shims(all, s.home) })
}

// inits are the first processes of the sandboxes.
func (s *site) inits(all []process) []process {
	var found []process
	for _, shim := range shims(all, s.home) {
		for _, p := range all {
			if p.parent == shim.pid {
				found = append(found, p)
			}
		}
	}
	return found
}

func (s *site) killSandbox(ctx context.Context, f *fault, rnd *rand.Rand) error {
	return s.victim(ctx, f, rnd, s.inits)
}

func (s *site) killInstance(ctx context.Context, f *fault, rnd *rand.Rand) error {
	return s.victim(ctx, f, rnd, func(all []process) []process {
		var found []process
		for _, p := range s.inits(all) {
			found = append(found, below(all, p.pid)...)
		}
		return found
	})
}

// outsideUp starts the outside broker, and lets the node in once the listener
// has subscribed.
func (s *site) outsideUp(ctx context.Context) error {
	before := s.listener.subscriptions()
	if err := s.outside.start(ctx); err != nil {
		return err
	}
	if !poll(ctx, 20*time.Second, func() bool { return s.listener.subscriptions() > before }) {
		return errors.New("the listener does not come back to the outside broker")
	}
	s.outside.gate.set(true)
	return nil
}

func (s *site) outsideDown(sig syscall.Signal) {
	s.outside.gate.set(false)
	s.outside.prog.end(sig)
}

func (s *site) restartOutside(ctx context.Context, f *fault, rnd *rand.Rand) error {
	f.outside = true
	f.at = time.Now()
	s.outsideDown(syscall.SIGTERM)
	wait(ctx, upTo(rnd, time.Second))
	return s.outsideUp(ctx)
}

// drained holds back new events by the outside broker and waits until all that
// it has acknowledged is where it must be: Mosquitto writes down what it holds
// now and then, and forgets the rest when it is killed. It returns when new
// events go on.
func (s *site) drained(ctx context.Context) (time.Time, error) {
	p := s.pubs["plant"]
	p.hold()
	defer p.release()
	all := func() bool {
		if p.ledger.outstanding() > 0 {
			return false
		}
		for _, v := range p.s.views {
			if fs, err := look(ctx, v, p.snapshot()); err != nil || missing(fs) {
				return false
			}
		}
		return true
	}
	if !poll(ctx, 30*time.Second, all) {
		return time.Time{}, errors.New("what the outside broker has acknowledged does not arrive")
	}
	return time.Now(), nil
}

// killOutsideLoaded kills the outside broker a moment after new events have
// begun to come again. Those it may lose itself.
func (s *site) killOutsideLoaded(ctx context.Context, f *fault, rnd *rand.Rand) (since time.Time, err error) {
	f.outside = true
	if since, err = s.drained(ctx); err != nil {
		return since, err
	}
	wait(ctx, 200*time.Millisecond+upTo(rnd, time.Second))
	f.at = time.Now()
	s.outsideDown(syscall.SIGKILL)
	s.pubs["plant"].excuse(since)
	return since, nil
}

func (s *site) killOutside(ctx context.Context, f *fault, rnd *rand.Rand) error {
	if _, err := s.killOutsideLoaded(ctx, f, rnd); err != nil {
		return err
	}
	return s.outsideUp(ctx)
}

// forgetOutside kills the outside broker and takes its store away. What is
// published to it before the node has subscribed again goes nowhere, and that
// is no fault of the node's.
func (s *site) forgetOutside(ctx context.Context, f *fault, rnd *rand.Rand) error {
	since, err := s.killOutsideLoaded(ctx, f, rnd)
	if err != nil {
		return err
	}
	p := s.pubs["plant"]
	p.hold()
	defer p.release()
	if err := s.outside.forget(); err != nil {
		return err
	}
	if err := s.outsideUp(ctx); err != nil {
		return err
	}
	if !poll(ctx, 60*time.Second, func() bool {
		return s.outside.subscribed("settled/plant/+") && p.ledger.outstanding() == 0
	}) {
		return errors.New("the node does not subscribe again")
	}
	p.excuse(since)
	return nil
}

func (s *site) cutOutside(ctx context.Context, f *fault, rnd *rand.Rand) error {
	f.outside = true
	f.at = time.Now()
	s.outside.gate.set(false)
	wait(ctx, upTo(rnd, 2*time.Second))
	s.outside.gate.set(true)
	return nil
}

// refuseOutside makes one output larger than the outside broker takes. Those
// behind it must come.
func (s *site) refuseOutside(ctx context.Context, f *fault, _ *rand.Rand) error {
	f.outside = true
	p := s.pubs["plant"]
	before := len(p.snapshot())
	p.ask(2 * maxPacket)
	if !poll(ctx, 30*time.Second, func() bool {
		for _, e := range p.snapshot()[before:] {
			if e.big && !e.acked.IsZero() {
				f.at = e.acked
				return true
			}
		}
		return false
	}) {
		return errors.New("the event with the large output is not acknowledged")
	}
	f.also = func() bool {
		seen, _ := s.listener.sightings(ctx)
		for _, e := range p.snapshot()[before:] {
			if e.published.After(f.at) && len(seen.seen[e.subject]) > 0 && seen.seen[e.subject][len(seen.seen[e.subject])-1] >= e.seq {
				return true
			}
		}
		return false
	}
	return nil
}

// fillDisk fills the node's disk for some seconds.
func (s *site) fillDisk(ctx context.Context, f *fault, rnd *rand.Rand) error {
	filler := s.home + "/d/filler"
	out, err := os.OpenFile(filler, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(filler)
	defer out.Close()
	f.at = time.Now()
	hold := time.Second + upTo(rnd, 2*time.Second)
	f.detail = hold.Round(time.Millisecond).String()
	for end, at := f.at.Add(hold), int64(0); time.Now().Before(end) && ctx.Err() == nil; {
		// What others give back is taken, too.
		step := int64(64 << 20)
		for step >= 4096 {
			if err := unix.Fallocate(int(out.Fd()), 0, at, step); err != nil {
				step /= 2
				continue
			}
			at += step
		}
		wait(ctx, 20*time.Millisecond)
	}
	return nil
}

func (s *site) slowDisk(ctx context.Context, f *fault, rnd *rand.Rand) error {
	by, hold := 20*time.Millisecond+upTo(rnd, 200*time.Millisecond), time.Second+upTo(rnd, 3*time.Second)
	f.detail = fmt.Sprintf("%s for %s", by.Round(time.Millisecond), hold.Round(time.Millisecond))
	f.at = time.Now()
	s.disk.Slow(by)
	wait(ctx, hold)
	s.disk.Slow(0)
	return nil
}

// cutPower is a loss of power some time after the last deploy, when the system
// has written everything out by itself, as it does after half a minute. What was
// acknowledged since is durable because the node has flushed it.
func (s *site) cutPower(ctx context.Context, f *fault, rnd *rand.Rand) error {
	if err := s.disk.Flush(); err != nil {
		return err
	}
	if err := s.works(ctx); err != nil {
		return err
	}
	wait(ctx, upTo(rnd, time.Second))
	return s.cutPowerKeeping(ctx, f, rnd, anyKept(rnd))
}

// cutPowerAtDeploy is a loss of power a moment after a deploy was said to be
// done.
func (s *site) cutPowerAtDeploy(ctx context.Context, f *fault, rnd *rand.Rand) error {
	name := audited[rnd.IntN(len(audited))]
	if err := s.redeploy(ctx, name); err != nil {
		return err
	}
	err := s.cutPowerKeeping(ctx, f, rnd, anyKept(rnd))
	f.detail = name + ", " + f.detail
	return err
}

// anyKept is how much of what is volatile a cut keeps.
func anyKept(rnd *rand.Rand) float64 { return []float64{0, 0.5, 0.9}[rnd.IntN(3)] }

// cutPowerKeeping leaves nothing of the node but what its disk has kept.
// The power goes in the middle of what is written, if anything is.
func (s *site) cutPowerKeeping(ctx context.Context, f *fault, rnd *rand.Rand, kept float64) error {
	s.node.letGo()
	s.disk.PowerOff(1 + rnd.IntN(20))
	poll(ctx, 2*time.Second, s.disk.Off)
	s.disk.PowerOff(0)
	f.at = time.Now()
	if err := s.crash(); err != nil {
		return err
	}
	volatile, lost, err := s.disk.Cut(rnd, kept)
	if err != nil {
		return err
	}
	f.detail = fmt.Sprintf("%d of %d volatile sectors lost", lost, volatile)
	if err := s.disk.Mount(s.home + "/d"); err != nil {
		return err
	}
	return s.start()
}

func (s *site) redeployOne(ctx context.Context, f *fault, rnd *rand.Rand) error {
	name := audited[rnd.IntN(len(audited))]
	f.detail, f.at = name, time.Now()
	return s.redeploy(ctx, name)
}

func (s *site) rollbackOne(ctx context.Context, f *fault, rnd *rand.Rand) error {
	name := audited[rnd.IntN(len(audited))]
	f.detail, f.at = name, time.Now()
	_, err := s.edgefn(ctx, "rollback", name)
	if err == nil || !strings.Contains(err.Error(), "no version before") {
		return err
	}
	// It is at the first one that is kept.
	if err := s.redeploy(ctx, name); err != nil {
		return err
	}
	f.at = time.Now()
	_, err = s.edgefn(ctx, "rollback", name)
	return err
}

func (s *site) pauseOne(ctx context.Context, f *fault, rnd *rand.Rand) error {
	name := audited[rnd.IntN(len(audited))]
	f.detail, f.at = name, time.Now()
	if _, err := s.edgefn(ctx, "pause", name); err != nil {
		return err
	}
	wait(ctx, upTo(rnd, 1500*time.Millisecond))
	_, err := s.edgefn(ctx, "resume", name)
	return err
}

func (s *site) removeOne(ctx context.Context, f *fault, rnd *rand.Rand) error {
	f.at = time.Now()
	if _, err := s.edgefn(ctx, "remove", "gone"); err != nil {
		return err
	}
	wait(ctx, upTo(rnd, 500*time.Millisecond))
	_, err := s.edgefn(ctx, "deploy", s.folder("gone"))
	return err
}

// startSkewed starts a node whose clock is off, and waits until it works.
func (s *site) startSkewed(ctx context.Context, by time.Duration) error {
	if err := setSkew(s.skewFile(), by); err != nil {
		return err
	}
	s.node.argv[0] = s.skewed
	if err := s.node.start(); err != nil {
		return err
	}
	return s.works(ctx)
}

// works waits until an event of the embedded broker's is acknowledged that was
// published from now on.
func (s *site) works(ctx context.Context) error {
	begin := time.Now()
	if !poll(ctx, readyIn, func() bool {
		return !s.pubs["counter"].after(begin).IsZero()
	}) {
		return errors.New("the node acknowledges nothing")
	}
	return nil
}

// startIn1970 starts a node as a board with no clock does, and sets its clock
// while it works.
func (s *site) startIn1970(ctx context.Context, f *fault, rnd *rand.Rand) error {
	f.at = time.Now()
	s.node.end(syscall.SIGKILL)
	if err := s.startSkewed(ctx, -time.Since(time.Unix(0, 0))+upTo(rnd, time.Hour)); err != nil {
		return err
	}
	if err := setSkew(s.skewFile(), 0); err != nil {
		return err
	}
	return s.works(ctx)
}

// jumpClock sets the clock of a working node to the future and back, or to the
// past.
func (s *site) jumpClock(ctx context.Context, f *fault, rnd *rand.Rand) error {
	if s.node.argv[0] != s.skewed {
		s.node.end(syscall.SIGTERM)
		if err := s.startSkewed(ctx, 0); err != nil {
			return err
		}
	}
	by := []time.Duration{time.Minute, -time.Hour, 26 * time.Hour, -400 * 24 * time.Hour, 10 * 365 * 24 * time.Hour}[rnd.IntN(5)]
	f.detail, f.at = by.String(), time.Now()
	for _, d := range []time.Duration{by, 0} {
		if err := setSkew(s.skewFile(), d); err != nil {
			return err
		}
		wait(ctx, 100*time.Millisecond+upTo(rnd, 400*time.Millisecond))
		if err := s.works(ctx); err != nil {
			return err
		}
	}
	return nil
}

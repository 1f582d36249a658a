package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// system is what is checked.
type system interface {
	streams(rate float64) []*stream
	attach(*publisher) // called for each stream, before any fault
	kinds(context.Context) []kind
	idle(context.Context) (bool, error) // no event waits
	ended() int                         // how often it ended by itself since the last call
	explain() string                    // its last words, for people
	close() error
}

// kind is a kind of fault.
type kind struct {
	name string
	why  string // why it cannot be done here; empty: it can
	// strike does the fault, and what comes after it on a real machine: who ended
	// the node starts it again. It sets at, and may set detail.
	strike func(ctx context.Context, f *fault, rnd *rand.Rand) error
}

// options are those of a run.
type options struct {
	faults   int
	only     []string // kinds; empty: all
	seed     uint64
	rate     float64
	recover  time.Duration // a system that acknowledges nothing for longer after a fault hangs
	settle   time.Duration // what it has after the last fault until its queues are empty
	deadline time.Time     // no fault after it; zero: none
	progress func(done int, f *fault)
}

// schedule deals faults like cards: every kind once, in an order of the seed,
// then again.
func schedule(kinds []kind, n int, seed uint64) []kind {
	rnd := rand.New(rand.NewPCG(seed, 0))
	var dealt []kind
	for len(dealt) < n && len(kinds) > 0 {
		deck := slices.Clone(kinds)
		rnd.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		dealt = append(dealt, deck[:min(len(deck), n-len(dealt))]...)
	}
	return dealt
}

// choose returns the kinds that are wanted and possible, and says why others
// are left out. A name that there is not is an error.
func choose(kinds []kind, only []string) (chosen []kind, left []string, err error) {
	for _, name := range only {
		if !slices.ContainsFunc(kinds, func(k kind) bool { return k.name == name }) {
			return nil, nil, fmt.Errorf("there is no kind of fault %q", name)
		}
	}
	for _, k := range kinds {
		switch {
		case len(only) > 0 && !slices.Contains(only, k.name):
		case k.why != "":
			left = append(left, k.name+": "+k.why)
		default:
			chosen = append(chosen, k)
		}
	}
	return chosen, left, nil
}

// run publishes to a system, does faults to it, lets it settle and audits it.
// The report is there with an error, too, if events were published.
func run(ctx context.Context, sys system, o options) (*report, error) {
	kinds, left, err := choose(sys.kinds(ctx), o.only)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	streams := sys.streams(o.rate)
	var pubs []*publisher
	pctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for _, st := range streams {
		p := newPublisher(st, o.seed)
		pubs = append(pubs, p)
		sys.attach(p)
		wg.Go(func() { p.run(pctx) })
	}
	w := &watch{pubs: pubs, hung: map[*publisher]bool{}}
	if _, missing := w.recovered(ctx, &fault{at: begin}, o.recover); len(missing) > 0 {
		return nil, fmt.Errorf("nothing was acknowledged before the first fault, of %v:\n%s", missing, sys.explain())
	}
	var faults []*fault
	for i, k := range schedule(kinds, o.faults, o.seed) {
		if ctx.Err() != nil || (!o.deadline.IsZero() && time.Now().After(o.deadline)) {
			break
		}
		// Each fault has numbers of its own, so that one that draws more of them
		// changes nothing of the next.
		rnd := rand.New(rand.NewPCG(o.seed, uint64(i)+1))
		f := &fault{kind: k.name, at: time.Now()}
		faults = append(faults, f)
		if err := k.strike(ctx, f, rnd); err != nil {
			f.err = err.Error()
		}
		at, missing := w.recovered(ctx, f, o.recover)
		f.recovered = at
		if len(missing) > 0 && ctx.Err() == nil {
			f.recovered, f.hung = time.Time{}, missing
		}
		w.more(ctx, 3+rnd.IntN(20))
		f.done = time.Now()
		f.ended = sys.ended()
		if o.progress != nil {
			o.progress(i+1, f)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for _, p := range pubs {
		p.end()
	}
	settled := w.settle(ctx, sys, o.settle)
	stop()
	wg.Wait()
	r := newReport(o.seed, faults)
	r.Left, r.Settled = left, settled
	err = audit(ctx, r, faults, pubs, o.settle)
	r.Seconds = time.Since(begin).Seconds()
	r.finish()
	return r, err
}

// audit reads every place and judges every event. What is only late is waited
// for.
func audit(ctx context.Context, r *report, faults []*fault, pubs []*publisher, atMost time.Duration) error {
	end := time.Now().Add(atMost)
	for _, p := range pubs {
		if len(p.s.views) == 0 {
			continue
		}
		events := p.snapshot()
		found := map[*event]finding{}
		for _, v := range p.s.views {
			for {
				fs, err := look(ctx, v, events)
				if err != nil {
					return fmt.Errorf("audit %s: %w", v.name, err)
				}
				if !missing(fs) || time.Now().After(end) || ctx.Err() != nil {
					for e, f := range fs {
						found[e] = found[e].and(f)
					}
					break
				}
				select {
				case <-ctx.Done():
				case <-time.After(500 * time.Millisecond):
				}
			}
		}
		r.count(p.s.name, faults, events, found)
	}
	return ctx.Err()
}

// look judges events by one view.
func look(ctx context.Context, v view, events []*event) (map[*event]finding, error) {
	if v.skip != nil {
		events = slices.DeleteFunc(slices.Clone(events), v.skip)
	}
	s, err := v.read(ctx)
	if err != nil {
		return nil, err
	}
	return judge(events, v.promise, v.ordered, s), nil
}

func missing(fs map[*event]finding) bool {
	for _, f := range fs {
		if f.lost {
			return true
		}
	}
	return false
}

// watch sees to it that publishers get their acknowledgements.
type watch struct {
	pubs []*publisher
	hung map[*publisher]bool // nothing came in time after an earlier fault: not waited for until it is back
}

// recovered waits until each publisher has an acknowledgement of an event that
// it published after the fault, and f.also holds. It returns when the first
// came of those that the fault concerns, and what did not come in time.
func (w *watch) recovered(ctx context.Context, f *fault, atMost time.Duration) (first time.Time, missing []string) {
	back := func(p *publisher) bool {
		a := p.after(f.at)
		if !a.IsZero() && p.s.outside == f.outside && (first.IsZero() || a.Before(first)) {
			first = a
		}
		return !a.IsZero()
	}
	all := func() bool {
		ok := f.also == nil || f.also()
		for _, p := range w.pubs {
			if back(p) {
				delete(w.hung, p)
			} else if !w.hung[p] {
				ok = false
			}
		}
		return ok
	}
	if poll(ctx, atMost, all) {
		if first.IsZero() { // all that it concerns hang since an earlier fault
			missing = append(missing, "nothing, as since an earlier fault")
		}
		return first, missing
	}
	for _, p := range w.pubs {
		if !back(p) {
			w.hung[p] = true
			missing = append(missing, p.s.name)
		}
	}
	if len(missing) == 0 {
		missing = append(missing, "what the outside broker is sent")
	}
	return first, missing
}

// more waits for a number of acknowledgements, a few seconds at most.
func (w *watch) more(ctx context.Context, n int) {
	acked := func() (sum int) {
		for _, p := range w.pubs {
			sum += p.acked()
		}
		return sum
	}
	from := acked()
	poll(ctx, 5*time.Second, func() bool { return acked() >= from+n })
}

// settle waits until every event is acknowledged and no queue holds any.
func (w *watch) settle(ctx context.Context, sys system, atMost time.Duration) bool {
	end := time.Now().Add(atMost)
	acknowledged := poll(ctx, atMost, func() bool {
		return !slices.ContainsFunc(w.pubs, func(p *publisher) bool { return p.ledger.outstanding() > 0 })
	})
	idle := poll(ctx, max(time.Until(end), 10*time.Second), func() bool {
		ok, err := sys.idle(ctx)
		return err == nil && ok
	})
	return acknowledged && idle
}

var errFaulty = errors.New("not everything is as promised")

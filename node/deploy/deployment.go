package deploy

import (
	"context"
	"slices"
	"sync"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/settle"
	"github.com/edgefn/edgefn/node/tasks"
)

// Deployment is a function that is deployed here.
type Deployment struct {
	name   string
	svc    *settle.Service
	served *tasks.Task // svc's run

	mu       sync.Mutex
	want     desired  // as its reconciler read it last
	active   *version // that serves; nil: none
	failing  string   // why the version of record does not serve; empty: it does, or starts
	bound    bool     // its triggers have their sources
	sources  map[string]*boundSource
	retiring []*retirement
	surplus  []string // versions that are not kept any more, whose images are to go
}

// retirement is a version that lets its events end.
type retirement struct {
	digest string
	task   *tasks.Task
}

// Name is the function's name.
func (f *Deployment) Name() string { return f.name }

// Service takes the function's events.
func (f *Deployment) Service() *settle.Service { return f.svc }

// newDeployment starts the service of a function, and has the node see it; no
// version serves yet, so its events wait. fn is what it is deployed as.
func (d *Deployer) newDeployment(want *desired, fn *functions.Function) *Deployment {
	f := &Deployment{name: fn.Name, want: *want, sources: map[string]*boundSource{}}
	l := d.cfg.Logs.Of(fn.Name)
	f.svc = d.cfg.Settler.Service(fn, func() { d.loseLines(f) }, func(level, invocation, text string) {
		digest := ""
		if v := f.svc.Current(); v != nil {
			digest = v.Digest
		}
		l.Note(digest, level, invocation, text)
	})
	f.svc.SetPaused(want.Paused, want.PausedTriggers)
	f.served = d.cfg.Spawn(f.svc.Run)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.functions[fn.Name] = f
	return f
}

// follow takes note of what the store says.
func (f *Deployment) follow(want *desired) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, v := range f.want.versions {
		if _, kept := want.find(v.Version); !kept && !slices.Contains(f.surplus, v.Version) {
			f.surplus = append(f.surplus, v.Version)
		}
	}
	if !f.want.samePause(&want.pause) {
		f.svc.SetPaused(want.Paused, want.PausedTriggers)
	}
	f.want = *want
}

// activate has events run on v from now on, nil for none, and returns what they
// ran on before.
func (f *Deployment) activate(v *version) (old *version) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old, f.active = f.active, v
	if v == nil {
		f.svc.Activate(nil)
	} else {
		f.svc.Activate(v.Version)
	}
	return old
}

// activeVersion is the version that serves; empty: none does.
func (f *Deployment) activeVersion() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.active == nil {
		return ""
	}
	return f.active.Digest
}

func (f *Deployment) setFailing(why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failing = why
}

// retire has a version that does not serve any more end in the background, and
// calls after when it has.
func (f *Deployment) retire(spawn tasks.Spawn, digest string, end, after func(context.Context)) {
	r := &retirement{digest: digest}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.retiring = append(f.retiring, r)
	r.task = spawn(func(ctx context.Context) {
		end(ctx)
		f.mu.Lock()
		f.retiring = slices.DeleteFunc(f.retiring, func(o *retirement) bool { return o == r })
		f.mu.Unlock()
		after(ctx)
	})
}

// isRetiring reports whether a version still lets its events end.
func (f *Deployment) isRetiring(digest string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.retiring, func(r *retirement) bool { return r.digest == digest })
}

// awaitRetired waits until a version has let its events end, or ctx is done.
func (f *Deployment) awaitRetired(ctx context.Context, digest string) {
	for _, r := range f.retirements() {
		if r.digest == digest {
			r.task.Wait(ctx)
		}
	}
}

func (f *Deployment) retirements() []*retirement {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.retiring)
}

// stop ends all versions at once. The caller has stopped the function's reconciler.
func (f *Deployment) stop() {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, r := range f.retirements() {
		wg.Go(r.task.Stop)
	}
	if v := f.activate(nil); v != nil {
		v.stop()
	}
}

// keeps reports whether the image of a version is to stay.
func (f *Deployment) keeps(digest string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.needs(digest)
}

// needs is keeps for who holds mu.
func (f *Deployment) needs(digest string) bool {
	_, kept := f.want.find(digest)
	return kept || (f.active != nil && f.active.Digest == digest) ||
		slices.ContainsFunc(f.retiring, func(r *retirement) bool { return r.digest == digest })
}

// keepImage says that the image of a version is needed again.
func (f *Deployment) keepImage(digest string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.surplus = slices.DeleteFunc(f.surplus, func(s string) bool { return s == digest })
}

// toDrop returns the versions whose images are to go, and forgets them.
func (f *Deployment) toDrop() (drop []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var stay []string
	for _, digest := range f.surplus {
		_, kept := f.want.find(digest)
		switch {
		case kept:
		case f.needs(digest):
			stay = append(stay, digest)
		default:
			drop = append(drop, digest)
		}
	}
	f.surplus = stay
	return drop
}

// images are the versions of the function that may have an image here.
func (f *Deployment) images() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := slices.Clone(f.surplus)
	for _, v := range f.want.versions {
		all = append(all, v.Version)
	}
	return all
}

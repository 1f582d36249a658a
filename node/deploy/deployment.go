package deploy

import (
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
	active   *version // that serves; nil: none
	record   functionRecord
	versions []versionRecord // newest first
	failing  string          // why the version of record does not serve; empty: it does, or starts
	starting *tasks.Task     // brings the version of record up; nil: that is over
	sources  map[string]*boundSource
}

// Name is the function's name.
func (f *Deployment) Name() string { return f.name }

// Service takes the function's events.
func (f *Deployment) Service() *settle.Service { return f.svc }

// spec returns the record of the active version.
func (f *Deployment) spec() versionRecord {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, v := range f.versions {
		if v.Version == f.record.Version {
			return v
		}
	}
	return versionRecord{Version: f.record.Version}
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

// serving reports whether the version of record takes events.
func (f *Deployment) serving() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failing == "" && f.starting == nil && f.svc.Current() != nil
}

func (f *Deployment) setFailing(why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failing = why
}

// halt ends the attempts to bring the version of record up.
func (f *Deployment) halt() {
	f.mu.Lock()
	t := f.starting
	f.mu.Unlock()
	if t != nil {
		t.Stop()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.starting, f.failing = nil, ""
}

// newDeployment starts the service of a function; no version serves yet, so
// its events wait.
func (d *Deployer) newDeployment(r functionRecord, versions []versionRecord, fn *functions.Function) *Deployment {
	slices.SortFunc(versions, func(a, b versionRecord) int { return b.Deployed.Compare(a.Deployed) })
	f := &Deployment{name: fn.Name, record: r, versions: versions, sources: map[string]*boundSource{}}
	l := d.cfg.Logs.Of(fn.Name)
	f.svc = d.cfg.Settler.Service(fn, func() { d.loseLines(f) }, func(level, invocation, text string) {
		digest := ""
		if v := f.svc.Current(); v != nil {
			digest = v.Digest
		}
		l.Note(digest, level, invocation, text)
	})
	f.served = d.cfg.Spawn(f.svc.Run)
	return f
}

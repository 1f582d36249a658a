package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/settle"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// functionRecord is a function in the store: which version is active.
type functionRecord struct {
	Version  string    `json:"version"`
	Deployed time.Time `json:"deployed"`
	Removing bool      `json:"removing,omitempty"` // its removal is to be finished
}

// versionRecord is a version that is kept.
type versionRecord struct {
	Version  string             `json:"version"`
	Deployed time.Time          `json:"deployed"`
	Function functions.Function `json:"function"`
}

// deployment is a function that is deployed here.
type deployment struct {
	name   string
	svc    *settle.Service
	served *task // svc's run

	mu       sync.Mutex
	active   *version // that serves; nil: none
	record   functionRecord
	versions []versionRecord // newest first
	failing  string          // why the version of record does not serve; empty: it does, or starts
	starting *task           // brings the version of record up; nil: that is over
	sources  map[string]*boundSource
}

// spec returns the record of the active version.
func (d *deployment) spec() versionRecord {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, v := range d.versions {
		if v.Version == d.record.Version {
			return v
		}
	}
	return versionRecord{Version: d.record.Version}
}

// activate has events run on v from now on, nil for none, and returns what they
// ran on before.
func (d *deployment) activate(v *version) (old *version) {
	d.mu.Lock()
	defer d.mu.Unlock()
	old, d.active = d.active, v
	if v == nil {
		d.svc.Activate(nil)
	} else {
		d.svc.Activate(v.Version)
	}
	return old
}

// serving reports whether the version of record takes events.
func (d *deployment) serving() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failing == "" && d.starting == nil && d.svc.Current() != nil
}

func (d *deployment) setFailing(why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failing = why
}

// halt ends the attempts to bring the version of record up.
func (d *deployment) halt() {
	d.mu.Lock()
	t := d.starting
	d.mu.Unlock()
	if t != nil {
		t.stop()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.starting, d.failing = nil, ""
}

// checkBackoff is for a version that does not start.
var checkBackoff = durable.Backoff{First: time.Second, Max: time.Minute}

// newDeployment starts the service of a function; no version serves yet, so
// its events wait.
func (n *Node) newDeployment(r functionRecord, versions []versionRecord, fn *functions.Function) *deployment {
	slices.SortFunc(versions, func(a, b versionRecord) int { return b.Deployed.Compare(a.Deployed) })
	d := &deployment{name: fn.Name, record: r, versions: versions, sources: map[string]*boundSource{}}
	l := n.logs.Of(fn.Name)
	d.svc = n.settler.Service(fn, func() { n.loseLines(d.name) }, func(level, invocation, text string) {
		digest := ""
		if v := d.svc.Current(); v != nil {
			digest = v.Digest
		}
		l.Note(digest, level, invocation, text)
	})
	d.served = n.spawn(d.svc.Run)
	return d
}

// version is a version with its pool.
type version struct {
	*settle.Version
	pool Pool
	task *task // the pool's run
}

// stop ends the pool and waits for it.
func (v *version) stop() { v.task.stop() }

// newVersion makes the pool of a version and runs it. The caller stops it.
func (n *Node) newVersion(fn *functions.Function, digest string) (*version, error) {
	buses, err := n.busPaths(fn)
	if err != nil {
		return nil, err
	}
	starter, err := n.boxes.Starter(fn, digest, buses)
	if err != nil {
		return nil, err
	}
	l := n.logs.Of(fn.Name)
	p, err := n.parts.Pool(pool.Config{
		Function: fn, Version: digest, Starter: starter, MaxFrame: int(n.cfg.MaxEvent),
		Log: func(line pool.LogLine) { l.Write(digest, line) },
	})
	if err != nil {
		return nil, err
	}
	t := n.spawn(func(ctx context.Context) {
		if err := p.Run(ctx); err != nil && ctx.Err() == nil {
			n.log.Error("pool ended", logFunction, fn.Name, logVersion, digest, logErr, err)
		}
	})
	return &version{Version: settle.NewVersion(fn, digest, p), pool: p, task: t}, nil
}

// checkVersion brings a version up far enough to know that its handler loads.
func (n *Node) checkVersion(ctx context.Context, v *version, wait time.Duration) error {
	select {
	case n.checks <- struct{}{}:
		defer func() { <-n.checks }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return v.pool.Check(ctx)
}

// bringUp has the version of record serve, however often that has to be tried.
func (n *Node) bringUp(ctx context.Context, d *deployment) {
	spec := d.spec()
	log := n.log.With(logFunction, d.name, logVersion, spec.Version)
	for tries := 1; ; tries++ {
		err := n.bringUpOnce(ctx, d, spec)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			d.mu.Lock()
			d.failing, d.starting = "", nil
			d.mu.Unlock()
			log.Info("function serves")
			return
		}
		why := failureText(err)
		d.setFailing(why)
		if tries == 1 {
			log.Error("function does not start, its events wait", logErr, err)
			n.logs.Of(d.name).Note(spec.Version, "error", "", "the function does not start, its events wait: "+why)
		}
		if durable.Sleep(ctx, checkBackoff.Wait(tries)) != nil {
			return
		}
	}
}

func (n *Node) bringUpOnce(ctx context.Context, d *deployment, spec versionRecord) error {
	if spec.Function.Name == "" {
		return errors.New("the version's record is lost: deploy it again")
	}
	if there, err := n.boxes.Has(ctx, spec.Version); err == nil && !there {
		return fmt.Errorf("the image of version %s is not there: deploy it again", spec.Version)
	}
	if err := n.hold(&spec.Function); err != nil {
		return err
	}
	v, err := n.newVersion(&spec.Function, spec.Version)
	if err != nil {
		return err
	}
	if err := n.checkVersion(ctx, v, defaultWait); err != nil {
		v.stop()
		return err
	}
	if ctx.Err() != nil { // halted: whoever did that goes on
		v.stop()
		return context.Cause(ctx)
	}
	d.activate(v)
	return nil
}

// failureText is an error with the function's own words, for people.
func failureText(err error) string {
	var f *functions.Failure
	if errors.As(err, &f) && f.Detail != "" {
		return f.Message + "\n" + f.Detail
	}
	if errors.As(err, &f) {
		return f.Message
	}
	return err.Error()
}

// lookup returns a function's deployment.
func (n *Node) lookup(name string) (*deployment, bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	d, ok := n.functions[name]
	return d, ok
}

// find is lookup for the API.
func (n *Node) find(name string) (*deployment, error) {
	d, ok := n.lookup(name)
	if !ok {
		return nil, &api.Error{Err: api.ErrNotFound, Message: fmt.Sprintf("there is no function %q", name), Hint: "edgefn functions lists those there are"}
	}
	return d, nil
}

// deployments returns all functions by name.
func (n *Node) deployments() []*deployment {
	n.mu.RLock()
	defer n.mu.RUnlock()
	out := make([]*deployment, 0, len(n.functions))
	for _, name := range slices.Sorted(maps.Keys(n.functions)) {
		out = append(out, n.functions[name])
	}
	return out
}

// loadFunctions reads what is deployed. Functions whose removal was begun are
// returned for it to be finished.
func (n *Node) loadFunctions(ctx context.Context) (removing []string, err error) {
	versions := map[string][]versionRecord{}
	err = durable.EachEntry(ctx, n.st, keyVersions, store.Read{Limit: 100}, func(e store.Entry) error {
		name, _, _ := strings.Cut(strings.TrimPrefix(e.Key, keyVersions), "/")
		var v versionRecord
		if err := json.Unmarshal(e.Value, &v); err != nil {
			return fmt.Errorf("read %s: %w", e.Key, err)
		}
		versions[name] = append(versions[name], v)
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = durable.EachEntry(ctx, n.st, keyFunctions, store.Read{Limit: 500}, func(e store.Entry) error {
		name := strings.TrimPrefix(e.Key, keyFunctions)
		var r functionRecord
		if err := json.Unmarshal(e.Value, &r); err != nil {
			return fmt.Errorf("read %s: %w", e.Key, err)
		}
		if r.Removing {
			removing = append(removing, name)
			return nil
		}
		fn := functions.Defaults()
		fn.Name = name // in case that its version's record is lost
		for _, v := range versions[name] {
			if v.Version == r.Version {
				fn = v.Function
			}
		}
		n.functions[name] = n.newDeployment(r, versions[name], &fn)
		return nil
	})
	return removing, err
}

// begin brings every function up, in the background.
func (n *Node) begin() {
	for _, d := range n.deployments() {
		d.mu.Lock()
		d.starting = n.spawn(func(ctx context.Context) { n.bringUp(ctx, d) })
		d.mu.Unlock()
	}
}

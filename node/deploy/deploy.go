package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// Missing is api.Backend's.
func (d *Deployer) Missing(ctx context.Context, version string, blobs []string) ([]string, error) {
	return d.cfg.Images.Missing(ctx, version, blobs)
}

// Deploy is api.Backend's.
func (d *Deployer) Deploy(ctx context.Context, image io.Reader, o api.DeployOptions, progress func(api.Progress)) (api.Deployed, error) {
	progress(api.Progress{Step: "import", Text: "importing the image"})
	img, err := d.cfg.Images.Import(ctx, image)
	if err != nil {
		return api.Deployed{}, err
	}
	fn, err := decodeFunction(img.Function)
	if err != nil {
		d.discard(ctx, img.Digest)
		return api.Deployed{}, err
	}
	unlock, err := d.locks.lock(ctx, fn.Name)
	if err != nil {
		return api.Deployed{}, err
	}
	defer unlock()
	if f, ok := d.Lookup(fn.Name); ok && f.spec().Version == img.Digest && f.serving() {
		return api.Deployed{Name: fn.Name, Version: img.Digest, Unchanged: true, Nodes: []string{d.cfg.Node}, Warnings: d.warnings(fn)}, nil
	}
	if err := d.admit(fn); err != nil {
		d.discard(ctx, img.Digest)
		return api.Deployed{}, err
	}
	out, err := d.install(ctx, fn, img.Digest, installing{wait: o.Wait, newest: true}, progress)
	if err != nil {
		d.discard(ctx, img.Digest)
	}
	return out, err
}

// Rollback is api.Backend's. An empty to is the version before the
// active one; else it is a version or the beginning of one.
func (d *Deployer) Rollback(ctx context.Context, name, to string, progress func(api.Progress)) (api.Deployed, error) {
	unlock, err := d.locks.lock(ctx, name)
	if err != nil {
		return api.Deployed{}, err
	}
	defer unlock()
	f, err := d.Find(name)
	if err != nil {
		return api.Deployed{}, err
	}
	f.mu.Lock()
	target, err := pickVersion(name, f.versions, f.record.Version, to)
	f.mu.Unlock()
	if err != nil {
		return api.Deployed{}, err
	}
	if target.Version == f.spec().Version && f.serving() {
		return api.Deployed{Name: name, Version: target.Version, Unchanged: true, Nodes: []string{d.cfg.Node}}, nil
	}
	if there, err := d.cfg.Images.Has(ctx, target.Version); err != nil || !there {
		return api.Deployed{}, errors.Join(err, &api.Error{
			Err: api.ErrRefused, Message: fmt.Sprintf("the image of version %s of function %q is not there", target.Version, name), Hint: "deploy it again from its source",
		})
	}
	if err := d.admit(&target.Function); err != nil {
		return api.Deployed{}, err
	}
	return d.install(ctx, &target.Function, target.Version, installing{}, progress)
}

// installing says how a version is installed.
type installing struct {
	wait   time.Duration // it may take to start; 0: defaultWait
	newest bool          // it becomes the newest version; else one that is kept keeps its place
}

// install has a version serve in place of the one that does, whose events in
// work it lets end. On an error the old one goes on serving. The caller holds
// the function's lock.
func (d *Deployer) install(ctx context.Context, fn *functions.Function, digest string, o installing, progress func(api.Progress)) (api.Deployed, error) {
	if o.wait <= 0 {
		o.wait = defaultWait
	}
	f, known := d.Lookup(fn.Name)
	if known && f.spec().Version == digest {
		f.halt() // it is being brought up already; one of a version at a time
	}
	progress(api.Progress{Step: "check", Text: "starting an instance"})
	v, err := d.newVersion(fn, digest)
	if err != nil {
		d.retryOld(f)
		return api.Deployed{}, err
	}
	if err := d.checkVersion(ctx, v, o.wait); err != nil {
		v.stop()
		d.retryOld(f)
		return api.Deployed{}, refusal(ctx, fn, o.wait, err)
	}
	if known {
		f.halt() // or the version of record would take its lines back
	}
	progress(api.Progress{Step: "activate", Text: "switching to the new version"})
	// From here on it is not given up half-way because a client went away.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*durable.StoreTime)
	defer cancel()
	r := functionRecord{Version: digest, Deployed: time.Now().UTC()}
	d.claims.Lock()
	claimed := sync.OnceFunc(d.claims.Unlock)
	defer claimed()
	if err := d.takeLines(fn); err != nil {
		v.stop()
		d.retryOld(f)
		return api.Deployed{}, err
	}
	versions, drop, err := d.record(ctx, f, fn, r, o.newest)
	if err != nil {
		v.stop()
		d.unhold(f, fn.Name)
		d.retryOld(f)
		return api.Deployed{}, fmt.Errorf("write function %q: %w", fn.Name, err)
	}
	if known {
		f.mu.Lock()
		f.record, f.versions = r, versions
		f.mu.Unlock()
	} else {
		f = d.newDeployment(r, versions, fn)
		d.mu.Lock()
		d.functions[fn.Name] = f
		d.mu.Unlock()
	}
	old := f.activate(v)
	claimed()
	out := api.Deployed{Name: fn.Name, Version: digest, Nodes: []string{d.cfg.Node}, Warnings: d.warnings(fn)}
	out.Warnings = append(out.Warnings, d.bind(ctx, f, fn)...)
	if old != nil {
		progress(api.Progress{Step: "drain", Text: "the old version finishes its events"})
		d.retire(ctx, old)
	}
	for _, digest := range drop {
		d.removeImage(ctx, digest)
	}
	d.log.Info("function deployed", logFunction, fn.Name, logVersion, digest)
	return out, nil
}

// retryOld goes on bringing the version of record up, if that was halted.
func (d *Deployer) retryOld(f *Deployment) {
	if f == nil || f.svc.Current() != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.starting == nil {
		f.starting = d.cfg.Spawn(func(ctx context.Context) { d.bringUp(ctx, f) })
	}
}

// refusal says why a version does not serve.
func refusal(ctx context.Context, fn *functions.Function, wait time.Duration, err error) error {
	var f *functions.Failure
	switch {
	case errors.As(err, &f):
		return &api.Error{Err: api.ErrRefused, Message: fmt.Sprintf("function %q does not start: %s", fn.Name, failureText(err)), Hint: "nothing was changed; a version that was active goes on serving"}
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, context.DeadlineExceeded):
		return &api.Error{Err: api.ErrTimeout, Message: fmt.Sprintf("function %q did not start within %v", fn.Name, wait), Hint: "give it more time with --wait; edgefn logs " + fn.Name + " may tell more"}
	}
	return fmt.Errorf("start function %q: %w", fn.Name, err)
}

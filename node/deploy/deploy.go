package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
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
		d.discard(ctx, "", img.Digest)
		return api.Deployed{}, err
	}
	out, err := d.deploy(ctx, fn, img.Digest, o, progress)
	if err != nil {
		d.discard(ctx, fn.Name, img.Digest)
	}
	return out, err
}

func (d *Deployer) deploy(ctx context.Context, fn *functions.Function, digest string, o api.DeployOptions, progress func(api.Progress)) (api.Deployed, error) {
	rc, leave, err := d.use(ctx, fn.Name)
	if err != nil {
		return api.Deployed{}, err
	}
	defer leave()
	want, err := d.read(ctx, fn.Name)
	if err != nil {
		return api.Deployed{}, err
	}
	f, here := d.Lookup(fn.Name)
	if here {
		f.keepImage(digest)
	}
	if want.Version == digest && here && want.there() && f.activeVersion() == digest {
		return api.Deployed{Name: fn.Name, Version: digest, Unchanged: true, Nodes: []string{d.cfg.Node}, Warnings: d.warnings(fn, &want.pause)}, nil
	}
	if err := d.admit(fn); err != nil {
		return api.Deployed{}, err
	}
	return d.install(ctx, rc, installing{fn: fn, digest: digest, read: want, wait: o.Wait, newest: true, progress: progress})
}

// Rollback is api.Backend's. An empty to is the version before the
// active one; else it is a version or the beginning of one.
func (d *Deployer) Rollback(ctx context.Context, name, to string, progress func(api.Progress)) (api.Deployed, error) {
	rc, leave, err := d.use(ctx, name)
	if err != nil {
		return api.Deployed{}, err
	}
	defer leave()
	want, err := d.read(ctx, name)
	switch {
	case err != nil:
		return api.Deployed{}, err
	case !want.there():
		return api.Deployed{}, notFound(name)
	}
	target, err := pickVersion(name, want.versions, want.Version, to)
	if err != nil {
		return api.Deployed{}, err
	}
	if f, ok := d.Lookup(name); ok && want.Version == target.Version && f.activeVersion() == target.Version {
		return api.Deployed{Name: name, Version: target.Version, Unchanged: true, Nodes: []string{d.cfg.Node}, Warnings: d.warnings(&target.Function, &want.pause)}, nil
	}
	if there, err := d.cfg.Images.Has(ctx, target.Version); err != nil || !there {
		return api.Deployed{}, errors.Join(err, &api.Error{
			Err: api.ErrRefused, Message: fmt.Sprintf("the image of version %s of function %q is not there", target.Version, name), Hint: "deploy it again from its source",
		})
	}
	if err := d.admit(&target.Function); err != nil {
		return api.Deployed{}, err
	}
	return d.install(ctx, rc, installing{fn: &target.Function, digest: target.Version, read: want, progress: progress})
}

// installing is a version on its way to serve.
type installing struct {
	fn       *functions.Function
	digest   string
	read     desired       // what the store said when it began
	wait     time.Duration // it may take to start; 0: defaultWait
	newest   bool          // it becomes the newest version; else one that is kept keeps its place
	progress func(api.Progress)
}

// install checks a version, writes that it is to serve, and waits until it does
// in place of the one that did, whose events in work are let end. On an error
// nothing was changed, or the answer says so. The caller uses rc alone.
func (d *Deployer) install(ctx context.Context, rc *reconciler, in installing) (api.Deployed, error) {
	if in.read.Removing {
		return api.Deployed{}, &api.Error{Err: api.ErrOverloaded, Message: fmt.Sprintf("function %q is being removed", in.fn.Name), Hint: "try again in a moment"}
	}
	if in.wait <= 0 {
		in.wait = defaultWait
	}
	resume := func() {}
	defer func() { resume() }()
	var err error
	if in.read.Version == in.digest {
		if resume, err = rc.suspend(ctx); err != nil {
			return api.Deployed{}, err
		}
	}
	in.progress(api.Progress{Step: "check", Text: "starting an instance"})
	f, here := d.Lookup(in.fn.Name)
	if here {
		f.awaitRetired(ctx, in.digest)
	}
	v, err := d.newVersion(in.fn, in.digest)
	if err != nil {
		return api.Deployed{}, err
	}
	if err := d.checkVersion(ctx, v, in.wait); err != nil {
		v.stop()
		return api.Deployed{}, refusal(ctx, in.fn, in.wait, err)
	}
	if in.read.Version != in.digest {
		if resume, err = rc.suspend(ctx); err != nil {
			v.stop()
			return api.Deployed{}, err
		}
	}
	in.progress(api.Progress{Step: "activate", Text: "switching to the new version"})
	// From here on it is not given up half-way because a client went away.
	ctx = context.WithoutCancel(ctx)
	if err := d.activate(ctx, rc, v, in); err != nil {
		return api.Deployed{}, err
	}
	out := api.Deployed{Name: in.fn.Name, Version: in.digest, Nodes: []string{d.cfg.Node}, Warnings: d.warnings(in.fn, d.paused(in))}
	current := func(s state) bool { return s.version == in.digest && s.serving }
	s, err := rc.await(ctx, func(s state) bool { return s.bound || !current(s) })
	if err != nil {
		return out, err
	}
	out.Warnings = append(out.Warnings, s.warnings...)
	if !s.drained {
		in.progress(api.Progress{Step: "drain", Text: "the old version finishes its events"})
		if _, err := rc.await(ctx, func(s state) bool { return s.drained || !current(s) }); err != nil {
			return out, err
		}
	}
	d.log.Info("function deployed", logFunction, in.fn.Name, logVersion, in.digest)
	return out, nil
}

// paused is what of a function is paused once a version of it was installed.
func (d *Deployer) paused(in installing) *pause {
	p := in.read.pause
	if f, here := d.Lookup(in.fn.Name); here {
		f.mu.Lock()
		defer f.mu.Unlock()
		p = f.want.pause
	}
	return &p
}

// activate writes that a version that is checked is to serve, and returns when
// it does. On an error v is stopped.
func (d *Deployer) activate(ctx context.Context, rc *reconciler, v *version, in installing) error {
	ctx, cancel := context.WithTimeout(ctx, 2*durable.StoreTime)
	defer cancel()
	d.claims.Lock()
	defer d.claims.Unlock()
	rc.offer(v)
	defer func() {
		if left := rc.offer(nil); left != nil {
			left.stop()
		}
	}()
	if err := d.takeLines(in.fn); err != nil {
		return err
	}
	revision, err := d.commit(ctx, in)
	if err != nil {
		f, _ := d.Lookup(in.fn.Name)
		d.unhold(f, in.fn.Name)
		return err
	}
	rc.nudge() // or the watch does
	s, err := rc.await(ctx, func(s state) bool {
		return s.at >= revision && (s.serving || s.version != in.digest || s.err != nil)
	})
	switch {
	case err != nil:
		return &api.Error{
			Err:     errors.Join(api.ErrTimeout, err),
			Message: fmt.Sprintf("version %s of function %q is deployed, but does not serve yet", in.digest, in.fn.Name),
			Hint:    "edgefn describe " + in.fn.Name + " tells how far it is",
		}
	case s.version != in.digest:
		return replaced(in.fn.Name, s.version, "after")
	case s.err != nil:
		return fmt.Errorf("version %s of function %q is deployed, but does not serve: %w", in.digest, in.fn.Name, s.err)
	}
	return nil
}

// commit writes that a version is to serve, unless another one was deployed
// since its deploy began.
func (d *Deployer) commit(ctx context.Context, in installing) (revision int64, err error) {
	name, read := in.fn.Name, in.read
	r := versionRecord{Version: in.digest, Deployed: time.Now().UTC(), Function: *in.fn}
	for {
		revision, err := d.write(ctx, name, &read, r, in.newest)
		switch {
		case err == nil:
			return revision, nil
		case !errors.Is(err, store.ErrConflict):
			return 0, fmt.Errorf("write function %q: %w", name, err)
		}
		now, err := d.read(ctx, name)
		switch {
		case err != nil:
			return 0, err
		case now.there() && now.Version == in.digest:
			return now.revision, nil // another one had the same in mind
		case !now.there() && in.read.revision != 0:
			return 0, replaced(name, "", "while this one was checked")
		case now.Version != in.read.Version || now.Removing:
			return 0, replaced(name, now.Version, "while this one was checked")
		}
		read = now // something else of it was changed
		if err := durable.Sleep(ctx, conflictBackoff.Wait(1)); err != nil {
			return 0, err
		}
	}
}

// replaced says that another writer changed which version is to serve; empty:
// it removed the function.
func replaced(name, version, when string) error {
	e := &api.Error{Err: api.ErrRefused, Hint: "deploy again if yours is to serve"}
	if version == "" {
		e.Message = fmt.Sprintf("function %q was removed by someone else %s", name, when)
		return e
	}
	e.Message = fmt.Sprintf("someone else deployed version %s of function %q %s", version, name, when)
	return e
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

package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/node/settle"
	"github.com/edgefn/edgefn/node/settle/durable"
	"github.com/edgefn/edgefn/node/tasks"
)

// version is a version with its pool.
type version struct {
	*settle.Version
	pool Pool
	task *tasks.Task // the pool's run
}

// stop ends the pool and waits for it.
func (v *version) stop() { v.task.Stop() }

// newVersion makes the pool of a version and runs it. The caller stops it.
func (d *Deployer) newVersion(fn *functions.Function, digest string) (*version, error) {
	buses, err := d.cfg.Devices.BusPaths(fn)
	if err != nil {
		return nil, err
	}
	starter, err := d.cfg.Images.Starter(fn, digest, buses)
	if err != nil {
		return nil, err
	}
	l := d.cfg.Logs.Of(fn.Name)
	p, err := d.cfg.NewPool(pool.Config{
		Function: fn, Version: digest, Starter: starter, MaxFrame: d.cfg.MaxFrame,
		Log: func(line pool.LogLine) { l.Write(digest, line) },
	})
	if err != nil {
		return nil, err
	}
	t := d.cfg.Spawn(func(ctx context.Context) {
		if err := p.Run(ctx); err != nil && ctx.Err() == nil {
			d.log.Error("pool ended", logFunction, fn.Name, logVersion, digest, logErr, err)
		}
	})
	return &version{Version: settle.NewVersion(fn, digest, p), pool: p, task: t}, nil
}

// checkVersion brings a version up far enough to know that its handler loads.
func (d *Deployer) checkVersion(ctx context.Context, v *version, wait time.Duration) error {
	select {
	case d.checks <- struct{}{}:
		defer func() { <-d.checks }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return v.pool.Check(ctx)
}

// checkBackoff is for a version that does not start.
var checkBackoff = durable.Backoff{First: time.Second, Max: time.Minute}

// bringUp has the version of record serve, however often that has to be tried.
func (d *Deployer) bringUp(ctx context.Context, f *Deployment) {
	spec := f.spec()
	log := d.log.With(logFunction, f.name, logVersion, spec.Version)
	for tries := 1; ; tries++ {
		err := d.bringUpOnce(ctx, f, spec)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			f.mu.Lock()
			f.failing, f.starting = "", nil
			f.mu.Unlock()
			log.Info("function serves")
			return
		}
		why := failureText(err)
		f.setFailing(why)
		if tries == 1 {
			log.Error("function does not start, its events wait", logErr, err)
			d.cfg.Logs.Of(f.name).Note(spec.Version, "error", "", "the function does not start, its events wait: "+why)
		}
		if durable.Sleep(ctx, checkBackoff.Wait(tries)) != nil {
			return
		}
	}
}

func (d *Deployer) bringUpOnce(ctx context.Context, f *Deployment, spec versionRecord) error {
	if spec.Function.Name == "" {
		return errors.New("the version's record is lost: deploy it again")
	}
	if there, err := d.cfg.Images.Has(ctx, spec.Version); err == nil && !there {
		return fmt.Errorf("the image of version %s is not there: deploy it again", spec.Version)
	}
	if err := d.hold(&spec.Function); err != nil {
		return err
	}
	v, err := d.newVersion(&spec.Function, spec.Version)
	if err != nil {
		return err
	}
	if err := d.checkVersion(ctx, v, defaultWait); err != nil {
		v.stop()
		return err
	}
	if ctx.Err() != nil { // halted: whoever did that goes on
		v.stop()
		return context.Cause(ctx)
	}
	f.activate(v)
	return nil
}

// retire lets a version finish its events and ends it.
func (d *Deployer) retire(ctx context.Context, v *version) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*v.Function.Timeout+drainTime)
	defer cancel()
	if err := v.pool.Drain(ctx); err != nil {
		d.log.Warn("old version did not finish in time, its events are run again", logFunction, v.Function.Name, logVersion, v.Digest, logErr, err)
	}
	v.stop()
}

// discard removes an image that was imported in vain, unless it is a version
// that is kept.
func (d *Deployer) discard(ctx context.Context, digest string) {
	for _, f := range d.Deployments() {
		f.mu.Lock()
		kept := slices.ContainsFunc(f.versions, func(v versionRecord) bool { return v.Version == digest })
		f.mu.Unlock()
		if kept {
			return
		}
	}
	d.removeImage(ctx, digest)
}

func (d *Deployer) removeImage(ctx context.Context, digest string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), durable.StoreTime)
	defer cancel()
	if err := d.cfg.Images.Remove(ctx, digest); err != nil {
		d.log.Warn("image stays", logVersion, digest, logErr, err)
	}
}

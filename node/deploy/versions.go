package deploy

import (
	"context"
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

// retire lets a version finish its events, until ctx is done, and ends it.
func (d *Deployer) retire(ctx context.Context, v *version) {
	ctx, cancel := context.WithTimeout(ctx, 2*v.Function.Timeout+drainTime)
	defer cancel()
	if err := v.pool.Drain(ctx); err != nil {
		d.log.Warn("old version did not finish in time, its events are run again", logFunction, v.Function.Name, logVersion, v.Digest, logErr, err)
	}
	v.stop()
}

// dropImages removes the images of versions that are not kept any more, once
// nothing of them runs.
func (d *Deployer) dropImages(ctx context.Context, f *Deployment) {
	for _, digest := range f.toDrop() {
		d.removeImage(ctx, digest)
	}
}

// discard removes an image that was imported in vain, unless it is a version
// that is kept. name is empty where the image does not tell its function.
func (d *Deployer) discard(ctx context.Context, name, digest string) {
	for _, f := range d.Deployments() {
		if f.keeps(digest) {
			return
		}
	}
	if name != "" { // another may have deployed it meanwhile
		want, err := d.read(context.WithoutCancel(ctx), name)
		if _, kept := want.find(digest); kept || err != nil {
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

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/edgefn/edgefn/cross"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/manifest"
	"github.com/edgefn/edgefn/node"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/backup"
	"github.com/edgefn/edgefn/node/doctor"
)

// product is the product itself, behind the commands.
type product struct{}

var (
	_ tools = product{}
	_ image = (*cross.Image)(nil)
)

// Build implements tools.
func (product) Build(ctx context.Context, b buildRequest) (image, error) {
	var ps []cross.Platform
	for _, s := range b.platforms {
		p, err := cross.ParsePlatform(s)
		if err != nil {
			return nil, archError(err)
		}
		if !slices.Contains(ps, p) {
			ps = append(ps, p)
		}
	}
	img, err := cross.Build(ctx, cross.Options{Dir: b.dir, Platforms: ps, Python: b.python, Progress: b.step})
	if err != nil {
		if fault := new(manifest.Error); errors.As(err, &fault) {
			return nil, configError(err)
		}
		return nil, err
	}
	return img, nil
}

// Scaffold implements tools.
func (product) Scaffold(dir, name string, rt functions.Runtime) error {
	return cross.Scaffold(dir, name, rt)
}

// Safe implements tools.
func (product) Safe(ctx context.Context, cfg node.Config) ([]string, error) {
	return node.Safe(ctx, &cfg)
}

// RunNode implements tools. A node that has stopped to restore a backup is
// started anew in the same process.
func (product) RunNode(ctx context.Context, cfg node.Config) error {
	for {
		n, err := node.New(cfg)
		if err != nil {
			return fmt.Errorf("set up node: %w", err)
		}
		err = n.Run(ctx)
		switch {
		case !errors.Is(err, node.ErrAnew):
			return err //nolint:wrapcheck // it says what the node was at
		case ctx.Err() != nil:
			return nil //nolint:nilerr // it was asked to end; what is staged is restored at the next start
		}
	}
}

// BackupData implements tools.
func (product) BackupData(ctx context.Context, cfg node.Config, o api.BackupOptions, w io.Writer) error {
	return node.BackupData(ctx, cfg, o, w)
}

// RestoreData implements tools.
func (product) RestoreData(ctx context.Context, cfg node.Config, r io.Reader, progress func(bytes int64), confirm func(i backup.Info, replaced string) error) (api.Restored, error) {
	return node.RestoreData(ctx, cfg, r, progress, confirm)
}

// Machine implements tools.
func (product) Machine(status func(context.Context) (api.Status, error)) doctor.Machine {
	return doctor.Here(status)
}

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Labels that containerd's garbage collection knows.
const (
	// gcSnapshot of an image's configuration names the snapshot with the image's
	// files, which is then kept as long as the image is.
	gcSnapshot = "containerd.io/gc.ref.snapshot." + snapshotter
	// gcRoot is on what is kept until somebody removes it.
	gcRoot = "containerd.io/gc.root"
)

// unpack sees to it that the files of an image are in a snapshot, and returns
// the snapshot's name, which other images with the same files share, and the
// image's configuration.
func (h *Host) unpack(ctx context.Context, record images.Image) (string, ocispec.ImageConfig, error) {
	var none ocispec.ImageConfig
	img := containerd.NewImageWithPlatform(h.client, record, runs(platforms.DefaultSpec()))
	spec, err := img.Spec(ctx)
	if err != nil {
		return "", none, fmt.Errorf("read image configuration: %w", err)
	}
	name := identity.ChainID(slices.Clone(spec.RootFS.DiffIDs)).String()
	// Whoever unpacked the snapshot, this image keeps it too; and from before it
	// is looked for, so that it does not go with another image thereafter.
	if err := h.keepSnapshot(ctx, img, name); err != nil {
		return "", none, fmt.Errorf("keep files of image: %w", err)
	}
	if ok, err := img.IsUnpacked(ctx, snapshotter); err != nil || !ok {
		if err := img.Unpack(ctx, snapshotter); err != nil {
			return "", none, fmt.Errorf("unpack image: %w", err)
		}
	}
	return name, spec.Config, nil
}

// keepSnapshot has an image keep a snapshot, whether that is there yet or not.
func (h *Host) keepSnapshot(ctx context.Context, img containerd.Image, name string) error {
	config, err := img.Config(ctx)
	if err != nil {
		return err
	}
	cs := h.client.ContentStore()
	info, err := cs.Info(ctx, config.Digest)
	if err != nil || info.Labels[gcSnapshot] == name {
		return err
	}
	_, err = cs.Update(ctx, content.Info{Digest: config.Digest, Labels: map[string]string{gcSnapshot: name}}, "labels."+gcSnapshot)
	return err
}

// view makes a read-only view of a snapshot and returns its folders, top first.
// It keeps the snapshot until the view is removed, even if the image goes.
func (h *Host) view(ctx context.Context, id, snapshot string) ([]string, error) {
	ms, err := h.client.SnapshotService(snapshotter).View(ctx, id, snapshot,
		snapshots.WithLabels(map[string]string{gcRoot: time.Now().UTC().Format(time.RFC3339)}))
	if err != nil {
		return nil, fmt.Errorf("make view of image: %w", err)
	}
	return lowerDirs(ms)
}

// removeViews removes the views of all sandboxes.
func (h *Host) removeViews(ctx context.Context) error {
	sn := h.client.SnapshotService(snapshotter)
	var views []string
	err := sn.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		if i.Kind == snapshots.KindView {
			views = append(views, i.Name)
		}
		return nil
	})
	for _, v := range views {
		if rerr := sn.Remove(ctx, v); rerr != nil && !errdefs.IsNotFound(rerr) {
			err = errors.Join(err, fmt.Errorf("remove view %s: %w", v, rerr))
		}
	}
	return err
}

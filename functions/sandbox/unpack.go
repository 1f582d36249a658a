package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// Labels of what is in containerd. The first two are known to its garbage
// collection.
const (
	// gcSnapshot of an image's configuration names the snapshot with the image's
	// files, which is then kept as long as the image is.
	gcSnapshot = "containerd.io/gc.ref.snapshot." + snapshotter
	// gcRoot is on what is kept until somebody removes it.
	gcRoot = "containerd.io/gc.root"
	// durable is on a snapshot whose files, and those below it, outlast a loss of
	// power. containerd flushes its own records, but not what it unpacks: a
	// snapshot without the label may be full of empty files after one.
	durable = "org.edgefn.durable"
)

// unpacked is an image whose files are in a snapshot.
type unpacked struct {
	snapshot string // others with the same files share it; empty: the image has no files
	config   ocispec.ImageConfig
	synced   bool // it was unpacked just now, and all before that is durable too
}

// unpack unpacks an image if it is not, and makes that durable.
func (h *Host) unpack(ctx context.Context, record images.Image) (u unpacked, err error) {
	img := containerd.NewImageWithPlatform(h.client, record, runs(platforms.DefaultSpec()))
	spec, err := img.Spec(ctx)
	if err != nil {
		return u, fmt.Errorf("read image configuration: %w", err)
	}
	u.config = spec.Config
	chain := identity.ChainIDs(slices.Clone(spec.RootFS.DiffIDs)) // the snapshots, lowest first
	if len(chain) == 0 {
		return u, nil
	}
	u.snapshot = chain[len(chain)-1].String()
	// Whoever unpacked the snapshot, this image keeps it too; and from before it
	// is looked for, so that it does not go with another image thereafter.
	if err := h.keepSnapshot(ctx, img, u.snapshot); err != nil {
		return u, fmt.Errorf("keep files of image: %w", err)
	}
	if done, err := h.isDurable(ctx, u.snapshot); done || err != nil {
		return u, err
	}
	select {
	case h.unpacking <- struct{}{}:
		defer func() { <-h.unpacking }()
	case <-ctx.Done():
		return u, ctx.Err()
	}
	if done, err := h.isDurable(ctx, u.snapshot); done || err != nil {
		return u, err
	}
	if err := img.Unpack(ctx, snapshotter); err != nil {
		return u, fmt.Errorf("unpack image: %w", err)
	}
	if err := h.sync(); err != nil {
		// The kernel tells of lost writes once: nothing may take them for written.
		return u, errors.Join(err, h.removeSnapshots(ctx, unfinished))
	}
	u.synced = true
	return u, h.markDurable(ctx, chain)
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

// isDurable reports whether a snapshot is there, whole and durable.
func (h *Host) isDurable(ctx context.Context, name string) (bool, error) {
	info, err := h.client.SnapshotService(snapshotter).Stat(ctx, name)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for files of image: %w", err)
	}
	return info.Labels[durable] != "", nil
}

// markDurable marks the snapshots of an image. The lower ones come first: below
// one that is marked all are.
func (h *Host) markDurable(ctx context.Context, chain []digest.Digest) error {
	sn := h.client.SnapshotService(snapshotter)
	for _, d := range chain {
		if done, err := h.isDurable(ctx, d.String()); err != nil {
			return err
		} else if done {
			continue
		}
		if _, err := sn.Update(ctx, snapshots.Info{Name: d.String(), Labels: map[string]string{durable: "true"}}, "labels."+durable); err != nil {
			return fmt.Errorf("note that image is unpacked: %w", err)
		}
	}
	return nil
}

// sync makes everything durable that containerd has written.
func (h *Host) sync() error {
	for _, dir := range h.roots {
		if err := syncDisk(dir); err != nil {
			return fmt.Errorf("flush disk of %s: %w", dir, err)
		}
	}
	return nil
}

// syncDisk flushes the file system that a folder is on.
func syncDisk(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // nothing was written through it
	return unix.Syncfs(int(f.Fd()))
}

// findRoots finds the folders in which containerd keeps blobs and files, one of
// each file system.
func (h *Host) findRoots(ctx context.Context) error {
	answer, err := h.client.IntrospectionService().Plugins(ctx,
		"type==io.containerd.content.v1", "type==io.containerd.snapshotter.v1,id=="+snapshotter)
	if err != nil {
		return fmt.Errorf("ask containerd for its folders: %w", err)
	}
	seen := map[uint64]bool{}
	for _, p := range answer.Plugins {
		root := p.Exports["root"]
		if root == "" {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(root, &st); err != nil {
			return fmt.Errorf("find folder of containerd: %w", err)
		}
		if !seen[st.Dev] {
			seen[st.Dev] = true
			h.roots = append(h.roots, root)
		}
	}
	if len(h.roots) == 0 {
		return errors.New("containerd does not say in which folders it keeps images")
	}
	return nil
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

// unfinished is what an unpacking that was broken off has left.
func unfinished(i snapshots.Info) bool {
	return i.Kind != snapshots.KindView && i.Labels[durable] == ""
}

// leftover is what has no use when no sandbox runs and nothing is unpacked.
func leftover(i snapshots.Info) bool { return i.Kind == snapshots.KindView || unfinished(i) }

// removeSnapshots removes snapshots of some kind. Those that are made of one of
// that kind must be of it too.
func (h *Host) removeSnapshots(ctx context.Context, which func(snapshots.Info) bool) error {
	sn := h.client.SnapshotService(snapshotter)
	above := map[string][]string{} // by the name of the one below
	var found []string
	err := sn.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		if which(i) {
			found = append(found, i.Name)
			above[i.Parent] = append(above[i.Parent], i.Name)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	var remove func(names []string) error
	remove = func(names []string) error {
		for _, name := range names {
			if err := remove(above[name]); err != nil {
				return err
			}
			if err := sn.Remove(ctx, name); err != nil && !errdefs.IsNotFound(err) {
				return fmt.Errorf("remove snapshot %s: %w", name, err)
			}
			above[name] = nil
		}
		return nil
	}
	return remove(found)
}

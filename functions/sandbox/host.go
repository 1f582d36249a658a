package sandbox

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// SystemSocket is where a system's own containerd listens.
const SystemSocket = "/run/containerd/containerd.sock"

// runtimeState is where containerd's shims keep their sockets and the OCI
// runtime its state, whatever folders containerd was given.
const runtimeState = "/run/containerd"

// snapshotter is the only one whose layers can be stacked under a root of ours.
const snapshotter = "overlayfs"

// Errors of the adapter.
var (
	// ErrNoContainerd: there is no containerd to use and none to start.
	ErrNoContainerd = errors.New("containerd is not available")
	// ErrNoImage: the image of a version is not (any more) in containerd.
	ErrNoImage = errors.New("image is not there")
	// ErrNoSpace: containerd's disk is full.
	ErrNoSpace = errors.New("disk of containerd is full")
	// ErrIncomplete: what was handed in lacks blobs that are not here.
	ErrIncomplete = errors.New("image is not complete")
	// ErrPlatform: what was handed in has no image that this machine runs.
	ErrPlatform = errors.New("image is for other platforms")
	// ErrBadImage: what was handed in is no image of a function.
	ErrBadImage = errors.New("not an image of a function")
	// ErrDevice: a granted device is not there, or is another one by now.
	ErrDevice = errors.New("granted device")
)

// Config of a Host.
type Config struct {
	Socket     string // of the containerd to use; empty: a running system one, or else a private one
	DataDir    string // kept: a private containerd's content
	RunDir     string // gone with a reboot: sockets and mounts; others may search it (mode o+x)
	ShimsDir   string // filled by the caller, mapped read-only at /edgefn
	SecretsDir string // a file per secret
	Logger     *slog.Logger
}

// Host brings sandboxes up and down on this machine.
type Host struct {
	cfg     Config
	log     *slog.Logger
	id      string // of this node among those of the machine
	private *private
	client  *containerd.Client
	groups  *cgroups
	roots   []string // folders in which containerd keeps images, one of each file system
	// unpacking has room for the one who unpacks: who finds a snapshot that is
	// not finished knows that nobody works at it.
	unpacking chan struct{}
	outgoing  outgoing

	mu    sync.Mutex // guards count
	count int        // sandboxes made, for their names
}

// Open connects to containerd, starting a private one if there is no other,
// and removes what a former run of this node left behind: its containers,
// mounts and control groups. It needs root.
func Open(ctx context.Context, cfg Config) (_ *Host, err error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	h := &Host{cfg: cfg, log: cfg.Logger.With("component", "sandbox"), id: idOf(cfg.DataDir), unpacking: make(chan struct{}, 1)}
	if os.Geteuid() != 0 {
		return nil, errors.New("sandboxes need root: start the node as root")
	}
	for _, d := range []string{cfg.RunDir, h.sandboxesDir(), cfg.ShimsDir} {
		if err := mkdirAll(d); err != nil {
			return nil, err
		}
	}
	if h.groups, err = newCgroups(h.id); err != nil {
		return nil, err
	}
	if err := errors.Join(mount.UnmountAll(cfg.ShimsDir, unix.MNT_DETACH), mountExecutable(cfg.ShimsDir)); err != nil {
		return nil, fmt.Errorf("mount %s: %w", cfg.ShimsDir, err)
	}
	defer func() {
		if err != nil {
			h.Close(context.WithoutCancel(ctx))
		}
	}()
	if err := writeInit(cfg.ShimsDir); err != nil {
		return nil, err
	}
	if err := writeSkeletons(h.skeletonDir()); err != nil {
		return nil, fmt.Errorf("prepare roots: %w", err)
	}
	address := cfg.Socket
	if address == "" && answers(SystemSocket) {
		address = SystemSocket
	}
	if address == "" {
		if h.private, err = startPrivate(ctx, filepath.Join(cfg.DataDir, "containerd"), filepath.Join(cfg.RunDir, "containerd"), h.log); err != nil {
			return nil, err
		}
		address = h.private.address
	}
	h.client, err = containerd.New(address, containerd.WithDefaultNamespace(h.namespace()), containerd.WithTimeout(10*time.Second))
	if err != nil {
		return nil, fmt.Errorf("%w at %s: %w", ErrNoContainerd, address, err)
	}
	ctx = h.context(ctx)
	if _, err := h.client.Version(ctx); err != nil {
		return nil, fmt.Errorf("%w at %s: %w", ErrNoContainerd, address, err)
	}
	if err := h.findRoots(ctx); err != nil {
		return nil, err
	}
	if err := h.removeLeftovers(ctx); err != nil {
		return nil, fmt.Errorf("remove what a former run left: %w", err)
	}
	for _, w := range h.Warnings() {
		h.log.Warn("this machine cannot hold to a limit", "reason", w)
	}
	return h, nil
}

func (h *Host) context(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, h.namespace())
}

// idOf is what tells a node from others of the machine: its data folder.
func idOf(dataDir string) string {
	sum := sha256.Sum256([]byte(dataDir))
	return hex.EncodeToString(sum[:4])
}

// namespaceOf is the node's own in containerd.
func namespaceOf(dataDir string) string { return "edgefn-" + idOf(dataDir) }

func (h *Host) namespace() string { return namespaceOf(h.cfg.DataDir) }

func (h *Host) sandboxesDir() string { return filepath.Join(h.cfg.RunDir, "sandboxes") }
func (h *Host) skeletonDir() string  { return filepath.Join(h.cfg.RunDir, "roots") }

// Run supervises the private containerd, if there is one: it is started again
// when it dies. Running sandboxes do not depend on it. Run returns nil once
// ctx is done.
func (h *Host) Run(ctx context.Context) error {
	if h.private == nil {
		<-ctx.Done()
		return nil
	}
	return h.private.supervise(ctx)
}

// Close removes the node's control groups and mounts and stops the private
// containerd. The caller has closed every sandbox.
func (h *Host) Close(ctx context.Context) {
	if h.client != nil {
		if err := h.removeLeftovers(h.context(ctx)); err != nil {
			h.log.Warn("sandboxes not removed", "err", err)
		}
		_ = h.client.Close()
	}
	h.groups.removeAll()
	_ = mount.UnmountAll(h.cfg.ShimsDir, unix.MNT_DETACH)
	_ = os.RemoveAll(h.skeletonDir())
	_ = os.RemoveAll(h.sandboxesDir())
	if h.private != nil {
		h.private.stop()
	}
	// The OCI runtime's folder of our namespace, and those above it if nobody
	// else has anything there; containerd leaves them.
	for _, d := range []string{runtimeState + "/runc/" + h.namespace(), runtimeState + "/runc", runtimeState + "/s", runtimeState} {
		_ = os.Remove(d)
	}
}

// Status says whether containerd answers, where it listens and which it is.
func (h *Host) Status(ctx context.Context) (up bool, address, version string) {
	address = h.cfg.Socket
	switch {
	case h.private != nil:
		address = h.private.address
	case address == "":
		address = SystemSocket
	}
	ctx, cancel := context.WithTimeout(h.context(ctx), 2*time.Second)
	defer cancel()
	v, err := h.client.Version(ctx)
	if err != nil {
		return false, address, err.Error()
	}
	kind := "system"
	if h.private != nil {
		kind = "private"
	}
	return true, address, kind + " " + v.Version
}

// Warnings are limits that this machine cannot hold to.
func (h *Host) Warnings() []string {
	var ws []string
	if h.groups.memory == "" {
		ws = append(ws, NoMemoryGroup+" (edgefn doctor says how to turn it on)")
	}
	return ws
}

func (h *Host) removeLeftovers(ctx context.Context) error {
	cs, err := h.client.Containers(ctx)
	if err != nil {
		return err
	}
	for _, c := range cs {
		if err := removeContainer(ctx, c); err != nil {
			return err
		}
	}
	dirs, err := os.ReadDir(h.sandboxesDir())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, d := range dirs {
		h.removeFiles(ctx, d.Name())
	}
	// A sandbox's own folder is gone with a reboot, its view is not.
	return h.removeSnapshots(ctx, leftover)
}

// removeContainer kills and removes a container. One that is gone is no error.
func removeContainer(ctx context.Context, c containerd.Container) error {
	task, err := c.Task(ctx, nil)
	if err == nil {
		if _, err := task.Delete(ctx, containerd.WithProcessKill); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove task of %s: %w", c.ID(), err)
		}
	} else if !errdefs.IsNotFound(err) {
		return fmt.Errorf("find task of %s: %w", c.ID(), err)
	}
	if err := c.Delete(ctx); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove container %s: %w", c.ID(), err)
	}
	return nil
}

// removeFiles removes what a sandbox has on the host beside its container.
func (h *Host) removeFiles(ctx context.Context, id string) {
	dir := filepath.Join(h.sandboxesDir(), id)
	for _, at := range []string{filepath.Join(dir, "root"), devicesDir(dir)} {
		if err := mount.UnmountAll(at, unix.MNT_DETACH); err != nil && !errors.Is(err, os.ErrNotExist) {
			h.log.Warn("not unmounted", "path", at, "sandbox", id, "err", err)
			return // what is below it is not ours to remove
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		h.log.Warn("files of sandbox not removed", "sandbox", id, "err", err)
	}
	if err := h.client.SnapshotService(snapshotter).Remove(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		h.log.Debug("snapshot not removed", "sandbox", id, "err", err)
	}
	h.groups.removeSandbox(id)
}

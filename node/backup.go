package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/edgefn/edgefn/cluster/store/etcd"
	"github.com/edgefn/edgefn/functions/sandbox"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/backup"
)

// ErrAnew is what Run returns when a node has stopped for a backup to be
// restored: a new node with the same config does that as it starts.
var ErrAnew = errors.New("the node is to be started anew: a backup waits to be restored")

// busyEvery is how often Busy is called at least, for busyFor at most: what
// takes longer than that hangs.
const (
	busyEvery = 10 * time.Second
	busyFor   = time.Hour
)

// noImages is why a backup has no images where none are wanted.
const noImages = "left out, as was asked for"

// Backup implements api.Backend.
func (n *Node) Backup(ctx context.Context, o api.BackupOptions, w io.Writer) error {
	done, err := n.enter()
	if err != nil {
		return err
	}
	defer done()
	s := backup.Source{Node: n.cfg.Name, Edgefn: n.cfg.Version, Store: n.st, Images: n.boxes, Dir: n.cfg.DataDir, Now: time.Now()}
	if o.NoImages {
		s.Images, s.NoImages = nil, noImages
	}
	info, err := backup.Write(ctx, w, s)
	if err != nil {
		return copyError(err)
	}
	n.log.Info("backup written", "functions", len(info.Functions), "store_bytes", info.StoreBytes, "image_bytes", info.ImageBytes)
	return nil
}

// Restore implements api.Backend.
func (n *Node) Restore(ctx context.Context, r io.Reader) (api.Restoring, error) {
	done, err := n.enter()
	if err != nil {
		return api.Restoring{}, err
	}
	defer done()
	if err := n.cfg.ownStore(); err != nil {
		return api.Restoring{}, err
	}
	select {
	case n.staging <- struct{}{}:
		defer func() { <-n.staging }()
	default:
		return api.Restoring{}, &api.Error{Err: api.ErrRefused, Message: "restore the node: another backup is being restored", Hint: "wait until that is done"}
	}
	s, err := backup.Stage(ctx, n.cfg.DataDir, r, nil)
	if err != nil {
		return api.Restoring{}, copyError(err)
	}
	if err := s.Commit(); err != nil {
		return api.Restoring{}, copyError(err)
	}
	n.log.Info("node stops and starts anew to restore a backup", "backup_of", s.Info.Node, "backup_time", s.Info.Time)
	select {
	case n.anew <- struct{}{}:
	default: // it does already
	}
	return restoring(&s.Info), nil
}

func restoring(i *backup.Info) api.Restoring {
	return api.Restoring{Node: i.Node, Time: i.Time, Functions: len(i.Functions)}
}

// ownStore returns an error if the node's store is not its own to restore.
func (c *Config) ownStore() error {
	if len(c.Store.Endpoints) == 0 {
		return nil
	}
	return &api.Error{
		Err: api.ErrRefused, Message: fmt.Sprintf("restore the node: its store is an etcd outside, %s", c.Store.Endpoints[0]),
		Hint: "restore that with etcd's own tools: the member store.snapshot of the backup is a copy as etcdutl takes it",
	}
}

// copyError gives an error of a backup or restore its place in the API.
func copyError(err error) error {
	switch {
	case errors.Is(err, backup.ErrDamaged), errors.Is(err, etcd.ErrCopy):
		return &api.Error{Err: errors.Join(api.ErrRefused, err), Message: err.Error(), Hint: "nothing was changed; take another backup"}
	case errors.Is(err, backup.ErrNewer):
		return &api.Error{Err: errors.Join(api.ErrRefused, err), Message: err.Error(), Hint: "nothing was changed; install that version of edgefn first"}
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &api.Error{Err: errors.Join(api.ErrFull, err), Message: err.Error(), Hint: "nothing was changed; free the disk of the node's data folder"}
	}
	return storeError(err)
}

// restoreStore is RestoreStore of the node's own store.
func restoreStore(ctx context.Context, cfg *Config, r io.Reader) (old string, err error) {
	if err := cfg.ownStore(); err != nil {
		return "", err
	}
	dir := storeDir(cfg)
	before, err := filepath.Glob(dir + ".old-*")
	if err != nil {
		return "", fmt.Errorf("look for stores moved aside: %w", err)
	}
	err = etcd.Restore(ctx, dir, r, etcd.Restoring{Name: cfg.Name, MoveAside: true, Logger: cfg.Logger.With("component", "store")})
	if err != nil {
		return "", err //nolint:wrapcheck // it says what it restored
	}
	after, err := filepath.Glob(dir + ".old-*")
	if err != nil {
		return "", fmt.Errorf("look for stores moved aside: %w", err)
	}
	there := map[string]bool{}
	for _, d := range before {
		there[d] = true
	}
	for _, d := range after {
		if !there[d] {
			old = d
		}
	}
	return old, nil
}

func storeDir(cfg *Config) string { return filepath.Join(cfg.DataDir, "store") }

// busy runs f and says meanwhile what is being done.
func (c *Config) busy(what string, f func() error) error {
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(busyEvery)
		defer tick.Stop()
		for range int(busyFor / busyEvery) {
			c.Busy(what)
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	}()
	err := f()
	close(done)
	<-ended
	return err
}

// restoreStaged restores the store from a backup that waits for that. What keeps
// it from being restored is no reason not to start: status tells it.
func (n *Node) restoreStaged(ctx context.Context) error {
	var r *backup.Restored
	err := n.cfg.busy("restoring a backup", func() (err error) {
		r, err = backup.RestoreStore(ctx, n.cfg.DataDir, nil, func(ctx context.Context, copied io.Reader) (string, error) {
			return n.parts.RestoreStore(ctx, &n.cfg, copied)
		})
		return err
	})
	if r == nil || err != nil {
		return err //nolint:wrapcheck // it says what it restored
	}
	n.restored = &api.Restored{Restoring: restoring(&r.Info), Old: r.Old}
	if r.Err != nil {
		n.restored.Error = r.Err.Error() + ": the store is what it was"
		n.log.Error("backup is not restored, the store is what it was", logErr, r.Err)
		return nil //nolint:nilerr // status tells it
	}
	n.log.Info("backup restored", "backup_of", r.Info.Node, "backup_time", r.Info.Time, "old_store", r.Old)
	return nil
}

// importStaged imports the images of a backup whose store is restored, before
// the functions need them.
func (n *Node) importStaged(ctx context.Context) {
	if !backup.HasImages(n.cfg.DataDir) {
		return
	}
	if n.restored == nil {
		n.restored = &api.Restored{}
	}
	err := n.cfg.busy("importing the images of a backup", func() (err error) {
		n.restored.Left, err = backup.ImportImages(ctx, n.cfg.DataDir, n.boxes.Has, func(ctx context.Context, image io.Reader) error {
			_, err := n.boxes.Import(ctx, image)
			if errors.Is(err, api.ErrRefused) || errors.Is(err, api.ErrInvalid) {
				return errors.Join(backup.ErrUnfit, err)
			}
			return err
		})
		return err
	})
	if err != nil {
		n.restored.Error = err.Error() + ": the next start of the node tries again"
		n.log.Error("images of the restored backup are not imported, the next start tries again", logErr, err)
	}
	for _, l := range n.restored.Left {
		n.log.Warn("image of the restored backup is left out, deploy the function again", logErr, l)
	}
}

// restoreWarnings are what status has to say of the backup that this start
// restored.
func (n *Node) restoreWarnings() []string {
	if n.restored == nil {
		return nil
	}
	var out []string
	if n.restored.Error != "" {
		out = append(out, "backup: "+n.restored.Error)
	}
	for _, l := range n.restored.Left {
		out = append(out, "restored without an image, deploy it again: "+l)
	}
	return out
}

// BackupData writes a backup of a node that does not run, from its data folder.
// The images are read from containerd's files, or through its socket if that is
// the system's.
func BackupData(ctx context.Context, cfg Config, o api.BackupOptions, w io.Writer) error {
	if len(cfg.Store.Endpoints) == 0 {
		if !hasStore(&cfg) {
			return &api.Error{Err: api.ErrNotFound, Message: fmt.Sprintf("back up %s: no node's store is there", cfg.DataDir), Hint: "name a node's data folder with --data, or leave it out to talk to the node"}
		}
		unlock, err := lockEnded(&cfg, "leave --data out, and the node itself is asked")
		if err != nil {
			return err
		}
		defer unlock()
	}
	run, err := os.MkdirTemp("", "edgefn-")
	if err != nil {
		return fmt.Errorf("make a folder for the store's socket: %w", err)
	}
	defer os.RemoveAll(run) //nolint:errcheck // nothing but a socket is in it
	cfg.RunDir = run        // that of the node may be another node's by now
	st, err := openStore(ctx, &cfg)
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	s := backup.Source{Node: cfg.Name, Edgefn: cfg.Version, Store: st, Dir: cfg.DataDir, Now: time.Now()}
	if o.NoImages {
		s.NoImages = noImages
	} else if images, err := sandbox.OpenImages(ctx, sandbox.Config{Socket: cfg.Containerd, DataDir: cfg.DataDir}); err != nil {
		s.NoImages = err.Error()
	} else {
		defer images.Close()
		s.Images = images
	}
	_, err = backup.Write(ctx, w, s)
	return errors.Join(copyErrorOrNil(err), st.Close())
}

func copyErrorOrNil(err error) error {
	if err == nil {
		return nil
	}
	return copyError(err)
}

// hasStore reports whether a node's own store is in its data folder.
func hasStore(cfg *Config) bool {
	es, err := os.ReadDir(storeDir(cfg))
	if err != nil {
		return false
	}
	for _, e := range es {
		if e.IsDir() {
			return true
		}
	}
	return false
}

// lockEnded takes the lock of the data folder of a node that does not run.
func lockEnded(cfg *Config, hint string) (unlock func(), err error) {
	unlock, err = lockData(cfg.DataDir)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = &api.Error{Err: errors.Join(api.ErrRefused, err), Message: fmt.Sprintf("a node uses the data folder %s", cfg.DataDir), Hint: hint + "; or stop it first (systemctl stop edgefn)"}
	}
	return unlock, err
}

// RestoreData restores a node that does not run from a backup, all but the
// images, which its next start imports. The backup is checked whole before
// anything is changed; then confirm is asked if there is a store to be replaced, and its error ends it.
func RestoreData(ctx context.Context, cfg Config, r io.Reader, progress func(bytes int64), confirm func(i backup.Info, replaced string) error) (api.Restored, error) {
	if err := cfg.ownStore(); err != nil {
		return api.Restored{}, err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return api.Restored{}, fmt.Errorf("make folder: %w", err)
	}
	unlock, err := lockEnded(&cfg, "leave --data out, and the node itself is asked")
	if err != nil {
		return api.Restored{}, err
	}
	defer unlock()
	s, err := backup.Stage(ctx, cfg.DataDir, r, progress)
	if err != nil {
		return api.Restored{}, copyError(err)
	}
	if hasStore(&cfg) {
		if err := confirm(s.Info, storeDir(&cfg)); err != nil {
			return api.Restored{}, errors.Join(err, s.Discard())
		}
	}
	if err := s.Commit(); err != nil {
		return api.Restored{}, copyError(err)
	}
	done, err := backup.RestoreStore(ctx, cfg.DataDir, progress, func(ctx context.Context, copied io.Reader) (string, error) {
		return restoreStore(ctx, &cfg, copied)
	})
	if err == nil {
		err = done.Err
	}
	if err != nil {
		return api.Restored{}, copyError(err)
	}
	return api.Restored{Restoring: restoring(&done.Info), Old: done.Old, Left: done.Info.Missing()}, nil
}

package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/cluster/store/etcd"
)

// TestDiskFull runs stores on small disks that fill up.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"full", "start", "reckless"} {
		t.Run(mode, func(t *testing.T) {
			if mode == "start" && os.Geteuid() != 0 {
				t.Skip("a disk in memory takes room for the holes of a file that is read: a real one takes root")
			}
			c := command(t.Context(), mode, t.TempDir())
			ownMounts(t, c)
			runChild(t, c)
		})
	}
}

// smallDisk mounts a new disk of so many MiB for this process alone and returns
// a directory in it: ext4, as on a card, or memory where that takes more rights.
func smallDisk(ctx context.Context, dir string, mib int64) (string, error) {
	img, at := filepath.Join(dir, "img"), filepath.Join(dir, "disk")
	f, err := os.Create(img)
	if err != nil {
		return "", err
	}
	if err := errors.Join(f.Truncate(mib<<20), f.Close(), os.Mkdir(at, 0o755)); err != nil {
		return "", err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return "", fmt.Errorf("make mounts private: %w", err)
	}
	for _, c := range [][]string{{"mkfs.ext4", "-q", "-m", "0", img}, {"mount", "-o", "loop", img, at}} {
		out, err := exec.CommandContext(ctx, c[0], c[1:]...).CombinedOutput()
		switch {
		case errors.Is(err, exec.ErrNotFound), err != nil && c[0] == "mount":
			fmt.Printf("no ext4: %s: %v, %s", c[0], err, out)
			return at, unix.Mount("tmpfs", at, "tmpfs", 0, fmt.Sprintf("size=%dm", mib))
		case err != nil:
			return "", fmt.Errorf("%s: %w\n%s", c[0], err, out)
		}
	}
	return at, nil
}

// leave fills a disk so that so many MiB are left.
func leave(path string, mib int64) error {
	unix.Sync() // what was freed is free now
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &st); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	n := int64(st.Bavail)*int64(st.Bsize) - mib<<20 //nolint:unconvert // it is narrower on other machines
	if mib == 0 {                                   // with what the file system needs for itself
		if err := unix.Fallocate(int(f.Fd()), 0, 0, n/10*9); err != nil {
			return err
		}
		_, err := f.Seek(0, io.SeekEnd)
		for b := make([]byte, 4096); err == nil; {
			_, err = f.Write(b)
		}
		if !errors.Is(err, unix.ENOSPC) {
			return err
		}
		return nil
	}
	return unix.Fallocate(int(f.Fd()), 0, 0, n)
}

func healthIs(ctx context.Context, s store.Store, state, reason string) error {
	var h store.Health
	for ctx.Err() == nil {
		if h = s.Health(); h.State == state && strings.Contains(h.Reason, reason) && !h.Since.IsZero() {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("health is %+v, want %s for %q", h, state, reason)
}

// passes tries a commit until it passes.
func passes(ctx context.Context, s store.Store, key string) error {
	for {
		err := put(ctx, s, key, "1")
		if err == nil || ctx.Err() != nil || !errors.Is(err, store.ErrFull) && !errors.Is(err, store.ErrUnavailable) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func reserved(dir string) int64 {
	var st unix.Stat_t
	if unix.Stat(filepath.Join(dir, "data", "reserve"), &st) != nil {
		return -1
	}
	return st.Blocks * 512
}

// childFull: as the disk fills, first puts are refused, then the reserve is
// given back and deletes pass, then nothing passes; and all again as there is
// room, with the reserve made anew, without a restart.
func childFull(ctx context.Context, dir string) error {
	dir, err := smallDisk(ctx, dir, 160)
	if err != nil {
		return err
	}
	data := filepath.Join(dir, "data")
	s, err := etcd.Open(ctx, etcd.Config{Dir: data})
	if err != nil {
		return err
	}
	for i := range 50 {
		if err := put(ctx, s, fmt.Sprintf("k/%02d", i), strings.Repeat("v", 1000)); err != nil {
			return err
		}
	}
	lease, err := s.Grant(ctx, time.Hour)
	if err != nil {
		return err
	}
	if _, err := s.Commit(ctx, nil, []store.Op{{Key: "leased", Value: []byte("1"), Lease: lease}}); err != nil {
		return err
	}
	if err := healthIs(ctx, s, store.StateOK, ""); err != nil {
		return err
	}
	whole := reserved(dir)
	if whole < 15<<20 || whole > 17<<20 {
		return fmt.Errorf("a reserve of %d bytes", whole)
	}
	filler := filepath.Join(dir, "filler")
	for _, c := range []struct {
		mib      int64
		reserved bool
	}{{7, true}, {3, false}} {
		if err := leave(filler, c.mib); err != nil {
			return err
		}
		err := put(ctx, s, "refused", "1")
		if !errors.Is(err, store.ErrFull) || !strings.Contains(err.Error(), data) {
			return fmt.Errorf("a put with %d MiB left: %w", c.mib, err)
		}
		if got := reserved(dir); (got > 0) != c.reserved {
			return fmt.Errorf("with %d MiB left the reserve has %d bytes", c.mib, got)
		}
		if _, err := s.Grant(ctx, time.Hour); !errors.Is(err, store.ErrFull) {
			return fmt.Errorf("a lease with %d MiB left: %w", c.mib, err)
		}
		// Deletes, of keys that are there and with keys that fill the log.
		for i := range 25 {
			ops := []store.Op{{Key: fmt.Sprintf("k/%02d", i), Delete: true}}
			if i < 8 {
				ops = append(ops, store.Op{Key: strings.Repeat("k", 1<<20), Delete: true})
			}
			if _, err := s.Commit(ctx, nil, ops); err != nil {
				return fmt.Errorf("delete %d with %d MiB left: %w", i, c.mib, err)
			}
		}
		if err := healthIs(ctx, s, store.StateDegraded, "nearly full"); err != nil {
			return err
		}
		if c.reserved {
			if err := os.Remove(filler); err != nil {
				return err
			}
			// The log of the deletes may have needed the reserve; it is made anew.
			if err := eventually(ctx, func() bool { return reserved(dir) >= whole }); err != nil {
				return fmt.Errorf("the reserve has %d bytes again, of %d: %w", reserved(dir), whole, err)
			}
		}
	}
	if err := s.Revoke(ctx, lease); err != nil {
		return fmt.Errorf("revoke with the reserve given back: %w", err)
	}
	// Others take what the reserve gave.
	if err := leave(filepath.Join(dir, "more"), 1); err != nil {
		return err
	}
	_, err = s.Commit(ctx, nil, []store.Op{{Key: "k/30", Delete: true}})
	if !errors.Is(err, store.ErrUnavailable) {
		return fmt.Errorf("a delete with 1 MiB left: %w", err)
	}
	if err := healthIs(ctx, s, store.StateDegraded, "reserve is used up"); err != nil {
		return err
	}
	if _, _, err := s.Get(ctx, "k/30", store.Read{}); err != nil {
		return fmt.Errorf("a read with 1 MiB left: %w", err)
	}
	if err := errors.Join(os.Remove(filler), os.Remove(filepath.Join(dir, "more"))); err != nil {
		return err
	}
	if err := passes(ctx, s, "after"); err != nil {
		return err
	}
	if err := healthIs(ctx, s, store.StateOK, ""); err != nil {
		return err
	}
	if got := reserved(dir); got < whole {
		return fmt.Errorf("the reserve has %d bytes again, of %d", got, whole)
	}
	if s.Runs() != 1 {
		return fmt.Errorf("etcd was started %d times", s.Runs())
	}
	return s.Close()
}

// childStartFull starts stores on full disks: one whose reserve is enough, and
// ones for which nothing is left until there is room, a new store among them.
func childStartFull(ctx context.Context, dir string) error {
	dir, err := smallDisk(ctx, dir, 160)
	if err != nil {
		return err
	}
	filler := filepath.Join(dir, "filler")
	cfg := etcd.Config{Dir: filepath.Join(dir, "data")}
	s, err := etcd.Open(ctx, cfg)
	if err != nil {
		return err
	}
	if err := put(ctx, s, "kept", "1"); err != nil {
		return err
	}
	if err := errors.Join(s.Close(), leave(filler, 0)); err != nil {
		return err
	}
	if s, err = etcd.Open(ctx, cfg); err != nil {
		return fmt.Errorf("with a reserve: %w", err)
	}
	if e, _, err := s.Get(ctx, "kept", store.Read{}); err != nil || string(e.Value) != "1" {
		return fmt.Errorf("started with the reserve: %q, %w", e.Value, err)
	}
	if _, err := s.Commit(ctx, nil, []store.Op{{Key: "none", Delete: true}}); err != nil {
		return fmt.Errorf("a delete after a start with the reserve: %w", err)
	}
	if err := errors.Join(s.Close(), leave(filepath.Join(dir, "more"), 0)); err != nil {
		return err
	}
	for _, c := range []etcd.Config{cfg, {Dir: filepath.Join(dir, "new")}} {
		s, err := etcd.Open(ctx, c)
		if err != nil {
			return fmt.Errorf("with nothing left: %w", err)
		}
		for what, err := range map[string]error{
			"get":    func() error { _, _, err := s.Get(ctx, "kept", store.Read{}); return err }(),
			"put":    put(ctx, s, "a", "1"),
			"delete": func() error { _, err := s.Commit(ctx, nil, []store.Op{{Key: "a", Delete: true}}); return err }(),
		} {
			if !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrClosed) {
				return fmt.Errorf("%s with nothing left: %w", what, err)
			}
		}
		if err := healthIs(ctx, s, store.StateDown, "MiB left"); err != nil {
			return err
		}
		if _, err := etcd.Open(ctx, c); !errors.Is(err, etcd.ErrInUse) {
			return fmt.Errorf("opened twice: %w", err)
		}
		watched := make(chan error, 1)
		go func() {
			watched <- s.Watch(ctx, "kept", 2, func([]store.Event) error { return errSeen })
		}()
		if err := os.Remove(filler); err != nil {
			return err
		}
		if err := passes(ctx, s, "kept"); err != nil {
			return err
		}
		if err := <-watched; !errors.Is(err, errSeen) {
			return fmt.Errorf("a watch from before: %w", err)
		}
		if err := healthIs(ctx, s, store.StateOK, ""); err != nil {
			return err
		}
		if err := errors.Join(s.Close(), leave(filler, 0)); err != nil {
			return err
		}
	}
	return nil
}

var errSeen = errors.New("seen")

// childReckless lets etcd itself meet the end of the disk, again and again, by
// its log and by its database. The process lives, the store is back when there
// is room, what was acknowledged is there and a watch has missed nothing.
func childReckless(ctx context.Context, dir string) error {
	dir, err := smallDisk(ctx, dir, 160)
	if err != nil {
		return err
	}
	var log strings.Builder
	cfg := etcd.Config{Dir: filepath.Join(dir, "data"), Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelError}))}
	s, err := etcd.Open(ctx, cfg)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var acknowledged, watched []string
	watching, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() {
		ended <- s.Watch(watching, "k/", 2, func(es []store.Event) error {
			mu.Lock()
			defer mu.Unlock()
			for _, e := range es {
				watched = append(watched, e.Key)
			}
			return nil
		})
	}()
	s.Reckless()
	n := 0
	for round, mib := range []int64{9, 0, 5, 2} {
		filler := filepath.Join(dir, "filler")
		if err := leave(filler, mib); err != nil {
			return err
		}
		failed := 0
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					k := fmt.Sprintf("k/%d/%d/%04d", round, g, i)
					_, err := s.Commit(ctx, nil, []store.Op{{Key: k, Value: []byte(strings.Repeat("v", 40<<10))}, {Key: k + "/too", Value: []byte("v")}})
					mu.Lock()
					if err == nil {
						acknowledged = append(acknowledged, k)
					} else {
						failed++
					}
					enough := failed > 100
					mu.Unlock()
					switch {
					case err != nil && !errors.Is(err, store.ErrUnavailable):
						fmt.Printf("commit: %v\n", err)
						return
					case enough:
						return
					case err != nil:
						time.Sleep(20 * time.Millisecond)
					}
				}
			})
		}
		wg.Wait()
		if failed <= 100 {
			return fmt.Errorf("round %d: a commit failed for another reason; the log:\n%s", round, log.String())
		}
		begun := time.Now()
		if err := os.Remove(filler); err != nil {
			return err
		}
		back, cancel := context.WithTimeout(ctx, 40*time.Second)
		err := passes(back, s, "after")
		cancel()
		if err != nil {
			return fmt.Errorf("round %d: %w; %+v; the log:\n%s", round, err, s.Health(), log.String())
		}
		fmt.Printf("round %d: %d acknowledged, %d starts, back after %s\n", round, len(acknowledged)-n, s.Runs(), time.Since(begun).Round(time.Millisecond))
		n = len(acknowledged)
		if _, err := s.Commit(ctx, nil, []store.Op{{Key: fmt.Sprintf("k/%d/", round-1), Delete: true, Prefix: true}}); err != nil {
			return err
		}
	}
	if s.Runs() < 4 {
		return fmt.Errorf("etcd met the end of the disk in only %d runs", s.Runs()-1)
	}
	// What was acknowledged was seen, and is there unless it was deleted.
	if err := eventually(ctx, func() bool {
		mu.Lock()
		defer mu.Unlock()
		for _, k := range acknowledged {
			if !slices.Contains(watched, k) {
				return false
			}
		}
		return true
	}); err != nil {
		return fmt.Errorf("the watch has missed something: %d seen of %d acknowledged", len(watched), len(acknowledged))
	}
	stop()
	if err := <-ended; err != nil {
		return fmt.Errorf("the watch: %w", err)
	}
	if s.Left() > 0 {
		return fmt.Errorf("%d runs did not end", s.Left())
	}
	for range 2 {
		es, _, err := s.List(ctx, "k/3/", store.Read{KeysOnly: true})
		if err != nil {
			out, _ := exec.CommandContext(ctx, "sh", "-c", "df -m "+dir+"; ls -lsR "+dir).Output()
			return fmt.Errorf("%w\n%s", err, out)
		}
		there := make(map[string]int64)
		for _, e := range es {
			there[e.Key] = e.Version
		}
		for _, k := range acknowledged {
			if strings.HasPrefix(k, "k/3/") && (there[k] == 0 || there[k+"/too"] != there[k]) {
				return fmt.Errorf("%s was acknowledged and is at version %d, the other key of its commit at %d", k, there[k], there[k+"/too"])
			}
		}
		if err := s.Close(); err != nil {
			return err
		}
		if s, err = etcd.Open(ctx, cfg); err != nil {
			return err
		}
	}
	return s.Close()
}

func eventually(ctx context.Context, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for !ok() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}

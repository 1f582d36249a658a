package etcd_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/cluster/store/etcd"
)

// TestKill kills a process that commits, again and again: every commit that it
// acknowledged is there, and whole.
func TestKill(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	const rounds = 5
	var acknowledged []string
	for round := range rounds {
		c := command(t.Context(), "commit", dir)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			if strings.HasPrefix(lines.Text(), "error") {
				t.Fatal(lines.Text())
			}
			acknowledged = append(acknowledged, lines.Text())
			if n == 50+37*round {
				if err := c.Process.Kill(); err != nil { // SIGKILL; reading goes on to the end of the pipe
					t.Fatal(err)
				}
			}
		}
		if err := c.Wait(); err == nil {
			t.Fatal("the child ended by itself")
		}
		last := acknowledged[len(acknowledged)-1]
		if strings.Count(last, "/") != 2 { // cut by the kill
			acknowledged = acknowledged[:len(acknowledged)-1]
		}

		s := open(t, etcd.Config{Dir: filepath.Join(dir, "data")})
		es, _, err := s.List(t.Context(), "", store.Read{KeysOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		there := make(map[string]int64, len(es))
		for _, e := range es {
			there[e.Key] = e.Version
		}
		for _, k := range acknowledged {
			if v := there[k]; v == 0 || there[k+"/too"] != v {
				t.Errorf("round %d: %s was acknowledged and is at version %d, the other key of its commit at %d", round, k, v, there[k+"/too"])
			}
		}
		for k, v := range there {
			if !strings.HasSuffix(k, "/too") && there[k+"/too"] != v {
				t.Errorf("round %d: half of a commit is there: %s", round, k)
			}
		}
		closeStore(t, s)
	}
	t.Logf("%d commits acknowledged in %d rounds", len(acknowledged), rounds)
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	s := open(t, etcd.Config{Dir: dir})
	_, err := etcd.Open(t.Context(), etcd.Config{Dir: dir})
	if !errors.Is(err, etcd.ErrInUse) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("opened twice: %v", err)
	}
	if err := put(t.Context(), s, "a", "1"); err != nil {
		t.Errorf("the first one after that: %v", err)
	}
	closeStore(t, s)
	closeStore(t, open(t, etcd.Config{Dir: dir}))
}

// TestFilesInUse: some other program holds etcd's file. It would wait for ever.
func TestFilesInUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	closeStore(t, open(t, etcd.Config{Dir: dir}))
	f, err := os.OpenFile(filepath.Join(dir, "etcd/member/snap/db"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	_, err = etcd.Open(t.Context(), etcd.Config{Dir: dir, Start: time.Second})
	if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "did not start within 1s") {
		t.Errorf("got %v", err)
	}
	// Once it lets go, the start that was given up ends, and another one succeeds.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		s, err := etcd.Open(t.Context(), etcd.Config{Dir: dir})
		if err == nil {
			closeStore(t, s)
			return
		}
		if !errors.Is(err, etcd.ErrInUse) || time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestSocket: the one socket of a store is a file in its own directory, which
// nobody else may enter.
func TestSocket(t *testing.T) {
	dir := filepath.Join(shortDir(t), "run")
	s := open(t, etcd.Config{Dir: t.TempDir(), RunDir: dir})
	path := filepath.Join(dir, "store.sock")
	i, err := os.Stat(path)
	if err != nil || i.Mode().Type() != fs.ModeSocket {
		t.Fatalf("%v, %v", i, err)
	}
	if d, err := os.Stat(dir); err != nil || d.Mode().Perm() != 0o700 || i.Mode().Perm() != 0o600 {
		t.Errorf("directory %v, socket %v, %v", d.Mode(), i.Mode(), err)
	}
	if got := abstractSockets(t); got != 0 {
		t.Errorf("%d abstract sockets", got)
	}
	closeStore(t, s)
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket stays: %v", err)
	}
}

// abstractSockets counts this process's abstract Unix sockets.
func abstractSockets(t *testing.T) int {
	t.Helper()
	own := make(map[string]bool) // inodes
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil {
			own[strings.TrimSuffix(strings.TrimPrefix(to, "socket:["), "]")] = true
		}
	}
	b, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 8 && strings.HasPrefix(f[7], "@") && own[f[6]] {
			n++
		}
	}
	return n
}

// TestFirstStartInterrupted: wherever the first start ends, the next succeeds.
func TestFirstStartInterrupted(t *testing.T) {
	t.Parallel()
	ended := 0
	for after := time.Duration(0); after < 400*time.Millisecond; after += 25 * time.Millisecond {
		dir := t.TempDir()
		ctx, cancel := context.WithTimeout(t.Context(), after)
		s, err := etcd.Open(ctx, etcd.Config{Dir: dir})
		cancel()
		switch {
		case err == nil:
			if err := put(t.Context(), s, "a", "1"); err != nil {
				t.Error(err)
			}
			closeStore(t, s)
		case errors.Is(err, context.DeadlineExceeded):
			ended++
			// Only now and then does etcd leave a log that it cannot start from:
			// so see that what it left is marked, and make it such a log.
			if _, err := os.Stat(filepath.Join(dir, "first-start")); err != nil {
				t.Errorf("after a start of %s: %v", after, err)
			}
			logs, err := filepath.Glob(filepath.Join(dir, "etcd/member/wal/*.wal"))
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range logs {
				if err := os.WriteFile(l, []byte("no log"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		default:
			t.Fatal(err)
		}
		again, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		next, nerr := etcd.Open(again, etcd.Config{Dir: dir})
		cancel()
		if nerr != nil {
			t.Fatalf("after a start of %s: %v", after, nerr)
		}
		if e, _, gerr := next.Get(t.Context(), "a", store.Read{}); gerr != nil || (err == nil) != (e.Version != 0) {
			t.Errorf("after a start of %s (%v): key at version %d, %v", after, err, e.Version, gerr)
		}
		if _, err := os.Stat(filepath.Join(dir, "first-start")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the mark of the first start stays: %v", err)
		}
		closeStore(t, next)
	}
	if ended == 0 {
		t.Error("no start was interrupted")
	}
}

// TestRestoredCopy: etcd's files with nothing beside them are served.
func TestRestoredCopy(t *testing.T) {
	dir, restored := t.TempDir(), t.TempDir()
	s := open(t, etcd.Config{Dir: dir})
	if err := put(t.Context(), s, "a", "1"); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	if err := os.CopyFS(filepath.Join(restored, "etcd"), os.DirFS(filepath.Join(dir, "etcd"))); err != nil {
		t.Fatal(err)
	}
	s = open(t, etcd.Config{Dir: restored})
	if e, _, err := s.Get(t.Context(), "a", store.Read{}); err != nil || string(e.Value) != "1" {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestConfig(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	for _, c := range []struct {
		name string
		cfg  etcd.Config
		want string
	}{
		{"no directory", etcd.Config{}, "no directory"},
		{"small quota", etcd.Config{Dir: t.TempDir(), Quota: 1}, "quota of 1 bytes"},
		{"name", etcd.Config{Dir: t.TempDir(), Name: "a,b=c"}, `name "a,b=c"`},
		{"long run directory", etcd.Config{Dir: t.TempDir(), RunDir: long}, "use a shorter run directory"},
		{"a file", etcd.Config{Dir: os.Args[0]}, "not a directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := etcd.Open(t.Context(), c.cfg)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want one that says %q", err, c.want)
			}
		})
	}
	t.Run("long directory", func(t *testing.T) { closeStore(t, open(t, etcd.Config{Dir: long})) })
}

func TestReadOnly(t *testing.T) {
	c := command(t.Context(), "readonly", t.TempDir())
	ownMounts(t, c)
	runChild(t, c)
}

// TestCutLog: a write that a power cut tore in two is no hindrance.
func TestCutLog(t *testing.T) {
	dir := t.TempDir()
	closeStore(t, open(t, etcd.Config{Dir: dir}))
	names, err := filepath.Glob(filepath.Join(dir, "etcd/member/wal/0000000000000000-*.wal"))
	if err != nil || len(names) != 1 {
		t.Fatalf("files: %v, %v", names, err)
	}
	b, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	// The head of a record: the length of what follows, which is not there.
	end := (len(bytes.TrimRight(b, "\x00")) + 7) / 8 * 8
	b[end], b[end+1] = 0x40, 0x10
	if err := os.WriteFile(names[0], b[:end+64], 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	s := open(t, etcd.Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(&out, nil))})
	if err := put(t.Context(), s, "a", "1"); err != nil {
		t.Error(err)
	}
	kept := filepath.Join(dir, "damaged.wal")
	if _, err := os.Stat(kept); err != nil || !strings.Contains(out.String(), kept) {
		t.Errorf("%v; it says\n%s", err, out.String())
	}
}

// TestIdle: a store that nobody uses writes nothing.
func TestIdle(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, etcd.Config{Dir: dir})
	if err := put(t.Context(), s, "a", "1"); err != nil {
		t.Fatal(err)
	}
	look := func() map[string]string {
		files := make(map[string]string)
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			i, err := d.Info()
			if err != nil {
				return err
			}
			files[p] = fmt.Sprintf("%d bytes, %s", i.Size(), i.ModTime())
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	// The last batch comes to the database, and the next log file is made, within moments.
	const quiet = 3 * time.Second
	last, since := look(), time.Now()
	deadline := time.Now().Add(15 * time.Second)
	for time.Since(since) < quiet {
		time.Sleep(100 * time.Millisecond)
		now := look()
		if diff := cmp.Diff(last, now); diff != "" {
			if time.Now().After(deadline) {
				t.Fatalf("it goes on writing (-before +after):\n%s", diff)
			}
			last, since = now, time.Now()
		}
	}
}

// TestMemorySettings: they are the caller's.
func TestMemorySettings(t *testing.T) {
	percent := debug.SetGCPercent(50)
	defer debug.SetGCPercent(percent)
	limit := debug.SetMemoryLimit(1 << 40)
	defer debug.SetMemoryLimit(limit)
	open(t, etcd.Config{Dir: t.TempDir()})
	if got := debug.SetGCPercent(50); got != 50 {
		t.Errorf("GC percent is %d", got)
	}
	if got := debug.SetMemoryLimit(-1); got != 1<<40 {
		t.Errorf("memory limit is %d", got)
	}
}

// TestLog: a start and an end say nothing; etcd's warnings come through slog,
// and what would end the process ends a goroutine.
func TestLog(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	dir := t.TempDir()
	for range 2 {
		closeStore(t, open(t, etcd.Config{Dir: dir, Logger: log}))
	}
	for line := range strings.Lines(out.String()) {
		if !strings.Contains(line, "took too long") && !strings.Contains(line, "slow fdatasync") { // a busy machine
			t.Errorf("it says %s", line)
		}
	}
	var why error
	z := etcd.Bridge(log, nil, func(err error) { why = err })
	cause := errors.New("cause")
	z.Info("unheard")
	z.With(zap.String("who", "me")).Warn("warned", zap.Int("n", 1))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		z.Fatal("the end", zap.Error(cause))
		t.Error("it goes on")
	}()
	<-ended
	if !errors.Is(why, cause) || !strings.HasPrefix(why.Error(), "the end") {
		t.Errorf("reason %v", why)
	}
	for _, want := range []string{"level=WARN", "warned", "who:me", "n:1", "level=ERROR", "cause"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "unheard") {
		t.Errorf("too much is logged:\n%s", out.String())
	}
}

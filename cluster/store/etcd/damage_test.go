package etcd_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/cluster/store/etcd"
)

// manyKeys is enough that etcd takes a snapshot and the log has several files.
const manyKeys = 2100

// written makes a store that was closed in order.
func written(t *testing.T, n int) string {
	t.Helper()
	dir := t.TempDir()
	s := open(t, etcd.Config{Dir: dir})
	for i := range n {
		if err := put(t.Context(), s, fmt.Sprintf("k/%04d", i), strings.Repeat("v", 4000)); err != nil {
			t.Fatal(err)
		}
	}
	closeStore(t, s)
	return dir
}

// file is the first or last file that matches.
func file(t *testing.T, dir, pattern string, last bool) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "etcd/member", pattern))
	if err != nil || len(names) == 0 {
		t.Fatalf("files %s: %v, %v", pattern, names, err)
	}
	slices.Sort(names)
	if last {
		return names[len(names)-1]
	}
	return names[0]
}

// dataEnd is where the data of a file ends and zeroes follow.
func dataEnd(b []byte) int { return len(bytes.TrimRight(b, "\x00")) }

// TestDamage damages each kind of file in each way: either the error names the
// file and says how to restore, or nothing is lost.
func TestDamage(t *testing.T) {
	t.Parallel()
	base := written(t, manyKeys)
	ways := map[string]func(b []byte) []byte{
		"cut in the middle": func(b []byte) []byte { return b[:dataEnd(b)/2] },
		"emptied":           func([]byte) []byte { return nil },
		"a bit turned":      func(b []byte) []byte { b[dataEnd(b)/2] ^= 1; return b },
		"bits turned at page heads": func(b []byte) []byte {
			for at := len(b) / 4096 / 2 * 4096; at < len(b)/4*3; at += 4096 {
				b[at+8] ^= 4
			}
			return b
		},
		"zeroes in the middle": func(b []byte) []byte { clear(b[dataEnd(b)/2 : min(len(b), dataEnd(b)/2+64<<10)]); return b },
		"zeroes at the start":  func(b []byte) []byte { clear(b[:min(len(b), 8<<10)]); return b },
		"only zeroes":          func(b []byte) []byte { clear(b); return b },
		"deleted":              nil,
	}
	for _, kind := range []struct {
		name, pattern string
		last          bool
		harmless      []string // ways that lose nothing, or none that can be known
	}{
		{"oldest log", "wal/*.wal", false, nil},
		{"newest log", "wal/*.wal", true, []string{"bits turned at page heads"}}, // there, in what is not used yet
		{"database", "snap/db", false, []string{"a bit turned"}},                 // in a value
		{"snapshot", "snap/*.snap", true, []string{"*"}},                         // etcd does not read it
	} {
		for way, change := range ways {
			t.Run(kind.name+" "+way, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				if err := os.CopyFS(dir, os.DirFS(base)); err != nil {
					t.Fatal(err)
				}
				path := file(t, dir, kind.pattern, kind.last)
				if change == nil {
					if err := os.Remove(path); err != nil {
						t.Fatal(err)
					}
				} else {
					b, err := os.ReadFile(path)
					if err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(path, change(b), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				s, err := etcd.Open(t.Context(), etcd.Config{Dir: dir, Start: 20 * time.Second})
				if err != nil {
					var d *etcd.DamageError
					if !errors.As(err, &d) || !errors.Is(err, etcd.ErrDamaged) {
						t.Fatalf("no error of damage: %v", err)
					}
					names := strings.HasPrefix(path, d.File)
					if change == nil { // what is left of the log ends too early
						names = names || filepath.Dir(path) == filepath.Dir(d.File)
					}
					if !names || !strings.Contains(err.Error(), d.File) ||
						!strings.Contains(err.Error(), "edgefn restore FILE --data "+filepath.Dir(dir)) || strings.Contains(err.Error(), "\n") {
						t.Errorf("damage of %s: %v", path, err)
					}
					if slices.Contains(kind.harmless, way) || slices.Contains(kind.harmless, "*") {
						t.Errorf("no damage: %v", err)
					}
					t.Log(err)
					return
				}
				defer closeStore(t, s)
				n, err := s.Count(t.Context(), "k/")
				if err != nil || n != manyKeys {
					t.Errorf("it opened and has %d keys of %d, %v", n, manyKeys, err)
				}
			})
		}
	}
}

// TestDamageRandom turns bits of the log and the database at random: examining
// them never panics, and a store that it finds whole opens.
func TestDamageRandom(t *testing.T) {
	t.Parallel()
	dir := written(t, 30)
	rnd := rand.New(rand.NewPCG(1, 2))
	found := 0
	const tries = 300
	for range tries {
		path := file(t, dir, []string{"wal/*.wal", "snap/db"}[rnd.IntN(2)], false)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		at := rnd.IntN(dataEnd(whole))
		if _, err := f.WriteAt([]byte{whole[at] ^ 1<<rnd.IntN(8)}, int64(at)); err != nil {
			t.Fatal(err)
		}
		err = etcd.Examine(dir)
		var d *etcd.DamageError
		switch {
		case errors.As(err, &d):
			found++
			if d.File != path {
				t.Errorf("%s instead of %s at %d: %v", d.File, path, at, err)
			}
		case err != nil:
			t.Errorf("%s at %d: %v", path, at, err)
		}
		if _, err := f.WriteAt(whole[at:at+1], int64(at)); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if found < tries/4 {
		t.Errorf("%d of %d found", found, tries)
	}
	t.Logf("%d of %d found; the others are in values of the database, in pages that are free and in padding", found, tries)
	if err := etcd.Examine(dir); err != nil {
		t.Error(err)
	}
}

// TestTornLog: a log that a power cut has torn opens, with all that was
// acknowledged, whichever sectors of the write behind that are there.
func TestTornLog(t *testing.T) {
	t.Parallel()
	base := written(t, 20)
	b, err := os.ReadFile(file(t, base, "wal/*.wal", true))
	if err != nil {
		t.Fatal(err)
	}
	end := (dataEnd(b) + 7) / 8 * 8
	const sector, record = 512, 2000
	for sectors := range 4 {
		n := max(sectors*sector-(end+8)%sector, 0)
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(base)); err != nil {
			t.Fatal(err)
		}
		torn := slices.Clone(b)
		torn[end], torn[end+1] = record&0xff, record>>8
		for i := range n {
			torn[end+8+i] = 0xa5
		}
		if err := os.WriteFile(file(t, dir, "wal/*.wal", true), torn, 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, etcd.Config{Dir: dir})
		if c, err := s.Count(t.Context(), "k/"); err != nil || c != 20 {
			t.Errorf("torn after %d bytes: %d keys, %v", n, c, err)
		}
		if err := put(t.Context(), s, "new", "1"); err != nil {
			t.Errorf("torn after %d bytes: %v", n, err)
		}
		closeStore(t, s)
		closeStore(t, open(t, etcd.Config{Dir: dir}))
	}
}

func FuzzCheckPages(f *testing.F) {
	path := filepath.Join(f.TempDir(), "db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{PageSize: 1024, NoFreelistSync: true})
	if err != nil {
		f.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for name, n := range map[string]int{"meta": 2, "key": 20} { // one within its value, one of several pages
			b, err := tx.CreateBucket([]byte(name))
			if err != nil {
				return err
			}
			for i := range n {
				if err := b.Put(fmt.Appendf(nil, "k%02d", i), bytes.Repeat([]byte("v"), 100)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		f.Fatal(err)
	}
	if err := db.Close(); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	keys := 0
	if err := etcd.CheckPages(bytes.NewReader(whole), int64(len(whole)), func(_, _, _ []byte) { keys++ }); err != nil || keys != 22 {
		f.Fatalf("%d keys in %d bytes, %v", keys, len(whole), err)
	}
	f.Add(whole)
	f.Add(whole[:1024])
	f.Fuzz(func(t *testing.T, b []byte) {
		err := etcd.CheckPages(bytes.NewReader(b), int64(len(b)), func(_, _, _ []byte) {})
		var bad *etcd.PageError
		if err != nil && !errors.As(err, &bad) {
			t.Errorf("not an error of a page: %v", err)
		}
	})
}

func FuzzReadLog(f *testing.F) {
	dir := f.TempDir()
	s, err := etcd.Open(f.Context(), etcd.Config{Dir: dir})
	if err != nil {
		f.Fatal(err)
	}
	for i := range 5 {
		if _, err := s.Commit(f.Context(), nil, []store.Op{{Key: fmt.Sprint(i), Value: []byte("v")}}); err != nil {
			f.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		f.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "etcd/member/wal/*.wal"))
	if err != nil || len(names) != 1 {
		f.Fatalf("%v, %v", names, err)
	}
	b, err := os.ReadFile(names[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[:dataEnd(b)+64])
	path := filepath.Join(dir, "fuzzed")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_ = etcd.ReadLog(path) // only that it ends
	})
}

package powercut

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestImageKeepsWhatWasFlushed(t *testing.T) {
	for _, tt := range []struct {
		name        string
		lies        bool
		kept        float64
		first, last byte // of what was flushed, and of what was written then
	}{
		{"nothing volatile kept", false, 0, 1, 1},
		{"all volatile kept", false, 1, 2, 2},
		{"a disk that ignores flushes", true, 0, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := createImage(filepath.Join(t.TempDir(), "image"), 8*sector)
			if err != nil {
				t.Fatal(err)
			}
			defer m.close()
			m.lies.Store(tt.lies)
			write := func(b byte) error { return m.writeAt(bytes.Repeat([]byte{b}, 3*sector), sector+7) }
			if err := errors.Join(write(1), m.flush()); err != nil {
				t.Fatal(err)
			}
			m.powerOff(1)
			if err := write(2); err != nil || !m.isOff() {
				t.Fatalf("the last write: %v, power off %v", err, m.isOff())
			}
			if write(3) == nil || m.flush() == nil {
				t.Error("a disk with no power takes a write or a flush")
			}
			volatile, _, err := m.crash(rand.New(rand.NewPCG(1, 1)), tt.kept)
			if err != nil || volatile != 4 {
				t.Errorf("volatile sectors: %d, %v, want 4", volatile, err)
			}
			got := make([]byte, 8*sector)
			if err := m.readAt(got, 0); err != nil {
				t.Fatal(err)
			}
			if first, last := got[sector+7], got[4*sector+6]; first != tt.first || last != tt.last {
				t.Errorf("after the cut %d and %d, want %d and %d", first, last, tt.first, tt.last)
			}
			if got[sector+6] != 0 || got[4*sector+7] != 0 {
				t.Error("a byte beside what was written has changed")
			}
		})
	}
}

func TestImageTearsWrites(t *testing.T) {
	m, err := createImage(filepath.Join(t.TempDir(), "image"), 1000*sector)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	if err := m.writeAt(bytes.Repeat([]byte{1}, 1000*sector), 0); err != nil {
		t.Fatal(err)
	}
	_, lost, err := m.crash(rand.New(rand.NewPCG(1, 1)), 0.5)
	if err != nil || lost < 400 || lost > 600 {
		t.Errorf("%d of 1000 sectors lost, %v; want about half", lost, err)
	}
}

// TestDisk writes files to a mounted disk, one with fsync and one without, and
// cuts the power.
func TestDisk(t *testing.T) {
	if why := Why(); why != "" {
		t.Skip(why)
	}
	for _, tt := range []struct {
		name string
		lie  bool
		keep bool // what was synced is there
	}{
		{"fsync is kept", false, true},
		{"fsync is ignored", true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			d, err := Create(dir, 64<<20)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			})
			at := filepath.Join(dir, "mnt")
			if err := d.Mount(at); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(writeFile(at+"/before", "0", true), d.Flush()); err != nil {
				t.Fatal(err)
			}
			d.IgnoreFlush(tt.lie)
			if err := errors.Join(writeFile(at+"/synced", "1", true), writeFile(at+"/loose", "2", false)); err != nil {
				t.Fatal(err)
			}
			if _, _, err := d.Cut(rand.New(rand.NewPCG(1, 1)), 0); err != nil {
				t.Fatal(err)
			}
			d.IgnoreFlush(false)
			if err := d.Mount(at); err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(at + "/before"); err != nil || string(b) != "0" {
				t.Errorf("what was durable before: %q, %v", b, err)
			}
			if b, err := os.ReadFile(at + "/synced"); (err == nil && string(b) == "1") != tt.keep {
				t.Errorf("what was synced: %q, %v; want it kept: %v", b, err, tt.keep)
			}
			if b, err := os.ReadFile(at + "/loose"); err == nil && string(b) == "2" {
				t.Error("what was not synced is there: the cut does not bite")
			}
		})
	}
}

func TestSlowDisk(t *testing.T) {
	m, err := createImage(filepath.Join(t.TempDir(), "image"), sector)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	d := &Disk{image: m}
	d.Slow(20 * time.Millisecond)
	begin := time.Now()
	if err := m.flush(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < 20*time.Millisecond {
		t.Errorf("a flush of a slow disk took %s", took)
	}
}

func writeFile(path, text string, sync bool) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if sync {
		err = errors.Join(err, f.Sync())
	}
	return errors.Join(err, f.Close())
}

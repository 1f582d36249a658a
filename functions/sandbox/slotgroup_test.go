package sandbox

import (
	"os"
	"path/filepath"
	"testing"
)

// A group that could not be made anew for one instance is made for the next.
func TestSlotGroupThatCouldNotBeMade(t *testing.T) {
	dir := t.TempDir()
	peak, err := os.Open(os.DevNull) // not to be written, as before Linux 6.12
	if err != nil {
		t.Fatal(err)
	}
	g := &slotGroup{
		c: &cgroups{v2: true, dirs: []string{dir}, cpu: dir}, paths: []string{filepath.Join(dir, "slot-0")},
		owner: uint32(os.Getuid()), used: true, peak: peak,
	}
	defer g.close()
	for range 2 { // without the files that the kernel puts there
		if err := g.begin(); err == nil {
			t.Fatal("an instance begins in a group that is not there")
		}
	}
	for _, name := range []string{"cgroup.procs", "cpu.stat"} {
		if err := os.WriteFile(filepath.Join(g.paths[0], name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.begin(); err != nil || len(g.join) != 1 {
		t.Errorf("got %v and %d files to join, want a whole group", err, len(g.join))
	}
}

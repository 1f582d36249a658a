package cell_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/edgefn/edgefn/functions/init/cell"
)

// The test binary, run again as process 1 of a user namespace of its own, is
// what edgefn-init is in a sandbox.
const (
	inside  = "EDGEFN_CELL_TEST"
	inGroup = "EDGEFN_CELL_TEST_GROUP" // set: descriptor 3 is the cell's control group
)

// owner is the user of that namespace on the host.
const owner = 0x70000000

func TestMain(m *testing.M) {
	if what := os.Getenv(inside); what != "" {
		if err := asInit(what); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// asInit starts one program in a cell and prints what it prints.
func asInit(path string) error {
	runtime.LockOSThread()
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	f, err := cell.NewFactory()
	if err != nil {
		return err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	var group *os.File
	if os.Getenv(inGroup) != "" {
		group = os.NewFile(3, "group")
	}
	pid, err := f.Start(cell.Spec{
		Path: path, Argv: []string{path, "-c", "echo pid $$; ls /tmp | wc -l; cat /proc/self/cgroup /proc/self/status"}, Env: []string{"PATH=/usr/bin:/bin"},
		Dir: "/", ID: 1000, TmpBytes: 1 << 20, MaxFiles: 64, MaxProcs: 64, PrivateNet: true,
		Stdin: null, Stdout: w, Stderr: w, Socket: null, Cgroup: group,
	})
	_ = w.Close()
	if err != nil {
		return err
	}
	for sc := bufio.NewScanner(r); sc.Scan(); {
		fmt.Println(sc.Text())
	}
	_, err = unix.Wait4(pid, nil, 0, nil)
	return err
}

func runInside(t *testing.T, path string, change func(*exec.Cmd)) (string, error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mapping users needs root")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// A copy that the user of the namespace, a stranger here, may run.
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "cell") //nolint:usetesting // t.TempDir may be below a folder that is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	self = filepath.Join(dir, "self")
	if err := errors.Join(os.WriteFile(self, b, 0o755), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), inside+"="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:                 unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNS,
		UidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: owner, Size: 65536}},
		GidMappingsEnableSetgroups: true,
		Credential:                 &syscall.Credential{Uid: 0, Gid: 0},
		GidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: owner, Size: 65536}},
	}
	if change != nil {
		change(cmd)
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestProgramInACell(t *testing.T) {
	out, err := runInside(t, "/bin/sh", nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"pid 1\n", "\n0\n", "Uid:\t1000\t1000\t1000\t1000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(out, want) {
			t.Errorf("the program does not see %q:\n%s", want, out)
		}
	}
}

func TestProgramThatCannotBeRun(t *testing.T) {
	out, err := runInside(t, "/etc/passwd", nil)
	if err == nil || !strings.Contains(out, "error: run /etc/passwd: permission denied") {
		t.Errorf("got %v and %q, want the call that failed and why", err, out)
	}
}

// TestCellInAControlGroup has a cell made in a control group of v2, as the
// owner of the group's cgroup.procs and of that above it and the caller.
func TestCellInAControlGroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("control groups need root")
	}
	top := "/sys/fs/cgroup"
	if _, err := os.Stat(top + "/cgroup.controllers"); err != nil {
		top += "/unified" // of a hybrid
	}
	top = filepath.Join(top, fmt.Sprintf("edgefn-cell-test-%d", os.Getpid()))
	if err := os.Mkdir(top, 0o755); err != nil {
		t.Skipf("there is no unified hierarchy to make a group in: %v", err)
	}
	defer os.Remove(top)
	var dirs []*os.File
	for _, name := range []string{"init", "slot"} {
		dir := filepath.Join(top, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(dir)
		f, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		dirs = append(dirs, f)
	}
	in := func(cmd *exec.Cmd) {
		cmd.Env = append(cmd.Env, inGroup+"=1")
		cmd.ExtraFiles = []*os.File{dirs[1]}
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dirs[0].Fd())
	}
	if out, err := runInside(t, "/bin/sh", in); err == nil || !strings.Contains(out, "error: clone: permission denied") {
		t.Errorf("with groups that are not handed over: %v and %q, want permission denied", err, out)
	}
	for _, dir := range []string{top, top + "/slot"} {
		if err := os.Chown(dir+"/cgroup.procs", owner, owner); err != nil {
			t.Fatal(err)
		}
	}
	out, err := runInside(t, "/bin/sh", in)
	if err != nil || !strings.Contains(out, filepath.Base(top)+"/slot\n") {
		t.Errorf("the program does not see itself in its group: %v\n%s", err, out)
	}
}

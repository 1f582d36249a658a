package sandbox_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/edgefn/edgefn/functions/sandbox"
)

// standIn makes a node as udev does for a bus, for root alone, of a device that
// the container runtime gives to nobody by itself and that answers an ioctl.
func standIn(t *testing.T, path, device string) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		t.Skipf("there is no %s to stand in for a bus: %v", device, err)
	}
	must(t, unix.Mknod(path+".new", unix.S_IFCHR|0o600, int(st.Rdev)))
	must(t, os.Rename(path+".new", path))
}

func TestDeviceGrant(t *testing.T) {
	h := host(t, nil)
	bus := filepath.Join(t.TempDir(), "i2c-7")
	standIn(t, bus, "/dev/loop-control")
	p := start(t, h, nil, bus)

	t.Run("that device alone", func(t *testing.T) {
		got, _, err := p.do(t, "devices", "/dev/i2c-7")
		must(t, err)
		want := "fd full i2c-7 null ptmx random shm stderr stdin stdout tty urandom zero"
		if strings.TrimPrefix(got["list"].(string), "core ") != want { // a link into /proc where the kernel has /proc/kcore
			t.Errorf("/dev holds %q, want %q", got["list"], want)
		}
		// The driver itself says that there is no such loop device to remove.
		if got["ioctl"] != unix.ENODEV.Error() {
			t.Errorf("opening it for reading and writing and an ioctl gave %q, want %q", got["ioctl"], unix.ENODEV.Error())
		}
	})
	t.Run("its node is out of reach", func(t *testing.T) {
		got, _, err := p.do(t, "devices", "/dev/i2c-7")
		must(t, err)
		for _, k := range []string{"chmod", "chown", "times", "rename", "remove", "mknod", "setxattr"} {
			if got[k] == "" {
				t.Errorf("%s was possible", k)
			}
		}
		for _, k := range []string{"chmod", "chown", "times"} {
			if got[k] != unix.EROFS.Error() {
				t.Errorf("%s gave %q, want %q", k, got[k], unix.EROFS.Error())
			}
		}
		var st unix.Stat_t
		must(t, unix.Stat(bus, &st))
		if st.Mode != unix.S_IFCHR|0o600 || st.Uid != 0 {
			t.Errorf("the host's node has mode %o and owner %d now", st.Mode, st.Uid)
		}
	})
	t.Run("not granted, not there", func(t *testing.T) {
		got, _, err := start(t, h, nil).do(t, "devices", "/dev/i2c-7")
		must(t, err)
		if got["ioctl"] != unix.ENOENT.Error() || strings.Contains(got["list"].(string), "i2c") {
			t.Errorf("opening it gave %q and /dev holds %q", got["ioctl"], got["list"])
		}
	})
	t.Run("none from an image", func(t *testing.T) {
		for what, p := range map[string]*probe{"granted": p, "not granted": start(t, h, nil)} {
			got, _, err := p.do(t, "devices", "/opt/device")
			must(t, err)
			if got["ioctl"] != unix.EACCES.Error() {
				t.Errorf("opening the image's own node of a device that is %s gave %q, want %q", what, got["ioctl"], unix.EACCES.Error())
			}
		}
	})
	t.Run("unplugged and plugged in anew", func(t *testing.T) {
		must(t, os.Remove(bus))
		eventually(t, p, func(_ map[string]any, err error) bool {
			return err != nil && strings.Contains(err.Error(), bus+" is not there")
		})
		standIn(t, bus, "/dev/full") // another number
		eventually(t, p, func(got map[string]any, err error) bool {
			return err == nil && got["ioctl"] == unix.ENOTTY.Error()
		})
		standIn(t, bus, "/dev/loop-control")
		eventually(t, p, func(got map[string]any, err error) bool {
			return err == nil && got["ioctl"] == unix.ENODEV.Error()
		})
	})
}

// eventually tries the device until what it sees is as wanted.
func eventually(t *testing.T, p *probe, ok func(map[string]any, error) bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		got, _, err := p.do(t, "devices", "/dev/i2c-7")
		if ok(got, err) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("still %v and error %v", got, err)
		}
	}
}

func TestDevicesThatAreNone(t *testing.T) {
	h := host(t, nil)
	spec := probeSpec(t, h, nil)
	dir := t.TempDir()
	file := filepath.Join(dir, "spidev0.0")
	must(t, os.WriteFile(file, nil, 0o600))
	for _, c := range []struct {
		devices []string
		want    string
	}{
		{[]string{filepath.Join(dir, "i2c-9")}, "is not there"},
		{[]string{file}, "is no character device"},
		{[]string{"/dev/null", "/proc/self/root/dev/null"}, "another one is called null too"},
	} {
		spec.Devices = c.devices
		if _, err := h.Starter(spec).Open(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, want %q", c.devices, err, c.want)
		}
	}
}

// TestLeftovers kills the node's part of a sandbox, as kill -9 of a node does:
// the next run removes container, mounts and control groups.
func TestLeftovers(t *testing.T) {
	cfg := config(t)
	first, stop := open(t, cfg)
	bus := filepath.Join(t.TempDir(), "i2c-7")
	standIn(t, bus, "/dev/loop-control")
	spec := probeSpec(t, first, nil)
	spec.Devices = []string{bus}
	sb, err := first.Starter(spec).Open(t.Context())
	must(t, err)
	_, err = sb.Start(t.Context(), 0)
	must(t, err)
	if left := leftovers(t, cfg); len(left) < 4 {
		t.Fatalf("a running sandbox shows only %v", left)
	}
	stop()
	second, err := sandbox.Open(t.Context(), cfg)
	must(t, err)
	<-sb.Done()
	if left := leftovers(t, cfg); len(left) > 0 {
		t.Errorf("the next run left %v", left)
	}
	second.Close(context.Background())
}

// leftovers are the mounts, folders and control groups of sandboxes.
func leftovers(t *testing.T, cfg sandbox.Config) []string {
	t.Helper()
	var left []string
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], cfg.RunDir+"/sandboxes/") {
			left = append(left, f[4])
		}
	}
	node := sha256.Sum256([]byte(cfg.DataDir))
	group := "edgefn/" + hex.EncodeToString(node[:4]) + "/*-*"
	for _, pattern := range []string{cfg.RunDir + "/sandboxes/*", "/sys/fs/cgroup/" + group, "/sys/fs/cgroup/*/" + group} {
		found, err := filepath.Glob(pattern)
		must(t, err)
		left = append(left, found...)
	}
	return left
}

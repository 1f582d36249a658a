package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// devicePoll is how often the devices of a running sandbox are looked at.
const devicePoll = time.Second

// device is a character device of the host that a sandbox is granted: a raw
// bus. The sandbox sees it as /dev/NAME.
//
// The host's node is for root and a group of the host's, and the sandbox's
// users are neither. So the sandbox gets a node of its own for the same device,
// which every user may open, in a folder that nobody else on the host can
// enter. Mounted read-only, its mode, owner and times cannot be changed from
// inside; reading, writing and ioctl do not go by that.
type device struct {
	path string // on the host
	rdev uint64 // device number when the sandbox was made
}

// findDevices looks the devices of a sandbox up.
func findDevices(paths []string) ([]device, error) {
	names := map[string]bool{}
	var ds []device
	for _, p := range paths {
		d := device{path: p}
		if names[d.name()] {
			return nil, fmt.Errorf("%w %s: another one is called %s too", ErrDevice, p, d.name())
		}
		names[d.name()] = true
		n, err := d.number()
		if err != nil {
			return nil, err
		}
		d.rdev = n
		ds = append(ds, d)
	}
	return ds, nil
}

func (d device) name() string { return filepath.Base(d.path) }

// number is the device's number now.
func (d device) number() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(d.path, &st); err != nil {
		return 0, fmt.Errorf("%w %s is not there (%w): is it plugged in, and are its bus and driver enabled?", ErrDevice, d.path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return 0, fmt.Errorf("%w %s is no character device", ErrDevice, d.path)
	}
	return st.Rdev, nil
}

// check reports a device that is gone, or whose number has changed: the number
// that the sandbox has may be that of another device by now.
func (d device) check() error {
	n, err := d.number()
	if err != nil {
		return err
	}
	if n != d.rdev {
		return fmt.Errorf("%w %s has come back with another number: it was plugged in anew", ErrDevice, d.path)
	}
	return nil
}

func devicesDir(dir string) string { return filepath.Join(dir, "devices") }

// mountDevices makes the nodes of a sandbox whose folder is dir. They need a
// file system on which nodes are devices, and the run folder mostly is none.
func mountDevices(dir string, ds []device) ([]specs.Mount, error) {
	if len(ds) == 0 {
		return nil, nil
	}
	locked := devicesDir(dir)
	if err := os.Mkdir(locked, 0o700); err != nil {
		return nil, err
	}
	if err := unix.Mount("edgefn", locked, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=0700,size=64k,nr_inodes=64"); err != nil {
		return nil, fmt.Errorf("mount folder of devices: %w", err)
	}
	var ms []specs.Mount
	for _, d := range ds {
		node := filepath.Join(locked, d.name())
		if err := unix.Mknod(node, unix.S_IFCHR|0o666, int(d.rdev)); err != nil {
			return nil, fmt.Errorf("make node of %s: %w", d.path, err)
		}
		if err := os.Chmod(node, 0o666); err != nil { //nolint:gosec // whatever the umask; see device
			return nil, err
		}
		ms = append(ms, specs.Mount{Destination: "/dev/" + d.name(), Type: "bind", Source: node, Options: []string{"bind", "ro", "nosuid", "noexec"}})
	}
	return ms, nil
}

// allow are the devices in the words of the container's control group, which
// lets through what runtimes commonly allow and these.
func allow(ds []device) []specs.LinuxDeviceCgroup {
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	for _, d := range ds {
		major, minor := int64(unix.Major(d.rdev)), int64(unix.Minor(d.rdev))
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &major, Minor: &minor, Access: "rw"})
	}
	return rules
}

// checkDevices ends the sandbox when a granted device is not what it was: the
// next one is made with the device as it is then, or is refused.
func (s *Sandbox) checkDevices() error {
	for _, d := range s.devices {
		if err := d.check(); err != nil {
			_ = s.conn.Close()
			return err
		}
	}
	return nil
}

// watchDevices looks at the devices until the sandbox is gone.
func (s *Sandbox) watchDevices() {
	tick := time.NewTicker(devicePoll)
	defer tick.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-tick.C:
			if err := s.checkDevices(); err != nil {
				s.h.log.Warn("sandbox ends, a device has changed", "function", s.spec.Function.Name, "err", err)
				return
			}
		}
	}
}

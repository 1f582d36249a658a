package doctor_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/doctor"
)

const gpioGID = 997

// devices are those of a config that uses what a Pi offers.
const devices = `
devices:
  relay: {line: "gpiochip:pinctrl-bcm2711/17", direction: out, safe: low}
  greenhouse: {sensor: bme280, bus: i2c-1, address: 0x76}
  tank: {sensor: ads1115, bus: i2c-1, address: 0x48}
  adc: {sensor: mcp3008, bus: spi0.0}
  soil: {sensor: ds18b20, id: 28-0000075f1a2b}
`

// pi is a Raspberry Pi as it should be, with a node that runs.
type pi struct {
	doctor.Machine
	files fstest.MapFS
	cfg   node.Config
	err   error // of the config
}

func newPi(t *testing.T) *pi {
	t.Helper()
	a, err := txtar.ParseFile("testdata/pi.txtar")
	if err != nil {
		t.Fatal(err)
	}
	p := &pi{files: fstest.MapFS{}}
	for _, f := range a.Files {
		mode := fs.FileMode(0o644)
		if strings.HasPrefix(f.Name, "usr/") {
			mode = 0o755
		}
		p.files[f.Name] = &fstest.MapFile{Data: f.Data, Mode: mode}
	}
	p.chip(0o660, gpioGID)
	p.files["etc/edgefn/secrets"] = &fstest.MapFile{Mode: fs.ModeDir | 0o700}
	p.config(t, devices)
	p.Machine = doctor.Machine{
		Root: p.files, Arch: "arm64",
		Now:          func() time.Time { return time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC) },
		Kernel:       func() (string, string, error) { return "6.12.25+rpt-rpi-v8", "aarch64", nil },
		Synchronised: func() (bool, error) { return true, nil },
		Space: func(string) (doctor.Space, error) {
			return doctor.Space{Bytes: 32 << 30, FreeBytes: 20 << 30, Inodes: 2e6, FreeInodes: 1e6}, nil
		},
		Flush: func(context.Context, string) ([]time.Duration, error) {
			return []time.Duration{9 * time.Millisecond, 80 * time.Millisecond, 8 * time.Millisecond}, nil
		},
		Version: func(context.Context, string) (string, error) {
			return "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u1\n", nil
		},
		Answers: func(path string) bool { return path == "/run/containerd/containerd.sock" },
		Listen:  func(context.Context, string) error { return nil },
		Runtimes: func(context.Context) map[functions.Runtime]string {
			return map[functions.Runtime]string{functions.Python: "3.11.2", functions.Node: "18.19.0"}
		},
		Status: func(context.Context) (api.Status, error) {
			return api.Status{Node: "pi", Version: "1.2.3", Ready: true}, nil
		},
	}
	return p
}

func (p *pi) config(t *testing.T, text string) {
	t.Helper()
	var err error
	if p.cfg, err = node.ParseConfig("config.yaml", []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func (p *pi) chip(mode fs.FileMode, gid uint32) {
	p.files["dev/gpiochip0"] = &fstest.MapFile{Mode: fs.ModeDevice | fs.ModeCharDevice | mode, Sys: &syscall.Stat_t{Gid: gid}}
}

func (p *pi) write(name, text string) {
	p.files[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
}

// drop removes a file, or a folder with what is in it.
func (p *pi) drop(name string) {
	maps.DeleteFunc(p.files, func(f string, _ *fstest.MapFile) bool { return f == name || strings.HasPrefix(f, name+"/") })
}

func (p *pi) noNode() {
	p.Status = func(context.Context) (api.Status, error) { return api.Status{}, api.ErrUnreach }
}

func TestWell(t *testing.T) {
	p := newPi(t)
	var got []string
	for _, f := range doctor.Examine(t.Context(), p.Machine, p.cfg, p.err) {
		got = append(got, fmt.Sprintf("%s %s: %s", f.State, f.Check, f.Detail))
		if len(f.Fix) > 0 {
			t.Errorf("%s has a fix: %q", f.Check, f.Fix)
		}
	}
	host := p.cfg.Name
	want := []string{
		"ok config: node " + host + ", data in /var/lib/edgefn",
		"ok kernel: 6.12.25+rpt-rpi-v8",
		"ok userland: arm64 on aarch64",
		"ok control groups: v2",
		"ok memory limits: are enforced",
		"ok user namespaces: at most 29637",
		"ok memory: 3.3 GiB of 3.7 GiB are available",
		"ok power: voltage and temperature as they should be, as far as the machine tells",
		"ok clock: is synchronised",
		"ok disk: 20 GiB of 32 GiB are free at /var/lib/edgefn",
		"ok disk latency: a small write to /var/lib/edgefn takes 9ms, and 80ms at most",
		"ok card: mmcblk0: 1.0 GiB a day are written since the machine started",
		"ok containerd: 1.6.20, listens at /run/containerd/containerd.sock",
		"ok runc: /usr/sbin/runc",
		"ok runtime python: 3.11.2",
		"ok runtime node: 18.19.0",
		"ok gpio chips: /dev/gpiochip0",
		"ok bus i2c-1: /dev/i2c-1, for greenhouse",
		"ok bus spi0.0: /dev/spidev0.0, for adc",
		"ok bus 1-wire: w1_bus_master1, for soil",
		"ok node: pi is ready, version 1.2.3",
	}
	slices.Sort(got)
	slices.Sort(want)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("findings (-want +got):\n%s", d)
	}
}

// A machine with no hardware lacks nothing where that is simulated, and a kernel
// with an older way to lines than chips serves those by name.
func TestNoChipIsNeeded(t *testing.T) {
	for _, c := range []struct {
		name, config string
		spoil        func(p *pi)
	}{
		{"simulated", "hardware: sim\n" + devices, func(p *pi) {
			p.drop("sys/bus")
			p.drop("dev")
		}},
		{"older kernel", "devices: {door: {line: GPIO17}}\n", func(p *pi) {
			p.drop("dev/gpiochip0")
			p.write("sys/class/gpio/gpiochip0/label", "pinctrl-bcm2711\n")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPi(t)
			p.config(t, c.config)
			c.spoil(p)
			for _, f := range doctor.Examine(t.Context(), p.Machine, p.cfg, p.err) {
				if f.State != doctor.OK {
					t.Errorf("%s is %s: %s", f.Check, f.State, f.Detail)
				}
			}
		})
	}
}

// Each fault is found, and nothing else is, with the lines that put it right.
func TestFaults(t *testing.T) {
	const cmdline = "console=tty1 root=PARTUUID=1-02 rootwait\n"
	for _, c := range []struct {
		name   string
		spoil  func(t *testing.T, p *pi)
		check  string
		state  doctor.State
		detail string
		fix    string // one of its lines
	}{
		{"memory cgroup off", func(_ *testing.T, p *pi) {
			p.write("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io pids\n")
			p.write("boot/firmware/cmdline.txt", cmdline)
		}, "memory limits", doctor.Failed, "the memory control group is off", "sed -i '1 s/$/ cgroup_enable=memory cgroup_memory=1/' /boot/firmware/cmdline.txt"},
		{"memory cgroup off, half of it said", func(_ *testing.T, p *pi) {
			p.write("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io pids\n")
			p.write("boot/firmware/cmdline.txt", strings.TrimSpace(cmdline)+" cgroup_memory=1\n")
		}, "memory limits", doctor.Failed, "is off", "sed -i '1 s/$/ cgroup_enable=memory/' /boot/firmware/cmdline.txt"},
		{"memory cgroup off, older system", func(_ *testing.T, p *pi) {
			p.write("sys/fs/cgroup/cgroup.controllers", "cpu pids\n")
			p.drop("boot/firmware")
			p.write("boot/cmdline.txt", cmdline)
		}, "memory limits", doctor.Failed, "is off", "sed -i '1 s/$/ cgroup_enable=memory cgroup_memory=1/' /boot/cmdline.txt"},
		{"memory cgroup off until a reboot", func(_ *testing.T, p *pi) {
			p.write("sys/fs/cgroup/cgroup.controllers", "cpu pids\n")
		}, "memory limits", doctor.Failed, "is off", "reboot"},
		{"memory cgroup off, no Pi", func(_ *testing.T, p *pi) {
			p.write("sys/fs/cgroup/cgroup.controllers", "cpu pids\n")
			p.drop("boot")
			p.write("etc/default/grub", `GRUB_CMDLINE_LINUX=""`)
		}, "memory limits", doctor.Failed, "is off", "update-grub"},
		{"no I2C", func(_ *testing.T, p *pi) {
			p.drop("dev/i2c-1")
			p.drop("sys/bus/i2c")
			p.write("boot/firmware/config.txt", "#dtparam=i2c_arm=on\n")
		}, "bus i2c-1", doctor.Failed, "greenhouse is on it; there is none of its kind", "echo dtparam=i2c_arm=on >> /boot/firmware/config.txt"},
		{"another I2C bus", func(_ *testing.T, p *pi) {
			p.drop("dev/i2c-1")
			p.drop("sys/bus/i2c/devices/i2c-1")
			p.write("sys/bus/i2c/devices/i2c-20/name", "hdmi")
		}, "bus i2c-1", doctor.Failed, "there are i2c-20", "reboot"},
		{"no i2c-dev", func(_ *testing.T, p *pi) { p.drop("dev/i2c-1") }, "bus i2c-1", doctor.Failed, "the module i2c-dev is not loaded", "modprobe i2c-dev"},
		{"no SPI", func(_ *testing.T, p *pi) {
			p.drop("dev/spidev0.0")
			p.write("boot/firmware/config.txt", "")
		}, "bus spi0.0", doctor.Failed, "adc is on it", "echo dtparam=spi=on >> /boot/firmware/config.txt"},
		{"no 1-wire", func(_ *testing.T, p *pi) {
			p.drop("sys/bus/w1")
			p.write("boot/firmware/config.txt", "")
		}, "bus 1-wire", doctor.Failed, "soil is on it", "echo dtoverlay=w1-gpio >> /boot/firmware/config.txt"},
		{"another sensor on 1-wire", func(_ *testing.T, p *pi) {
			p.drop("sys/bus/w1/devices/28-0000075f1a2b")
			p.write("sys/bus/w1/devices/28-ffff075f1a2b/name", "")
		}, "device soil", doctor.Warning, "these are: 28-ffff075f1a2b", "# write the id"},
		{"no user namespaces", func(_ *testing.T, p *pi) {
			p.write("proc/sys/user/max_user_namespaces", "0\n")
		}, "user namespaces", doctor.Failed, "at most 0", "sysctl --system"},
		{"kernel with no user namespaces", func(_ *testing.T, p *pi) { p.drop("proc/self/ns/user") }, "user namespaces", doctor.Failed, "has none", "CONFIG_USER_NS"},
		{"kernel with no overlayfs", func(_ *testing.T, p *pi) {
			p.write("proc/filesystems", "\text4\n")
		}, "kernel", doctor.Failed, "no overlayfs", "apt install linux-image"},
		{"kernel with no seccomp", func(_ *testing.T, p *pi) { p.write("proc/self/status", "Name:\tx\n") }, "kernel", doctor.Failed, "no seccomp", "apt install"},
		{"no control groups", func(_ *testing.T, p *pi) { p.drop("sys/fs/cgroup") }, "control groups", doctor.Failed, "no control groups", "mount -t cgroup2"},
		{"clock not synchronised", func(_ *testing.T, p *pi) {
			p.Synchronised = func() (bool, error) { return false, nil }
		}, "clock", doctor.Warning, "not synchronised", "timedatectl set-ntp true"},
		{"nothing that would synchronise the clock", func(_ *testing.T, p *pi) {
			p.drop("usr/lib/systemd")
			p.Synchronised = func() (bool, error) { return false, nil }
		}, "clock", doctor.Warning, "not synchronised", "apt install systemd-timesyncd"},
		{"clock at its beginning", func(_ *testing.T, p *pi) {
			p.Now = func() time.Time { return time.Unix(12, 0) }
		}, "clock", doctor.Failed, "says 1970-01-01", "timedatectl set-time"},
		{"full card", func(_ *testing.T, p *pi) {
			p.Space = func(string) (doctor.Space, error) { return doctor.Space{Bytes: 8 << 30, FreeBytes: 1 << 20}, nil }
		}, "disk", doctor.Failed, "is full: 1.0 MiB of 8.0 GiB", "apt clean"},
		{"nearly full card", func(_ *testing.T, p *pi) {
			p.Space = func(string) (doctor.Space, error) { return doctor.Space{Bytes: 8 << 30, FreeBytes: 300 << 20}, nil }
		}, "disk", doctor.Warning, "nearly full", "journalctl --vacuum-size=50M"},
		{"no inodes", func(_ *testing.T, p *pi) {
			p.Space = func(string) (doctor.Space, error) {
				return doctor.Space{Bytes: 8 << 30, FreeBytes: 4 << 30, Inodes: 1000, FreeInodes: 3}, nil
			}
		}, "disk", doctor.Failed, "no more files", "apt clean"},
		{"card that went read-only", func(_ *testing.T, p *pi) {
			p.Space = func(string) (doctor.Space, error) {
				return doctor.Space{Bytes: 8 << 30, FreeBytes: 4 << 30, ReadOnly: true}, nil
			}
		}, "disk", doctor.Failed, "can only be read", "remount,rw"},
		{"data in memory", func(_ *testing.T, p *pi) {
			p.Space = func(string) (doctor.Space, error) {
				return doctor.Space{Bytes: 8 << 30, FreeBytes: 4 << 30, Memory: true}, nil
			}
		}, "disk", doctor.Warning, "a reboot loses", "under data in the config"},
		{"slow card", func(_ *testing.T, p *pi) {
			p.Flush = func(context.Context, string) ([]time.Duration, error) {
				return []time.Duration{2 * time.Second, 300 * time.Millisecond, 250 * time.Millisecond}, nil
			}
		}, "disk latency", doctor.Warning, "takes 300ms, and 2s at most", "class A1 or A2"},
		{"worn card", func(_ *testing.T, p *pi) {
			p.write("sys/block/mmcblk0/device/life_time", "0x0a 0x01\n")
		}, "card", doctor.Warning, "90 to 100% of its life", "replace it"},
		{"wrong group on a chip", func(_ *testing.T, p *pi) { p.chip(0o660, 0) }, "gpio chips", doctor.Warning, "has group root, not gpio", `GROUP="gpio"`},
		{"chip that its group may not use", func(_ *testing.T, p *pi) { p.chip(0o600, gpioGID) }, "gpio chips", doctor.Warning, "mode 0600", "udevadm"},
		{"chip for everybody", func(_ *testing.T, p *pi) { p.chip(0o666, gpioGID) }, "gpio chips", doctor.Warning, "every user may", "udevadm"},
		{"user outside the group", func(_ *testing.T, p *pi) { p.UID, p.Groups = 1000, []int{1000} }, "gpio chips", doctor.Warning, "not in group gpio", "usermod -aG gpio"},
		{"no chip", func(_ *testing.T, p *pi) { p.drop("dev/gpiochip0") }, "gpio chips", doctor.Failed, "there are none", "device tree"},
		{"no chip, and a line by its name", func(t *testing.T, p *pi) {
			p.drop("dev/gpiochip0")
			p.config(t, "devices: {door: {line: GPIO17}}\n")
		}, "gpio chips", doctor.Failed, "there are none", "hardware: sim"},
		{"no containerd", func(_ *testing.T, p *pi) {
			p.drop("usr/bin/containerd")
			p.Answers = func(string) bool { return false }
		}, "containerd", doctor.Failed, "is not installed", "apt install containerd"},
		{"old containerd", func(_ *testing.T, p *pi) {
			p.Version = func(context.Context, string) (string, error) { return "containerd containerd 1.4.13~ds1 x", nil }
		}, "containerd", doctor.Failed, "1.4.13 is too old", "apt install containerd"},
		{"containerd that was named and is away", func(t *testing.T, p *pi) {
			p.config(t, "containerd: /run/other.sock\n"+devices)
		}, "containerd", doctor.Failed, "nothing listens at /run/other.sock", "systemctl enable --now containerd"},
		{"no runc", func(_ *testing.T, p *pi) { p.drop("usr/sbin/runc") }, "runc", doctor.Failed, "is not installed", "apt install runc"},
		{"crun alone", func(_ *testing.T, p *pi) {
			p.drop("usr/sbin/runc")
			p.files["usr/bin/crun"] = &fstest.MapFile{Mode: 0o755}
		}, "runc", doctor.Failed, "/usr/bin/crun is", "apt install runc"},
		{"no python", func(_ *testing.T, p *pi) {
			p.Runtimes = func(context.Context) map[functions.Runtime]string {
				return map[functions.Runtime]string{functions.Node: "18.19.0"}
			}
		}, "runtime python", doctor.Warning, "is not installed", "apt install python3"},
		{"little memory", func(_ *testing.T, p *pi) {
			p.write("proc/meminfo", "MemTotal: 380000 kB\nMemAvailable: 200000 kB\n")
		}, "memory", doctor.Warning, "room for few functions", "memory: 32Mi"},
		{"under-voltage", func(_ *testing.T, p *pi) {
			p.write("sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n")
		}, "power", doctor.Warning, "the voltage is too low", "supply made for this board"},
		{"under-voltage once", func(_ *testing.T, p *pi) {
			p.write("sys/devices/platform/soc/soc:firmware/get_throttled", "50000\n")
		}, "power", doctor.Warning, "since the machine started", "supply"},
		{"under-voltage by the sensor", func(_ *testing.T, p *pi) {
			p.write("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n")
		}, "power", doctor.Warning, "the voltage is too low", "supply"},
		{"hot", func(_ *testing.T, p *pi) { p.write("sys/class/thermal/thermal_zone0/temp", "84000\n") }, "power", doctor.Warning, "84 °C", "cool"},
		{"readable secrets", func(_ *testing.T, p *pi) {
			p.files["etc/edgefn/secrets"] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
		}, "secrets", doctor.Warning, "mode 0755", "chmod 0700 /etc/edgefn/secrets"},
		{"no node", func(_ *testing.T, p *pi) { p.noNode() }, "node", doctor.Warning, "none answers", "systemctl start edgefn"},
		{"node that may not be asked", func(_ *testing.T, p *pi) {
			p.Status = func(context.Context) (api.Status, error) { return api.Status{}, fmt.Errorf("dial: %w", syscall.EACCES) }
		}, "node", doctor.Warning, "permission denied", "usermod -aG edgefn"},
		{"node that is not ready", func(_ *testing.T, p *pi) {
			p.Status = func(context.Context) (api.Status, error) { return api.Status{Node: "pi"}, nil }
		}, "node", doctor.Failed, "not ready", "journalctl -u edgefn"},
		{"node that is degraded", func(_ *testing.T, p *pi) {
			p.Status = func(context.Context) (api.Status, error) {
				return api.Status{Node: "pi", Ready: true, State: "degraded", Reasons: []string{"store: the disk is full"}}, nil
			}
		}, "node", doctor.Failed, "the disk is full", "journalctl"},
		{"store that is down", func(_ *testing.T, p *pi) {
			p.Status = func(context.Context) (api.Status, error) {
				return api.Status{Node: "pi", Ready: true, Store: api.ComponentStatus{State: "down", Detail: "no space"}}, nil
			}
		}, "node's store", doctor.Failed, "no space", "journalctl"},
		{"warning of the node", func(_ *testing.T, p *pi) {
			p.Status = func(context.Context) (api.Status, error) {
				return api.Status{Node: "pi", Ready: true, Warnings: []string{"watch out"}}, nil
			}
		}, "node", doctor.Warning, "watch out", ""},
		{"bad config", func(_ *testing.T, p *pi) { p.err = errors.New(`config.yaml:3: unknown key "dta"`) }, "config", doctor.Failed, `unknown key "dta"`, "# correct"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPi(t)
			c.spoil(t, p)
			found := 0
			for _, f := range doctor.Examine(t.Context(), p.Machine, p.cfg, p.err) {
				switch {
				case f.State == doctor.OK:
				case f.Check == c.check && f.State == c.state && strings.Contains(f.Detail, c.detail):
					found++
					if !strings.Contains(strings.Join(f.Fix, "\n"), c.fix) {
						t.Errorf("fix %q, want %q in it", f.Fix, c.fix)
					}
				case c.name == "no control groups" && f.Check == "memory limits": // they go together
				default:
					t.Errorf("%s %s: %s", f.State, f.Check, f.Detail)
				}
			}
			if found != 1 {
				t.Errorf("%s was found %d times", c.check, found)
			}
		})
	}
}

// The address of the broker counts only while no node has it.
func TestPort(t *testing.T) {
	p := newPi(t)
	p.Listen = func(context.Context, string) error { return os.NewSyscallError("bind", syscall.EADDRINUSE) }
	has := func() (found doctor.Finding) {
		for _, f := range doctor.Examine(t.Context(), p.Machine, p.cfg, nil) {
			if f.Check == "mqtt port" {
				found = f
			}
		}
		return found
	}
	if f := has(); f.State != "" {
		t.Errorf("a node runs, and its port is found taken: %+v", f)
	}
	p.noNode()
	if f := has(); f.State != doctor.Failed || !strings.Contains(strings.Join(f.Fix, "\n"), "sport = :1883") {
		t.Errorf("port in use: %+v", f)
	}
	p.cfg.MQTT.Addr = node.Off
	if f := has(); f.State != "" {
		t.Errorf("no broker is wanted: %+v", f)
	}
}

// A 32-bit system on a 64-bit kernel is what its programs are.
func TestUserland(t *testing.T) {
	p := newPi(t)
	p.Arch = "arm"
	for _, f := range doctor.Examine(t.Context(), p.Machine, p.cfg, nil) {
		if f.Check == "userland" && (f.State != doctor.OK || !strings.Contains(f.Detail, "--arch arm/v7")) {
			t.Errorf("%+v", f)
		}
	}
}

// On the machine of the test the real probes work.
func TestHere(t *testing.T) {
	cfg := node.Defaults()
	cfg.DataDir = t.TempDir()
	m := doctor.Here(func(context.Context) (api.Status, error) { return api.Status{}, api.ErrUnreach })
	found := doctor.Examine(t.Context(), m, cfg, nil)
	for _, f := range found {
		if f.State == doctor.Failed && (f.Check == "kernel" || f.Check == "disk latency" || f.Check == "userland") {
			t.Errorf("%+v", f)
		}
	}
	if !slices.ContainsFunc(found, func(f doctor.Finding) bool {
		return f.Check == "userland" && strings.HasPrefix(f.Detail, runtime.GOARCH)
	}) {
		t.Errorf("the machine is not told: %+v", found)
	}
	left, err := os.ReadDir(cfg.DataDir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

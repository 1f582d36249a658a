package doctor

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/edgefn/edgefn/functions/sandbox"
)

// Where the firmware of a Raspberry Pi reads what it hands to the kernel: the
// first since Debian 12, the second before.
var (
	cmdlineFiles = []string{"/boot/firmware/cmdline.txt", "/boot/cmdline.txt"}
	configFiles  = []string{"/boot/firmware/config.txt", "/boot/config.txt"}
)

// memoryArgs turn the memory control group on; kernels before 4.5 and those of
// the Raspberry Pi want both.
var memoryArgs = []string{"cgroup_enable=memory", "cgroup_memory=1"}

// kernel checks what a sandbox is made of.
func (e *examination) kernel(context.Context) {
	release, _, err := e.Kernel()
	if err != nil {
		e.add("kernel", Failed, nil, "%v", err)
		return
	}
	var missing []string
	if !e.hasOverlay(release) {
		missing = append(missing, "overlayfs")
	}
	if e.text("/proc/self/status") != "" && !strings.Contains(e.text("/proc/self/status"), "\nSeccomp:") {
		missing = append(missing, "seccomp")
	}
	if len(missing) > 0 {
		e.add("kernel", Failed, []string{"# install and boot a kernel with it: Debian's and Raspberry Pi OS's have it", "apt install linux-image-$(dpkg --print-architecture)"},
			"%s has no %s", release, strings.Join(missing, " and no "))
		return
	}
	e.add("kernel", OK, nil, "%s", release)
}

// hasOverlay reports whether overlayfs is there, or a module that containerd
// loads.
func (e *examination) hasOverlay(release string) bool {
	if slices.Contains(strings.Fields(e.text("/proc/filesystems")), "overlay") {
		return true
	}
	for _, list := range []string{"modules.dep", "modules.builtin"} {
		for _, root := range []string{"/lib/modules/", "/usr/lib/modules/"} {
			if strings.Contains(e.text(root+release+"/"+list), "/overlay.ko") {
				return true
			}
		}
	}
	return false
}

// userland tells of a 32-bit system on a 64-bit kernel, which a Raspberry Pi
// boots by default: what counts is what this program is built for.
func (e *examination) userland(context.Context) {
	_, machine, err := e.Kernel()
	if err != nil {
		return // told by kernel
	}
	if e.Arch == "arm" && machine == "aarch64" {
		e.add("userland", OK, nil, "32 bits, under a 64-bit kernel: functions are built for it with --arch arm/v7")
		return
	}
	e.add("userland", OK, nil, "%s on %s", e.Arch, machine)
}

func (e *examination) cgroups(context.Context) {
	h, err := sandbox.FindHierarchy(e.Root)
	switch {
	case err != nil:
		e.add("control groups", Failed, []string{"# boot with systemd, or mount them: mount -t cgroup2 cgroup2 /sys/fs/cgroup"}, "%v", err)
	case h.V2:
		e.add("control groups", OK, nil, "v2")
	case e.exists("/sys/fs/cgroup/unified/cgroup.procs"):
		e.add("control groups", OK, nil, "v1 and v2: joining one takes milliseconds; v2 alone is faster (systemd.unified_cgroup_hierarchy=1)")
	default:
		e.add("control groups", OK, nil, "v1: joining one takes milliseconds; v2 is faster (systemd.unified_cgroup_hierarchy=1)")
	}
}

// memoryGroup checks that a function's memory can be limited.
func (e *examination) memoryGroup(context.Context) {
	const check = "memory limits"
	if h, err := sandbox.FindHierarchy(e.Root); err == nil && h.Memory {
		e.add(check, OK, nil, "are enforced")
		return
	}
	e.add(check, Failed, e.addToCmdline(memoryArgs), sandbox.NoMemoryGroup)
}

// addToCmdline are the lines that add arguments of the kernel's.
func (e *examination) addToCmdline(args []string) []string {
	for _, file := range cmdlineFiles {
		text := e.text(file)
		if text == "" {
			continue
		}
		words := strings.Fields(text)
		missing := slices.DeleteFunc(slices.Clone(args), func(a string) bool { return slices.Contains(words, a) })
		if len(missing) == 0 {
			return []string{"# " + file + " has it already", "reboot"}
		}
		return []string{fmt.Sprintf("sed -i '1 s/$/ %s/' %s", strings.Join(missing, " "), file), "reboot"}
	}
	if e.exists("/etc/default/grub") {
		return []string{fmt.Sprintf(`sed -i 's/^GRUB_CMDLINE_LINUX="/&%s /' /etc/default/grub`, strings.Join(args, " ")), "update-grub", "reboot"}
	}
	return []string{"# add " + strings.Join(args, " ") + " to the kernel's command line and reboot"}
}

// userNamespaces checks that root in a sandbox can be nobody outside. The
// knobs for users without privileges (kernel.unprivileged_userns_clone,
// kernel.apparmor_restrict_unprivileged_userns) are none of a node's business:
// it makes its namespaces as root.
func (e *examination) userNamespaces(context.Context) {
	const (
		check = "user namespaces"
		file  = "/proc/sys/user/max_user_namespaces"
	)
	text := e.text(file)
	if text == "" || !e.exists("/proc/self/ns/user") {
		e.add(check, Failed, []string{"# boot a kernel with CONFIG_USER_NS: Debian's and Raspberry Pi OS's have it"}, "the kernel has none")
		return
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 64 {
		e.add(check, Failed, []string{
			"echo user.max_user_namespaces=15000 > /etc/sysctl.d/60-edgefn.conf",
			"sysctl --system",
		}, "at most %s can be made: a sandbox takes one", text)
		return
	}
	e.add(check, OK, nil, "at most %d", n)
}

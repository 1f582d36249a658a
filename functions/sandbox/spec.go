package sandbox

import (
	"runtime"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// ociVersion is what runc 1.1 and crun 1.8 take.
const ociVersion = "1.0.2"

// Users of a sandbox on the host: an unused range of ids for each, far above
// those of people, services and other containers' ranges.
const (
	firstHostID = 0x70000000
	idsEach     = 1 << 16
	idRanges    = 1 << 12
)

// firstUID is the user of slot 0 inside a sandbox.
const firstUID = 1000

// oomScore has the kernel, when the machine is out of memory, end functions
// before the system's services; without it they have what their containerd has,
// which a system protects (-999 on Debian). proc(5), oom_score_adj
const oomScore = 500

// initCaps are what edgefn-init needs inside its user namespace: to make the
// namespaces and mounts of a cell (SYS_ADMIN), bring its loopback up
// (NET_ADMIN), become its user (SETUID, SETGID), drop the bounding set
// (SETPCAP) and end it (KILL). Cells have none.
var initCaps = []string{"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_KILL"}

// containerSpec describes a sandbox's container to the OCI runtime.
func containerSpec(root, cgroup string, hostID uint32, mounts []specs.Mount, devices []device) *specs.Spec {
	score := oomScore
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: hostID, Size: idsEach}}
	s := &specs.Spec{
		Version:  ociVersion,
		Root:     &specs.Root{Path: root, Readonly: true},
		Hostname: "edgefn",
		Process: &specs.Process{
			Args:            []string{"/edgefn/bin/edgefn-init"},
			Env:             []string{"GODEBUG=madvdontneed=1", "GOMAXPROCS=2"},
			Cwd:             "/",
			NoNewPrivileges: true,
			OOMScoreAdj:     &score,
			Capabilities: &specs.LinuxCapabilities{
				Bounding: initCaps, Effective: initCaps, Permitted: initCaps,
			},
			Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 4096, Hard: 4096}, {Type: "RLIMIT_CORE"}},
		},
		Mounts: append([]specs.Mount{
			// Unmasked, so that the kernel lets a cell mount its own; no cell sees this one.
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=64k"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=755", "size=4k"}},
		}, mounts...),
		Linux: &specs.Linux{
			UIDMappings: ids,
			GIDMappings: ids,
			CgroupsPath: cgroup,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.UserNamespace},
				{Type: specs.PIDNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.NetworkNamespace},
				{Type: specs.CgroupNamespace},
			},
			Resources:         &specs.LinuxResources{Devices: allow(devices)},
			RootfsPropagation: "private",
		},
	}
	s.Linux.Seccomp = seccomp.DefaultProfile(s)
	// One architecture: a call of another would pass by the cell's own filter.
	s.Linux.Seccomp.Architectures = map[string][]specs.Arch{
		"amd64": {specs.ArchX86_64}, "arm64": {specs.ArchAARCH64}, "arm": {specs.ArchARM},
	}[runtime.GOARCH]
	return s
}

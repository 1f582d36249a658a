package cell

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Spec is one cell.
type Spec struct {
	Path       string // of the program, absolute
	Argv, Env  []string
	Dir        string
	ID         int   // user and group
	TmpBytes   int64 // size of /tmp and of /dev/shm, each
	MaxFiles   uint64
	MaxProcs   uint64
	PrivateNet bool

	Stdin, Stdout, Stderr *os.File
	Socket                *os.File   // becomes descriptor 3
	Cgroup                *os.File   // folder of the v2 control group that the cell is made in (Linux 5.7); may be nil
	Join                  []*os.File // cgroup.procs files of v1 to join, open for writing
}

// Factory starts cells.
type Factory struct {
	filter []unix.SockFilter
	caps   []uintptr // the bounding set of this process
}

// NewFactory reads what it needs to know of this process once.
func NewFactory() (*Factory, error) {
	fl, err := filter()
	if err != nil {
		return nil, err
	}
	f := &Factory{filter: fl}
	for c := uintptr(0); c <= 63; c++ {
		if on, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0); err == nil && on == 1 {
			f.caps = append(f.caps, c)
		}
	}
	return f, nil
}

// covered are files of /proc that say more of the machine than a function
// needs to know; each is covered with /dev/null.
var covered = []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/kallsyms", "/proc/kpagecount"}

// devices are those that a sandbox's /dev has, each the host's own node.
var devices = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"}

// Start starts the program in a new cell and returns its process id, which is
// process 1 of the cell: when it is reaped, nothing of the cell is left. The
// caller reaps every child of its process and still owns the files. Start is
// safe for concurrent use.
func (f *Factory) Start(s Spec) (pid int, err error) {
	cs := &calls{}
	defer cs.release()
	flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC)
	if s.PrivateNet {
		flags |= unix.CLONE_NEWNET
	}

	// Descriptors 0 to 3 are the program's, 4 is the status pipe, all others
	// close at exec. What the child uses is moved out of the way of those first.
	var moved []int
	defer func() {
		for _, fd := range moved {
			_ = unix.Close(fd)
		}
	}()
	move := func(file *os.File) (uintptr, error) {
		fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, statusFD+1)
		if err != nil {
			return 0, fmt.Errorf("duplicate descriptor: %w", err)
		}
		moved = append(moved, fd)
		return uintptr(fd), nil
	}
	for _, g := range s.Join {
		fd, err := move(g)
		if err != nil {
			return 0, err
		}
		cs.do("join cgroup", unix.SYS_WRITE, fd, cs.str("0"), 1)
	}
	f.mounts(cs, s)
	if s.PrivateNet {
		loopbackUp(cs)
	}
	for to, file := range []*os.File{s.Stdin, s.Stdout, s.Stderr, s.Socket} {
		fd, err := move(file)
		if err != nil {
			return 0, err
		}
		cs.do("place descriptor", unix.SYS_DUP3, fd, uintptr(to), 0)
	}

	cs.do("begin session", unix.SYS_SETSID)
	cs.limit("limit core files", unix.RLIMIT_CORE, 0)
	cs.limit("limit open files", unix.RLIMIT_NOFILE, s.MaxFiles)
	cs.limit("limit processes", unix.RLIMIT_NPROC, s.MaxProcs)
	cs.do("enter "+s.Dir, unix.SYS_CHDIR, cs.str(s.Dir))
	for _, c := range f.caps {
		cs.do("drop capability", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c)
	}
	id := uintptr(s.ID)
	cs.do("clear groups", sysSetgroups, 0, 0)
	cs.do("set group", sysSetresgid, id, id, id)
	cs.do("set user", sysSetresuid, id, id, id)
	cs.do("forbid new privileges", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1)
	scope(cs)
	prog := &unix.SockFprog{Len: uint16(len(f.filter)), Filter: &f.filter[0]}
	cs.pins.Pin(prog.Filter)
	cs.do("load seccomp filter", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, cs.ptr(unsafe.Pointer(prog), prog))
	cs.do("run "+s.Path, unix.SYS_EXECVE, cs.str(s.Path), cs.strs(s.Argv), cs.strs(s.Env))
	return cs.run(flags, s.Cgroup)
}

func (f *Factory) mounts(cs *calls, s Spec) {
	none := cs.str("none")
	cs.do("make mounts private", unix.SYS_MOUNT, none, cs.str("/"), 0, unix.MS_REC|unix.MS_PRIVATE)
	tmpfs := cs.str("tmpfs")
	opts := cs.str(fmt.Sprintf("size=%d,nr_inodes=16384,mode=0700,uid=%d,gid=%d", s.TmpBytes, s.ID, s.ID))
	for _, dir := range []string{"/tmp", "/dev/shm"} {
		cs.do("mount "+dir, unix.SYS_MOUNT, tmpfs, cs.str(dir), tmpfs, unix.MS_NOSUID|unix.MS_NODEV, opts)
	}
	proc := cs.str("proc")
	cs.do("mount /proc", unix.SYS_MOUNT, proc, cs.str("/proc"), proc, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC)
	null := cs.str("/dev/null")
	for _, dev := range devices {
		// Reading and writing a device does not need its inode to be writable;
		// its times are the host's and would outlive the event.
		cs.try("make "+dev+" read-only", unix.SYS_MOUNT, none, cs.str(dev), 0, unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NOEXEC)
	}
	for _, file := range covered {
		cs.try("cover "+file, unix.SYS_MOUNT, null, cs.str(file), 0, unix.MS_BIND)
	}
}

// scope keeps the cell from abstract sockets and processes outside of it, where
// the kernel can (Landlock ABI 6, Linux 6.12): instances that share a network
// namespace would meet there. landlock(7)
func scope(cs *calls) {
	const abstractSockets, signals = 1 << 0, 1 << 1
	attr := &struct{ fs, net, scoped uint64 }{scoped: abstractSockets | signals}
	cs.add("make scope", call{
		trap: unix.SYS_LANDLOCK_CREATE_RULESET, args: [6]uintptr{cs.ptr(unsafe.Pointer(attr), attr), unsafe.Sizeof(*attr)},
		optional: true, keep: true,
	})
	cs.add("enter scope", call{trap: unix.SYS_LANDLOCK_RESTRICT_SELF, optional: true, useKept: true})
}

func loopbackUp(cs *calls) {
	ifr := &struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}{name: [unix.IFNAMSIZ]byte{'l', 'o'}, flags: unix.IFF_UP | unix.IFF_RUNNING}
	cs.add("open socket", call{trap: unix.SYS_SOCKET, args: [6]uintptr{unix.AF_INET, unix.SOCK_DGRAM | unix.SOCK_CLOEXEC}, keep: true})
	cs.add("bring loopback up", call{trap: unix.SYS_IOCTL, args: [6]uintptr{0, unix.SIOCSIFFLAGS, cs.ptr(unsafe.Pointer(ifr), ifr)}, useKept: true})
}

func (cs *calls) limit(name string, resource uintptr, n uint64) {
	l := &unix.Rlimit{Cur: n, Max: n}
	cs.do(name, unix.SYS_PRLIMIT64, 0, resource, cs.ptr(unsafe.Pointer(l), l), 0)
}

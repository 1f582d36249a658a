package cell

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// call is one system call of a child between clone and exec.
type call struct {
	trap     uintptr
	args     [6]uintptr
	optional bool // an error is passed over
	keep     bool // its result is kept ...
	useKept  bool // ... and stands in for this one's first argument
}

// calls is a list of system calls with the memory that their arguments point to.
type calls struct {
	list  []call
	names []string // of each call, for messages
	pins  runtime.Pinner
	alive []any
}

func (cs *calls) add(name string, c call) {
	cs.list, cs.names = append(cs.list, c), append(cs.names, name)
}

func (cs *calls) do(name string, trap uintptr, args ...uintptr) {
	c := call{trap: trap}
	copy(c.args[:], args)
	cs.add(name, c)
}

func (cs *calls) try(name string, trap uintptr, args ...uintptr) {
	cs.do(name, trap, args...)
	cs.list[len(cs.list)-1].optional = true
}

// str returns the address of a NUL-terminated copy of s. The copy is on the
// heap, which does not move, and lives as long as cs.
func (cs *calls) str(s string) uintptr {
	b := append([]byte(s), 0)
	return cs.ptr(unsafe.Pointer(&b[0]), b)
}

func (cs *calls) ptr(p unsafe.Pointer, owner any) uintptr {
	cs.pins.Pin(p)
	cs.alive = append(cs.alive, owner)
	return uintptr(p)
}

// strs returns the address of a NULL-terminated array of strings, as exec wants it.
func (cs *calls) strs(ss []string) uintptr {
	a := make([]uintptr, len(ss)+1)
	for i, s := range ss {
		a[i] = cs.str(s)
	}
	return cs.ptr(unsafe.Pointer(&a[0]), a)
}

func (cs *calls) release() {
	cs.pins.Unpin()
	runtime.KeepAlive(cs.alive)
}

// The runtime's own preparation for a fork: signals are blocked in the parent
// and their handlers cleared in the child, as syscall.ForkExec does.

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

// statusFD is where a child reports a failed call; exec closes it.
const statusFD = 4

// cloneArgs is struct clone_args of clone3(2), as of Linux 5.7.
type cloneArgs struct {
	flags, pidFD, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// clone is the call that makes the child, in a control group of v2 if one is
// given: the child is then never anywhere else, and unlike a move that costs
// next to nothing.
func (cs *calls) clone(flags uintptr, cgroup *os.File) call {
	if cgroup == nil {
		return call{trap: unix.SYS_CLONE, args: [6]uintptr{flags | uintptr(unix.SIGCHLD)}}
	}
	a := &cloneArgs{flags: uint64(flags) | unix.CLONE_INTO_CGROUP, exitSignal: uint64(unix.SIGCHLD), cgroup: uint64(cgroup.Fd())}
	return call{trap: unix.SYS_CLONE3, args: [6]uintptr{cs.ptr(unsafe.Pointer(a), a), unsafe.Sizeof(*a)}}
}

// run clones with flags, and has the child run the calls, the last of which is
// exec. It returns the child's process id once the exec took place, or with an
// error if the child came into being and failed. The caller reaps the child.
func (cs *calls) run(flags uintptr, cgroup *os.File) (int, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return 0, fmt.Errorf("make status pipe: %w", err)
	}
	r := os.NewFile(uintptr(p[0]), "status")
	defer r.Close() //nolint:errcheck // only read from
	// The status pipe is moved to its place by the first call of the child.
	first := call{trap: unix.SYS_DUP3, args: [6]uintptr{uintptr(p[1]), statusFD, unix.O_CLOEXEC}}
	list := append([]call{first}, cs.list...)
	if p[1] == statusFD {
		list = cs.list
	}
	report := new([8]byte)
	clone := cs.clone(flags, cgroup)

	syscall.ForkLock.Lock()
	pid, errno := cloneAndRun(clone, list, report)
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(cs)
	runtime.KeepAlive(cgroup)
	_ = unix.Close(p[1])
	if errno != 0 {
		return 0, fmt.Errorf("clone: %w", errno)
	}
	var got [8]byte
	n, err := r.Read(got[:])
	if n == 0 && err != nil { // closed by exec
		return pid, nil
	}
	if n != len(got) {
		return pid, errors.New("child ended before its program began")
	}
	i := int(binary.NativeEndian.Uint32(got[:4])) - (len(list) - len(cs.list))
	name := "set up status pipe"
	if i >= 0 && i < len(cs.names) {
		name = cs.names[i]
	}
	return pid, fmt.Errorf("%s: %w", name, syscall.Errno(binary.NativeEndian.Uint32(got[4:])))
}

// cloneAndRun must not grow the stack, allocate or be instrumented: in the
// child it runs on a copy of one thread of the runtime.
//
//go:noinline
//go:norace
//go:nocheckptr
func cloneAndRun(clone call, list []call, report *[8]byte) (pid int, errno syscall.Errno) {
	beforeFork()
	r, _, e := syscall.RawSyscall6(clone.trap, clone.args[0], clone.args[1], 0, 0, 0, 0)
	if e != 0 || r != 0 {
		afterFork()
		return int(r), e
	}
	afterForkInChild()
	var kept uintptr
	for i := range list {
		c := &list[i]
		a0 := c.args[0]
		if c.useKept {
			a0 = kept
		}
		r, _, e = syscall.RawSyscall6(c.trap, a0, c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		if e != 0 && !c.optional {
			*(*uint32)(unsafe.Pointer(&report[0])) = uint32(i)
			*(*uint32)(unsafe.Pointer(&report[4])) = uint32(e)
			_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, statusFD, uintptr(unsafe.Pointer(report)), 8)
			break
		}
		if c.keep {
			kept = r
		}
	}
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 127, 0, 0)
	}
}

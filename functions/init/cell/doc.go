// Package cell starts a program in a cell: a process tree with its own mount,
// IPC, process-id and (unless it is granted connections) network namespaces,
// its own /tmp, /dev/shm and /proc, its own user, no capability and a seccomp
// filter.
//
// There is one clone and one exec and no helper program between them. What
// must happen in between is prepared by the parent as a list of system calls,
// which the child runs one after the other: the child of a threaded Go program
// may neither allocate nor grow its stack. The first call that fails is
// reported through a pipe that exec closes.
package cell

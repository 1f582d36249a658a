//go:build linux && (arm || 386)

package cell

import "golang.org/x/sys/unix"

// The plain calls take 16-bit ids on these machines.
const (
	sysSetgroups = unix.SYS_SETGROUPS32
	sysSetresgid = unix.SYS_SETRESGID32
	sysSetresuid = unix.SYS_SETRESUID32
)

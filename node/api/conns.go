package api

import (
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"
)

// Bounds of the connections to a control socket.
const (
	// maxConns is how many connections are open at once: more than all classes
	// have slots, so that one is idle, and can be closed, when another comes.
	maxConns = 1024
	// headerTime is how long a request's header may take, from the first
	// connection or its first byte on.
	headerTime = 10 * time.Second
	// idleTime is how long a connection is kept between two requests: longer
	// than the client keeps it, which thus does not send into one that closes.
	idleTime = time.Minute
	// maxHeader is how large a request's header may be, in bytes.
	maxHeader = 32 << 10
)

// HTTPServer returns a server of h with bounds on what callers can hold without
// asking for anything: connections, headers, time. It logs to log; nil discards.
//
// Of more than maxConns connections the one that has been idle for the longest
// is closed for the newcomer; if every one has a request under way, the newcomer
// is. Connections of this very process are not counted and never closed: through
// them the node checks itself. Since no other is left waiting either, the check
// waits for no more than the kernel's queue of a socket holds.
func HTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &conns{most: connLimit(), log: log, open: map[net.Conn]uint64{}}
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
		ConnState:         c.changed,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// connLimit is how many connections are open at once, which leaves half of the
// process's descriptors to everything else:
//
//	min(maxConns, RLIMIT_NOFILE / 2)
func connLimit() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return maxConns
	}
	return int(min(maxConns, l.Cur/2))
}

// conns bounds the connections of a server.
type conns struct {
	most int
	log  *slog.Logger

	mu    sync.Mutex
	turns uint64              // how often a connection became idle
	open  map[net.Conn]uint64 // the turn at which it became idle; 0: it has a request
}

// changed is an http.Server's ConnState. With StateNew it runs in the accept
// loop, before anything is read.
func (c *conns) changed(conn net.Conn, state http.ConnState) {
	if state == http.StateNew && own(conn) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if state == http.StateNew && !c.makeRoom() {
		_ = conn.Close() // the server finds it closed
		return
	}
	if _, known := c.open[conn]; !known && state != http.StateNew {
		return // the process's own, or closed for another
	}
	switch state {
	case http.StateNew, http.StateIdle:
		c.turns++
		c.open[conn] = c.turns
	case http.StateActive:
		c.open[conn] = 0
	case http.StateClosed, http.StateHijacked:
		delete(c.open, conn)
	}
}

// makeRoom makes sure that one more connection may be open, and reports whether
// it may. The caller holds mu.
func (c *conns) makeRoom() bool {
	if len(c.open) < c.most {
		return true
	}
	var oldest net.Conn
	for conn, turn := range c.open {
		if turn != 0 && (oldest == nil || turn < c.open[oldest]) {
			oldest = conn
		}
	}
	c.log.Debug("too many connections, one is closed", "most", c.most, "newcomer", oldest == nil)
	if oldest == nil {
		return false
	}
	delete(c.open, oldest)
	_ = oldest.Close()
	return true
}

// own reports whether this process is at the other end of conn, which the kernel
// has noted when it connected: see SO_PEERCRED in unix(7).
func own(conn net.Conn) bool {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return false
	}
	var peer *syscall.Ucred
	if cerr := raw.Control(func(fd uintptr) {
		peer, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); cerr != nil || err != nil {
		return false
	}
	return int(peer.Pid) == os.Getpid()
}

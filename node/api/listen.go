package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Group is whose members may use a node's control socket beside root.
const Group = "edgefn"

// maxSocketPath is the longest path that a Unix socket can have: sun_path in
// unix(7) is 108 bytes with a NUL at its end.
const maxSocketPath = 107

// probeTime is how long a socket that is already there has to take a
// connection before its node is taken to be stuck.
const probeTime = 2 * time.Second

// Listen listens on the control socket at path, which is made with mode 0660
// and belongs to group, if that exists. A socket that an ended node left is
// replaced; one that is answered, and a file that is no socket, are errors.
// Closing the listener removes the socket. Two nodes that start at the same
// moment on one path are not told apart here: their data folders' lock does it.
func Listen(path, group string) (net.Listener, error) {
	// The socket is made in a folder of its own, where nobody else reaches it,
	// and moved once its mode and group are right.
	const private = "/.s4294967295/s" // os.MkdirTemp's longest name
	if n := max(len(path), len(filepath.Dir(path))+len(private)); n > maxSocketPath {
		return nil, &Error{
			Err:     ErrInvalid,
			Message: fmt.Sprintf("listen on %s: the path is %d bytes too long for a Unix socket", path, n-maxSocketPath),
			Hint:    "name a shorter folder with --run",
		}
	}
	if err := clearStale(path); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".s")
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // what stays is an empty folder
	made := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: made})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	s := &socket{UnixListener: l, path: path}
	if err := s.publish(made, group); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return s, nil
}

// clearStale removes a socket at path that nobody answers.
func clearStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("listen on %s: %w", path, err)
	case info.Mode().Type() != fs.ModeSocket:
		return &Error{
			Err:     ErrRefused,
			Message: fmt.Sprintf("listen on %s: there is something that is no socket", path),
			Hint:    "move it away, or name another folder with --run",
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTime)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err == nil {
		_ = c.Close()
		return &Error{
			Err:     ErrRefused,
			Message: fmt.Sprintf("listen on %s: another node serves it", path),
			Hint:    "stop that node, or give this one folders of its own with --run and --data",
		}
	}
	if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist) {
		return &Error{
			Err:     ErrRefused,
			Message: fmt.Sprintf("listen on %s: it cannot be told whether another node serves it: %v", path, err),
			Hint:    "stop that node, or give this one folders of its own with --run and --data",
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the socket that an ended node left: %w", err)
	}
	return nil
}

// socket is a listener on a socket file that it removes when it is closed.
type socket struct {
	*net.UnixListener
	path string
	info fs.FileInfo // of the file as it was made

	once sync.Once // closes
	err  error
}

// publish gives the socket made at a private place its mode and group and
// moves it to its path.
func (s *socket) publish(made, group string) error {
	if err := os.Chmod(made, 0o660); err != nil { //nolint:gosec // the group is meant to write: that is how a socket is used
		return fmt.Errorf("set the socket's mode: %w", err)
	}
	if g, err := user.LookupGroup(group); err == nil {
		gid, err := strconv.Atoi(g.Gid)
		if err != nil {
			return fmt.Errorf("group %s has id %q: %w", group, g.Gid, err)
		}
		// A user who is not in the group may not give it the socket, which then
		// stays the user's own.
		if err := os.Chown(made, -1, gid); err != nil && !errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("set the socket's group: %w", err)
		}
	}
	var err error
	if s.info, err = os.Lstat(made); err != nil {
		return fmt.Errorf("make the socket: %w", err)
	}
	if err := os.Rename(made, s.path); err != nil {
		return fmt.Errorf("make the socket: %w", err)
	}
	return nil
}

// Close implements net.Listener. It removes the socket unless another node has
// put its own in that place.
func (s *socket) Close() error {
	s.once.Do(func() {
		if now, err := os.Lstat(s.path); err == nil && os.SameFile(now, s.info) {
			_ = os.Remove(s.path) // one that stays is found stale by the next node
		}
		s.err = s.UnixListener.Close()
	})
	return s.err
}

// Addr implements net.Listener.
func (s *socket) Addr() net.Addr { return &net.UnixAddr{Net: "unix", Name: s.path} }

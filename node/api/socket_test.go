package api_test

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/api/apitest"
)

func TestListen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "e.sock")
	l, err := api.Listen(path, "no-such-group-here")
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != fs.ModeSocket|0o660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if got := l.Addr().String(); got != path {
		t.Errorf("address %q", got)
	}
	if _, err := api.Listen(path, api.Group); err == nil || !strings.Contains(err.Error(), "another node serves") || api.Hint(err) == "" {
		t.Errorf("a live socket: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestListenGroup(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root may give a socket to any group")
	}
	path := filepath.Join(t.TempDir(), "e.sock")
	l, err := api.Listen(path, "daemon") // in every Debian's /etc/group
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if gid := info.Sys().(*syscall.Stat_t).Gid; gid == 0 {
		t.Error("the socket still belongs to group 0")
	}
}

func TestListenStale(t *testing.T) {
	path := filepath.Join(t.TempDir(), "e.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := api.Listen(path, api.Group)
	if err != nil {
		t.Fatalf("a stale socket: %v", err)
	}
	defer func() { _ = l.Close() }()
	apitest.ServeOn(t, l, api.NewServer(backend(), api.Options{}))
	if _, err := dial(t, path).Status(t.Context()); err != nil {
		t.Error(err)
	}
}

// A listener that is closed late leaves the socket of its successor alone.
func TestListenSuccessor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "e.sock")
	first, err := api.Listen(path, api.Group)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second, err := api.Listen(path, api.Group)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = second.Close() }()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the successor's socket is gone: %v", err)
	}
}

func TestListenRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := api.Listen(file, api.Group); !errors.Is(err, api.ErrRefused) {
		t.Errorf("a file: %v", err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "mine" {
		t.Errorf("the file is now %q, %v", b, err)
	}
	if _, err := api.Listen(filepath.Join(dir, strings.Repeat("x", 120)), api.Group); !errors.Is(err, api.ErrInvalid) || !strings.Contains(api.Hint(err), "--run") {
		t.Errorf("a long path: %v", err)
	}
	if _, err := api.Listen(filepath.Join(dir, "none", "e.sock"), api.Group); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}

func TestDial(t *testing.T) {
	for _, target := range []string{"", "unix://", "unix://relative", "tcp://127.0.0.1:80", "/" + strings.Repeat("x", 120)} {
		if _, err := api.Dial(target); !errors.Is(err, api.ErrInvalid) || api.Hint(err) == "" {
			t.Errorf("%q: %v", target, err)
		}
	}
	c, err := api.Dial("/run/x.sock")
	if err != nil || c.Target() != "unix:///run/x.sock" {
		t.Errorf("plain path: %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	dir, err := os.MkdirTemp("", "api") //nolint:usetesting // its path would be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	listen := func(t *testing.T, name string) *net.UnixListener {
		t.Helper()
		l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, name)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	// answer takes connections, says text and closes.
	answer := func(t *testing.T, name, text string) string {
		t.Helper()
		l := listen(t, name)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = bufio.NewReader(c).ReadString('\n')
				_, _ = io.WriteString(c, text)
				_ = c.Close()
			}
		}()
		return filepath.Join(dir, name)
	}
	stale := listen(t, "stale")
	stale.SetUnlinkOnClose(false)
	_ = stale.Close()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	web := listen(t, "web")
	apitest.ServeOn(t, web, http.NotFoundHandler())

	for _, c := range []struct{ path, why, hint string }{
		{filepath.Join(dir, "absent"), "no such socket", "is the node running"},
		{filepath.Join(dir, "file", "x"), "no such socket", "is the node running"},
		{filepath.Join(dir, "stale"), "nobody answers", "edgefn node"},
		{filepath.Join(dir, "file"), "nobody answers", "edgefn node"},
		{filepath.Join(dir, "web"), "not an edgefn node", "--node"},
		{answer(t, "ssh", "SSH-2.0-OpenSSH_9.2\r\n"), "not an edgefn node", "--node"},
		{answer(t, "mute", ""), "not an edgefn node", "--node"},
		{answer(t, "later", "HTTP/1.1 200 OK\r\nEdgefn-Api: v9\r\nContent-Length: 0\r\n\r\n"), `version "v9"`, "of the node's version"},
	} {
		t.Run(filepath.Base(c.path), func(t *testing.T) {
			_, err := dial(t, c.path).Status(t.Context())
			if !errors.Is(err, api.ErrUnreach) || !strings.Contains(err.Error(), c.why) || !strings.Contains(err.Error(), c.path) {
				t.Errorf("got %v", err)
			}
			if !strings.Contains(api.Hint(err), c.hint) {
				t.Errorf("hint %q", api.Hint(err))
			}
		})
	}
	if os.Getuid() == 0 {
		t.Log("permission denied is not seen by root; TestPermissionHint tests its text")
	}
}

// A node that dies in the middle of an answer is noticed.
func TestNodeDies(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "e.sock")
	l, err := api.Listen(path, api.Group)
	if err != nil {
		t.Fatal(err)
	}
	apitest.ServeOn(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(api.Header, api.Version)
		if r.URL.Path == "/v1" {
			return
		}
		_, _ = io.WriteString(w, "{\"step\":\"import\"}\n")
		_ = http.NewResponseController(w).Flush()
		if r.Method == http.MethodPost && r.URL.Query().Has("to") {
			return // ends in good order, but with no result
		}
		panic(http.ErrAbortHandler)
	}))
	c := dial(t, path)
	steps := 0
	for _, to := range []string{"", "sha256:a"} {
		_, err = c.Rollback(t.Context(), "fan", to, func(api.Progress) { steps++ })
		if !errors.Is(err, api.ErrUnreach) || !strings.Contains(err.Error(), "before its answer was complete") {
			t.Errorf("rollback to %q: %v", to, err)
		}
	}
	if steps != 2 {
		t.Errorf("%d steps seen", steps)
	}
	if err := c.Logs(t.Context(), "fan", api.LogOptions{Follow: true}, func(api.LogLine) error { return nil }); !errors.Is(err, api.ErrUnreach) {
		t.Errorf("logs: %v", err)
	}
	if _, err := c.Status(t.Context()); !errors.Is(err, api.ErrUnreach) {
		t.Errorf("status: %v", err)
	}
}

func TestPermissionHint(t *testing.T) {
	c := dial(t, "/run/e.sock")
	err := api.DialErr(c, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EACCES)})
	if !errors.Is(err, api.ErrUnreach) || !strings.Contains(err.Error(), "permission denied") || !strings.Contains(api.Hint(err), "group edgefn") {
		t.Errorf("%v; hint %q", err, api.Hint(err))
	}
}

package api_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/api/apitest"
)

// sshd starts a server and puts an ssh that knows it in front of PATH.
func sshd(t *testing.T, config ...string) *apitest.SSHD {
	t.Helper()
	s, err := apitest.StartSSHD(t.TempDir(), config...)
	if errors.Is(err, apitest.ErrNoSSH) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	t.Setenv("PATH", s.Bin+":"+os.Getenv("PATH"))
	return s
}

// dialAt returns a client of any target.
func dialAt(t *testing.T, target string) *api.Client {
	t.Helper()
	c, err := api.Dial(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// tunnels are the folders of tunnels that are open.
func tunnels(t *testing.T) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), "edgefn-ssh-*"))
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

func TestSSH(t *testing.T) {
	s := sshd(t)
	t.Setenv("TMPDIR", t.TempDir())
	path := apitest.Serve(t, backend(), api.Options{})
	c := dialAt(t, "ssh://root@"+s.Addr+path)
	if got := tunnels(t); len(got) != 0 {
		t.Fatalf("Dial alone has started ssh: %v", got)
	}
	for range 3 {
		st, err := c.Status(t.Context())
		if err != nil || st.Node != "gw1" {
			t.Fatalf("%+v %v\n%s", st, err, s.Log())
		}
	}
	// A stream in both directions, of more than one packet.
	big := strings.Repeat("x", 1<<20)
	steps := 0
	if _, err := c.Deploy(t.Context(), strings.NewReader(big), api.DeployOptions{}, func(p api.Progress) {
		steps++
		if p.Step == "import" && p.Text != "1048576 bytes" {
			t.Errorf("the node has read %s", p.Text)
		}
	}); err != nil || steps != 2 {
		t.Fatalf("deploy: %d steps, %v", steps, err)
	}
	if n := strings.Count(s.Log(), "Accepted publickey"); n != 1 {
		t.Errorf("logged in %d times for one client", n)
	}
	if got := tunnels(t); len(got) != 1 {
		t.Errorf("open tunnels: %v, want one", got)
	} else if info, err := os.Stat(got[0]); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("others can reach the tunnel: %v %v", info.Mode(), err)
	}
	c.Close()
	if got := tunnels(t); len(got) != 0 {
		t.Errorf("Close has left %v", got)
	}
	// It may be used again.
	if _, err := c.Status(t.Context()); err != nil {
		t.Errorf("after Close: %v", err)
	}
}

// Everything that can be in the way has its own words, and exit code 6.
func TestSSHFails(t *testing.T) {
	s := sshd(t)
	t.Setenv("TMPDIR", t.TempDir())
	dir := t.TempDir()
	nobody := filepath.Join(dir, "left.sock")
	l, err := net.Listen("unix", nobody)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = l.Close()
	other := filepath.Join(dir, "other.sock")
	if l, err = net.Listen("unix", other); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("220 mail\r\n"))
			_ = c.Close()
		}
	}()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = free.Close()

	for name, c := range map[string]struct{ target, why, hint string }{
		"no socket":     {"ssh://root@" + s.Addr + filepath.Join(dir, "none.sock"), "ssh has logged in, and no node answers at " + dir, "is the node running"},
		"node is gone":  {"ssh://root@" + s.Addr + nobody, "no node answers at", "systemctl status edgefn"},
		"not a node":    {"ssh://root@" + s.Addr + other, "is not an edgefn node", "control socket"},
		"wrong user":    {"ssh://nobody@" + s.Addr + nobody, "Permission denied", "ssh-copy-id -p"},
		"nobody there":  {"ssh://root@" + free.Addr().String(), "Connection refused", "see whether this works: ssh -p"},
		"no such name":  {"ssh://root@gateway.invalid", "gateway.invalid", "see whether this works: ssh root@gateway.invalid"},
		"unknown host":  {"ssh://root@localhost:" + s.Addr[strings.LastIndex(s.Addr, ":")+1:], "Host key verification failed", "see whether this works"},
		"no permission": {"ssh://root@" + s.Addr + "/etc/passwd", "no node answers at /etc/passwd", "group edgefn"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := dialAt(t, c.target).Status(t.Context())
			if !errors.Is(err, api.ErrUnreach) || !strings.Contains(err.Error(), c.why) || !strings.Contains(err.Error(), c.target) {
				t.Errorf("got %v, want ErrUnreach with %q", err, c.why)
			}
			if !strings.Contains(api.Hint(err), c.hint) {
				t.Errorf("hint %q, want %q", api.Hint(err), c.hint)
			}
			if got := tunnels(t); len(got) > 1 {
				t.Errorf("tunnels are left: %v", got)
			}
		})
	}
	t.Run("no ssh", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		_, err := dialAt(t, "ssh://root@"+s.Addr).Status(t.Context())
		if !errors.Is(err, api.ErrUnreach) || !strings.Contains(api.Hint(err), "apt install openssh-client") {
			t.Errorf("got %v, hint %q", err, api.Hint(err))
		}
	})
}

func TestSSHForwardingIsOff(t *testing.T) {
	s := sshd(t, "AllowStreamLocalForwarding no")
	path := apitest.Serve(t, backend(), api.Options{})
	_, err := dialAt(t, "ssh://root@"+s.Addr+path).Status(t.Context())
	if !errors.Is(err, api.ErrUnreach) || !strings.Contains(api.Hint(err), "AllowStreamLocalForwarding") {
		t.Errorf("got %v, hint %q", err, api.Hint(err))
	}
}

// An ssh that breaks in the middle is told, and the next call logs in anew.
func TestSSHBreaks(t *testing.T) {
	s := sshd(t)
	b := backend()
	reached := make(chan struct{})
	b.OnInvoke = func(ctx context.Context, _ string, _ api.InvokeRequest) (api.Invoked, error) {
		close(reached)
		<-ctx.Done()
		return api.Invoked{}, ctx.Err()
	}
	path := apitest.Serve(t, b, api.Options{})
	c := dialAt(t, "ssh://root@"+s.Addr+path)
	failed := make(chan error, 1)
	go func() {
		_, err := c.Invoke(context.Background(), "fan", api.InvokeRequest{})
		failed <- err
	}()
	<-reached
	s.Stop()
	if err := <-failed; !errors.Is(err, api.ErrUnreach) || !strings.Contains(err.Error(), "the way there broke") {
		t.Errorf("got %v, want that the way broke", err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Errorf("when the server is back: %v", err)
	}
}

// A person who waits no longer ends ssh, which may sit at a prompt.
func TestSSHInterrupted(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	t.Setenv("TMPDIR", t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	_, err = dialAt(t, "ssh://root@"+l.Addr().String()).Status(ctx)
	if !errors.Is(err, context.Canceled) && !errors.Is(err, api.ErrUnreach) {
		t.Errorf("got %v", err)
	}
	if got := tunnels(t); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

func TestSSHAddresses(t *testing.T) {
	for _, target := range []string{
		"ssh://", "ssh:///run/edgefn/edgefn.sock", "ssh://-oProxyCommand=x", "ssh://-l@gateway", "ssh://root:secret@gateway",
		"ssh://gateway?x=1", "ssh://gateway#x", "ssh://gateway/a:b", "ssh://gateway/a%20b", "ssh://gateway/%25h", "ssh://gateway:port",
		"ssh://gate%20way", "ssh://ro%0aot@gateway", "ssh://gateway/" + strings.Repeat("x", 200),
	} {
		if _, err := api.Dial(target); !errors.Is(err, api.ErrInvalid) || api.Hint(err) == "" {
			t.Errorf("%s: got %v, want ErrInvalid with a hint", target, err)
		}
	}
	for _, target := range []string{"ssh://gateway", "ssh://gateway/", "ssh://admin@gateway:2222", "ssh://[fe80::1]:22/run/edgefn/edgefn.sock", "ssh://pi@alias_of-mine"} {
		c, err := api.Dial(target)
		if err != nil {
			t.Errorf("%s: %v", target, err)
			continue
		}
		if c.Target() != target {
			t.Errorf("target of %s is %s", target, c.Target())
		}
	}
}

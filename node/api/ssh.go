package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	sshScheme   = "ssh://"
	sshPoll     = 20 * time.Millisecond // how often it is looked whether the way is open
	sshPatience = 2 * time.Second       // for ssh to end, or to say why something failed
	maxSaid     = 4 << 10               // bytes of what ssh says that are kept, the last ones
)

// remoteSocket is what a socket's path at a gateway may look like: ssh takes
// colons, blanks and percent signs apart.
var remoteSocket = regexp.MustCompile(`^/[A-Za-z0-9._/+@=,~-]+$`)

// tunnel is the way to the control socket of another machine: the user's own
// ssh, with its configuration, keys and agent, forwards a socket in a private
// folder here to the one over there. Nothing there listens for it but sshd, and
// no program of ours is run there. ssh asks for passwords at the terminal itself.
type tunnel struct {
	target string   // as ssh://USER@HOST:PORT/SOCKET
	login  string   // as a person would write it behind ssh
	argv   []string // of ssh, but for the forwarding
	remote string   // path of the socket there

	mu  sync.Mutex // held while ssh is started and ended; guards run
	run *sshRun    // nil: none was started, or it was closed
}

// sshRun is one process of ssh.
type sshRun struct {
	dir   string // has the socket, and goes when ssh has ended
	local string // path of the socket here
	proc  *os.Process
	ended chan struct{} // closed when ssh has ended
	err   error         // why, once ended is closed

	mu   sync.Mutex // guards said
	said []byte     // the end of what ssh wrote to standard error
}

// newTunnel reads ssh://[USER@]HOST[:PORT][/SOCKET]. It starts nothing.
func newTunnel(target string) (*tunnel, error) {
	bad := func(why string) error {
		return &Error{
			Err:     ErrInvalid,
			Message: fmt.Sprintf("node address %s: %s", shorten(target), why),
			Hint:    "write it as ssh://admin@gateway, or with a port and the path of the control socket: ssh://admin@gateway:22/run/edgefn/edgefn.sock",
		}
	}
	u, err := url.Parse(target)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, bad(err.Error())
	}
	t := &tunnel{target: target, remote: strings.TrimPrefix(DefaultTarget, "unix://")}
	user, host := u.User.Username(), u.Hostname()
	_, secret := u.User.Password()
	switch {
	case host == "":
		return nil, bad("it names no host")
	case strings.HasPrefix(host, "-"), strings.HasPrefix(user, "-"):
		return nil, bad("neither host nor user can begin with -")
	case strings.ContainsFunc(user+host, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return nil, bad("host and user have no blanks and no control characters")
	case secret:
		return nil, bad("a password does not belong here; ssh asks for it, or uses a key")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, bad("there is nothing behind the path")
	}
	if u.Path != "" && u.Path != "/" {
		t.remote = u.Path
	}
	if !remoteSocket.MatchString(t.remote) || len(t.remote) > maxSocketPath {
		return nil, bad(fmt.Sprintf("the path of a socket has letters, digits and ._/+@=,~- and at most %d bytes", maxSocketPath))
	}
	t.login = host
	t.argv = []string{
		"ssh", "-N", "-T",
		// A connection of its own, which ends with this command.
		"-o", "ControlMaster=no", "-o", "ControlPath=none",
		"-o", "ExitOnForwardFailure=yes", "-o", "StreamLocalBindMask=0177",
		"-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4",
	}
	if user != "" {
		t.login = user + "@" + host
		t.argv = append(t.argv, "-l", user)
	}
	if port := u.Port(); port != "" {
		t.login = "-p " + port + " " + t.login
		t.argv = append(t.argv, "-p", port)
	}
	t.argv = append(t.argv, "--", host)
	return t, nil
}

// open makes sure that ssh runs and that its way is open, and returns the path
// of the socket here. It takes as long as ssh needs to log in, a person at its
// prompt included. An ssh that has ended is started again.
func (t *tunnel) open(ctx context.Context) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.run != nil {
		select {
		case <-t.run.ended:
			t.run = nil
		default:
			return t.run.local, nil
		}
	}
	r, err := t.start()
	if err != nil {
		return "", err
	}
	tick := time.NewTicker(sshPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			r.stop()
			return "", ctx.Err()
		case <-r.ended:
			return "", t.failed(r)
		case <-tick.C:
			if _, err := os.Stat(r.local); err == nil {
				t.run = r
				return r.local, nil
			}
		}
	}
}

// start starts ssh.
func (t *tunnel) start() (*sshRun, error) {
	if _, err := exec.LookPath(t.argv[0]); err != nil {
		return nil, t.unreach("there is no ssh program here", "install it (apt install openssh-client)")
	}
	r := &sshRun{ended: make(chan struct{})}
	var err error
	if r.dir, err = socketFolder(); err != nil {
		return nil, fmt.Errorf("make folder for ssh's socket: %w", err)
	}
	r.local = filepath.Join(r.dir, "s")
	argv := append([]string{t.argv[0], "-L", r.local + ":" + t.remote}, t.argv[1:]...)
	cmd := exec.Command(argv[0], argv[1:]...) //nolint:noctx,gosec // it outlives the call that starts it; newTunnel has checked the words
	cmd.Stderr = r
	// It stays in this process group, so that it can ask at the terminal, and
	// ends with this process however that ends.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	cmd.WaitDelay = sshPatience
	started := make(chan error, 1)
	go func() {
		// Linux sends Pdeathsig when the thread that started ssh ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			r.err = cmd.Wait()
			_ = os.RemoveAll(r.dir) // what stays is an empty folder
			close(r.ended)
		}
	}()
	if err := <-started; err != nil {
		_ = os.RemoveAll(r.dir)
		return nil, t.unreach(fmt.Sprintf("ssh cannot be run: %v", err), "")
	}
	r.proc = cmd.Process
	return r, nil
}

// socketFolder makes a folder that is this user's alone, with a path that is
// short enough for a socket in it.
func socketFolder() (string, error) {
	dir, err := os.MkdirTemp("", "edgefn-ssh-")
	if err == nil && (len(dir)+len("/s") > maxSocketPath || !remoteSocket.MatchString(dir)) {
		_ = os.Remove(dir)
		dir, err = os.MkdirTemp("/tmp", "edgefn-ssh-")
	}
	return dir, err
}

// close ends ssh, if it runs.
func (t *tunnel) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.run != nil {
		t.run.stop()
		t.run = nil
	}
}

// stop ends ssh and waits until it is gone.
func (r *sshRun) stop() {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		_ = r.proc.Signal(sig) // one that has ended is not there to be told
		select {
		case <-r.ended:
			return
		case <-time.After(sshPatience):
		}
	}
	<-r.ended
}

// Write takes what ssh writes to standard error.
func (r *sshRun) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said = append(r.said, p...)
	if over := len(r.said) - maxSaid; over > 0 {
		r.said = append(r.said[:0], r.said[over:]...)
	}
	return len(p), nil
}

// last is the last line that ssh wrote.
func (r *sshRun) last() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(r.said)), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

func (t *tunnel) unreach(why, hint string) error {
	return &Error{Err: ErrUnreach, Message: fmt.Sprintf("node at %s is not reachable: %s", t.target, why), Hint: hint}
}

// failed says why ssh has ended before the way was open.
func (t *tunnel) failed(r *sshRun) error {
	why := r.last()
	hint := "see whether this works: ssh " + t.login
	switch {
	case why == "":
		why = fmt.Sprintf("ssh ended: %v", r.err)
	case strings.Contains(why, "Permission denied"):
		hint = "log in with a key that the gateway knows (ssh-copy-id " + t.login + "); " + hint
	}
	return t.unreach("ssh: "+strings.TrimPrefix(why, "ssh: "), hint)
}

// closed says why the other end hung up on a connection that ssh took.
func (t *tunnel) closed() error {
	t.mu.Lock()
	r := t.run
	t.mu.Unlock()
	if r == nil {
		return t.unreach("ssh has ended", "")
	}
	// ssh says so at about the moment when it closes the connection.
	for end := time.Now().Add(sshPatience); !strings.Contains(r.last(), "open failed") && time.Now().Before(end); {
		select {
		case <-r.ended:
			return t.failed(r)
		case <-time.After(sshPoll):
		}
	}
	// sshd gives the same answer whatever keeps it from the socket.
	if strings.Contains(r.last(), "open failed") {
		return t.unreach(fmt.Sprintf("ssh has logged in, and no node answers at %s there", t.remote),
			"is the node running (systemctl status edgefn); may this user use its socket, which is for root and members of group "+Group+
				"; does sshd forward to sockets (AllowStreamLocalForwarding)?")
	}
	return t.unreach(fmt.Sprintf("what answers at %s there is not an edgefn node", t.remote), "name the node's control socket behind the host's name")
}

// broken says why ssh has ended although its way was open, or "" if it has not.
func (t *tunnel) broken() string {
	t.mu.Lock()
	r := t.run
	t.mu.Unlock()
	if r == nil {
		return ""
	}
	select {
	case <-r.ended:
	case <-time.After(10 * sshPoll): // it closes connections before it ends
		return ""
	}
	if why := r.last(); why != "" {
		return "ssh: " + why
	}
	return fmt.Sprintf("ssh ended: %v", r.err)
}

// dial connects to the node.
func (t *tunnel) dial(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTime}
	for end := time.Now().Add(sshPatience); ; {
		path, err := t.open(ctx)
		if err != nil {
			return nil, err
		}
		c, err := d.DialContext(ctx, "unix", path)
		// The socket is there a moment before ssh listens on it, and after ssh
		// was killed.
		if err == nil || !errors.Is(err, syscall.ECONNREFUSED) || time.Now().After(end) {
			return c, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(sshPoll):
		}
	}
}

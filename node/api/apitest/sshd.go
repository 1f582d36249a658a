package apitest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// sshdProgram must be started by its whole path, which it needs to start itself.
const sshdProgram = "/usr/sbin/sshd"

// ErrNoSSH says that this machine has no OpenSSH server and client, or that
// this process is not root's.
var ErrNoSSH = errors.New("an OpenSSH server and client, and root, are needed")

// SSHD is a real OpenSSH server on the loopback, with keys and a configuration
// of its own, which lets root in.
type SSHD struct {
	// Addr is where it listens, such as 127.0.0.1:40022.
	Addr string
	// Bin is a folder with an ssh that knows this server and has a key for it;
	// it goes in front of PATH.
	Bin string

	dir string
	cmd *exec.Cmd
	log *os.File
}

// StartSSHD starts a server with its files in dir, and waits until it listens.
// Lines of config are put in front of its own, so that they count.
func StartSSHD(dir string, config ...string) (*SSHD, error) {
	client, err := exec.LookPath("ssh")
	if _, serr := os.Stat(sshdProgram); err != nil || serr != nil || os.Geteuid() != 0 {
		return nil, ErrNoSSH
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // of this machine
	if err != nil {
		return nil, err
	}
	s := &SSHD{Addr: l.Addr().String(), Bin: filepath.Join(dir, "bin"), dir: dir}
	_ = l.Close() // its port is free again
	_, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.MkdirAll("/run/sshd", 0o755), os.MkdirAll(s.Bin, 0o755)); err != nil { //nolint:gosec // as Debian has it
		return nil, err
	}
	for _, key := range []string{"host", "user"} {
		out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)).CombinedOutput() //nolint:noctx // it is quick
		if err != nil {
			return nil, fmt.Errorf("make key: %w: %s", err, out)
		}
	}
	pub, err := os.ReadFile(filepath.Join(dir, "host.pub"))
	if err != nil {
		return nil, err
	}
	server := append(config,
		"HostKey "+filepath.Join(dir, "host"), "AuthorizedKeysFile "+filepath.Join(dir, "user.pub"),
		"ListenAddress 127.0.0.1", "Port "+port, "PidFile none", "StrictModes no", "UsePAM no",
		"PermitRootLogin prohibit-password", "PasswordAuthentication no", "KbdInteractiveAuthentication no")
	for name, text := range map[string]string{
		"sshd_config": strings.Join(server, "\n") + "\n",
		"known_hosts": "[127.0.0.1]:" + port + " " + string(pub),
		"ssh_config": fmt.Sprintf("IdentityFile %s\nIdentitiesOnly yes\nIdentityAgent none\nUserKnownHostsFile %s\nStrictHostKeyChecking yes\n",
			filepath.Join(dir, "user"), filepath.Join(dir, "known_hosts")),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	script := fmt.Sprintf("#!/bin/sh\nexec %s -F %s \"$@\"\n", client, filepath.Join(dir, "ssh_config"))
	if err := os.WriteFile(filepath.Join(s.Bin, "ssh"), []byte(script), 0o755); err != nil { //nolint:gosec // it is a program
		return nil, err
	}
	return s, s.Start()
}

// Start starts the server again after Stop, and waits until it listens.
func (s *SSHD) Start() error {
	var err error
	if s.log, err = os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	s.cmd = exec.Command(sshdProgram, "-D", "-e", "-f", filepath.Join(s.dir, "sshd_config")) //nolint:noctx // Stop ends it
	s.cmd.Stderr = s.log
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("start sshd: %w", err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", s.Addr) //nolint:noctx // of this machine
		if err == nil {
			return c.Close()
		}
		if time.Now().After(end) {
			s.Stop()
			return fmt.Errorf("sshd does not listen: %w: %s", err, s.Log())
		}
	}
}

// Stop ends the server and its sessions.
func (s *SSHD) Stop() {
	// Its sessions would outlive it.
	for _, pid := range append(children(s.cmd.Process.Pid), s.cmd.Process.Pid) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	_ = s.cmd.Wait()
	_ = s.log.Close()
}

// children are the processes that pid has started.
func children(pid int) []int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil
	}
	var out []int
	for f := range strings.FieldsSeq(string(b)) {
		var n int
		if _, err := fmt.Sscan(f, &n); err == nil {
			out = append(append(out, n), children(n)...)
		}
	}
	return out
}

// Log is what the server has said.
func (s *SSHD) Log() string {
	b, _ := os.ReadFile(filepath.Join(s.dir, "log")) // a test's message, which then says less
	return string(b)
}

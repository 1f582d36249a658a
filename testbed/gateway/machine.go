package gateway

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	// bootPatience bounds a boot, on a machine that has other things to do.
	bootPatience = 5 * time.Minute
	hardwarePath = "usr/local/sbin/hardware"
)

// Machine is a running gateway.
type Machine struct {
	dir  string
	port int
	log  *slog.Logger
	cmd  *exec.Cmd
	gone chan struct{} // closed when QEMU has ended
}

// Start boots a gateway and returns when its ssh answers. What belongs to the
// run is kept in dir, which has a short path (sockets are in it): keys, the
// serial console in console.log. The gateway runs until Stop, or until ctx is
// done.
func Start(ctx context.Context, image Image, dir string, log *slog.Logger) (*Machine, error) {
	overlay, err := runFiles(ctx, dir)
	if err != nil {
		return nil, err
	}
	initramfs := filepath.Join(dir, "initramfs")
	if err := writeInitramfs(ctx, initramfs, image.RootModules, overlay); err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	m := &Machine{dir: dir, port: port, log: log, gone: make(chan struct{})}
	if err := m.writeSSH(); err != nil {
		return nil, err
	}
	m.cmd = qemu(ctx, boot{image: image, initramfs: initramfs, console: m.Console(), ssh: port})
	var said bytes.Buffer
	m.cmd.Stdout, m.cmd.Stderr = &said, &said
	if err := m.launch(); err != nil {
		return nil, fmt.Errorf("start the emulator (from the package qemu-system-arm): %w", err)
	}
	start := time.Now()
	if err := m.await(ctx, ""); err != nil {
		m.Stop()
		return nil, fmt.Errorf("boot the gateway: %w\n%s%s", err, said.Bytes(), m.tail())
	}
	log.Info("the gateway is up", "took", time.Since(start).Round(100*time.Millisecond).String())
	return m, nil
}

// launch starts the emulator, which does not outlive this process: Linux sends
// the signal when the thread that started it ends, and that waits here.
func (m *Machine) launch() error {
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := m.cmd.Start()
		started <- err
		if err == nil {
			_ = m.cmd.Wait()
			close(m.gone)
		}
	}()
	return <-started
}

// runFiles are the files that make an image this run's gateway. The keys go
// to dir as well.
func runFiles(ctx context.Context, dir string) (map[string]File, error) {
	hardware, err := buildProgram(ctx, "github.com/edgefn/edgefn/testbed/hardware", dir)
	if err != nil {
		return nil, err
	}
	unit, err := files.ReadFile("files/hardware.service")
	if err != nil {
		return nil, err
	}
	modules, err := files.ReadFile("files/hardware.conf")
	if err != nil {
		return nil, err
	}
	hostKey, hostPublic, err := newKey()
	if err != nil {
		return nil, err
	}
	userKey, userPublic, err := newKey()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "key"), userKey, 0o600),
		os.WriteFile(filepath.Join(dir, "known_hosts"), append([]byte("gateway "), hostPublic...), 0o600),
	); err != nil {
		return nil, err
	}
	const units = "etc/systemd/system/"
	return map[string]File{
		"root/.ssh/authorized_keys":                        {userPublic, 0o600},
		"etc/ssh/ssh_host_ed25519_key":                     {hostKey, 0o600},
		"etc/modules-load.d/hardware.conf":                 {modules, 0o644},
		hardwarePath:                                       {hardware, 0o755},
		units + "hardware.service":                         {unit, 0o644},
		units + "multi-user.target.wants/hardware.service": {[]byte("../hardware.service"), fs.ModeSymlink},
	}, nil
}

func newKey() (private, public []byte, err error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return nil, nil, err
	}
	p, err := ssh.NewPublicKey(pub)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(block), ssh.MarshalAuthorizedKey(p), nil
}

// writeSSH makes the user's ssh know the gateway by that name: an ssh of the
// run's own comes first in the PATH, and reads this run's configuration.
func (m *Machine) writeSSH() error {
	program, err := exec.LookPath("ssh")
	if err != nil {
		return fmt.Errorf("find ssh (from the package openssh-client): %w", err)
	}
	config := fmt.Sprintf(`Host gateway
  HostName 127.0.0.1
  Port %d
  User root
  HostKeyAlias gateway
  IdentityFile %[2]s/key
  IdentitiesOnly yes
  UserKnownHostsFile %[2]s/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  BatchMode yes
  LogLevel ERROR
  ConnectTimeout 60
  ServerAliveInterval 10
  ServerAliveCountMax 6
  ControlPath %[2]s/ssh.sock
`, m.port, m.dir)
	if err := os.WriteFile(filepath.Join(m.dir, "ssh_config"), []byte(config), 0o600); err != nil {
		return err
	}
	if err := os.MkdirAll(m.Bin(), 0o755); err != nil {
		return err
	}
	script := fmt.Sprintf("#!/bin/sh\nexec %s -F %s/ssh_config \"$@\"\n", program, m.dir)
	return os.WriteFile(filepath.Join(m.Bin(), "ssh"), []byte(script), 0o755)
}

// Bin is a folder for the front of a PATH: its ssh knows the host `gateway`.
func (m *Machine) Bin() string { return filepath.Join(m.dir, "bin") }

// Console is the file with all that the machine wrote to its serial console.
func (m *Machine) Console() string { return filepath.Join(m.dir, "console.log") }

// Run runs a shell command on the gateway and returns what it prints on its
// standard output.
func (m *Machine) Run(ctx context.Context, command string) (string, error) {
	return m.run(ctx, nil, command)
}

// Hardware tells the hardware program to do something, see its help.
func (m *Machine) Hardware(ctx context.Context, args ...string) (string, error) {
	out, err := m.run(ctx, nil, "/"+hardwarePath+" "+strings.Join(args, " "))
	return strings.TrimSpace(out), err
}

// Put writes a file on the gateway.
func (m *Machine) Put(ctx context.Context, content io.Reader, path string) error {
	_, err := m.run(ctx, content, fmt.Sprintf("cat >'%s'", path))
	return err
}

func (m *Machine) run(ctx context.Context, stdin io.Reader, command string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(m.Bin(), "ssh"), "gateway", command)
	cmd.Stdin = stdin
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("run %q on the gateway: %w\n%s", command, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// Reboot restarts the gateway as its user would, and returns when ssh answers
// again.
func (m *Machine) Reboot(ctx context.Context) error {
	before, err := m.bootID(ctx)
	if err != nil {
		return err
	}
	start := time.Now()
	// The connection may end before the command's answer comes.
	_, _ = m.Run(ctx, "systemctl reboot")
	if err := m.await(ctx, before); err != nil {
		return fmt.Errorf("reboot the gateway: %w\n%s", err, m.tail())
	}
	m.log.Info("the gateway is up again", "took", time.Since(start).Round(100*time.Millisecond).String())
	return nil
}

func (m *Machine) bootID(ctx context.Context) (string, error) {
	return m.Run(ctx, "cat /proc/sys/kernel/random/boot_id")
}

// await waits until ssh answers in a boot that is not the one before.
func (m *Machine) await(ctx context.Context, before string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bootPatience, fmt.Errorf("no answer within %v", bootPatience))
	defer cancel()
	for {
		if m.answers(ctx) {
			if now, err := m.bootID(ctx); err == nil && now != before {
				return m.connect(ctx)
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-m.gone:
			return errors.New("the emulator ended")
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// connect opens the connection that every other ssh goes through from then on:
// a key exchange takes a second here. It ends with the machine.
func (m *Machine) connect(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, filepath.Join(m.Bin(), "ssh"), "-M", "-N", "-f", "gateway")
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("open the connection to the gateway: %w", err)
	}
	return nil
}

// answers tells whether the guest's ssh is there: QEMU accepts connections
// long before.
func (m *Machine) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", m.port))
	if err != nil {
		return false
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	greeting := make([]byte, 4)
	if c.SetReadDeadline(deadline) != nil {
		return false
	}
	_, err = io.ReadFull(c, greeting)
	return err == nil && string(greeting) == "SSH-"
}

// Stop ends the machine at once, as a cut of its power would.
func (m *Machine) Stop() {
	_ = m.cmd.Process.Kill()
	<-m.gone
}

// tail is the end of the console, for an error.
func (m *Machine) tail() []byte {
	b, _ := os.ReadFile(m.Console())
	return b[max(0, len(b)-3000):]
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

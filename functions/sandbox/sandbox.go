package sandbox

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/init/control"
	"github.com/edgefn/edgefn/functions/pool"
)

// Bounds of an instance that no manifest sets.
const (
	maxFiles = 1024
	maxProcs = 128 // processes and threads
)

// defaultPath is what a program is looked up in where an image sets no PATH.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// openTimeout bounds bringing a sandbox up; unpacking a large image on a card
// is the slow part.
const openTimeout = 2 * time.Minute

// Spec is a sandbox to be.
type Spec struct {
	Function *functions.Function
	Version  string   // digest of its image
	Argv     []string // of an instance
	Env      []string // of an instance, beside the image's and the function's
	// Devices are character devices of the host by path, such as /dev/i2c-1,
	// that instances may read, write and control under the same name in /dev.
	// There is no other way to a device. The caller has checked the grants. One
	// that is not there when a sandbox is opened is ErrDevice; one that goes, or
	// comes back with another number, ends the sandbox within a second.
	Devices []string
}

// Starter returns what brings sandboxes for spec up.
func (h *Host) Starter(spec Spec) pool.Starter { return &starter{h, spec} }

type starter struct {
	h    *Host
	spec Spec
}

var (
	_ pool.Starter  = (*starter)(nil)
	_ pool.Sandbox  = (*Sandbox)(nil)
	_ pool.Instance = (*instance)(nil)
)

// Open implements pool.Starter.
func (s *starter) Open(ctx context.Context) (pool.Sandbox, error) {
	ctx, cancel := context.WithTimeout(s.h.context(ctx), openTimeout)
	defer cancel()
	sb, err := s.h.open(ctx, s.spec)
	if err != nil {
		return nil, fmt.Errorf("open sandbox of %s: %w", s.spec.Function.Name, err)
	}
	return sb, nil
}

// Sandbox is a running container with edgefn-init in it.
type Sandbox struct {
	h       *Host
	id      string
	spec    Spec
	ct      containerd.Container
	conn    *control.Conn
	forward *forwarder // nil: no connections are granted
	devices []device   // that are granted
	watch   sync.WaitGroup
	done    chan struct{}

	mu     sync.Mutex // guards what follows
	groups map[int]*slotGroup
	slots  map[int]*instance
	seq    uint64
}

// name is short, since the path of a socket has it: a function's own name may
// be 63 bytes long.
func (h *Host) name(function string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count++
	return fmt.Sprintf("%.16s-%d-%d", function, os.Getpid(), h.count)
}

func hostIDs(id string) uint32 {
	f := fnv.New32a()
	_, _ = f.Write([]byte(id))
	return firstHostID + f.Sum32()%idRanges*idsEach
}

func (h *Host) open(ctx context.Context, spec Spec) (_ *Sandbox, err error) {
	id := h.name(spec.Function.Name)
	dir := filepath.Join(h.sandboxesDir(), id)
	s := &Sandbox{h: h, id: id, spec: spec, done: make(chan struct{}), groups: map[int]*slotGroup{}, slots: map[int]*instance{}}
	defer func() {
		if err != nil {
			_ = s.remove(context.WithoutCancel(ctx))
		}
	}()
	if s.devices, err = findDevices(spec.Devices); err != nil {
		return nil, err
	}
	if err := mkdirAll(dir); err != nil {
		return nil, err
	}
	layers, image, err := h.layers(ctx, spec.Version, id)
	if err != nil {
		return nil, err
	}
	kind := "host"
	if spec.Function.Image != "" {
		kind = "bare"
	}
	root := filepath.Join(dir, "root")
	if err := mountRoot(root, append(layers, filepath.Join(h.skeletonDir(), kind))); err != nil {
		return nil, err
	}
	hostID := hostIDs(id)
	mounts, err := s.mounts(dir, hostID)
	if err != nil {
		return nil, err
	}
	listener, err := listenInit(filepath.Join(dir, "door"), hostID)
	if err != nil {
		return nil, err
	}
	defer listener.Close() //nolint:errcheck // one init connects, then the door is shut
	s.ct, err = h.client.NewContainer(ctx, id,
		containerd.WithRuntime("io.containerd.runc.v2", nil),
		containerd.WithSpec(containerSpec(root, h.groups.container(id), hostID, mounts, s.devices)),
		containerd.WithContainerLabels(map[string]string{"org.edgefn.name": spec.Function.Name}))
	if err != nil {
		return nil, fmt.Errorf("make container: %w", err)
	}
	initLog := filepath.Join(dir, "init.log")
	task, err := s.ct.NewTask(ctx, cio.LogFile(initLog))
	if err != nil {
		return nil, fmt.Errorf("make task: %w", err)
	}
	if err := h.groups.adopt(id, int(task.Pid()), hostID); err != nil {
		return nil, err
	}
	if len(spec.Function.Grants.Connect) > 0 {
		if s.forward, err = forwardFrom(int(task.Pid()), spec.Function.Grants.Connect, &h.outgoing, h.log); err != nil {
			return nil, err
		}
	}
	if err := task.Start(ctx); err != nil {
		return nil, fmt.Errorf("start task: %w", err)
	}
	if err := s.greet(ctx, listener, s.program(image.Env)); err != nil {
		b, _ := os.ReadFile(initLog)
		return nil, fmt.Errorf("%w %s", err, strings.TrimSpace(string(b)))
	}
	go s.receive()
	if len(s.devices) > 0 {
		s.watch.Go(s.watchDevices)
	}
	return s, nil
}

// mounts are those of the sandbox beside what every container has.
func (s *Sandbox) mounts(dir string, hostID uint32) ([]specs.Mount, error) {
	f := s.spec.Function
	hosts := filepath.Join(dir, "hosts")
	if err := writeFile(hosts, []byte(hostsFile(f.Grants.Connect))); err != nil {
		return nil, err
	}
	ms := []specs.Mount{readOnly(s.h.cfg.ShimsDir, "/edgefn"), readOnly(hosts, "/etc/hosts", "noexec")}
	if f.Image == "" {
		ms = append(ms, hostMounts()...)
	}
	door := filepath.Join(dir, "door")
	if err := os.Mkdir(door, 0o700); err != nil {
		return nil, err
	}
	if err := os.Chown(door, int(hostID), int(hostID)); err != nil {
		return nil, err
	}
	ms = append(ms, specs.Mount{Destination: "/run/edgefn", Type: "bind", Source: door, Options: []string{"bind", "ro", "nosuid", "nodev", "noexec"}})
	if len(f.Secrets) > 0 {
		secrets, err := s.copySecrets(dir)
		if err != nil {
			return nil, err
		}
		ms = append(ms, readOnly(secrets, "/run/secrets", "noexec"))
	}
	nodes, err := mountDevices(dir, s.devices)
	return append(ms, nodes...), err
}

// copySecrets puts the function's secrets, and no others, into a folder that
// is readable inside the sandbox and, on the host, by root alone.
func (s *Sandbox) copySecrets(dir string) (string, error) {
	locked := filepath.Join(dir, "locked")
	if err := os.Mkdir(locked, 0o700); err != nil {
		return "", err
	}
	to := filepath.Join(locked, "secrets")
	if err := mkdirAll(to); err != nil {
		return "", err
	}
	for _, name := range s.spec.Function.Secrets {
		b, err := os.ReadFile(filepath.Join(s.h.cfg.SecretsDir, name))
		if err != nil {
			return "", fmt.Errorf("read secret: %w", err)
		}
		if err := writeFile(filepath.Join(to, name), b); err != nil {
			return "", err
		}
	}
	return to, nil
}

func (s *Sandbox) program(imageEnv []string) *control.Program {
	f := s.spec.Function
	env := slices.Clone(imageEnv)
	if !slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "PATH=") }) {
		env = append(env, defaultPath)
	}
	set := func(k, v string) {
		env = slices.DeleteFunc(env, func(kv string) bool { return strings.HasPrefix(kv, k+"=") })
		env = append(env, k+"="+v)
	}
	set("HOME", "/tmp")
	set("TMPDIR", "/tmp")
	for _, k := range slices.Sorted(maps.Keys(f.Env)) {
		set(k, f.Env[k])
	}
	for _, kv := range s.spec.Env {
		k, v, _ := strings.Cut(kv, "=")
		set(k, v)
	}
	return &control.Program{
		Argv: s.spec.Argv, Env: env, Dir: "/app", FirstUID: firstUID,
		TmpBytes: f.Memory, MaxFiles: maxFiles, MaxProcs: maxProcs,
		PrivateNet: len(f.Grants.Connect) == 0, Unified: s.h.groups.v2,
	}
}

func listenInit(dir string, hostID uint32) (*net.UnixListener, error) {
	path := filepath.Join(dir, "init.sock")
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("socket path %s is %d bytes long, at most %d are possible: choose a shorter --run", path, len(path), maxSocketPath)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("listen for init: %w", err)
	}
	if err := os.Chown(path, int(hostID), int(hostID)); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// greet waits for edgefn-init and tells it what to run.
func (s *Sandbox) greet(ctx context.Context, l *net.UnixListener, p *control.Program) error {
	deadline := time.Now().Add(20 * time.Second)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	_ = l.SetDeadline(deadline)
	c, err := l.AcceptUnix()
	if err != nil {
		return fmt.Errorf("wait for edgefn-init: %w", err)
	}
	_ = c.SetDeadline(deadline)
	s.conn = control.NewConn(c)
	m, _, err := s.conn.Recv()
	if err != nil {
		return fmt.Errorf("greet edgefn-init: %w", err)
	}
	if m.Kind != control.Ready || m.V != control.Version {
		return fmt.Errorf("greet edgefn-init: got %q of version %d, expected version %d", m.Kind, m.V, control.Version)
	}
	if err := s.conn.Send(control.Message{Kind: control.Configure, Program: p}); err != nil {
		return err
	}
	if m, _, err = s.conn.Recv(); err != nil {
		return fmt.Errorf("configure edgefn-init: %w", err)
	}
	if m.Error != "" {
		return &functions.Failure{Kind: functions.FailLoad, Message: m.Error}
	}
	return c.SetDeadline(time.Time{})
}

// receive reads what init says until it is gone.
func (s *Sandbox) receive() {
	for {
		m, files, err := s.conn.Recv()
		if err != nil {
			break
		}
		control.CloseAll(files)
		s.mu.Lock()
		in := s.slots[m.Slot]
		if in == nil || in.seq != m.Seq {
			s.mu.Unlock()
			continue
		}
		switch {
		case m.Kind == control.Started && m.Error == "":
			s.mu.Unlock()
			in.started <- nil
		case m.Kind == control.Started:
			delete(s.slots, m.Slot)
			s.mu.Unlock()
			in.started <- errors.New(m.Error)
		case m.Kind == control.Exited:
			delete(s.slots, m.Slot)
			s.mu.Unlock()
			in.end(pool.Exit{Code: m.Code, Signal: m.Signal, OOM: in.group.oomed()})
		default:
			s.mu.Unlock()
		}
	}
	// init is gone, and with it every process of the sandbox.
	s.mu.Lock()
	left := slices.Collect(maps.Values(s.slots))
	clear(s.slots)
	exits := make([]pool.Exit, len(left))
	for i, in := range left {
		exits[i] = pool.Exit{Code: -1, Signal: 9, OOM: in.group.oomed()}
	}
	s.mu.Unlock()
	close(s.done) // before the ends of instances, whose cause it is
	for i, in := range left {
		select {
		case in.started <- errors.New("sandbox is gone"):
		default:
		}
		in.end(exits[i])
	}
}

// Done implements pool.Sandbox.
func (s *Sandbox) Done() <-chan struct{} { return s.done }

// Close implements pool.Sandbox.
func (s *Sandbox) Close(ctx context.Context) error {
	ctx = s.h.context(ctx)
	_ = s.conn.Close() // ends init, which ends everything in the sandbox
	<-s.done
	s.watch.Wait()
	return s.remove(ctx)
}

func (s *Sandbox) remove(ctx context.Context) error {
	if s.conn != nil {
		_ = s.conn.Close()
	}
	if s.forward != nil {
		s.forward.close()
	}
	s.mu.Lock()
	for _, g := range s.groups {
		g.close()
	}
	clear(s.groups)
	s.mu.Unlock()
	var err error
	if s.ct != nil {
		if err = removeContainer(ctx, s.ct); err != nil && errdefs.IsUnavailable(err) {
			// containerd is away: what is left goes at the node's next start.
			err = fmt.Errorf("remove sandbox %s: %w", s.id, err)
		}
	}
	s.h.removeFiles(ctx, s.id)
	return err
}

package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/wal"

	"github.com/edgefn/edgefn/cluster/store"
)

// What the embedded server is set to, for a flash card and little memory.
const (
	// segmentBytes is the size at which etcd preallocates log files, two at a
	// time; its own default is 64 MB.
	segmentBytes = 4 << 20
	// batchInterval is how long the database file may lag behind the log,
	// which alone makes a commit durable: one commit per 300 ms costs 17 kB
	// and 1.9 flushes on the device at 1 s, 28 kB and 3.3 at etcd's 100 ms.
	batchInterval = time.Second
	// snapshotCount is the number of commits after which the log is cut.
	snapshotCount = 2000
	// catchUp is how many of the last commits stay in memory whatever their size,
	// for members that lag behind, up to a hundred more until etcd drops them. Of
	// 500, 260 events of 500 KiB took 142 MB; of 50, 67 MB.
	catchUp = 50
	// retention is how much history is kept.
	retention = "10m"
	// maxRequestBytes is the largest proposal.
	maxRequestBytes = 4 << 20
	// A store of one member elects itself after one to electionTicks ticks, so
	// these two are most of its start: at most half a second. Ticking five
	// times less often saved nothing that could be measured (2.7 ms of CPU a
	// second idle, either way) and made the start take up to 5 s.
	tickMillis    = 100
	electionTicks = 5 // the least that etcd takes
)

// Defaults of Config.
const (
	DefaultQuota = 256 << 20
	// DefaultStart leaves time for a slow card.
	DefaultStart = time.Minute

	minQuota = 8 << 20
	maxQuota = 2 << 30
	maxPath  = 107 // bytes of a Unix socket's path: sun_path less its zero byte
)

// Config of an embedded store.
type Config struct {
	Dir    string        // the store's own directory; made if it is not there
	Name   string        // this member's name; empty: "edgefn"
	RunDir string        // for a socket; empty: Dir where its path is short enough, or a temporary directory
	Quota  int64         // bytes of entries and history; 0: DefaultQuota. The file may be larger by a quarter and 16 MiB
	Start  time.Duration // how long the start may take; 0: DefaultStart
	Logger *slog.Logger  // nil discards
	// Reserve is the bytes of disk kept back for a store in need, at most an
	// eighth of the disk; 0: DefaultReserve.
	Reserve int64
}

func (c *Config) defaults() {
	if c.Name == "" {
		c.Name = "edgefn"
	}
	if c.Quota == 0 {
		c.Quota = DefaultQuota
	}
	if c.Reserve == 0 {
		c.Reserve = DefaultReserve
	}
	if c.Start == 0 {
		c.Start = DefaultStart
	}
}

func (c *Config) validate() error {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("no directory given"))
	}
	if strings.ContainsAny(c.Name, ",=&;% ") {
		errs = append(errs, fmt.Errorf("name %q: it may hold none of , = & ; %% and blank", c.Name))
	}
	if c.Quota < minQuota || c.Quota > maxQuota {
		errs = append(errs, fmt.Errorf("quota of %d bytes: from %d to %d", c.Quota, int64(minQuota), int64(maxQuota)))
	}
	if c.Reserve < 0 || c.Reserve > maxQuota {
		errs = append(errs, fmt.Errorf("reserve of %d bytes: from 1 to %d, or 0 for %d", c.Reserve, int64(maxQuota), int64(DefaultReserve)))
	}
	return errors.Join(errs...)
}

// segments sets etcd's package-wide size of log files, once, before any start.
var segments = sync.OnceFunc(func() { wal.SegmentSizeBytes = segmentBytes })

// embedded is what a store has for its runs of etcd, one after the other.
type embedded struct {
	cfg    Config
	files  string // etcd's directory, by its real path
	socket peerSocket
	disk   *reserve
	unlock func() // lets go of the directory and the socket

	// Of who starts and ends runs: Open, then the keeper.
	runs  int  // started
	left  int  // that could not be ended
	taken bool // by a start that was given up and has the directory until it ends

	stop func()        // ends the keeper
	kept chan struct{} // closed when it has ended
	past atomic.Int64  // bytes written by the runs that have ended
	told atomic.Int64  // what Written said last
}

// Open starts etcd in this process on a directory and returns when it serves.
// Where the disk has no room for that, it returns nevertheless: calls fail with
// ErrUnavailable, Health says why, and the store starts by itself once there is
// room. ctx bounds the start only; the caller closes the store.
//
// The memory settings of the process (GOGC, GOMEMLIMIT) are the caller's.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	cfg.defaults()
	s, err := open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open the store in %q: %w", cfg.Dir, err)
	}
	return s, nil
}

func open(ctx context.Context, cfg Config) (*Store, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if err := finishRestore(cfg.Dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create its directory: %w", err)
	}
	path, err := filepath.EvalSymlinks(cfg.Dir)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return nil, fmt.Errorf("find its directory: %w", err)
	}
	held, err := lock(cfg.Dir)
	if err != nil {
		return nil, err
	}
	s := newStore(cfg.Logger)
	e := &embedded{
		cfg: cfg, files: filepath.Join(path, dataName),
		unlock: func() { _ = held.Close() },
		kept:   make(chan struct{}),
	}
	s.embedded = e
	if e.disk, err = newReserve(cfg.Dir, filepath.Join(cfg.Dir, reserveName), cfg.Reserve, s.log); err != nil {
		e.unlock()
		return nil, err
	}
	if e.socket, err = socketPath(cfg); err != nil {
		e.unlock()
		return nil, err
	}
	e.unlock = func() {
		e.socket.remove()
		_ = held.Close()
	}
	v, err := s.run(ctx)
	switch {
	case err == nil:
		s.serve(v)
	case noRoom(err):
		s.log.Error("the store does not start for want of room on its disk and tries again until it does", keyErr, err)
		s.wait(err)
	default:
		if !e.taken {
			e.unlock()
		}
		return nil, err
	}
	s.look(v)
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	e.stop = stop
	s.close = func() {
		e.stop()
		<-e.kept
	}
	go s.keep(keeping, v)
	return s, nil
}

// keepCut reports that etcd has cut off the damaged end of its log as it
// started, which is how it recovers from a power cut amid a write; nothing
// acknowledged stood there unless the disk itself lost it. The log as it was is
// kept, the last such one.
func (s *Store) keepCut(dir string) error {
	broken, err := filepath.Glob(filepath.Join(dir, dataName, "member", "wal", "*.broken"))
	if err != nil {
		return fmt.Errorf("look for a damaged log: %w", err)
	}
	for _, b := range broken {
		kept := filepath.Join(dir, "damaged.wal")
		if err := os.Rename(b, kept); err != nil {
			return fmt.Errorf("keep a damaged log: %w", err)
		}
		s.log.Warn("the end of the store's log was damaged and is cut off, as after a power cut; the log as it was is kept", "path", kept)
	}
	return nil
}

// configure turns cfg into etcd's terms. dir is where this run finds its files;
// a roomy disk lets it shrink them as it starts.
func configure(cfg Config, socket peerSocket, dir string, roomy bool) *embed.Config {
	// etcd listens on the host of the URL alone; with none it takes an abstract
	// socket, which any user may dial. Where a URL is read back from text, the
	// path cannot stand for the host.
	listen := url.URL{Scheme: "unix", Host: socket.path}
	peer := url.URL{Scheme: "unix", Path: socket.path}
	ec := embed.NewConfig()
	ec.Name = cfg.Name
	ec.Dir = dir
	ec.ListenPeerUrls = []url.URL{listen}
	ec.AdvertisePeerUrls = []url.URL{peer}
	ec.InitialCluster = ec.InitialClusterFromName(cfg.Name)
	ec.ListenClientUrls = nil
	ec.AdvertiseClientUrls = nil
	ec.EnableGRPCGateway = false
	ec.TickMs = tickMillis
	ec.ElectionMs = electionTicks * tickMillis
	ec.SnapshotCount = snapshotCount
	ec.SnapshotCatchUpEntries = catchUp
	ec.MaxWalFiles = 2
	ec.BackendBatchInterval = batchInterval
	ec.QuotaBackendBytes = limit(cfg.Quota)
	if roomy {
		ec.BootstrapDefragThresholdMegabytes = uint(cfg.Quota >> 21) // half of the quota
	}
	ec.AutoCompactionMode = embed.CompactorModePeriodic
	ec.AutoCompactionRetention = retention
	ec.MaxRequestBytes = maxRequestBytes
	ec.MaxTxnOps = store.MaxGuards
	return ec
}

// peerSocket is where etcd listens for its peers.
type peerSocket struct {
	path   string
	remove func()
}

func socketPath(cfg Config) (peerSocket, error) {
	const name = "store.sock"
	dir := cfg.RunDir
	if dir == "" {
		dir = cfg.Dir
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return peerSocket{}, fmt.Errorf("find its socket's directory: %w", err)
	}
	p := peerSocket{path: filepath.Join(dir, name)}
	p.remove = func() { _ = os.Remove(p.path) }
	switch {
	case len(p.path) <= maxPath:
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return p, fmt.Errorf("create its socket's directory: %w", err)
		}
		return p, nil
	case cfg.RunDir != "":
		return p, fmt.Errorf("the path of its socket %s has %d bytes, a socket's has at most %d: use a shorter run directory", p.path, len(p.path), maxPath)
	}
	dir, err = os.MkdirTemp("", "edgefn-")
	if err != nil {
		return p, fmt.Errorf("create its socket's directory: %w", err)
	}
	p.path = filepath.Join(dir, name)
	p.remove = func() { _ = os.RemoveAll(dir) }
	return p, nil
}

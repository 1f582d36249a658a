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
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
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
	// snapshotCount is the number of commits after which the log is cut, and
	// catchUp how many of them stay in memory nevertheless.
	snapshotCount = 2000
	catchUp       = 500
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
}

func (c *Config) defaults() {
	if c.Name == "" {
		c.Name = "edgefn"
	}
	if c.Quota == 0 {
		c.Quota = DefaultQuota
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
	return errors.Join(errs...)
}

// server is the embedded etcd.
type server struct {
	dir   string
	quota int64
	etcd  *embed.Etcd

	pending    atomic.Int64 // bytes admitted since the batch was last ended for them
	alarmed    atomic.Bool  // etcd is at its own limit and takes no put
	tight      atomic.Bool  // the last maintenance for a write made too little room
	ahead      atomic.Bool  // maintenance is under way in the background
	maintained atomic.Int64 // when it last ended, Unix nanoseconds

	maintaining chan struct{} // one token: held by who maintains
	compacted   int64         // revision last compacted; of the token's holder
}

// segments sets etcd's package-wide size of log files, once, before any start.
var segments = sync.OnceFunc(func() { wal.SegmentSizeBytes = segmentBytes })

// Open starts etcd in this process on a directory and returns when it serves.
// ctx bounds the start only; the caller closes the store.
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

func open(ctx context.Context, cfg Config) (_ *Store, err error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create its directory: %w", err)
	}
	held, err := lock(cfg.Dir)
	if err != nil {
		return nil, err
	}
	undo := []func(){func() { _ = held.Close() }}
	release := func() {
		for i := len(undo) - 1; i >= 0; i-- {
			undo[i]()
		}
	}
	defer func() {
		if err != nil {
			within(stuck, release)
		}
	}()
	free, err := freeBytes(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if free < reserve {
		return nil, fmt.Errorf("%w: its disk has %d MiB left, %d MiB are needed: free some", store.ErrFull, free>>20, reserve>>20)
	}
	first, err := clean(cfg.Dir)
	if err != nil {
		return nil, err
	}
	socket, err := socketPath(cfg)
	if err != nil {
		return nil, err
	}
	undo = append(undo, socket.remove)

	s := newStore(cfg.Logger)
	ec := configure(cfg, socket)
	ec.ZapLoggerBuilder = embed.NewZapLoggerBuilder(bridge(s.log, s.done, s.fail))
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.Start, fmt.Errorf("etcd did not start within %s: is its disk failing, or are its files damaged or used by another program?", cfg.Start))
	defer cancel()
	begun := s.start(ec)
	undo = append(undo, func() {
		if <-begun.ended; begun.etcd != nil {
			begun.etcd.Close()
		}
	})
	if err := s.ready(ctx, begun); err != nil {
		return nil, err
	}
	if err := os.Chmod(socket.path, 0o600); err != nil {
		return nil, fmt.Errorf("close its socket to others: %w", err)
	}
	if first {
		if err := served(cfg.Dir); err != nil {
			return nil, err
		}
	}
	if err := s.keepCut(cfg.Dir); err != nil {
		return nil, err
	}
	s.client = v3client.New(begun.etcd.Server)
	s.server = &server{dir: cfg.Dir, quota: cfg.Quota, etcd: begun.etcd, maintaining: make(chan struct{}, 1)}
	s.server.alarmed.Store(len(begun.etcd.Server.Alarms()) > 0)
	s.close = func() {
		_ = s.client.Close() // only ever the end of its own context
		release()
	}
	go func() {
		select {
		case <-begun.etcd.Server.StopNotify():
			s.fail(errors.New("its member was removed, or its server ended"))
		case <-s.done:
		}
	}()
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

// launch is a start under way; its other fields are set when ended is closed.
type launch struct {
	ended chan struct{}
	etcd  *embed.Etcd
	err   error
}

// start starts etcd on a goroutine of its own, since etcd ends the goroutine, or
// panics, on files that it cannot make sense of.
func (s *Store) start(ec *embed.Config) *launch {
	segments()
	l := &launch{ended: make(chan struct{}), err: errors.New("its start ended early")}
	go func() {
		defer close(l.ended)
		defer func() {
			if p := recover(); p != nil {
				l.err = fmt.Errorf("panic: %v", p)
			}
		}()
		l.etcd, l.err = embed.StartEtcd(ec)
	}()
	return l
}

// ready waits until a launched etcd serves.
func (s *Store) ready(ctx context.Context, l *launch) error {
	select {
	case <-l.ended:
	case <-s.done: // a goroutine that the start waits for has ended
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := s.Err(); err != nil {
		return err
	}
	if l.err != nil {
		s.fail(l.err)
		return s.Err()
	}
	select {
	case <-l.etcd.Server.ReadyNotify():
		return nil
	case <-l.etcd.Server.StopNotify():
		return fmt.Errorf("%w as it started", ErrFailed)
	case <-s.done:
		return s.Err()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// configure turns cfg into etcd's terms.
func configure(cfg Config, socket peerSocket) *embed.Config {
	// etcd listens on the host of the URL alone; with none it takes an abstract
	// socket, which any user may dial. Where a URL is read back from text, the
	// path cannot stand for the host.
	listen := url.URL{Scheme: "unix", Host: socket.path}
	peer := url.URL{Scheme: "unix", Path: socket.path}
	ec := embed.NewConfig()
	ec.Name = cfg.Name
	ec.Dir = filepath.Join(cfg.Dir, dataName)
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
	ec.BootstrapDefragThresholdMegabytes = uint(cfg.Quota >> 21) // half of the quota
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

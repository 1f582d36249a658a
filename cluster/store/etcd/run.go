package etcd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"golang.org/x/sys/unix"

	"github.com/edgefn/edgefn/cluster/store"
)

// server is one run of the embedded etcd, from a start to its end; a store has
// one after the other. For an etcd outside it is only the client.
type server struct {
	client *clientv3.Client
	pace   *pace // of an etcd outside, which is told of each call

	// The rest is of the embedded one.
	etcd  *embed.Etcd
	dir   string // the store's
	files string // etcd's own directory, by its real path
	alias string // the link through which this run reaches files
	quota int64
	disk  *reserve
	start *launch
	meter meter

	once  sync.Once
	dead  chan struct{} // closed when the run has failed
	hush  chan struct{} // closed when what etcd says is of no use any more
	cause error         // why; read once dead is closed

	pending    atomic.Int64 // bytes admitted since the batch was last ended for them
	alarmed    atomic.Bool  // etcd is at its own limit and takes no put
	tight      atomic.Bool  // the last maintenance for a write made too little room
	ahead      atomic.Bool  // maintenance is under way in the background
	maintained atomic.Int64 // when it last ended, Unix nanoseconds

	maintaining chan struct{} // one token: held by who maintains
	compacted   int64         // revision last compacted; of the token's holder

	mu      sync.Mutex
	running int           // calls inside etcd
	idle    chan struct{} // made by close; closed when running is 0
}

// launch is a start under way; its other fields are set when ended is closed.
type launch struct {
	ended chan struct{}
	etcd  *embed.Etcd
	err   error
}

// errRemoved: etcd has ended and reported no failure.
var errRemoved = errors.New("its member was removed, or its server ended")

// run starts etcd and returns when it serves. ctx bounds the start.
func (s *Store) run(ctx context.Context) (_ *server, err error) {
	e := s.embedded
	has, err := e.disk.look()
	if err != nil {
		return nil, err
	}
	if !has.deletes() {
		return nil, fmt.Errorf("%w: that of %s has %d MiB left, %d MiB are needed to start: free some",
			errNoRoom, e.cfg.Dir, has.free>>20, has.last>>20)
	}
	first, err := clean(e.cfg.Dir)
	if err != nil {
		return nil, err
	}
	if !first {
		if err := examine(e.cfg.Dir); err != nil {
			return nil, err
		}
	}
	v := &server{
		dir: e.cfg.Dir, files: e.files, quota: e.cfg.Quota, disk: e.disk,
		dead: make(chan struct{}), hush: make(chan struct{}), maintaining: make(chan struct{}, 1),
	}
	if v.alias, err = e.link(); err != nil {
		return nil, err
	}
	opening := e.stop == nil
	defer func() {
		if err == nil {
			return
		}
		if v.start != nil && (ctx.Err() == nil || !opening) {
			s.lost(v, err)
		}
		e.giveUp(v, opening)
	}()
	ec := configure(e.cfg, e.socket, v.alias, has.puts())
	ec.ZapLoggerBuilder = embed.NewZapLoggerBuilder(bridge(s.log, v.hush, func(why error) { s.lost(v, why) }))
	ctx, cancel := context.WithTimeoutCause(ctx, e.cfg.Start, fmt.Errorf("etcd did not start within %s: is its disk failing, or are its files damaged or used by another program?", e.cfg.Start))
	defer cancel()
	v.launch(ec)
	if err := v.ready(ctx); err != nil {
		if ctx.Err() == nil && !noRoom(err) {
			err = fmt.Errorf("%w as it started: %w: is its disk failing, or are its files damaged? If they are, restore the last backup: edgefn restore FILE --data %s", ErrFailed, err, filepath.Dir(e.cfg.Dir))
		}
		return nil, err
	}
	v.etcd = v.start.etcd
	if err := os.Chmod(e.socket.path, 0o600); err != nil {
		return nil, fmt.Errorf("close its socket to others: %w", err)
	}
	if first {
		if err := served(e.cfg.Dir); err != nil {
			return nil, err
		}
	}
	if err := s.keepCut(e.cfg.Dir); err != nil {
		return nil, err
	}
	v.client = v3client.New(v.etcd.Server)
	v.alarmed.Store(len(v.etcd.Server.Alarms()) > 0)
	v.meter.open(v)
	go func() {
		select {
		case <-v.etcd.Server.StopNotify():
			s.lost(v, errRemoved)
		case <-v.dead:
		}
	}()
	return v, nil
}

// launch starts etcd on a goroutine of its own, since etcd ends the goroutine, or
// panics, on files that it cannot make sense of.
func (v *server) launch(ec *embed.Config) {
	segments()
	l := &launch{ended: make(chan struct{}), err: errors.New("its start ended early")}
	v.start = l
	go func() {
		defer close(l.ended)
		defer func() {
			if p := recover(); p != nil {
				l.err = fmt.Errorf("panic: %v", p)
			}
		}()
		l.etcd, l.err = embed.StartEtcd(ec)
	}()
}

// ready waits until etcd serves.
func (v *server) ready(ctx context.Context) error {
	select {
	case <-v.start.ended:
	case <-v.dead: // a goroutine that the start waits for has ended
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := v.failed(); err != nil {
		return err
	}
	if v.start.err != nil {
		return v.start.err
	}
	select {
	case <-v.start.etcd.Server.ReadyNotify():
		return nil
	case <-v.start.etcd.Server.StopNotify():
		return errors.New("etcd ended as it started")
	case <-v.dead:
		return v.failed()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// failed is why the run has failed, or nil.
func (v *server) failed() error {
	select {
	case <-v.dead:
		return v.cause
	default:
		return nil
	}
}

// disarm makes sure that nothing that is still on its way in a run that has
// failed reaches the files, of which the next run is to have sole use: the link
// to them goes, so that no name leads there, and every descriptor that this
// process has in them leads to a null device that takes no write. What is open
// there is etcd's alone. The numbers of the descriptors stay taken, so that
// whoever closes one later closes nothing else; the locks on the files go.
func (v *server) disarm() error {
	err := os.Remove(v.alias)
	null, nerr := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if nerr != nil {
		return errors.Join(err, fmt.Errorf("open %s: %w", os.DevNull, nerr))
	}
	defer unix.Close(null) //nolint:errcheck // only read
	fds, rerr := os.ReadDir("/proc/self/fd")
	for _, d := range fds {
		to, lerr := os.Readlink("/proc/self/fd/" + d.Name())
		fd, cerr := strconv.Atoi(d.Name())
		if lerr != nil || cerr != nil || !strings.HasPrefix(to, v.files+"/") {
			continue
		}
		_ = unix.Flock(fd, unix.LOCK_UN) // a mapping of the file would keep it
		err = errors.Join(err, unix.Dup3(null, fd, unix.O_CLOEXEC))
	}
	return errors.Join(err, rerr)
}

// quieten ends what etcd says.
func (v *server) quieten() {
	v.mu.Lock()
	defer v.mu.Unlock()
	select {
	case <-v.hush:
	default:
		close(v.hush)
	}
}

// enter lets a call into etcd, and leave ends it. After close none is let in.
func (v *server) enter() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.idle != nil {
		return false
	}
	v.running++
	return true
}

func (v *server) leave() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.running--; v.running == 0 && v.idle != nil {
		close(v.idle)
	}
}

// close ends the run: the calls inside etcd first, which are to be on their way
// out. It blocks as long as etcd does, which may be for ever after a failure.
func (v *server) close() {
	v.quieten()
	v.mu.Lock()
	if v.idle == nil {
		v.idle = make(chan struct{})
		if v.running == 0 {
			close(v.idle)
		}
	}
	idle := v.idle
	v.mu.Unlock()
	<-idle
	if v.client != nil {
		_ = v.client.Close() // only ever the end of its own context
	}
	if v.start == nil {
		return
	}
	if <-v.start.ended; v.start.etcd != nil {
		v.start.etcd.Close()
	}
	v.meter.close()
	_ = os.Remove(v.alias)
}

// ask makes a call of etcd's client in a run. The embedded server serves a call
// on the goroutine that makes it, and a run that fails ends the goroutines that
// it meets, or leaves them waiting: so the call has one of its own. What a run
// that has failed answers is not to be believed.
func ask[T any](ctx context.Context, v *server, call func() (T, error)) (T, error) {
	var none T
	if v.pace != nil {
		value, err := call()
		v.pace.heard(err)
		return value, err
	}
	if !v.enter() {
		return none, context.Cause(ctx)
	}
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		a := answer{err: errEnded}
		defer v.leave()
		defer func() { answers <- a }()
		a.value, a.err = call()
	}()
	select {
	case a := <-answers:
		if err := v.failed(); err != nil {
			return none, unavailable(err)
		}
		return a.value, a.err
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
}

// errEnded: a goroutine of etcd ended amid a call.
var errEnded = errors.New("etcd ended in the midst of a call")

// unavailable is the error of a call that a failing run has met.
func unavailable(why error) error { return fmt.Errorf("%w: %w", store.ErrUnavailable, why) }

// link makes the link through which a run reaches its files.
func (e *embedded) link() (string, error) {
	if err := os.MkdirAll(e.files, 0o700); err != nil {
		return "", fmt.Errorf("create etcd's directory: %w", err)
	}
	e.runs++
	path := filepath.Join(filepath.Dir(e.socket.path), "store."+strconv.Itoa(e.runs))
	_ = os.Remove(path) // left by a process that was killed
	if err := os.Symlink(e.files, path); err != nil {
		return "", fmt.Errorf("link to etcd's directory: %w", err)
	}
	return path, nil
}

// database is the database of a run; its statistics outlive the call, the
// database itself does not outlive a defragmentation.
func (v *server) database() *bolt.DB {
	sn := v.etcd.Server.Backend().Snapshot()
	defer sn.Close() //nolint:errcheck // only read
	if tx, ok := sn.(interface{ DB() *bolt.DB }); ok {
		return tx.DB()
	}
	return nil
}

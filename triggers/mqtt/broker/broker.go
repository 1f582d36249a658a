package broker

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/edgefn/edgefn/triggers/mqtt/broker/access"
)

// Broker is the node's own MQTT broker. Its methods are safe for use by
// several goroutines.
type Broker struct {
	cfg       Config
	store     *store // set by Listen
	logins    *access.Logins
	notLetIn  seldom
	denied    seldom
	listeners []*listener

	subs     subscriptions
	retained retained
	queued   atomic.Int64 // bytes that wait for sessions
	lanes    *lanes
	intake   *intake
	bound    atomic.Pointer[bindings]
	stats    counters
	pending  pendingEvents
	began    time.Time // when it was made
	start    time.Time // the same by its clock
	binding  bindState

	// routing is held for reading while a message is routed, and for writing
	// while a subscription or binding is made and the retained messages that it
	// matches are looked up: so each message comes once, retained or live.
	routing sync.RWMutex

	mu       sync.Mutex
	state    lifeState
	sessions map[string]*session
	conns    map[*conn]struct{}
	full     bool                   // logged that there is no room for more connections
	wills    map[string]delayedWill // by client id
	willSeq  uint64                 // of the newest on disk
	wg       sync.WaitGroup         // connections and what Bind started

	turned chan struct{}  // bounds the connections that are turned away at the same time
	away   sync.WaitGroup // of those
}

type lifeState byte

const (
	made lifeState = iota
	listening
	running
	ended
)

// New checks the configuration. It does no I/O.
func New(cfg Config) (*Broker, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	b := &Broker{
		began:    time.Now(),
		start:    cfg.Clock(),
		cfg:      cfg,
		lanes:    newLanes(),
		intake:   newIntake(totalBytes),
		sessions: map[string]*session{},
		conns:    map[*conn]struct{}{},
		wills:    map[string]delayedWill{},
		turned:   make(chan struct{}, turnedAwayAtOnce),
	}
	if cfg.Logins.Clock == nil {
		cfg.Logins.Clock = cfg.Clock
	}
	b.logins = access.NewLogins(cfg.Logins)
	for _, l := range cfg.listeners() {
		open, err := b.newListener(l)
		if err != nil {
			return nil, err
		}
		b.listeners = append(b.listeners, open)
	}
	b.bound.Store(&bindings{})
	return b, nil
}

// Listen takes the addresses, reads the listeners' files and opens the store. It
// is apart from Run so that its error comes early: for a port that is in use it
// names the address and wraps syscall.EADDRINUSE. After Listen, Run must be
// called: it releases everything.
func (b *Broker) Listen() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state != made {
		return errors.New("mqtt broker: Listen was called before")
	}
	if err := b.openListeners(); err != nil {
		return err
	}
	st, err := openStore(b.cfg.Dir)
	if err != nil {
		return errors.Join(fmt.Errorf("mqtt broker: %w", err), b.closeListeners())
	}
	st.onError = func(err error) {
		b.cfg.Logger.Error("mqtt broker cannot store; messages are not acknowledged", keyErr, err)
	}
	b.store = st
	b.retained.st, b.retained.maxCount, b.retained.maxBytes, b.retained.full = st, b.cfg.MaxRetained, b.cfg.MaxRetainedBytes, b.cfg.RetainedFull
	if err := b.load(); err != nil {
		return errors.Join(fmt.Errorf("mqtt broker: read %s: %w", st.db.Path(), err), b.closeListeners(), st.close(false))
	}
	go st.run()
	b.state = listening
	return nil
}

func (b *Broker) load() error {
	if err := b.retained.load(b.now()); err != nil {
		return err
	}
	if err := b.pending.load(b.store, b.cfg.Clock()); err != nil {
		return err
	}
	if err := b.binding.load(b.store); err != nil {
		return err
	}
	if err := b.restoreWills(b.now()); err != nil {
		return err
	}
	return b.restore(b.now())
}

// Addr is where the first listener listens, with the port that it was given;
// empty before Listen.
func (b *Broker) Addr() string {
	if addrs := b.Addrs(); len(addrs) > 0 {
		return addrs[0]
	}
	return ""
}

// Addrs are the addresses of all listeners, as Addr.
func (b *Broker) Addrs() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == made {
		return nil
	}
	addrs := make([]string, len(b.listeners))
	for i, l := range b.listeners {
		addrs[i] = l.ln.Addr().String()
	}
	return addrs
}

// Run serves until ctx is done and returns nil then. Clients are disconnected,
// hand-overs end, what was acknowledged is on disk. A message whose event
// settles later than that is not acknowledged: let events settle first.
func (b *Broker) Run(ctx context.Context) error {
	b.mu.Lock()
	if b.state != listening {
		b.mu.Unlock()
		return errors.New("mqtt broker: Run needs one call of Listen before it")
	}
	b.state = running
	b.mu.Unlock()

	b.rebind() //nolint:contextcheck // hand-overs end by shutdown
	var accepting sync.WaitGroup
	for _, l := range b.listeners {
		accepting.Go(func() { //nolint:contextcheck // closing the listener ends it
			if l.WebSocket {
				b.acceptWebSocket(l)
			} else {
				b.accept(l)
			}
		})
	}
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for running := true; running; {
		select {
		case <-ctx.Done():
			running = false
		case <-tick.C:
			b.sweep() //nolint:contextcheck // hand-overs outlive a sweep; shutdown ends them
		}
	}
	closeErr := b.closeListeners()
	accepting.Wait()
	return errors.Join(closeErr, b.shutdown())
}

func (b *Broker) shutdown() error {
	b.mu.Lock()
	b.state = ended
	for c := range b.conns {
		c.kill(packets.ErrServerShuttingDown.Code)
	}
	b.mu.Unlock()
	b.lanes.stop() // also lets go of what waits for settlement
	b.logins.Close()
	b.away.Wait()
	b.wg.Wait()
	b.retained.flush()
	if err := b.store.close(true); err != nil {
		return fmt.Errorf("mqtt broker: close store: %w", err)
	}
	return nil
}

// accept takes connections until the listener is closed.
func (b *Broker) accept(l *listener) {
	pause := time.Duration(0)
	for {
		nc, err := l.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of descriptors, most likely: it passes.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			b.cfg.Logger.Warn("mqtt broker cannot accept a connection", keyErr, err)
			time.Sleep(pause)
			continue
		}
		pause = 0
		c := newConn(b, l, nc)
		if !b.count(c) {
			b.turnAway(nc)
			continue
		}
		go func() {
			defer b.uncount(c)
			c.serve()
		}()
	}
}

// attach gives a connection its session; an older connection of the same
// client is ended first [MQTT-3.1.4-3]. present tells that the session was
// there before. The code is not 0 when the connection is refused.
func (b *Broker) attach(c *conn, id string, clean bool, expiry int64) (present bool, code packets.Code) {
	deadline := time.NewTimer(b.cfg.ConnectTimeout)
	defer deadline.Stop()
	for {
		b.mu.Lock()
		if b.state != running {
			b.mu.Unlock()
			return false, packets.ErrServerShuttingDown
		}
		s := b.sessions[id]
		if s != nil && s.online.Load() {
			s.mu.Lock()
			old := s.conn
			s.mu.Unlock()
			b.mu.Unlock()
			if old != nil {
				old.kill(packets.ErrSessionTakenOver.Code)
				select {
				case <-old.detached:
				case <-deadline.C:
					return false, packets.ErrServerBusy
				case <-b.lanes.quit:
					return false, packets.ErrServerShuttingDown
				}
			}
			continue
		}
		if s == nil && len(b.sessions) >= b.cfg.MaxSessions { // before its will is forgotten
			b.mu.Unlock()
			return false, packets.ErrQuotaExceeded
		}
		var over *will
		if s != nil && clean {
			over = b.end(s)
			s = nil
		}
		if x, waiting := b.wills[id]; waiting { // [MQTT-3.1.3-9]
			delete(b.wills, id)
			b.dropWill(x.will)
		}
		present = s != nil
		if s == nil {
			s = b.newSession(id, randomEpoch())
			b.sessions[id] = s
		}
		w := b.enter(s, c, expiry)
		b.mu.Unlock()
		if over != nil {
			b.publishWill(over)
		}
		if err := <-w; err != nil {
			return false, packets.ErrServerUnavailable
		}
		return present, packets.CodeSuccess
	}
}

// enter makes c the session's connection; b.mu is held. The channel tells when
// that is on disk, where it must be.
func (b *Broker) enter(s *session, c *conn, expiry int64) <-chan error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn, c.s, s.since = c, s, 0
	s.online.Store(true)
	s.rewind()
	result := make(chan error, 1)
	w := newWaiter(func(err error) { result <- err })
	b.setExpiry(s, expiry, w)
	if c.will != nil {
		b.keepWill(s.id, c.will, w)
	}
	w.done(nil)
	return result
}

// setExpiry says how long the session outlives its connection, on disk too for
// one that does; s.mu is held. A session that was persistent stays so until
// its end: its queue is on disk.
func (b *Broker) setExpiry(s *session, expiry int64, w *waiter) {
	s.expiry = min(expiry, b.maxExpiry())
	s.persistent = s.persistent || s.expiry > 0
	if s.persistent {
		b.store.put(bucketSessions, []byte(s.id), s.record(), w)
	}
}

// maxExpiry is the longest that a session outlives its connection, in seconds.
func (b *Broker) maxExpiry() int64 { return int64(b.cfg.SessionExpiry / time.Second) }

// erase removes a session from the disk; s.mu is held.
func (b *Broker) erase(s *session, w *waiter) {
	for _, bucket := range []string{bucketSubs, bucketQueue, bucketReceived} {
		b.store.write(change{bucket: bucket, key: keyOf(s.id, nil), prefix: true})
	}
	b.store.remove(bucketSessions, []byte(s.id), w)
}

// end removes a session that has no connection; b.mu is held. It returns a
// will that waited for this, or nil.
func (b *Broker) end(s *session) *will {
	delete(b.sessions, s.id)
	s.mu.Lock()
	s.gone = true
	filters := s.filters()
	s.forgetQueue()
	if s.persistent {
		b.erase(s, nil)
	}
	s.mu.Unlock()
	for _, f := range filters {
		b.subs.remove(s, f)
	}
	x := b.wills[s.id]
	delete(b.wills, s.id)
	return x.will
}

// detach takes the connection from its session, ends a session that does not
// outlive it, and publishes the will unless the client said goodbye.
func (b *Broker) detach(c *conn, goodbye bool) {
	s := c.s
	now := b.now()
	var wills []*will
	b.mu.Lock()
	s.mu.Lock()
	s.conn, s.since = nil, now
	for _, w := range s.works {
		w.conn = nil
	}
	s.online.Store(false)
	ends := s.expiry == 0
	if !ends {
		s.unload()
		b.store.put(bucketSessions, []byte(s.id), s.record(), nil)
	}
	s.mu.Unlock()
	switch {
	case c.will == nil:
	case goodbye:
		b.dropWill(c.will)
	case b.state != running: // it is there at the next start
	case c.will.delay > 0 && !ends:
		b.delayWill(s.id, c.will, now)
	default:
		wills = append(wills, c.will)
	}
	if ends {
		if x := b.end(s); x != nil {
			wills = append(wills, x)
		}
	}
	b.mu.Unlock()
	close(c.detached)
	for _, x := range wills {
		b.publishWill(x)
	}
}

// sweep does what time brings: delayed wills, sessions and retained messages
// that expire, and room for a client that was refused a message.
func (b *Broker) sweep() {
	now := b.now()
	var wills []*will
	var over []*conn
	b.mu.Lock()
	for id, w := range b.wills {
		if w.due <= now {
			delete(b.wills, id)
			wills = append(wills, w.will)
		}
	}
	for _, s := range slices.Collect(maps.Values(b.sessions)) {
		s.mu.Lock()
		over := s.conn == nil && s.since > 0 && s.since.after(s.expiry) <= now
		s.mu.Unlock()
		if over {
			b.cfg.Logger.Info("mqtt session expired", keyClient, s.id)
			if m := b.end(s); m != nil {
				wills = append(wills, m)
			}
		}
	}
	for c := range b.conns {
		if r := c.overran.Load(); r != nil && b.intake.fits(r.client, r.targets, r.size, r.qos) {
			over = append(over, c)
		}
	}
	b.mu.Unlock()
	for _, c := range over {
		c.kill(packets.ErrQuotaExceeded.Code)
	}
	for _, x := range wills {
		b.publishWill(x)
	}
	b.retained.sweep(now)
	b.pending.sweep(b.store, b.uptime())
	for _, l := range b.listeners {
		l.policy.Refresh()
	}
}

// Stats are numbers about a broker, since Listen.
type Stats struct {
	Clients       int   `json:"clients"`  // connected now
	Sessions      int   `json:"sessions"` // connected or kept
	Subscriptions int   `json:"subscriptions"`
	Retained      int   `json:"retained"`
	RetainedBytes int64 `json:"retained_bytes"`
	Queued        int   `json:"queued"` // QoS 1 and 2 messages that wait for clients
	QueuedBytes   int64 `json:"queued_bytes"`
	Pending       int   `json:"pending"` // events of function outputs that wait on disk
	Logins        int   `json:"logins"`  // passwords that wait to be compared

	Received         int64 `json:"received"`           // messages from clients
	Sent             int64 `json:"sent"`               // messages to clients
	Events           int64 `json:"events"`             // handed to the Sink
	Repeats          int64 `json:"repeats"`            // messages recognised as sent again
	Dropped          int64 `json:"dropped"`            // for full queues, and QoS 0 from clients that had to wait too long
	Expired          int64 `json:"expired"`            // in queues, by their sender's wish
	Oversized        int64 `json:"oversized"`          // payloads larger than functions take
	Refused          int64 `json:"refused"`            // connections
	RetainedRefused  int64 `json:"retained_refused"`   // messages not retained for lack of room
	QueueRefused     int64 `json:"queue_refused"`      // messages not taken for a full queue
	Overruns         int64 `json:"overruns"`           // connections whose client sent more than was settled
	Denied           int64 `json:"denied"`             // messages and subscriptions that topic rules do not allow
	Commits          int64 `json:"commits"`            // of the store
	DiskBytesWritten int64 `json:"disk_bytes_written"` // by the store, in whole pages
}

// Stats returns the numbers of now.
func (b *Broker) Stats() Stats {
	st := Stats{
		Subscriptions: b.subs.len(), Retained: b.retained.len(), Pending: b.pending.len(),
		Received: b.stats.received.Load(), Sent: b.stats.sent.Load(), Events: b.stats.events.Load(),
		Repeats: b.stats.repeats.Load(), Dropped: b.stats.dropped.Load(), Expired: b.stats.expired.Load(),
		Oversized: b.stats.oversized.Load(), Refused: b.stats.refused.Load(),
		RetainedRefused: b.stats.retainedRefused.Load(), QueueRefused: b.stats.refusedFull.Load(), Overruns: b.stats.overruns.Load(),
		Denied: b.stats.denied.Load(), Logins: b.logins.Waiting(),
	}
	st.RetainedBytes = b.retained.size()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.store != nil {
		st.Commits, st.DiskBytesWritten = b.store.commits.Load(), b.store.bytes.Load()
	}
	st.Sessions = len(b.sessions)
	for _, s := range b.sessions {
		if s.online.Load() {
			st.Clients++
		}
		s.mu.Lock()
		st.Queued += s.items.Len()
		st.QueuedBytes += s.bytes
		s.mu.Unlock()
	}
	return st
}

func randomEpoch() uint64 {
	var p [8]byte
	_, _ = rand.Read(p[:]) // never fails
	return binary.BigEndian.Uint64(p[:])
}

func randomID() string {
	var p [10]byte
	_, _ = rand.Read(p[:])
	return "auto-" + hex.EncodeToString(p[:])
}

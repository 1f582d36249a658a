package access

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"time"
)

// Errors of Policy.Login.
var (
	// ErrWrong means that the user is not known or the password is wrong; which
	// of them is not told.
	ErrWrong = errors.New("wrong user or password")
	// ErrFunction means that a function of the node has to say who it is where
	// programs of this machine need not.
	ErrFunction = errors.New("a function needs a user name and a password here: write a password file for the listener, and a rule of what it may do")
	// ErrBusy means that too many passwords wait to be compared. The client may
	// try again; its password may be right.
	ErrBusy = errors.New("too many logins wait")
)

const (
	maxRemembered = 4096        // wrong logins, and addresses that were wrong
	suspicion     = time.Minute // that an address is suspect after a wrong login
)

// LoginsConfig says how much passwords may cost. Zero values stand for the
// defaults named here.
type LoginsConfig struct {
	AtOnce     int              // comparisons at the same time; default 2
	MaxWaiting int              // that wait for their turn; default 1024
	Wait       time.Duration    // the longest wait, the comparison included; default 45 s
	Clock      func() time.Time // default time.Now
}

// Logins compares passwords for all listeners. Its methods are safe for use by
// several goroutines.
type Logins struct {
	cfg LoginsConfig
	key [32]byte // of mac; made anew at each start
	wg  sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	comparing int // goroutines that compare
	queue     queue
	jobs      map[mac]*job
	wrong     bounded[mac, struct{}]
	suspects  bounded[netip.Addr, time.Time] // until when
}

// NewLogins returns one that starts goroutines only while passwords wait.
func NewLogins(cfg LoginsConfig) *Logins {
	if cfg.AtOnce == 0 {
		cfg.AtOnce = 2
	}
	if cfg.MaxWaiting == 0 {
		cfg.MaxWaiting = 1024
	}
	if cfg.Wait == 0 {
		cfg.Wait = 45 * time.Second
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	l := &Logins{
		cfg: cfg, queue: queue{max: cfg.MaxWaiting}, jobs: map[mac]*job{},
		wrong: bounded[mac, struct{}]{max: maxRemembered}, suspects: bounded[netip.Addr, time.Time]{max: maxRemembered},
	}
	_, _ = rand.Read(l.key[:]) // never fails
	return l
}

// Close lets go of all who wait and waits for the comparisons under way.
func (l *Logins) Close() {
	l.mu.Lock()
	l.closed = true
	for j := l.queue.pop(); j != nil; j = l.queue.pop() {
		l.refuse(j)
	}
	l.mu.Unlock()
	l.wg.Wait()
}

// Waiting is how many passwords wait to be compared.
func (l *Logins) Waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.queue.len
}

// mac stands for a user name with a password of one generation of a password
// file, to whom knows the key.
type mac [sha256.Size]byte

func (l *Logins) mac(generation uint64, user string, password []byte) (m mac) {
	h := hmac.New(sha256.New, l.key[:])
	var head [16]byte
	binary.BigEndian.PutUint64(head[:], generation)
	binary.BigEndian.PutUint64(head[8:], uint64(len(user)))
	_, _ = h.Write(head[:])
	_, _ = h.Write([]byte(user))
	_, _ = h.Write(password)
	h.Sum(m[:0])
	return m
}

// check reports whether a password is right: by what is remembered of it, or by
// comparing it when its turn comes. It returns ErrBusy when it has no place in
// the queue, waits too long, or ctx is done.
func (l *Logins) check(ctx context.Context, g *generation, source netip.Addr, user string, password []byte) (bool, error) {
	key := l.mac(g.number, user, password)
	if g.wasRight(user, key) {
		return true, nil
	}
	source = network(source)
	l.mu.Lock()
	now := l.cfg.Clock()
	if _, ok := l.wrong.get(key); ok {
		l.suspects.put(source, now.Add(suspicion))
		l.mu.Unlock()
		return false, nil
	}
	j := l.jobs[key]
	if j == nil {
		if l.closed {
			l.mu.Unlock()
			return false, ErrBusy
		}
		j = &job{source: source, user: user, key: key, of: g, password: append([]byte(nil), password...), done: make(chan struct{})}
		until, had := l.suspects.get(source)
		j.suspect = had && now.Before(until)
		j.hash, j.known = g.users.find(user)
		l.jobs[key] = j
		if out := l.queue.push(j); out != nil {
			l.refuse(out)
		}
		if l.comparing < l.cfg.AtOnce && j.queued {
			l.comparing++
			l.wg.Go(l.compare)
		}
	}
	j.waiting++
	l.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, l.cfg.Wait)
	defer cancel()
	select {
	case <-j.done:
		if j.busy {
			return false, ErrBusy
		}
		return j.right, nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if j.waiting--; j.waiting == 0 && j.queued {
		l.queue.remove(j)
		delete(l.jobs, key)
	}
	return false, ErrBusy
}

// refuse tells those who wait for a job that is in no queue any more that there
// was no place for it; mu is held.
func (l *Logins) refuse(j *job) {
	delete(l.jobs, j.key)
	j.busy = true
	close(j.done)
}

// compare takes one job after the other until none is left.
func (l *Logins) compare() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		j := l.queue.pop()
		if j == nil {
			l.comparing--
			return
		}
		l.mu.Unlock()
		right := j.hash.matches(j.password) && j.known
		clear(j.password)
		if right {
			j.of.remember(j.user, j.key)
		}
		l.mu.Lock()
		delete(l.jobs, j.key)
		if j.right = right; !right {
			l.wrong.put(j.key, struct{}{})
			l.suspects.put(j.source, l.cfg.Clock().Add(suspicion))
		}
		close(j.done)
	}
}

// network is what counts as one source: an IPv4 address, or the 64 bits of an
// IPv6 address that its owner cannot choose.
func network(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

// generation is what a password file had at one time, and which passwords of
// its users were right since.
type generation struct {
	number uint64 // unlike that of any other, of any file
	users  *users

	mu    sync.Mutex
	right map[string]mac // by user; bounded by the file
}

func (g *generation) wasRight(user string, key mac) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	had, ok := g.right[user]
	return ok && hmac.Equal(had[:], key[:])
}

func (g *generation) remember(user string, key mac) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.right[user] = key
}

// bounded remembers up to max things; then the one that came first goes.
type bounded[K comparable, V any] struct {
	max   int
	order []K
	by    map[K]V
}

func (b *bounded[K, V]) get(k K) (v V, ok bool) {
	v, ok = b.by[k]
	return v, ok
}

func (b *bounded[K, V]) put(k K, v V) {
	if _, had := b.by[k]; !had {
		if b.by == nil {
			b.by = map[K]V{}
		}
		if len(b.order) >= b.max {
			delete(b.by, b.order[0])
			b.order = b.order[1:]
		}
		b.order = append(b.order, k)
	}
	b.by[k] = v
}

package access

import (
	"net/netip"
	"slices"
)

// job is one password that waits to be compared. Several logins with the same
// name and password share one.
type job struct {
	source  netip.Addr // of the login that came first
	user    string
	suspect bool // the source was wrong a short while ago

	key      mac
	password []byte // a copy, wiped when it was compared
	hash     hash
	known    bool        // the user is in the file
	of       *generation // the users that hash is one of

	waiting int           // logins that want the answer; guarded by Logins.mu
	queued  bool          // in the queue; guarded by Logins.mu
	done    chan struct{} // closed when right or busy is set
	right   bool
	busy    bool // there was no place for it
}

// suspectTurn says how often those that were wrong before have their turn while
// others wait: each fourth time.
const suspectTurn = 4

// queue is who waits for a comparison. It decides who is next, and who has no
// place when it is full; it is not safe for use by several goroutines.
type queue struct {
	max      int
	len      int
	fresh    line[netip.Addr, *line[string, *fifo]]
	suspects line[netip.Addr, *line[string, *fifo]]
	turn     int
}

// fifo is the jobs of one user name from one address, in the order in which
// they came.
type fifo struct{ jobs []*job }

func (f *fifo) count() int { return len(f.jobs) }

type counted interface{ count() int }

// line gives its members their turn one after the other. A member that becomes
// empty leaves.
type line[K comparable, V counted] struct {
	order []K
	by    map[K]V
	n     int // jobs in all members
}

func (l *line[K, V]) count() int { return l.n }

// at returns a member, made by fresh if it is not there.
func (l *line[K, V]) at(k K, fresh func() V) V {
	v, ok := l.by[k]
	if !ok {
		if l.by == nil {
			l.by = map[K]V{}
		}
		v = fresh()
		l.by[k] = v
		l.order = append(l.order, k)
	}
	return v
}

// next returns the member whose turn it is, and makes the one after it the next.
func (l *line[K, V]) next() (k K, v V) {
	k = l.order[0]
	l.order = append(l.order[1:], k)
	return k, l.by[k]
}

// longest returns the member with the most jobs: of several the one whose turn
// is last.
func (l *line[K, V]) longest() (k K, v V) {
	most := -1
	for _, x := range l.order {
		if m := l.by[x]; m.count() >= most {
			k, v, most = x, m, m.count()
		}
	}
	return k, v
}

// took notes that a member has one job less.
func (l *line[K, V]) took(k K) {
	l.n--
	if l.by[k].count() == 0 {
		delete(l.by, k)
		l.order = slices.DeleteFunc(l.order, func(x K) bool { return x == k })
	}
}

type sources = line[netip.Addr, *line[string, *fifo]]

func (q *queue) of(j *job) *sources {
	if j.suspect {
		return &q.suspects
	}
	return &q.fresh
}

// push adds a job. When the queue is full, one has to go, which is returned:
// the last one of those who have the most in it, or j itself when that would be
// its own kind.
func (q *queue) push(j *job) (out *job) {
	if q.len >= q.max {
		if out = q.victim(j); out == j {
			return j
		}
		q.remove(out)
	}
	l := q.of(j)
	users := l.at(j.source, func() *line[string, *fifo] { return new(line[string, *fifo]) })
	f := users.at(j.user, func() *fifo { return new(fifo) })
	f.jobs = append(f.jobs, j)
	users.n++
	l.n++
	q.len++
	j.queued = true
	return out
}

// victim chooses who goes so that j has a place.
func (q *queue) victim(j *job) *job {
	l := &q.suspects
	if l.n == 0 {
		if l = &q.fresh; j.suspect || l.n == 0 {
			return j
		}
	}
	same := l == q.of(j)
	source, users := l.longest()
	if same && source != j.source {
		mine := 0
		if m, ok := l.by[j.source]; ok {
			mine = m.count()
		}
		if mine+1 >= users.count() {
			return j
		}
		same = false
	}
	user, f := users.longest()
	if same {
		mine := 0
		if m, ok := users.by[j.user]; ok {
			mine = m.count()
		}
		if user == j.user || mine+1 >= f.count() {
			return j
		}
	}
	return f.jobs[len(f.jobs)-1]
}

// pop takes the next job; nil when there is none.
func (q *queue) pop() *job {
	if q.len == 0 {
		return nil
	}
	l := &q.fresh
	if q.suspects.n > 0 {
		if q.turn++; l.n == 0 || q.turn%suspectTurn == 0 {
			l = &q.suspects
		}
	}
	_, users := l.next()
	_, f := users.next()
	j := f.jobs[0]
	q.remove(j)
	return j
}

// remove takes a job out, wherever it is.
func (q *queue) remove(j *job) {
	l := q.of(j)
	users := l.by[j.source]
	f := users.by[j.user]
	f.jobs = slices.DeleteFunc(f.jobs, func(x *job) bool { return x == j })
	users.took(j.user)
	l.took(j.source)
	q.len--
	j.queued = false
}

package etcd

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	bolt "go.etcd.io/bbolt"
)

// meter counts the bytes that a run writes to its log and database. For the
// database it asks bbolt. etcd's count of the log is one for the whole process,
// so the log's is read from the kernel: how far etcd has come in the file, which
// it writes from front to back.
type meter struct {
	mu   sync.Mutex
	logs string   // the directory of the log, by its real path
	fd   string   // under /proc/self/fd, of the file that is being written
	file string   // what fd leads to
	at   int64    // how far it was
	log  int64    // bytes of the log
	db   *bolt.DB // nil while there is none
	page int64    // bytes of a page of it
	data int64    // bytes of the databases before db
}

// open begins to count for the database that a run has now.
func (m *meter) open(v *server) {
	db := v.database()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.logs = filepath.Join(v.files, "member", "wal")
	m.db = db
	if db != nil {
		m.page = int64(db.Info().PageSize)
	}
	m.follow()
}

// close counts no further for the database, which goes.
func (m *meter) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.data += m.written()
	m.db = nil
}

// add counts what was written elsewhere.
func (m *meter) add(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.data += n
}

// written is what the database has written since it was opened: the pages of
// each transaction and, for each transaction, one that names its root. That is
// the write beyond those of the nodes.
func (m *meter) written() int64 {
	if m.db == nil {
		return 0
	}
	st := m.db.Stats().TxStats
	return st.GetPageAlloc() + (st.GetWrite()-st.GetSpill())*m.page
}

// look is called often enough not to miss a file of the log.
func (m *meter) look() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.follow()
}

// total is what was counted.
func (m *meter) total() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.follow()
	return m.log + m.data + m.written()
}

// follow reads how far the log is. A file that etcd has done with is cut to what
// was written to it; the one that it writes to has room behind that.
func (m *meter) follow() {
	if m.logs == "" {
		return
	}
	m.advance()
	to, err := os.Readlink(m.fd)
	i, serr := os.Stat(m.file)
	if m.fd == "" || err != nil || to != m.file || serr != nil || i.Size() <= m.at {
		m.turn()
		m.advance()
	}
}

func (m *meter) advance() {
	if at := position(m.fd); at > m.at {
		m.log += at - m.at
		m.at = at
	}
}

// turn goes over to the newest file of the log. What was still written to the
// one before, which then has its size cut to what was written, counts.
func (m *meter) turn() {
	before, at := m.file, m.at
	m.fd, m.file = "", ""
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, d := range fds {
		to, err := os.Readlink("/proc/self/fd/" + d.Name())
		if err == nil && strings.HasPrefix(to, m.logs+"/") && strings.HasSuffix(to, ".wal") && to > m.file {
			m.fd, m.file = "/proc/self/fd/"+d.Name(), to
		}
	}
	switch {
	case m.file == "":
		m.file = before // etcd changes over at this moment, or has ended
	case before == "":
		m.at = position(m.fd) // what was there
	case m.file != before:
		all, _ := os.ReadDir(m.logs)
		for _, d := range all { // between the two as well, if there were more
			path := filepath.Join(m.logs, d.Name())
			if i, err := d.Info(); err == nil && path >= before && path < m.file {
				m.log += i.Size()
			}
		}
		m.log -= at
		m.at = 0
	}
}

// position is where the next write of a descriptor goes.
func position(fd string) int64 {
	b, err := os.ReadFile(strings.Replace(fd, "/fd/", "/fdinfo/", 1))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if pos, ok := strings.CutPrefix(line, "pos:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(pos), 10, 64)
			return n
		}
	}
	return 0
}

// Written implements store.Meter. It counts what the embedded etcd gives to the
// kernel for its log and its database, so also what one write adds to a page
// that another has written before. It does not count what the device makes of
// it: blocks that are written whole for a part of one, the file system's own
// journal, and the card's copying. Nor does it count the files that are written
// once in 2,000 commits or at a start (a few kB each), or what an etcd outside
// writes, for which it is 0.
func (s *Store) Written() int64 {
	if s.embedded == nil {
		return 0
	}
	s.mu.Lock()
	v := s.now
	s.mu.Unlock()
	e := s.embedded
	n := e.past.Load()
	if v != nil {
		n += v.meter.total()
	}
	for { // it must not fall while one run ends and another begins
		told := e.told.Load()
		if n <= told {
			return told
		}
		if e.told.CompareAndSwap(told, n) {
			return n
		}
	}
}

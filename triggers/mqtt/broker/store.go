package broker

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Buckets of the file, one character each.
const (
	bucketSessions = "s" // client id -> sessionRecord
	bucketSubs     = "f" // client id, NUL, part of the filter -> subscription
	bucketQueue    = "q" // client id, NUL, sequence -> itemRecord and message
	bucketReceived = "r" // client id, NUL, packet id -> receivedRecord
	bucketRetained = "t" // part of the topic -> message
	bucketPending  = "p" // sequence -> pendingRecord
	bucketWills    = "w" // client id, NUL, sequence -> willRecord
	bucketBound    = "b" // function, NUL, trigger -> filter whose retained messages it has had
)

var allBuckets = []string{
	bucketSessions, bucketSubs, bucketQueue, bucketReceived, bucketRetained, bucketPending, bucketWills, bucketBound,
}

// errNotStored says that the disk did not take something. The store's onError
// has reported it.
var errNotStored = errors.New("not stored")

// lazyCommit is how long a write that nobody waits for may wait for company.
const lazyCommit = time.Second

// change is one write: of a value, of a value's removal (nil), or of the
// removal of every key that begins with key.
type change struct {
	bucket string
	key    []byte
	value  []byte
	prefix bool
	w      *waiter              // told when the change is on disk
	fn     func(committed bool) // called before w, if set
}

// store is the broker's file. Changes are committed in the order of their
// calls; those that arrive during a commit share the next one.
type store struct {
	db *bolt.DB

	mu      sync.Mutex
	changes []change
	urgent  bool
	closed  bool
	wake    chan struct{} // capacity 1
	lazy    chan struct{} // capacity 1: a change waits that is not urgent
	stopped chan struct{}

	commits atomic.Int64
	bytes   atomic.Int64
	onError func(error) // called after a commit that did not succeed
}

// openStore opens the file in dir, which is made when missing. The file can be
// open once; a second opener gets an error after two seconds.
func openStore(dir string) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of the mqtt broker: %w", err)
	}
	path := filepath.Join(dir, "broker.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		Timeout:        2 * time.Second,
		NoFreelistSync: true, // fewer bytes per commit; found by a scan when opened
		FreelistType:   bolt.FreelistMapType,
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open %s: it is in use: another node runs with the same data folder", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	st := &store{
		db:      db,
		wake:    make(chan struct{}, 1),
		lazy:    make(chan struct{}, 1),
		stopped: make(chan struct{}),
		onError: func(error) {},
	}
	if err := st.init(); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), db.Close())
	}
	return st, nil
}

// init makes the buckets, with no commit when they are there.
func (st *store) init() error {
	missing := false
	err := st.db.View(func(tx *bolt.Tx) error {
		for _, name := range allBuckets {
			missing = missing || tx.Bucket([]byte(name)) == nil
		}
		return nil
	})
	if err != nil || !missing {
		return err
	}
	return st.db.Update(func(tx *bolt.Tx) error {
		for _, name := range allBuckets {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	})
}

// put writes a value. w, fn or both may be nil; a write that nobody waits for
// rides along with another one or is committed within a second.
func (st *store) put(bucket string, key, value []byte, w *waiter) {
	st.write(change{bucket: bucket, key: key, value: value, w: w})
}

// remove removes a key; lazily when w is nil.
func (st *store) remove(bucket string, key []byte, w *waiter) {
	st.write(change{bucket: bucket, key: key, w: w})
}

// write queues a change. It never blocks and may be called under locks: that
// the waiter has its own count keeps its function from being called here.
func (st *store) write(c change) {
	c.w.add()
	st.mu.Lock()
	if st.closed {
		st.mu.Unlock()
		if c.w != nil || c.fn != nil {
			go c.finish(ErrNotRunning) // not here: the caller may hold locks
		}
		return
	}
	st.changes = append(st.changes, c)
	urgent := c.w != nil || c.fn != nil
	st.urgent = st.urgent || urgent
	st.mu.Unlock()
	signal := st.lazy
	if urgent {
		signal = st.wake
	}
	select {
	case signal <- struct{}{}:
	default:
	}
}

func (c *change) finish(err error) {
	if c.fn != nil {
		c.fn(err == nil)
	}
	c.w.done(err)
}

// run commits until close is called. It is the only writer of the file.
func (st *store) run() {
	defer close(st.stopped)
	for {
		select {
		case <-st.wake:
		case <-st.lazy:
			select {
			case <-st.wake:
			case <-time.After(lazyCommit):
			}
		}
		for {
			st.mu.Lock()
			batch, closed := st.changes, st.closed
			st.changes, st.urgent = nil, false
			st.mu.Unlock()
			if len(batch) > 0 {
				bad, err := st.commit(batch)
				if err != nil {
					st.onError(err)
				}
				for i := range batch {
					if bad[i] != nil {
						st.onError(bad[i])
					}
					batch[i].finish(cmp.Or(bad[i], err))
				}
			}
			st.mu.Lock()
			again := st.urgent
			st.mu.Unlock()
			if again {
				continue
			}
			if closed {
				return
			}
			break
		}
	}
}

// commit writes a batch in one transaction and counts the bytes: the pages
// that it wrote and the page that makes them valid.
// A change that the file does not take by its nature has its error in bad, and
// fails no other.
func (st *store) commit(batch []change) (bad map[int]error, err error) {
	err = st.db.Update(func(tx *bolt.Tx) error {
		bad = map[int]error{}
		for i := range batch {
			if err := batch[i].apply(tx); err != nil {
				bad[i] = fmt.Errorf("%w: %w", errNotStored, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: commit to %s: %w", errNotStored, st.db.Path(), err)
	}
	st.commits.Add(1)
	stats := st.db.Stats()
	st.bytes.Store(stats.TxStats.GetPageAlloc() + st.commits.Load()*int64(st.db.Info().PageSize))
	return bad, nil
}

func (c *change) apply(tx *bolt.Tx) error {
	b := tx.Bucket([]byte(c.bucket))
	switch {
	case c.prefix:
		cur := b.Cursor()
		var keys [][]byte // deleting moves a cursor
		for k, _ := cur.Seek(c.key); k != nil && bytes.HasPrefix(k, c.key); k, _ = cur.Next() {
			keys = append(keys, bytes.Clone(k))
		}
		for _, k := range keys {
			if err := b.Delete(k); err != nil {
				return err
			}
		}
		return nil
	case c.value == nil:
		return b.Delete(c.key)
	default:
		return b.Put(c.key, c.value)
	}
}

// each calls fn for every key that begins with prefix. Key and value are valid
// only during the call.
func (st *store) each(bucket string, prefix []byte, fn func(key, value []byte) error) error {
	return st.db.View(func(tx *bolt.Tx) error {
		cur := tx.Bucket([]byte(bucket)).Cursor()
		for k, v := cur.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = cur.Next() {
			if err := fn(k, v); err != nil {
				return err
			}
		}
		return nil
	})
}

// get returns copies of the values of some keys, nil where there is none.
func (st *store) get(bucket string, keys [][]byte) ([][]byte, error) {
	values := make([][]byte, len(keys))
	err := st.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		for i, k := range keys {
			values[i] = bytes.Clone(b.Get(k))
		}
		return nil
	})
	return values, err
}

// close commits what is queued and closes the file. Later writes are refused.
func (st *store) close(running bool) error {
	st.mu.Lock()
	st.closed = true
	st.mu.Unlock()
	if running {
		select {
		case st.wake <- struct{}{}:
		default:
		}
		<-st.stopped
	}
	return st.db.Close()
}

// maxPart is the longest part of a key, in bytes; bbolt takes no key over 32 KiB.
const maxPart = 1024

// part is the part of a key that names a topic or filter, which can be as long
// as 64 KiB: a long one is hashed. No topic begins with NUL.
func part(topic string) []byte {
	if len(topic) <= maxPart {
		return []byte(topic)
	}
	sum := sha256.Sum256([]byte(topic))
	return append([]byte{0}, sum[:]...)
}

// keyOf joins a client id and a part of its own; no client id has a NUL.
func keyOf(client string, part []byte) []byte {
	k := make([]byte, 0, len(client)+1+len(part))
	k = append(k, client...)
	k = append(k, 0)
	return append(k, part...)
}

func seqKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }
func pidKey(pid uint16) []byte { return binary.BigEndian.AppendUint16(nil, pid) }

// seqOf and pidOf read the part of a key that follows the client id.
func seqOf(key []byte) uint64 { return binary.BigEndian.Uint64(key[len(key)-8:]) }
func pidOf(key []byte) uint16 { return binary.BigEndian.Uint16(key[len(key)-2:]) }

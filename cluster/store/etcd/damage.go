package etcd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// DamageError says which file of a store is damaged. It is an ErrDamaged.
type DamageError struct {
	File string // its path
	What string // is wrong with it
	Dir  string // the store's directory
}

// Error implements error, with what to do.
func (e *DamageError) Error() string {
	return fmt.Sprintf("%s is damaged: %s; restore the last backup: edgefn restore FILE --data %s", e.File, e.What, filepath.Dir(e.Dir))
}

// Is makes it an ErrDamaged.
func (e *DamageError) Is(target error) bool { return target == ErrDamaged }

// examine reads the files of a store that nobody has open and returns a
// *DamageError for the first that is damaged. etcd itself ends a goroutine,
// waits for ever or, in a goroutine out of reach, panics on some kinds of
// damage, and takes others for the end of the log: so it is not to meet any.
//
// The end of the log that a power cut has torn is no damage; etcd cuts it off.
// What tells the two apart is the database: it has seen every commit of the log
// but those of the last moments, and a log that ends before that has lost some.
// A wrong bit within a value in the database is not seen: etcd has no checksum
// there.
func examine(dir string) error {
	damage := func(file, format string, args ...any) error {
		return &DamageError{File: file, What: fmt.Sprintf(format, args...), Dir: dir}
	}
	member := filepath.Join(dir, dataName, "member")
	db := filepath.Join(member, "snap", "db")
	var index uint64 // of the last commit that the database has seen
	err := checkDatabase(db, func(bucket, key, value []byte) {
		if string(bucket) == string(schema.Meta.Name()) && string(key) == string(schema.MetaConsistentIndexKeyName) && len(value) == 8 {
			index = binary.BigEndian.Uint64(value)
		}
	})
	var bad *pageError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return damage(db, "the database is missing")
	case errors.As(err, &bad):
		return damage(db, "%v", bad)
	case err != nil:
		return fmt.Errorf("examine the database: %w", err)
	}
	l := logCheck{dir: filepath.Join(member, "wal")}
	err = l.read()
	var gap *logError
	switch {
	case errors.As(err, &gap):
		return damage(gap.file, "%s", gap.what)
	case err != nil:
		return fmt.Errorf("examine the log: %w", err)
	case l.begin > l.first:
		return damage(l.dir, "the log begins after commit %d, and a start needs it from commit %d on", l.begin, l.first)
	case l.last < index:
		return damage(l.file, "the log ends at commit %d, and commits up to %d were written", l.last, index)
	case l.first > index:
		return damage(db, "the database ends at commit %d, and the log begins after commit %d", index, l.first)
	}
	return nil
}

// logError is damage of a file of the log.
type logError struct{ file, what string }

func (e *logError) Error() string { return e.file + ": " + e.what }

// logCheck reads a log.
type logCheck struct {
	dir string

	file        string // the last one
	begin       uint64 // what the oldest file begins with
	first, last uint64 // commits: the first is that after which a start reads on
}

// read reads all files of the log, oldest first.
func (l *logCheck) read() error {
	all, err := os.ReadDir(l.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var names []string
	for _, d := range all {
		if strings.HasSuffix(d.Name(), ".wal") {
			names = append(names, d.Name())
		}
	}
	if len(names) == 0 {
		return &logError{l.dir, "the log is missing"}
	}
	slices.Sort(names)
	var crc uint32
	var before uint64 // number of the file before
	for i, name := range names {
		path := filepath.Join(l.dir, name)
		l.file = path
		var seq, index uint64
		if _, err := fmt.Sscanf(name, "%016x-%016x.wal", &seq, &index); err != nil {
			return &logError{path, "its name is none of a log"}
		}
		switch {
		case i > 0 && seq != before+1:
			return &logError{path, fmt.Sprintf("files %d to %d of the log before it are missing", before+1, seq-1)}
		case i > 0 && index > l.last+1 && l.last > 0:
			return &logError{filepath.Join(l.dir, names[i-1]), fmt.Sprintf("it ends at commit %d, and the next file begins after commit %d", l.last, index-1)}
		}
		if before = seq; i == 0 {
			l.begin = index
		}
		if crc, err = l.readFile(path, crc, i == 0, i == len(names)-1); err != nil {
			return err
		}
	}
	return nil
}

// readFile reads one file, given the checksum of the log up to it, and returns
// that up to its end.
func (l *logCheck) readFile(path string, crc uint32, first, last bool) (uint32, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close() //nolint:errcheck // only read
	d := wal.NewDecoder(fileutil.NewFileReader(f))
	rec := &walpb.Record{}
	for n := 0; ; n++ {
		err := d.Decode(rec)
		switch {
		case errors.Is(err, io.EOF) && n > 0:
			return d.LastCRC(), nil
		case errors.Is(err, io.EOF):
			return 0, &logError{path, "it is empty"}
		case errors.Is(err, io.ErrUnexpectedEOF) && last && n > 0:
			return 0, nil // torn
		case err != nil:
			return 0, &logError{path, fmt.Sprintf("after %d bytes: %v", d.LastOffset(), err)}
		}
		switch rec.GetType() {
		case wal.CrcType:
			if !first && n == 0 && rec.GetCrc() != crc {
				return 0, &logError{path, "it does not follow the file before"}
			}
			if was := d.LastCRC(); was != 0 && rec.Validate(was) != nil {
				return 0, &logError{path, fmt.Sprintf("after %d bytes: a checksum does not match", d.LastOffset())}
			}
			d.UpdateCRC(rec.GetCrc())
		case wal.EntryType:
			var e raftpb.Entry
			if err := proto.Unmarshal(rec.Data, &e); err != nil {
				return 0, &logError{path, fmt.Sprintf("after %d bytes: %v", d.LastOffset(), err)}
			}
			if l.last > 0 && e.GetIndex() > l.last+1 {
				return 0, &logError{path, fmt.Sprintf("commits %d to %d are missing", l.last+1, e.GetIndex()-1)}
			}
			l.last = e.GetIndex()
		case wal.SnapshotType:
			var s walpb.Snapshot
			if err := proto.Unmarshal(rec.Data, &s); err != nil {
				return 0, &logError{path, fmt.Sprintf("after %d bytes: %v", d.LastOffset(), err)}
			}
			l.first = max(l.first, s.GetIndex())
			l.last = max(l.last, s.GetIndex())
		case wal.MetadataType, wal.StateType:
		default:
			return 0, &logError{path, fmt.Sprintf("after %d bytes: a record of unknown type %d", d.LastOffset(), rec.GetType())}
		}
	}
}

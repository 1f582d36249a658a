package etcd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// The format of a bbolt file, as package go.etcd.io/bbolt/internal/common has
// it: pages of one size, each with a head of 16 bytes (number, kind, count of
// elements, pages that follow and belong to it). Pages 0 and 1 are two
// descriptions of the file, of which the newer valid one counts. The others are
// branches and leaves of trees; an element lies as far from its own head as the
// head says. A bucket is a value that names the root of its tree or, where that
// is page 0, contains it.
const (
	pageHead   = 16
	elemHead   = 16
	bucketHead = 16
	metaBytes  = 64 // magic, version, page size, flags, root, sequence, freelist, pages, transaction, checksum

	branchPage = 0x01
	leafPage   = 0x02
	bucketElem = 0x01

	boltMagic   = 0xED0CDAED
	boltVersion = 2
	noFreelist  = 1<<64 - 1

	maxDepth = 64 // of a tree; bbolt's own have less than 10 levels
)

// pageError is damage of a bbolt file.
type pageError struct {
	page uint64
	what string
}

func (e *pageError) Error() string { return fmt.Sprintf("page %d %s", e.page, e.what) }

// checkDatabase reads a bbolt file that nobody has open, page by page, and
// returns a *pageError for the first that makes no sense. each is called with
// every key and value, with the name of the bucket that they are in; they are
// its own only during the call.
//
// bbolt's own check does this on a goroutine of its own, which panics on some
// kinds of damage; so do bbolt's start and its later commits.
func checkDatabase(path string, each func(bucket, key, value []byte)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	i, err := f.Stat()
	if err != nil {
		return err
	}
	return checkPages(f, i.Size(), each)
}

// pages is a walk through a bbolt file.
type pages struct {
	file io.ReaderAt
	size int64  // of a page
	end  uint64 // the first page that is none
	seen []bool
	each func(bucket, key, value []byte)
}

func checkPages(f io.ReaderAt, size int64, each func(bucket, key, value []byte)) error {
	p := &pages{file: f, each: each}
	root, err := p.describe(size)
	if err != nil {
		return err
	}
	return p.tree(root, nil, 0)
}

// describe reads the description of the file and returns the root's page.
func (p *pages) describe(size int64) (root uint64, err error) {
	var newest uint64
	found := false
	// The second one is at the end of a page whose size only the first one says:
	// where that is damaged, all sizes are tried.
	offsets := []int64{0}
	for s := int64(1 << 10); s <= 64<<10; s <<= 1 {
		offsets = append(offsets, s)
	}
	for _, at := range offsets {
		b := make([]byte, pageHead+metaBytes)
		if _, err := p.file.ReadAt(b, at); err != nil {
			if errors.Is(err, io.EOF) {
				continue
			}
			return 0, err
		}
		m := b[pageHead:]
		sum := fnv.New64a()
		sum.Write(m[:metaBytes-8])
		le := binary.NativeEndian
		pageSize := int64(le.Uint32(m[8:]))
		valid := le.Uint32(m) == boltMagic && le.Uint32(m[4:]) == boltVersion && le.Uint64(m[metaBytes-8:]) == sum.Sum64() &&
			(at == 0 || at == pageSize) && pageSize >= 1<<10 && pageSize <= 64<<10 && pageSize&(pageSize-1) == 0
		if tx := le.Uint64(m[48:]); valid && (!found || tx > newest) {
			found, newest = true, tx
			p.size = pageSize
			root, p.end = le.Uint64(m[16:]), le.Uint64(m[40:])
			if list := le.Uint64(m[32:]); list != noFreelist && list >= p.end {
				return 0, &pageError{list, "holds the list of free pages and lies behind the end"}
			}
		}
	}
	switch {
	case !found:
		return 0, &pageError{0, "and page 1 do not describe a database"}
	case p.end < 2 || p.end > uint64(size/p.size):
		return 0, &pageError{p.end - 1, fmt.Sprintf("is missing: the file has %d bytes", size)}
	}
	p.seen = make([]bool, p.end)
	return root, nil
}

// tree walks a tree of pages.
func (p *pages) tree(id uint64, bucket []byte, depth int) error {
	b, err := p.page(id)
	if err != nil {
		return err
	}
	return p.elements(b, id, bucket, depth)
}

// page reads a page with those that belong to it, once.
func (p *pages) page(id uint64) ([]byte, error) {
	if id < 2 || id >= p.end {
		return nil, &pageError{id, "is referred to and lies outside of the file"}
	}
	head := make([]byte, pageHead)
	if _, err := p.file.ReadAt(head, int64(id)*p.size); err != nil {
		return nil, pageReadError(id, err)
	}
	more := uint64(binary.NativeEndian.Uint32(head[12:]))
	if binary.NativeEndian.Uint64(head) != id || more >= p.end-id {
		return nil, &pageError{id, "has another number or size"}
	}
	for i := id; i <= id+more; i++ {
		if p.seen[i] {
			return nil, &pageError{i, "is referred to twice"}
		}
		p.seen[i] = true
	}
	b := make([]byte, int64(more+1)*p.size)
	if _, err := p.file.ReadAt(b, int64(id)*p.size); err != nil {
		return nil, pageReadError(id, err)
	}
	return b, nil
}

func pageReadError(id uint64, err error) error {
	if errors.Is(err, io.EOF) {
		return &pageError{id, "is missing"}
	}
	return err
}

// elements walks the elements of a page, and what hangs from them. b begins
// with the page's head and ends with the last byte that may be an element's.
func (p *pages) elements(b []byte, id uint64, bucket []byte, depth int) error {
	if depth > maxDepth {
		return &pageError{id, "lies too deep"}
	}
	le := binary.NativeEndian
	kind, count := le.Uint16(b[8:]), int(le.Uint16(b[10:]))
	if pageHead+count*elemHead > len(b) || kind != branchPage && kind != leafPage || kind == branchPage && count == 0 {
		return &pageError{id, "is neither a branch nor a leaf"}
	}
	var before []byte
	for i := range count {
		at := pageHead + i*elemHead
		h := b[at : at+elemHead]
		var from, keySize, valueSize uint64
		if kind == branchPage {
			from, keySize = uint64(le.Uint32(h)), uint64(le.Uint32(h[4:]))
		} else {
			from, keySize, valueSize = uint64(le.Uint32(h[4:])), uint64(le.Uint32(h[8:])), uint64(le.Uint32(h[12:]))
		}
		from += uint64(at)
		end := from + keySize + valueSize
		if from < uint64(pageHead+count*elemHead) && keySize+valueSize > 0 || end > uint64(len(b)) {
			return &pageError{id, fmt.Sprintf("has an element %d that lies outside of it", i)}
		}
		key, value := b[from:from+keySize], b[from+keySize:end]
		if i > 0 && bytes.Compare(before, key) >= 0 {
			return &pageError{id, "has keys out of order"}
		}
		before = key
		if err := p.element(h, id, kind, bucket, key, value, depth); err != nil {
			return err
		}
	}
	return nil
}

// element walks what hangs from an element with head h.
func (p *pages) element(h []byte, id uint64, kind uint16, bucket, key, value []byte, depth int) error {
	le := binary.NativeEndian
	switch {
	case kind == branchPage:
		return p.tree(le.Uint64(h[8:]), bucket, depth+1)
	case le.Uint32(h)&bucketElem == 0:
		p.each(bucket, key, value)
		return nil
	case len(value) < bucketHead:
		return &pageError{id, "has a bucket that is cut short"}
	case le.Uint64(value) != 0:
		return p.tree(le.Uint64(value), key, depth+1)
	case len(value) < bucketHead+pageHead:
		return &pageError{id, "has a bucket that is cut short"}
	}
	return p.elements(value[bucketHead:], id, key, depth+1)
}

package mqtt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// Memory keeps what a Source must still know after a restart: which retained
// messages the function has had. It is small, 17 bytes a topic, in pages of its
// own naming, each a few kB at most.
type Memory interface {
	// Load returns all pages that were saved.
	Load(ctx context.Context) (map[string][]byte, error)
	// Save writes pages durably and together; an empty one may be deleted. The
	// others stay as they are.
	Save(ctx context.Context, pages map[string][]byte) error
}

// Pages of topics: a change writes one and not all.
const (
	pageCount   = 64
	pageVersion = 1
	pageEntry   = 8 + 8 + 1 // topicKey, content, flags
	flagged     = 1         // the topic has a retained message
)

var errBadPage = errors.New("not a page of remembered topics")

// page tells whether what is saved of a part of the topics is still right.
type page struct {
	dirty bool
	sure  bool // what changed is a retained message
}

func (p *page) stale(sure bool) { p.dirty, p.sure = true, p.sure || sure }

func (k topicKey) page() int { return int(k >> 58) }

func (r *replays) changed(t *topic) { r.pages[t.key.page()].stale(t.retained) }

// unsaved reports whether something is to be saved, and whether it is sure to
// matter: a topic of which nobody knows whether it has a retained message may
// change with every message and never be replayed.
func (r *replays) unsaved() (dirty, sure bool) {
	for i := range r.pages {
		dirty = dirty || r.pages[i].dirty
		sure = sure || r.pages[i].sure
	}
	return dirty, sure
}

// save returns the pages that changed, and takes them for saved.
func (r *replays) save() map[string][]byte {
	out := map[string][]byte{}
	for i := range r.pages {
		if r.pages[i].dirty {
			out[pageName(i)] = nil
		}
	}
	for _, t := range r.topics {
		i := t.key.page()
		if !t.hasHad || !r.pages[i].dirty {
			continue
		}
		name := pageName(i)
		p := out[name]
		if p == nil {
			p = []byte{pageVersion}
		}
		flags := byte(0)
		if t.retained {
			flags = flagged
		}
		p = binary.BigEndian.AppendUint64(p, uint64(t.key))
		p = binary.BigEndian.AppendUint64(p, uint64(t.had))
		out[name] = append(p, flags)
	}
	r.pages = [pageCount]page{}
	return out
}

// notSaved takes pages back that could not be saved.
func (r *replays) notSaved(pages map[string][]byte, sure bool) {
	for name := range pages {
		if i, err := strconv.ParseUint(name, 16, 8); err == nil && i < pageCount {
			r.pages[i].stale(sure)
		}
	}
}

// load takes a page of an earlier run. On an error it has taken nothing of it.
func (r *replays) load(name string, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if p[0] != pageVersion || (len(p)-1)%pageEntry != 0 {
		return fmt.Errorf("page %q: %w: version %d, %d bytes", name, errBadPage, p[0], len(p))
	}
	for e := range slices.Chunk(p[1:], pageEntry) {
		if key := topicKey(binary.BigEndian.Uint64(e)); pageName(key.page()) != name || e[16] > flagged {
			return fmt.Errorf("page %q: %w: an entry does not belong there", name, errBadPage)
		}
	}
	for e := range slices.Chunk(p[1:], pageEntry) {
		t := r.topic(topicKey(binary.BigEndian.Uint64(e)), e[16] == flagged)
		t.had, t.hasHad = content(binary.BigEndian.Uint64(e[8:])), true
	}
	return nil
}

func pageName(i int) string { return fmt.Sprintf("%02x", i) }

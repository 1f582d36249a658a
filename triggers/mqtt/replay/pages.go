package replay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// Pages of topics: a change writes one and not all.
const (
	pageCount   = 64
	pageVersion = 1
	pageEntry   = 8 + 8 + 1 // Key, Digest, flags
	flagged     = 1         // the topic has a retained message

	pageAbout = "about" // its second byte is 1 if the broker tells what it retains, or else 0
)

var errBadPage = errors.New("not a page of remembered topics")

// page tells whether what is saved of a part of the topics is still right.
type page struct {
	dirty bool
	sure  bool // what changed is a retained message
}

func (p *page) stale(sure bool) { p.dirty, p.sure = true, p.sure || sure }

func (k Key) page() int { return int(k >> 58) }

func (t *Topics) changed(p *topic) { t.pages[p.key.page()].stale(p.retained) }

// Unsaved reports whether something is to be saved, and whether it is sure to
// matter: a topic of which nobody knows whether it has a retained message may
// change with every message and never be replayed.
func (t *Topics) Unsaved() (dirty, sure bool) {
	dirty, sure = t.about.dirty, t.about.sure
	for i := range t.pages {
		dirty = dirty || t.pages[i].dirty
		sure = sure || t.pages[i].sure
	}
	return dirty, sure
}

// Save returns the pages that changed, by name, and takes them for saved. A page
// that is nil has nothing in it any more.
func (t *Topics) Save() map[string][]byte {
	out := map[string][]byte{}
	for i := range t.pages {
		if t.pages[i].dirty {
			out[pageName(i)] = nil
		}
	}
	for _, p := range t.topics {
		i := p.key.page()
		if !p.hasHad || !t.pages[i].dirty {
			continue
		}
		name := pageName(i)
		b := out[name]
		if b == nil {
			b = []byte{pageVersion}
		}
		flags := byte(0)
		if p.retained {
			flags = flagged
		}
		b = binary.BigEndian.AppendUint64(b, uint64(p.key))
		b = binary.BigEndian.AppendUint64(b, uint64(p.had))
		out[name] = append(b, flags)
	}
	if t.about.dirty {
		out[pageAbout] = []byte{pageVersion, 0}
		if t.tells {
			out[pageAbout][1] = 1
		}
	}
	t.pages, t.about = [pageCount]page{}, page{}
	return out
}

// NotSaved takes pages back that could not be saved; sure is what Unsaved said.
func (t *Topics) NotSaved(pages map[string][]byte, sure bool) {
	for name := range pages {
		if name == pageAbout {
			t.about.stale(sure)
		} else if i, err := strconv.ParseUint(name, 16, 8); err == nil && i < pageCount {
			t.pages[i].stale(sure)
		}
	}
}

// Load takes a page of an earlier run. On an error it has taken nothing of it.
func (t *Topics) Load(name string, b []byte) error {
	switch {
	case len(b) == 0:
		return nil
	case name == pageAbout:
		if len(b) != 2 || b[0] != pageVersion || b[1] > 1 {
			return fmt.Errorf("page %q: %w: % x", name, errBadPage, b[:min(len(b), 8)])
		}
		t.tells = b[1] == 1
		return nil
	}
	if b[0] != pageVersion || (len(b)-1)%pageEntry != 0 {
		return fmt.Errorf("page %q: %w: version %d, %d bytes", name, errBadPage, b[0], len(b))
	}
	for e := range slices.Chunk(b[1:], pageEntry) {
		if key := Key(binary.BigEndian.Uint64(e)); pageName(key.page()) != name || e[16] > flagged {
			return fmt.Errorf("page %q: %w: an entry does not belong there", name, errBadPage)
		}
	}
	for e := range slices.Chunk(b[1:], pageEntry) {
		p := t.topic(Key(binary.BigEndian.Uint64(e)), e[16] == flagged)
		p.had, p.hasHad = Digest(binary.BigEndian.Uint64(e[8:])), true
	}
	return nil
}

func pageName(i int) string { return fmt.Sprintf("%02x", i) }

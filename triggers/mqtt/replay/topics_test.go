package replay

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What a replay is depends on all that came before it. Steps, a word each:
//
//	a~   content a is published; nobody tells whether it is retained
//	a.   published and not retained
//	a!   published and retained
//	a?   a replay brings it
//	ok   the message before is settled; ko: it is given back
//	run  the node is restarted
func TestWhichReplayIsNews(t *testing.T) {
	for _, c := range []struct{ name, steps, want string }{
		{"the first time", "a?", "new"},
		{"at each connection", "a? ok a? a?", "new old old"},
		{"after a restart", "a? ok run a?", "new old"},
		{"changed while away", "a? ok run b? ok b?", "new new old"},
		{"changed and back while away", "a? ok b~ ok a?", "new new new"},
		{"published before the eyes", "a~ ok a?", "new old"},
		{"published before the eyes, then a restart", "a~ ok run a?", "new old"},
		{"ordinary messages are never old", "a~ ok a~ ok a. ok a! ok", "new new new new"},
		{"nor after a replay", "a? ok a~ ok a! ok a. ok", "new new new new"},
		{"a message that is not retained tells nothing of one that is", "a? ok b. ok a?", "new new old"},
		{"and one that is", "a? ok b! ok a? ok a?", "new new new old"},
		{"in work", "a? a?", "new working"},
		{"in work, published", "a~ a?", "new working"},
		{"another one in work", "a~ b~ a?", "new new new"},
		{"given back", "a? ko a?", "new new"},
		{"given back, with one before", "a? ok b! ko a? b?", "new new old new"},
		{"in work at the restart", "a? run a?", "new new"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := New("plant", 10, 10)
			key := r.Key("cmd/valve")
			var last *Arrival
			var got []string
			for step := range strings.SplitSeq(c.steps, " ") {
				switch step {
				case "ok", "ko":
					r.End(last, step == "ok")
					continue
				case "run":
					pages := r.Save()
					r = New("plant", 10, 10)
					for name, p := range pages {
						if err := r.Load(name, p); err != nil {
							t.Fatal(err)
						}
					}
					continue
				}
				digest := DigestOf([]byte(step[:1]))
				how := map[string]Kind{"~": Unknown, ".": Plain, "!": Retained, "?": Replayed}[step[1:]]
				if how == Replayed {
					had, working := r.Had(key, digest)
					if had {
						got = append(got, "old")
						continue
					}
					if working != nil {
						got = append(got, "working")
						continue
					}
				}
				got = append(got, "new")
				last = r.Begin(key, digest, how)
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("%s: got %q, want %q", c.steps, s, c.want)
			}
		})
	}
}

// Those that are settled in another order than they came leave what came last.
func TestNewestContentCounts(t *testing.T) {
	r := New("plant", 10, 10)
	key := r.Key("t")
	a := r.Begin(key, 1, Retained)
	b := r.Begin(key, 2, Retained)
	r.End(b, true)
	r.End(a, true)
	if had, _ := r.Had(key, 2); !had {
		t.Error("the newer content is not remembered")
	}
	if had, _ := r.Had(key, 1); had {
		t.Error("the older content is remembered")
	}
}

func TestTopicsAreBounded(t *testing.T) {
	r := New("plant", 3, 2)
	settle := func(topic string, how Kind) { r.End(r.Begin(r.Key(topic), 1, how), true) }
	had := func(topic string) bool { had, _ := r.Had(r.Key(topic), 1); return had }
	for i := range 3 {
		settle(fmt.Sprint("retained/", i), Retained)
	}
	for i := range 100 { // they do not push the others out
		settle(fmt.Sprint("other/", i), Unknown)
	}
	if len(r.topics) != 5 || !had("retained/0") || !had("retained/1") || !had("retained/2") {
		t.Fatalf("%d topics, want 5 with all that are retained", len(r.topics))
	}
	r.Save()
	settle("retained/3", Retained)
	if had("retained/0") || !had("retained/1") || r.evicted != 1 {
		t.Errorf("the topic used longest ago is not what was forgotten (%d)", r.evicted)
	}
	// What is forgotten is forgotten on disk too.
	pages := r.Save()
	again := New("plant", 10, 10)
	for name, p := range pages {
		if err := again.Load(name, p); err != nil {
			t.Fatal(err)
		}
	}
	if had, _ := again.Had(r.Key("retained/0"), 1); had {
		t.Error("a forgotten topic is still in its page")
	}
	if _, ok := pages[pageName(r.Key("retained/0").page())]; !ok {
		t.Error("the page of a forgotten topic is not written anew")
	}
	// One that turns out to be retained moves over.
	settle("other/x", Unknown)
	r.Save()
	if !had("other/x") {
		t.Error("other/x is forgotten")
	}
	if _, sure := r.Unsaved(); !sure || r.retained.Len() != 3 {
		t.Errorf("sure %v, %d retained; a replay makes sure of it", sure, r.retained.Len())
	}
}

// Nothing is written for messages that change nothing.
func TestNothingToSave(t *testing.T) {
	r := New("plant", 10, 10)
	key := r.Key("t")
	r.End(r.Begin(key, 1, Replayed), true)
	if pages := r.Save(); len(pages) != 1 || len(pages[pageName(key.page())]) != 1+pageEntry {
		t.Fatalf("pages %v, want one of one topic", pages)
	}
	for range 3 {
		_, _ = r.Had(key, 1)
		r.End(r.Begin(key, 1, Retained), true)
		r.End(r.Begin(key, 7, Plain), true)
		r.End(r.Begin(key, 2, Retained), false)
	}
	if dirty, _ := r.Unsaved(); dirty {
		t.Error("there is something to save though nothing has changed")
	}
	r.End(r.Begin(key, 2, Retained), true)
	pages := r.Save()
	if dirty, _ := r.Unsaved(); dirty || len(pages) != 1 {
		t.Errorf("%d pages, still dirty: %v", len(pages), dirty)
	}
	r.NotSaved(pages, true)
	if dirty, sure := r.Unsaved(); !dirty || !sure {
		t.Error("pages that were not saved are not tried again")
	}
	if diff := cmp.Diff(pages, r.Save()); diff != "" {
		t.Errorf("the second try differs:\n%s", diff)
	}
}

func TestTopicsOfBrokersAreApart(t *testing.T) {
	if New("a", 1, 1).Key("t") == New("b", 1, 1).Key("t") {
		t.Error("one key for two brokers")
	}
}

// What a broker says of messages that are not retained counts once it has told of
// one that is.
func TestBelieve(t *testing.T) {
	r := New("plant", 1, 1)
	for i, c := range []struct {
		do   func()
		said Kind
		want Kind
	}{
		{nil, Plain, Unknown},
		{nil, Replayed, Replayed},
		{nil, Plain, Unknown},
		{nil, Retained, Retained},
		{nil, Plain, Plain},
		{func() { // a restart
			pages := r.Save()
			if dirty, _ := r.Unsaved(); dirty {
				t.Error("it is still to be saved")
			}
			r.NotSaved(pages, true)
			pages = r.Save()
			r = New("plant", 1, 1)
			for name, p := range pages {
				if err := r.Load(name, p); err != nil {
					t.Fatal(err)
				}
			}
		}, Plain, Plain},
		{func() { r.Doubt() }, Plain, Unknown},
	} {
		if c.do != nil {
			c.do()
		}
		if got := r.Believe(c.said); got != c.want {
			t.Errorf("%d: %d is taken for %d, want %d", i, c.said, got, c.want)
		}
	}
	if pages := r.Save(); len(pages) != 1 || len(pages[pageAbout]) != 2 || pages[pageAbout][1] != 0 {
		t.Errorf("pages %v", pages)
	}
}

func FuzzPage(f *testing.F) {
	r := New("plant", 10, 10)
	r.End(r.Begin(r.Key("t"), 1, Retained), true)
	for name, p := range r.Save() {
		f.Add(name, p)
		f.Add(name, p[:5])
		f.Add("zz", p)
	}
	f.Add("00", []byte{pageVersion})
	f.Add("00", []byte{9})
	f.Add(pageAbout, []byte{pageVersion, 1})
	f.Add(pageAbout, []byte{pageVersion, 2})
	f.Fuzz(func(t *testing.T, name string, p []byte) {
		r := New("plant", 100, 100)
		if err := r.Load(name, p); err != nil {
			if !errors.Is(err, errBadPage) || len(r.topics) > 0 {
				t.Fatalf("%v, %d topics", err, len(r.topics))
			}
			return
		}
		for i := range r.pages {
			r.pages[i].stale(true)
		}
		again := New("plant", 100, 100)
		for name, p := range r.Save() {
			if err := again.Load(name, p); err != nil {
				t.Fatalf("what was saved cannot be loaded: %v", err)
			}
		}
		keys := slices.Sorted(maps.Keys(r.topics))
		if diff := cmp.Diff(keys, slices.Sorted(maps.Keys(again.topics))); diff != "" {
			t.Fatal(diff)
		}
	})
}

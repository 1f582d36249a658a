package mqtt

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

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
			r := newReplays("plant", 10, 10)
			key := r.keyOf("cmd/valve")
			var last *arrival
			var got []string
			for step := range strings.SplitSeq(c.steps, " ") {
				switch step {
				case "ok", "ko":
					r.end(last, step == "ok")
					continue
				case "run":
					pages := r.save()
					r = newReplays("plant", 10, 10)
					for name, p := range pages {
						if err := r.load(name, p); err != nil {
							t.Fatal(err)
						}
					}
					continue
				}
				digest := digestOf(Message{Payload: []byte(step[:1])})
				how := map[string]retention{"~": retentionUnknown, ".": retentionPlain, "!": retentionLive, "?": retentionReplay}[step[1:]]
				if how == retentionReplay {
					had, working := r.had(key, digest)
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
				last = r.begin(key, digest, how)
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("%s: got %q, want %q", c.steps, s, c.want)
			}
		})
	}
}

// Those that are settled in another order than they came leave what came last.
func TestNewestContentCounts(t *testing.T) {
	r := newReplays("plant", 10, 10)
	key := r.keyOf("t")
	a := r.begin(key, 1, retentionLive)
	b := r.begin(key, 2, retentionLive)
	r.end(b, true)
	r.end(a, true)
	if had, _ := r.had(key, 2); !had {
		t.Error("the newer content is not remembered")
	}
	if had, _ := r.had(key, 1); had {
		t.Error("the older content is remembered")
	}
}

func TestTopicsAreBounded(t *testing.T) {
	r := newReplays("plant", 3, 2)
	settle := func(topic string, how retention) { r.end(r.begin(r.keyOf(topic), 1, how), true) }
	had := func(topic string) bool { had, _ := r.had(r.keyOf(topic), 1); return had }
	for i := range 3 {
		settle(fmt.Sprint("retained/", i), retentionLive)
	}
	for i := range 100 { // they do not push the others out
		settle(fmt.Sprint("other/", i), retentionUnknown)
	}
	if len(r.topics) != 5 || !had("retained/0") || !had("retained/1") || !had("retained/2") {
		t.Fatalf("%d topics, want 5 with all that are retained", len(r.topics))
	}
	r.save()
	settle("retained/3", retentionLive)
	if had("retained/0") || !had("retained/1") || r.evicted != 1 {
		t.Errorf("the topic used longest ago is not what was forgotten (%d)", r.evicted)
	}
	// What is forgotten is forgotten on disk too.
	pages := r.save()
	again := newReplays("plant", 10, 10)
	for name, p := range pages {
		if err := again.load(name, p); err != nil {
			t.Fatal(err)
		}
	}
	if had, _ := again.had(r.keyOf("retained/0"), 1); had {
		t.Error("a forgotten topic is still in its page")
	}
	if _, ok := pages[pageName(r.keyOf("retained/0").page())]; !ok {
		t.Error("the page of a forgotten topic is not written anew")
	}
	// One that turns out to be retained moves over.
	settle("other/x", retentionUnknown)
	r.save()
	if !had("other/x") {
		t.Error("other/x is forgotten")
	}
	if _, sure := r.unsaved(); !sure || r.retained.Len() != 3 {
		t.Errorf("sure %v, %d retained; a replay makes sure of it", sure, r.retained.Len())
	}
}

// Nothing is written for messages that change nothing.
func TestNothingToSave(t *testing.T) {
	r := newReplays("plant", 10, 10)
	key := r.keyOf("t")
	r.end(r.begin(key, 1, retentionReplay), true)
	if pages := r.save(); len(pages) != 1 || len(pages[pageName(key.page())]) != 1+pageEntry {
		t.Fatalf("pages %v, want one of one topic", pages)
	}
	for range 3 {
		_, _ = r.had(key, 1)
		r.end(r.begin(key, 1, retentionLive), true)
		r.end(r.begin(key, 7, retentionPlain), true)
		r.end(r.begin(key, 2, retentionLive), false)
	}
	if dirty, _ := r.unsaved(); dirty {
		t.Error("there is something to save though nothing has changed")
	}
	r.end(r.begin(key, 2, retentionLive), true)
	pages := r.save()
	if dirty, _ := r.unsaved(); dirty || len(pages) != 1 {
		t.Errorf("%d pages, still dirty: %v", len(pages), dirty)
	}
	r.notSaved(pages, true)
	if dirty, sure := r.unsaved(); !dirty || !sure {
		t.Error("pages that were not saved are not tried again")
	}
	if diff := cmp.Diff(pages, r.save()); diff != "" {
		t.Errorf("the second try differs:\n%s", diff)
	}
}

func TestTopicsOfBrokersAreApart(t *testing.T) {
	if newReplays("a", 1, 1).keyOf("t") == newReplays("b", 1, 1).keyOf("t") {
		t.Error("one key for two brokers")
	}
}

func FuzzPage(f *testing.F) {
	r := newReplays("plant", 10, 10)
	r.end(r.begin(r.keyOf("t"), 1, retentionLive), true)
	for name, p := range r.save() {
		f.Add(name, p)
		f.Add(name, p[:5])
		f.Add("zz", p)
	}
	f.Add("00", []byte{pageVersion})
	f.Add("00", []byte{9})
	f.Fuzz(func(t *testing.T, name string, p []byte) {
		r := newReplays("plant", 100, 100)
		if err := r.load(name, p); err != nil {
			if !errors.Is(err, errBadPage) || len(r.topics) > 0 {
				t.Fatalf("%v, %d topics", err, len(r.topics))
			}
			return
		}
		for i := range r.pages {
			r.pages[i].stale(true)
		}
		again := newReplays("plant", 100, 100)
		for name, p := range r.save() {
			if err := again.load(name, p); err != nil {
				t.Fatalf("what was saved cannot be loaded: %v", err)
			}
		}
		keys := slices.Sorted(maps.Keys(r.topics))
		if diff := cmp.Diff(keys, slices.Sorted(maps.Keys(again.topics))); diff != "" {
			t.Fatal(diff)
		}
	})
}

// One who changes with every message costs ever fewer writes; one who changes
// now and then is saved at once.
func TestSavePlan(t *testing.T) {
	start := time.Unix(1000, 0)
	for _, c := range []struct {
		name  string
		what  saving
		every time.Duration // between two changes
		over  time.Duration
		min   int
		max   int
	}{
		{"retained, each second for an hour", savingSure, time.Second, time.Hour, 38, 42},
		{"unknown, each second for an hour", savingDoubtful, time.Second, time.Hour, 15, 17},
		{"retained, every five minutes", savingSure, 5 * time.Minute, 5 * time.Hour, 60, 60},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, saves := newSavePlan(), 0
			late := time.Duration(0)
			for now, due := start, start; now.Sub(start) < c.over; {
				wait := p.wait(c.what, now)
				now = now.Add(wait)
				late = max(late, now.Sub(due))
				if wait > 0 && p.wait(c.what, now) > time.Millisecond {
					t.Fatalf("after waiting %s there is %s to wait", wait, p.wait(c.what, now))
				}
				p.saved(c.what, now)
				saves++
				due = now.Add(c.every)
				now = due
			}
			if saves < c.min || saves > c.max {
				t.Errorf("%d saves, want %d to %d", saves, c.min, c.max)
			}
			if c.every > saveEvery && late > 0 {
				t.Errorf("saved %s late", late)
			}
		})
	}
}

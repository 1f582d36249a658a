package settle

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

type laneItem struct {
	key string
	n   int
}

// TestLanes drives queue with every mix of operations and holds it against what
// it promises: order and one at a time per key, nothing lost or doubled, and
// nothing kept waiting that may start.
func TestLanes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l queue[laneItem]
		waiting := map[string][]int{} // per key, what has not started
		busy := map[string]*laneItem{}
		var running, delayed []laneItem
		again := map[laneItem]bool{} // put back, to start once more
		count := 0
		free := func() bool { // may anything start?
			if len(again) > 0 || len(waiting[""]) > 0 {
				return true
			}
			for k, items := range waiting {
				if len(items) > 0 && busy[k] == nil {
					return true
				}
			}
			return false
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				it := laneItem{rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "key"), count}
				count++
				l.add(it.key, it)
				waiting[it.key] = append(waiting[it.key], it.n)
			},
			"next": func(t *rapid.T) {
				may := free()
				it, ok := l.next()
				if ok != may {
					t.Fatalf("next gave an item: %v, one may start: %v", ok, may)
				}
				if !ok {
					return
				}
				switch {
				case again[it]:
					delete(again, it)
				case len(waiting[it.key]) == 0 || waiting[it.key][0] != it.n:
					t.Fatalf("key %q: %d started, waiting are %v", it.key, it.n, waiting[it.key])
				case it.key != "" && busy[it.key] != nil:
					t.Fatalf("key %q: %d started while %d runs", it.key, it.n, busy[it.key].n)
				default:
					waiting[it.key] = waiting[it.key][1:]
					if it.key != "" {
						busy[it.key] = &it
					}
				}
				running = append(running, it)
			},
			"done": func(t *rapid.T) {
				if len(running) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(running)-1).Draw(t, "i")
				l.done(running[i].key)
				delete(busy, running[i].key)
				running = slices.Delete(running, i, i+1)
			},
			"delay": func(t *rapid.T) {
				if len(running) == 0 {
					t.Skip()
				}
				delayed = append(delayed, running[0])
				running = running[1:]
			},
			"again": func(t *rapid.T) {
				if len(delayed) == 0 {
					t.Skip()
				}
				l.again(delayed[0])
				again[delayed[0]] = true
				delayed = delayed[1:]
			},
			"": func(t *rapid.T) {
				want := len(again)
				for _, items := range waiting {
					want += len(items)
				}
				if got := l.waiting(); got != want {
					t.Fatalf("waiting: got %d, want %d", got, want)
				}
			},
		})
		// What is drained is just what waited, in order.
		got := map[string][]int{}
		for _, it := range l.drain() {
			if again[it] {
				delete(again, it)
				continue
			}
			got[it.key] = append(got[it.key], it.n)
		}
		for k, items := range waiting {
			if !slices.Equal(got[k], items) {
				t.Fatalf("drain of %q: got %v, want %v", k, got[k], items)
			}
		}
		if len(again) > 0 || l.waiting() != 0 {
			t.Fatalf("drain left %v and %d waiting", again, l.waiting())
		}
	})
}

func TestLanesTakeTurns(t *testing.T) {
	var l queue[string]
	for i := range 3 {
		l.add("busy", fmt.Sprint("busy", i))
	}
	l.add("calm", "calm0")
	var got []string
	for it, ok := l.next(); ok; it, ok = l.next() {
		got = append(got, it)
		key := it[:4]
		l.done(key)
	}
	if want := []string{"busy0", "calm0", "busy1", "busy2"}; !slices.Equal(got, want) {
		t.Errorf("order: got %v, want %v", got, want)
	}
}

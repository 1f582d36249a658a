package main

import (
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestJudge(t *testing.T) {
	// Each word is what one event is: a acknowledged, n not acknowledged, x
	// acknowledged and excused. Event 0 is number 0 of subject 0, and so on.
	for _, tt := range []struct {
		name    string
		events  string
		promise promise
		ordered bool
		seen    []int
		dead    map[string]int
		want    map[int]finding
	}{
		{"all is well", "aaa", once, true, []int{0, 1, 2}, nil, nil},
		{"one is missing", "aaa", once, true, []int{0, 2}, nil, map[int]finding{1: {lost: true}}},
		{"one that was not acknowledged is missing", "ana", once, true, []int{0, 2}, nil, nil},
		{"one that was not acknowledged took effect", "ana", once, true, []int{0, 1, 2}, nil, nil},
		{"one is a dead letter", "aaa", once, true, []int{0, 2}, map[string]int{"1": 1}, nil},
		{"one has two dead letters", "aaa", once, true, []int{0, 2}, map[string]int{"1": 2}, map[int]finding{1: {repeated: true}}},
		{"one is a dead letter and took effect", "aaa", once, true, []int{0, 1, 2}, map[string]int{"1": 1}, map[int]finding{1: {repeated: true}}},
		{"the broker may have lost one", "axa", once, true, []int{0, 2}, nil, map[int]finding{1: {excused: true}}},
		{"one took effect twice", "aaa", once, true, []int{0, 1, 1, 2}, nil, map[int]finding{1: {twice: true}}},
		{"one that was not acknowledged took effect twice", "ana", once, true, []int{0, 1, 1, 2}, nil, map[int]finding{1: {twice: true}}},
		{"one took effect twice and may", "aaa", atLeastOnce, true, []int{0, 1, 1, 2}, nil, map[int]finding{1: {repeated: true}}},
		{"a repeat comes late and may", "aaa", atLeastOnce, true, []int{0, 1, 2, 0}, nil, map[int]finding{0: {repeated: true}}},
		{"a first effect comes late", "aaa", atLeastOnce, true, []int{1, 0, 2}, nil, map[int]finding{0: {outOfOrder: true}}},
		{"two come late", "aaa", atLeastOnce, true, []int{2, 0, 1}, nil, map[int]finding{0: {outOfOrder: true}, 1: {outOfOrder: true}}},
		{"no order was promised", "aaa", once, false, []int{2, 0, 1}, nil, nil},
		{"one that was not acknowledged comes late", "naa", once, true, []int{1, 0, 2}, nil, nil},
		{"one that was not acknowledged comes early", "aan", once, true, []int{2, 0, 1}, nil, nil},
		{"what nobody published is not counted", "a", once, true, []int{7, 0}, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var events []*event
			for i, c := range tt.events {
				e := &event{seq: i, id: strconv.Itoa(i), excused: c == 'x'}
				if c != 'n' {
					e.acked = time.Unix(1, 0)
				}
				events = append(events, e)
			}
			got := map[int]finding{}
			for e, f := range judge(events, tt.promise, tt.ordered, sightings{seen: map[int][]int{0: tt.seen}, dead: tt.dead}) {
				got[e.seq] = f
			}
			want := tt.want
			if want == nil {
				want = map[int]finding{}
			}
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(finding{})); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestJudgeKeepsSubjectsApart(t *testing.T) {
	var events []*event
	for subject := range 2 {
		events = append(events, &event{subject: subject, seq: 5, id: "e" + strconv.Itoa(subject), acked: time.Unix(1, 0)})
	}
	got := judge(events, once, true, sightings{seen: map[int][]int{0: {5}}})
	if len(got) != 1 || !got[events[1]].lost {
		t.Errorf("findings %v, want subject 1's event lost", got)
	}
}

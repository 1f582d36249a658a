package main

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// at is a moment of a run.
func at(seconds int) time.Time { return time.Unix(int64(seconds), 0) }

func TestReportCountsEventsForTheirFault(t *testing.T) {
	faults := []*fault{
		{kind: "a", at: at(10), recovered: at(12), done: at(13)},
		{kind: "b", at: at(20), recovered: at(21), done: at(22)},
		{kind: "a", at: at(30), recovered: at(36), done: at(37)},
		{kind: "c", at: at(40), done: at(50), hung: []string{"x"}},
	}
	events := []*event{
		{acked: at(5)}, {acked: at(12)}, {acked: at(14)}, {acked: at(22)}, {acked: at(23)}, {acked: at(60)}, {},
	}
	r := newReport(7, faults)
	r.count("s", faults, events, map[*event]finding{events[0]: {lost: true}, events[3]: {twice: true}, events[5]: {outOfOrder: true}})
	r.Settled = true
	r.finish()
	var got []string
	for _, w := range r.Rows {
		got = append(got, w.Kind)
	}
	if want := []string{"a", "b", "c", afterAll}; !slices.Equal(got, want) {
		t.Fatalf("rows %v, want %v", got, want)
	}
	a, b, c, after := r.Rows[0], r.Rows[1], r.Rows[2], r.Rows[3]
	if a.Count != 2 || a.Acked != 3 || a.Lost != 1 || a.P50 != 2 || a.Max != 6 {
		t.Errorf("row a: %+v", a)
	}
	if b.Count != 1 || b.Acked != 2 || b.Twice != 1 || b.Max != 1 {
		t.Errorf("row b: %+v", b)
	}
	if c.Hung != 1 || c.Acked != 0 || len(c.recoveries) != 0 {
		t.Errorf("row c: %+v", c)
	}
	if after.Count != 0 || after.Acked != 1 || after.OutOfOrder != 1 {
		t.Errorf("row of what came after: %+v", after)
	}
	if r.Published != 7 || r.Unacked != 1 || r.Total.Count != 4 || r.Total.Acked != 6 || !r.faulty() {
		t.Errorf("in all: %+v", r)
	}
	var table strings.Builder
	r.print(&table)
	for _, want := range []string{"seed 7", "lost: s subject 0", "did not recover", "1 events were never acknowledged"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("the table does not say %q:\n%s", want, table.String())
		}
	}
}

func TestReportIsFaultyForEachFault(t *testing.T) {
	for name, change := range map[string]func(*report){
		"lost":         func(r *report) { r.Total.Lost = 1 },
		"twice":        func(r *report) { r.Total.Twice = 1 },
		"out of order": func(r *report) { r.Total.OutOfOrder = 1 },
		"hung":         func(r *report) { r.Total.Hung = 1 },
		"ended":        func(r *report) { r.Total.Ended = 1 },
		"not done":     func(r *report) { r.Total.NotDone = 1 },
		"unacked":      func(r *report) { r.Unacked = 1 },
		"not settled":  func(r *report) { r.Settled = false },
	} {
		r := &report{Settled: true}
		if r.faulty() {
			t.Fatal("an empty report is faulty")
		}
		if change(r); !r.faulty() {
			t.Errorf("%s: not faulty", name)
		}
	}
	r := &report{Settled: true, Total: row{Repeated: 1, Excused: 1}}
	if r.faulty() {
		t.Error("what is allowed is faulty")
	}
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"strings"
	"text/tabwriter"
	"time"
)

// fault is one that was done.
type fault struct {
	kind      string
	detail    string
	at        time.Time
	recovered time.Time // the next acknowledgement of an event that was published after it; zero: none in time
	done      time.Time // when the run went on
	ended     int       // how often the system ended by itself meanwhile
	hung      []string  // streams of which nothing was acknowledged in time
	err       string    // it could not be done

	outside bool        // it is one of the outside broker: recovery is when that one's events are acknowledged
	also    func() bool // what else must hold for the system to have recovered; nil: nothing
}

// wrong says what is, or is empty.
func (f *fault) wrong() string {
	switch {
	case f.err != "":
		return "was not done: " + f.err
	case len(f.hung) > 0:
		return fmt.Sprintf("did not recover in %s: %s", f.done.Sub(f.at).Round(time.Second), strings.Join(f.hung, ", "))
	case f.ended > 0:
		return fmt.Sprintf("ended the node %d times", f.ended)
	default:
		return ""
	}
}

// row is what is known of one kind of fault.
//
// An event belongs to the fault that followed its acknowledgement, or during
// which it was acknowledged: that is the one that can have lost it.
type row struct {
	Kind       string  `json:"fault"`
	Count      int     `json:"count"`
	Acked      int     `json:"acknowledged"`
	Lost       int     `json:"lost"`
	Twice      int     `json:"twice"`
	Repeated   int     `json:"repeated"`
	OutOfOrder int     `json:"out_of_order"`
	Excused    int     `json:"excused"`
	Hung       int     `json:"hung"`         // no acknowledgement in time
	Ended      int     `json:"ended"`        // the system ended by itself
	NotDone    int     `json:"not_done"`     // the fault could not be done
	P50        float64 `json:"recovery_p50"` // seconds
	Max        float64 `json:"recovery_max"`

	recoveries []float64
}

// report is the outcome of a run.
type report struct {
	Seed      uint64   `json:"seed"`
	Faults    int      `json:"faults"`
	Seconds   float64  `json:"seconds"`
	Published int      `json:"published"`
	Unacked   int      `json:"unacknowledged"` // at the end
	Settled   bool     `json:"settled"`        // every queue was empty in the end
	Rows      []row    `json:"rows"`
	Total     row      `json:"total"`
	Left      []string `json:"left_out,omitempty"` // kinds that this machine or node has not, and why
	Examples  []string `json:"examples,omitempty"` // of what is wrong
}

// maxExamples is how many of what is wrong are shown.
const maxExamples = 20

// afterAll is the row of what came after the last fault.
const afterAll = "(after the last)"

func newReport(seed uint64, faults []*fault) *report {
	r := &report{Seed: seed, Faults: len(faults)}
	for _, f := range faults {
		w := r.row(f.kind)
		w.Count++
		w.Ended += f.ended
		switch {
		case f.err != "":
			w.NotDone++
		case len(f.hung) > 0:
			w.Hung++
		case !f.recovered.IsZero():
			w.recoveries = append(w.recoveries, f.recovered.Sub(f.at).Seconds())
		}
		if text := f.wrong(); text != "" {
			r.example("%s %s %s", f.kind, f.detail, text)
		}
	}
	return r
}

func (r *report) row(kind string) *row {
	i := slices.IndexFunc(r.Rows, func(w row) bool { return w.Kind == kind })
	if i < 0 {
		i = len(r.Rows)
		r.Rows = append(r.Rows, row{Kind: kind})
	}
	return &r.Rows[i]
}

func (r *report) example(format string, args ...any) {
	if len(r.Examples) < maxExamples {
		r.Examples = append(r.Examples, fmt.Sprintf(format, args...))
	}
}

// kindOf is the kind of the fault that an event belongs to.
func kindOf(faults []*fault, acked time.Time) string {
	i := sort.Search(len(faults), func(i int) bool { return !faults[i].done.Before(acked) })
	if i == len(faults) {
		return afterAll
	}
	return faults[i].kind
}

// count adds the events of a stream. Each event counts once, whatever number of
// places it must be found at; a finding at any of them counts.
func (r *report) count(stream string, faults []*fault, events []*event, found map[*event]finding) {
	for _, e := range events {
		r.Published++
		if e.acked.IsZero() {
			r.Unacked++
		}
		f := found[e]
		if e.acked.IsZero() && f == (finding{}) {
			continue
		}
		at := e.acked
		if at.IsZero() {
			at = e.published
		}
		w := r.row(kindOf(faults, at))
		for n, is := range map[*int]bool{&w.Acked: !e.acked.IsZero(), &w.Lost: f.lost, &w.Twice: f.twice, &w.Repeated: f.repeated, &w.OutOfOrder: f.outOfOrder, &w.Excused: f.excused} {
			if is {
				*n++
			}
		}
		for what, is := range map[string]bool{"lost": f.lost, "twice": f.twice, "out of order": f.outOfOrder} {
			if is {
				r.example("%s: %s subject %d number %d (%s), published %s, acknowledged %s", what, stream, e.subject, e.seq, w.Kind, clock(e.published), clock(e.acked))
			}
		}
	}
}

func clock(t time.Time) string { return t.Format("15:04:05.000") }

// finish sums up.
func (r *report) finish() {
	slices.SortFunc(r.Rows, func(a, b row) int {
		if (a.Kind == afterAll) != (b.Kind == afterAll) {
			return map[bool]int{true: 1, false: -1}[a.Kind == afterAll]
		}
		return map[bool]int{true: -1, false: 1}[a.Kind < b.Kind]
	})
	r.Total = row{Kind: "all"}
	t := &r.Total
	for i := range r.Rows {
		w := &r.Rows[i]
		w.quantiles()
		t.Count += w.Count
		t.Acked += w.Acked
		t.Lost += w.Lost
		t.Twice += w.Twice
		t.Repeated += w.Repeated
		t.OutOfOrder += w.OutOfOrder
		t.Excused += w.Excused
		t.Hung += w.Hung
		t.Ended += w.Ended
		t.NotDone += w.NotDone
		t.recoveries = append(t.recoveries, w.recoveries...)
	}
	t.quantiles()
}

func (w *row) quantiles() {
	if len(w.recoveries) == 0 {
		return
	}
	slices.Sort(w.recoveries)
	w.P50, w.Max = w.recoveries[(len(w.recoveries)-1)/2], w.recoveries[len(w.recoveries)-1]
}

// faulty reports whether anything is not as promised.
func (r *report) faulty() bool {
	t := r.Total
	return t.Lost+t.Twice+t.OutOfOrder+t.Hung+t.Ended+t.NotDone+r.Unacked > 0 || !r.Settled
}

func (r *report) print(out io.Writer) {
	tw := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "FAULT\tCOUNT\tACKNOWLEDGED\tLOST\tTWICE\tREPEATED\tOUT OF ORDER\tEXCUSED\tHUNG\tENDED\tNOT DONE\tRECOVERY P50\tMAX\t")
	for _, w := range append(slices.Clone(r.Rows), r.Total) {
		p50, longest := "-", "-"
		if len(w.recoveries) > 0 {
			p50, longest = fmt.Sprintf("%.2fs", w.P50), fmt.Sprintf("%.2fs", w.Max)
		}
		fmt.Fprintf(tw, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t\n", w.Kind, w.Count, w.Acked, w.Lost, w.Twice, w.Repeated, w.OutOfOrder, w.Excused, w.Hung, w.Ended, w.NotDone, p50, longest)
	}
	_ = tw.Flush()
	for _, l := range r.Left {
		fmt.Fprintln(out, "left out:", l)
	}
	for _, e := range r.Examples {
		fmt.Fprintln(out, e)
	}
	if r.Unacked > 0 {
		fmt.Fprintf(out, "%d events were never acknowledged\n", r.Unacked)
	}
	if !r.Settled {
		fmt.Fprintln(out, "the queues did not become empty")
	}
	fmt.Fprintf(out, "%d faults, %d events in %.0f s, seed %d\n", r.Faults, r.Published, r.Seconds, r.Seed)
}

func (r *report) write(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

// format is the value of -o: one of a few words, the first of which is the default.
type format struct {
	value string
	known []string
}

// formatFlag gives cmd -o with the formats that it knows.
func formatFlag(cmd *cobra.Command, known ...string) *format {
	f := &format{value: known[0], known: known}
	cmd.Flags().VarP(f, "output", "o", "format of the output: "+strings.Join(known, " or "))
	// It cannot fail: the flag is there and has no completion yet.
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(known, cobra.ShellCompDirectiveNoFileComp))
	return f
}

// String implements pflag.Value.
func (f *format) String() string { return f.value }

// Type implements pflag.Value.
func (f *format) Type() string { return "format" }

// Set implements pflag.Value.
func (f *format) Set(s string) error {
	if !slices.Contains(f.known, s) {
		return fmt.Errorf("it must be %s", strings.Join(f.known, " or "))
	}
	f.value = s
	return nil
}

func (f *format) json() bool { return f.value == "json" }

// printJSON writes v to stdout.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return written(enc.Encode(v))
}

// printLine writes v to stdout as one line of JSON.
func (a *app) printLine(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetEscapeHTML(false)
	return written(enc.Encode(v))
}

// printf writes text to stdout.
func (a *app) printf(format string, args ...any) error {
	_, err := fmt.Fprintf(a.out, format, args...)
	return written(err)
}

// print writes bytes to stdout as they are.
func (a *app) print(b []byte) error {
	_, err := a.out.Write(b)
	return written(err)
}

func written(err error) error {
	if err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// Colours. All have the same length, so that a column of them stays in line.
const (
	plain  = "\x1b[39m"
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	reset  = "\x1b[0m"
)

// stateColours are the colours of words for a state.
var stateColours = map[string]string{
	"serving": green, "up": green, "connected": green, "ready": green,
	"starting": yellow, "connecting": yellow, "warning": yellow, "not ready": yellow, "stopping": yellow, "paused": yellow,
	"failing": red, "degraded": red, "down": red, "refused": red, "contested": red, "error": red, "failed": red, "ok": green, "fault": red,
}

// colour reports whether stdout may have colours. See https://no-color.org.
func (a *app) colour() bool { return a.outTerm && a.getenv("NO_COLOR") == "" }

// paint colours a word for a state; a cell of a column that has such words
// must always go through it.
func (a *app) paint(word string) string {
	if !a.colour() {
		return word
	}
	c, ok := stateColours[word]
	if !ok {
		c = plain
	}
	return c + word + reset
}

// table lines up rows of cells.
type table struct {
	buf bytes.Buffer
	tw  *tabwriter.Writer
}

func newTable(head ...string) *table {
	t := &table{}
	t.tw = tabwriter.NewWriter(&t.buf, 0, 0, 2, ' ', 0)
	if len(head) > 0 {
		t.row(head...)
	}
	return t
}

// row adds a row. Empty cells show as a hyphen, so that columns can be counted.
func (t *table) row(cells ...string) {
	for i, c := range cells {
		if c == "" {
			cells[i] = "-"
		}
	}
	// A bytes.Buffer does not fail.
	_, _ = io.WriteString(t.tw, strings.Join(cells, "\t")+"\n")
}

// printTo writes the table with no blanks at the ends of lines.
func (t *table) printTo(w io.Writer) error {
	if err := t.tw.Flush(); err != nil {
		return written(err)
	}
	for line := range strings.Lines(t.buf.String()) {
		if _, err := io.WriteString(w, strings.TrimRight(line, " \n")+"\n"); err != nil {
			return written(err)
		}
	}
	return nil
}

// clean makes text that others wrote safe to show on a terminal: control
// characters but newline and tab are shown as escapes.
func clean(s string) string {
	if !strings.ContainsFunc(s, isUnsafe) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if isUnsafe(r) {
			fmt.Fprintf(&b, "\\x%02x", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func isUnsafe(r rune) bool {
	return unicode.IsControl(r) && r != '\n' && r != '\t'
}

// cell is clean text for one cell of a table: one line, at most limit runes.
func cell(s string, limit int) string {
	s = strings.Join(strings.Fields(clean(s)), " ")
	if r := []rune(s); len(r) > limit {
		return string(r[:limit-1]) + "…"
	}
	return s
}

// short is a version as tables show it: the first 12 digits of its digest.
func short(version string) string {
	_, hex, ok := strings.Cut(version, ":")
	if !ok {
		hex = version
	}
	return hex[:min(12, len(hex))]
}

// ago says how long t is past.
func (a *app) ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return humanize.RelTime(t, a.now(), "ago", "from now")
}

// size is a number of bytes for people.
func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// millis is a number of milliseconds for people.
func millis(ms float64) string {
	d := time.Duration(ms * float64(time.Millisecond))
	switch {
	case d >= time.Minute:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	default:
		return d.Round(10 * time.Microsecond).String()
	}
}

// count is a number of things.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return humanize.Comma(int64(n)) + " " + many
}

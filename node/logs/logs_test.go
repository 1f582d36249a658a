package logs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/node/api"
)

func line(text string) pool.LogLine {
	return pool.LogLine{Time: time.Now(), Level: "info", Invocation: "i1", Stream: "stdout", Text: text}
}

// texts reads a log.
func texts(t *testing.T, l *Log, since time.Time) []string {
	t.Helper()
	var out []string
	err := l.Read(t.Context(), api.LogOptions{Since: since}, func(line api.LogLine) error {
		out = append(out, line.Text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestLogIsBoundedAndRotates(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{FileSize: 16 << 10, Files: 3, Rate: 1 << 20}
	b := New(dir, cfg, slog.New(slog.DiscardHandler))
	const lines = 1000
	for i := range lines {
		b.Of("fan").Write("sha256:1", line(fmt.Sprintf("%04d %s", i, strings.Repeat("x", 60))))
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 3 {
		t.Fatalf("files: %v, %v", files, err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Size() > cfg.FileSize {
			t.Errorf("%s: %d bytes, %v", f.Name(), info.Size(), err)
		}
	}
	// What is left are the newest lines, in order, also after a restart that
	// found a line cut.
	b.Close()
	f, err := os.OpenFile(filepath.Join(dir, "fan.log"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, werr := f.WriteString(`{"time":"2026`)
	if err := errors.Join(werr, f.Close()); err != nil {
		t.Fatal(err)
	}
	b = New(dir, cfg, slog.New(slog.DiscardHandler))
	defer b.Close()
	b.Of("fan").Write("sha256:1", line(fmt.Sprintf("%04d", lines)))
	got := texts(t, b.Of("fan"), time.Time{})
	if len(got) < 100 {
		t.Fatalf("%d lines are left", len(got))
	}
	for i, text := range got {
		if want := fmt.Sprintf("%04d", lines+1-len(got)+i); text[:4] != want {
			t.Fatalf("line %d: got %s, want %s", i, text[:4], want)
		}
	}
	if err := b.Remove("fan"); err != nil {
		t.Fatal(err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 0 {
		t.Errorf("files: %v, %v", files, err)
	}
}

func TestFloodIsDroppedAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(t.TempDir(), Config{FileSize: 1 << 20, Files: 2, Rate: 1 << 10}, slog.New(slog.DiscardHandler))
		defer b.Close()
		l := b.Of("fan")
		for range 100 {
			l.Write("sha256:1", line(strings.Repeat("x", 1<<10)))
		}
		kept := texts(t, l, time.Time{})
		if len(kept) != 7 { // 8 KiB at once, lines of 1 KiB and 128 bytes
			t.Fatalf("%d lines are kept", len(kept))
		}
		time.Sleep(2 * quiet) // with nothing more coming, it is told
		got := texts(t, l, time.Time{})
		if want := "dropped 93 lines"; len(got) != 8 || !strings.HasPrefix(got[7], want) {
			t.Errorf("last line: %q, want %q", got[len(got)-1], want)
		}
		since := time.Now()
		time.Sleep(time.Minute)
		l.Write("sha256:1", line("calm again"))
		if diff := cmp.Diff([]string{"calm again"}, texts(t, l, since)); diff != "" {
			t.Errorf("lines since (-want +got):\n%s", diff)
		}
	})
}

func TestLongLineIsCut(t *testing.T) {
	got := cutText(strings.Repeat("x", maxLine-1) + "üü")
	if want := strings.Repeat("x", maxLine-1) + "... (4 bytes more)"; got != want {
		t.Errorf("got %q", got[maxLine-4:])
	}
}

func TestFollowMissesNothing(t *testing.T) {
	b := New(t.TempDir(), Config{FileSize: 16 << 10, Files: 2, Rate: 1 << 20}, slog.New(slog.DiscardHandler))
	defer b.Close()
	l := b.Of("fan")
	l.Write("sha256:1", line("0"))
	ctx, cancel := context.WithCancel(t.Context())
	var got []string
	n := 0
	err := l.Read(ctx, api.LogOptions{Follow: true}, func(line api.LogLine) error {
		got = append(got, line.Text)
		if n++; n < 300 { // over a rotation
			l.Write("sha256:1", pool.LogLine{Time: time.Now(), Text: fmt.Sprint(n)})
		} else {
			cancel()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, text := range got {
		if text != fmt.Sprint(i) {
			t.Fatalf("line %d: got %s", i, text)
		}
	}
	if len(got) != 300 || len(l.readers) != 0 {
		t.Errorf("%d lines, %d readers left", len(got), len(l.readers))
	}
	// A reader that fails ends it, one that is slow is told what it missed.
	stop := errors.New("client is gone")
	if err := l.Read(t.Context(), api.LogOptions{Follow: true}, func(api.LogLine) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	r := &reader{lines: make(chan api.LogLine, 2)}
	for range 5 {
		r.offer(api.LogLine{Text: "x"})
	}
	<-r.lines
	<-r.lines
	r.offer(api.LogLine{Text: "y"})
	if first, second := <-r.lines, <-r.lines; first.Text != "dropped 3 lines: they were not read in time" || second.Text != "y" {
		t.Errorf("got %q, %q", first.Text, second.Text)
	}
}

func TestCollectTakesOneInvocation(t *testing.T) {
	b := New(t.TempDir(), Config{FileSize: 1 << 20, Files: 1, Rate: 1 << 20}, slog.New(slog.DiscardHandler))
	defer b.Close()
	l := b.Of("fan")
	stop := l.Collect("i1")
	l.Write("sha256:1", line("mine"))
	l.Write("sha256:1", pool.LogLine{Time: time.Now(), Invocation: "i2", Text: "another's"})
	var got []string
	for _, line := range stop() {
		got = append(got, line.Text)
	}
	l.Write("sha256:1", line("late"))
	if diff := cmp.Diff([]string{"mine"}, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

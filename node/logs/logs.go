package logs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"

	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/node/api"
)

// Bounds of logs.
const (
	// maxLine is how much of a line's text is kept, in bytes.
	maxLine = 8 << 10
	// burstSeconds is how many seconds' worth of its rate a function may write
	// at once.
	burstSeconds = 8
	// quiet is after how long what was dropped is told, at the latest.
	quiet = time.Second
	// followLines is how many lines wait for a reader that follows; what comes
	// beyond is dropped and counted.
	followLines = 1024
	// invokeLines is how many lines are given back with an invocation.
	invokeLines = 1000
)

// Config bounds the log of each function.
type Config struct {
	FileSize int64 // bytes of a file, then it is rotated
	Files    int   // files kept, the current one included
	Rate     int64 // bytes a second, over a longer time; what is above is dropped and counted
}

// Book keeps the log of each function.
type Book struct {
	dir string
	cfg Config
	log *slog.Logger

	mu   sync.Mutex
	logs map[string]*Log
}

// New makes the logs of a folder. It does no I/O.
func New(dir string, cfg Config, log *slog.Logger) *Book {
	return &Book{dir: dir, cfg: cfg, log: log, logs: map[string]*Log{}}
}

// Of returns the log of a function.
func (b *Book) Of(function string) *Log {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.logs[function]
	if l == nil {
		l = &Log{
			function: function, log: b.log,
			file:    logFile{path: filepath.Join(b.dir, function+".log"), limit: b.cfg.FileSize, files: b.cfg.Files},
			limiter: rate.NewLimiter(rate.Limit(b.cfg.Rate), int(b.cfg.Rate)*burstSeconds),
			readers: map[*reader]bool{},
		}
		b.logs[function] = l
	}
	return l
}

// Size is how many bytes the log of a function takes on the disk.
func (b *Book) Size(function string) (int64, error) { return b.Of(function).size() }

// Remove deletes the log of a function that was removed.
func (b *Book) Remove(function string) error {
	l := b.Of(function)
	b.mu.Lock()
	delete(b.logs, function)
	b.mu.Unlock()
	return l.remove()
}

// Close closes every file.
func (b *Book) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.logs {
		l.close()
	}
	clear(b.logs)
}

// Log is the log of one function: files, and those who read along.
type Log struct {
	function string
	log      *slog.Logger
	limiter  *rate.Limiter // in bytes

	mu      sync.Mutex
	file    logFile
	readers map[*reader]bool
	dropped int         // lines, since the last one that was kept
	version string      // Of the last dropped line
	report  *time.Timer // tells what was dropped; nil: nothing was
	failing bool        // the file cannot be written
	closed  bool
}

// reader is somebody who reads along: lines of one invocation, or all.
type reader struct {
	invocation string
	lines      chan api.LogLine
	dropped    int // guarded by the log's mu
}

// Write adds a line of an instance.
func (l *Log) Write(version string, p pool.LogLine) {
	l.add(api.LogLine{
		Time: p.Time.UTC(), Level: p.Level, Function: l.function, Version: version,
		Invocation: p.Invocation, Stream: p.Stream, Text: p.Text,
	})
}

// Note adds a line of the node.
func (l *Log) Note(version, level, invocation, text string) {
	l.add(api.LogLine{
		Time: time.Now().UTC(), Level: level, Function: l.function, Version: version,
		Invocation: invocation, Stream: "node", Text: text,
	})
}

func (l *Log) add(line api.LogLine) {
	line.Text = cutText(line.Text)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	if !l.limiter.AllowN(time.Now(), min(len(line.Text)+128, l.limiter.Burst())) {
		l.dropped++
		l.version = line.Version
		if l.report == nil {
			l.report = time.AfterFunc(quiet, l.reportDropped)
		}
		return
	}
	if l.dropped > 0 {
		l.tellDropped()
	}
	l.keep(line)
}

// cutText bounds a line, at a rune's border.
func cutText(s string) string {
	if len(s) <= maxLine {
		return s
	}
	n := maxLine
	for n > maxLine-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return fmt.Sprintf("%s... (%d bytes more)", s[:n], len(s)-n)
}

func (l *Log) reportDropped() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report = nil
	if l.dropped > 0 && !l.closed {
		l.tellDropped()
	}
}

// tellDropped writes how many lines were dropped. The caller holds mu.
func (l *Log) tellDropped() {
	text := fmt.Sprintf("dropped %d lines: the function logs more than its rate allows (log.rate in the node's config)", l.dropped)
	l.dropped = 0
	l.keep(api.LogLine{Time: time.Now().UTC(), Level: "warning", Function: l.function, Version: l.version, Stream: "node", Text: text})
}

// keep writes a line and shows it to the readers. The caller holds mu.
func (l *Log) keep(line api.LogLine) {
	for r := range l.readers {
		r.offer(line)
	}
	text, err := json.Marshal(line)
	if err == nil {
		err = l.file.write(append(text, '\n'))
	}
	if (err != nil) != l.failing {
		l.failing = err != nil
		if err != nil {
			l.log.Error("log cannot be written, lines are lost", "function", l.function, "err", err)
		} else {
			l.log.Info("log is written again", "function", l.function)
		}
	}
}

// offer gives a reader a line, or counts that it could not.
func (r *reader) offer(line api.LogLine) {
	if r.invocation != "" && r.invocation != line.Invocation {
		return
	}
	if r.dropped > 0 {
		lost := line
		lost.Level, lost.Stream, lost.Invocation = "warning", "node", ""
		lost.Text = fmt.Sprintf("dropped %d lines: they were not read in time", r.dropped)
		select {
		case r.lines <- lost:
			r.dropped = 0
		default:
		}
	}
	select {
	case r.lines <- line:
	default:
		r.dropped++
	}
}

// Collect gathers the lines of an invocation until stop is called, which
// returns them.
func (l *Log) Collect(invocation string) (stop func() []api.LogLine) {
	r := &reader{invocation: invocation, lines: make(chan api.LogLine, invokeLines)}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.readers[r] = true
	return func() []api.LogLine {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.readers, r)
		close(r.lines)
		var out []api.LogLine
		for line := range r.lines {
			out = append(out, line)
		}
		return out
	}
}

// Read calls f with the lines since a time and, if told to follow, with those
// that come, until ctx is done or f fails.
func (l *Log) Read(ctx context.Context, o api.LogOptions, f func(api.LogLine) error) error {
	l.mu.Lock()
	old, err := l.file.sections()
	r := &reader{lines: make(chan api.LogLine, followLines)}
	if err == nil && o.Follow {
		l.readers[r] = true
		defer func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			delete(l.readers, r)
		}()
	}
	l.mu.Unlock()
	if err != nil {
		return err
	}
	defer closeSections(old)
	for _, s := range old {
		if err := s.read(ctx, o.Since, f); err != nil {
			return err
		}
	}
	for o.Follow {
		select {
		case line := <-r.lines:
			if err := f(line); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// Read calls f with the lines of a file. One that is cut or no line of ours is
// passed over.
func (s section) read(ctx context.Context, since time.Time, f func(api.LogLine) error) error {
	b := bufio.NewReaderSize(io.NewSectionReader(s.f, 0, s.size), 64<<10)
	for ctx.Err() == nil {
		text, err := b.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = b.ReadSlice('\n')
			}
			continue
		}
		var line api.LogLine
		if json.Unmarshal(text, &line) == nil && !line.Time.Before(since) {
			if err := f(line); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
	}
	return context.Cause(ctx)
}

func (l *Log) size() (n int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old, err := l.file.sections()
	defer closeSections(old)
	for _, s := range old {
		n += s.size
	}
	return n, err
}

func (l *Log) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shut()
}

// shut ends the log. The caller holds mu.
func (l *Log) shut() {
	if l.report != nil {
		l.report.Stop()
		l.report = nil
	}
	if l.dropped > 0 {
		l.tellDropped()
	}
	l.closed = true
	if err := l.file.close(); err != nil {
		l.log.Warn("log may lack lines", "function", l.function, "err", err)
	}
}

func (l *Log) remove() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shut()
	if err := l.file.remove(); err != nil {
		return fmt.Errorf("remove log: %w", err)
	}
	return nil
}

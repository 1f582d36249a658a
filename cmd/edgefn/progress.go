package main

import (
	"fmt"
	"sync"
	"time"
)

// progress shows on a terminal what long work is doing, on one line of stderr
// that goes when the work is done. Elsewhere it shows nothing.
type progress struct {
	a     *app
	what  string
	began time.Time
	stop  chan struct{} // closed by end; nil: nothing is shown
	done  chan struct{} // closed when nothing more is written
	once  sync.Once

	mu   sync.Mutex // guards text
	text string
}

// progress begins to show work that takes longer than a.slow. The caller calls
// end before anything else is written.
func (a *app) progress(what string) *progress {
	p := &progress{a: a, what: what, began: a.now()}
	if !a.errTerm {
		return p
	}
	p.stop, p.done = make(chan struct{}), make(chan struct{})
	go p.show()
	return p
}

// step says what the work is doing now.
func (p *progress) step(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text = text
}

// end takes the line away. It may be called again.
func (p *progress) end() {
	if p.stop == nil {
		return
	}
	p.once.Do(func() { close(p.stop) })
	<-p.done
}

func (p *progress) show() {
	defer close(p.done)
	t := time.NewTicker(p.a.slow)
	defer t.Stop()
	shown := false
	for {
		select {
		case <-p.stop:
			if shown {
				_, _ = fmt.Fprint(p.a.err, "\r\x1b[K")
			}
			return
		case <-t.C:
			p.mu.Lock()
			text := p.text
			p.mu.Unlock()
			if text != "" {
				text = ": " + text
			}
			// \x1b[K clears the rest of the line; 70 runes fit on every terminal.
			_, _ = fmt.Fprintf(p.a.err, "\r\x1b[K%s (%s)", cell(p.what+text, 70), p.a.now().Sub(p.began).Round(time.Second))
			shown = true
		}
	}
}

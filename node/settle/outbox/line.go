package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// lineRecord is a command of a line that was committed with state.
//
// A set and a release take place at least once: they are deleted afterwards. A
// pulse takes place at most once: it is deleted before. One that a crash left
// behind has waited for who knows how long, and is not made up for: the door
// must not open when the power is back. So it carries the run of the node in
// which it was committed.
type lineRecord struct {
	On      bool   `cbor:"on,omitempty"`
	Release bool   `cbor:"release,omitempty"`
	PulseMS int64  `cbor:"pulse_ms,omitempty"`
	Start   string `cbor:"start,omitempty"`
}

func (o *Outbox) lineRecord(e functions.Effect) *lineRecord {
	switch e := e.(type) {
	case functions.SetLine:
		return &lineRecord{On: e.On}
	case functions.PulseLine:
		return &lineRecord{PulseMS: e.For.Milliseconds(), Start: o.start}
	}
	return &lineRecord{Release: true}
}

func (r *lineRecord) effect(line string) functions.Effect {
	switch {
	case r.Release:
		return functions.ReleaseLine{Line: line}
	case r.PulseMS > 0:
		return functions.PulseLine{Line: line, For: time.Duration(r.PulseMS) * time.Millisecond}
	}
	return functions.SetLine{Line: line, On: r.On}
}

// Driving reports whether earlier commands of a function wait for one of these
// lines, so that the new ones have to wait behind them.
func (o *Outbox) Driving(function string, commands []functions.Effect) bool {
	for _, c := range commands {
		if o.pending(function, destLine+functions.LineOf(c)) {
			return true
		}
	}
	return false
}

// Forsake lets the commands of lines go that a function has committed and that
// have not taken place: it has failed again and again since, or was removed.
func (o *Outbox) Forsake(function string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for k, q := range o.queues {
		if k.function == function && strings.HasPrefix(k.dest, destLine) {
			q.forsaken = q.last
		}
	}
}

func (o *Outbox) isForsaken(q *outQueue, k outQueueKey, e store.Entry) bool {
	id, _, _ := durable.SplitSized(e.Key, k.prefix())
	seq, err := strconv.ParseInt(id, 16, 64)
	o.mu.Lock()
	defer o.mu.Unlock()
	return err == nil && seq <= q.forsaken
}

// driveAll has commands of a line take place in order, until one fails or a
// pulse is over. It returns those that are done and not yet deleted.
func (o *Outbox) driveAll(ctx context.Context, log *slog.Logger, function, line string, q *outQueue, es []store.Entry) (done []store.Entry, err error) {
	for i, e := range es {
		var r outboxRecord
		err := durable.Decode(e.Value, &r)
		switch {
		case o.isForsaken(q, outQueueKey{function, destLine + line}, e):
			log.Warn("function was removed or failed again and again, dropping its command")
			continue
		case err != nil || r.Line == nil:
			log.Error("command of a line cannot be read, dropping it", "key", e.Key, logErr, err)
			continue
		case r.Line.PulseMS == 0:
			err := o.sink.Drive(ctx, function, r.Line.effect(line))
			if errors.Is(err, ErrGone) {
				log.Warn("function holds the line no more, dropping its command", logErr, err)
			} else if err != nil {
				return es[:i], err
			}
			continue
		case r.Line.Start != o.start:
			text := fmt.Sprintf("a pulse of line %q was committed before the node ended and is not made up for", line)
			log.Warn("pulse of an earlier run is dropped")
			o.sink.Note(function, "warning", text)
			continue
		}
		if err := o.delete(ctx, q, es[:i+1]); err != nil {
			return nil, err
		}
		if err := o.sink.Drive(ctx, function, r.Line.effect(line)); err != nil && ctx.Err() == nil {
			log.Error("pulse did not take place", logErr, err)
			o.sink.Note(function, "error", NoPulse(line, err))
		}
		return nil, nil
	}
	return es, nil
}

// NoPulse says for people what became of a pulse that met an error.
func NoPulse(line string, err error) string {
	if errors.Is(err, ErrGone) {
		return fmt.Sprintf("a pulse of line %q did not take place, or was cut short: %v", line, err)
	}
	return fmt.Sprintf("a pulse of line %q did not take place: %v", line, err)
}

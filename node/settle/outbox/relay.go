package outbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/wire"
	"github.com/edgefn/edgefn/node/settle/dead"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// Run relays until ctx is done.
func (o *Outbox) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { o.runSent(ctx) })
	for {
		o.mu.Lock()
		for k, q := range o.queues {
			switch {
			case q.running:
			case q.count > 0:
				q.running = true
				wg.Go(func() { o.relay(ctx, k, q) })
			case q.reserved == 0 && len(q.sent) == 0:
				delete(o.queues, k)
			}
		}
		o.mu.Unlock()
		select {
		case <-o.wake:
		case <-ctx.Done():
			return
		}
	}
}

// relay sends what waits in one queue, until it is empty.
func (o *Outbox) relay(ctx context.Context, k outQueueKey, q *outQueue) {
	log := o.log.With(logFunction, k.function, "to", k.dest)
	for failed := 0; ; {
		o.mu.Lock()
		added := q.added
		o.mu.Unlock()
		es, err := o.list(ctx, k, q)
		if err == nil && len(es) == 0 {
			if o.empty(q, added) {
				return
			}
			continue
		}
		if err == nil {
			var sent []store.Entry
			remove := func() { _ = o.delete(ctx, q, sent) } // ctx is done, else it tries for ever
			if target, ok := strings.CutPrefix(k.dest, destFunction); ok {
				sent, err = o.callAll(ctx, log, k, q, target, es)
			} else if line, ok := strings.CutPrefix(k.dest, destLine); ok {
				sent, err = o.driveAll(ctx, log, k.function, line, q, es)
			} else {
				sent, err = o.sendAll(ctx, log, k, q, es)
				remove = func() { o.keepSent(ctx, q, sent) }
			}
			if len(sent) > 0 {
				failed = 0
				remove()
			}
		}
		o.setError(q, err)
		if err != nil {
			if failed++; failed == 1 && ctx.Err() == nil {
				log.Warn("messages wait in the outbox", logErr, err)
			}
			if durable.Sleep(ctx, sendBackoff.Wait(failed)) != nil {
				return
			}
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// Flush waits until nothing waits to be sent, for limit at most, so that a stop
// in good order cuts no Batch short: what was sent and not yet deleted would
// be sent again.
func (o *Outbox) Flush(ctx context.Context, limit time.Duration) {
	left := func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		for _, q := range o.queues {
			if q.count > 0 {
				return true
			}
		}
		return false
	}
	for end := time.Now().Add(limit); left() && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	o.removeSent(ctx, 0)
}

// list reads what is sent next.
func (o *Outbox) list(ctx context.Context, k outQueueKey, q *outQueue) ([]store.Entry, error) {
	o.mu.Lock()
	gone := make(map[string]bool, len(q.sent)) // as of before the list is read
	for key := range q.sent {
		gone[key] = true
	}
	o.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, durable.StoreTime)
	defer cancel()
	es, _, err := o.st.List(ctx, k.prefix(), store.Read{Limit: outboxBatch + len(gone)})
	return slices.DeleteFunc(es, func(e store.Entry) bool { return gone[e.Key] }), err
}

// empty ends a relay whose queue was found empty, unless something was
// committed since.
func (o *Outbox) empty(q *outQueue, added int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if q.added != added {
		return false
	}
	o.budget.Give(q.bytes)
	q.count, q.bytes, q.running = 0, 0, false
	o.vacated()
	return true
}

// maxHangUps is how often a broker hangs up on a message that is out alone before
// that is taken for a refusal.
const maxHangUps = 5

// sendAll publishes in order until one fails. What the broker will never take
// becomes a dead letter, so that it does not hold up what is behind it.
func (o *Outbox) sendAll(ctx context.Context, log *slog.Logger, k outQueueKey, q *outQueue, es []store.Entry) (sent []store.Entry, err error) {
	var late []functions.Publish
	defer func() {
		if len(late) > 0 {
			o.expired(k.function, late[0], len(late))
		}
	}()
	for _, e := range es {
		var r outboxRecord
		if err := durable.Decode(e.Value, &r); err != nil {
			log.Error("message cannot be read, dropping it", "key", e.Key, logErr, err)
			sent = append(sent, e)
			continue
		}
		if o.isForsaken(q, k, e) {
			sent = append(sent, e)
			continue
		}
		m := functions.Publish{
			Broker: strings.TrimPrefix(k.dest, destBroker), Topic: r.Topic, Data: r.Data, QoS: r.QoS, Retain: r.Retain, Properties: o.properties(r.Properties),
		}
		if m.Expired(time.Now()) {
			late = append(late, m)
			sent = append(sent, e)
			continue
		}
		hangUps, err := o.sendOne(ctx, q, e.Key, m)
		switch {
		case err == nil:
			sent = append(sent, e)
		case errors.Is(err, ErrRefused) || hangUps > maxHangUps:
			l := dead.Letter{
				Attempts: max(hangUps, 1), Failure: *functions.Failf(functions.FailSend, "message to broker %q, topic %q: %v", m.Broker, m.Topic, err),
				Event: functions.Event{
					ID: strings.TrimPrefix(e.Key, k.prefix()), Type: functions.TypePublish, Source: "edgefn://" + k.function,
					Subject: m.Topic, Data: m.Data,
				},
				Bytes: len(m.Data), Out: &dead.Out{Broker: m.Broker, QoS: m.QoS, Retain: m.Retain, Properties: m.Properties},
			}
			if err := o.deadLetter(ctx, log, k, q, e, l); err != nil {
				return sent, err
			}
		default:
			return sent, err
		}
	}
	return sent, nil
}

// sendOne publishes a message, and alone where the broker has hung up on it
// before. It returns how often that was.
func (o *Outbox) sendOne(ctx context.Context, q *outQueue, key string, m functions.Publish) (hangUps int, err error) {
	o.mu.Lock()
	if q.head.key == key {
		hangUps = q.head.hangUps
	}
	o.mu.Unlock()
	send, limit := o.sink.Publish, relayTime
	if hangUps > 0 {
		send, limit = o.sink.PublishAlone, aloneTime
	}
	sctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err = send(sctx, m)
	if errors.Is(err, ErrHungUp) {
		hangUps++
	}
	o.mu.Lock()
	q.head.key, q.head.hangUps = key, hangUps
	o.mu.Unlock()
	return hangUps, err
}

// deadLetter makes a dead letter of what cannot be sent, in the transaction that
// takes it out of the outbox.
func (o *Outbox) deadLetter(ctx context.Context, log *slog.Logger, k outQueueKey, q *outQueue, e store.Entry, l dead.Letter) error {
	fn := o.sink.Function(k.function)
	if fn == nil { // nobody would see it
		log.Warn("function was removed, dropping what it sent", logErr, l.Failure.Message)
		return o.delete(ctx, q, []store.Entry{e})
	}
	if err := o.dead.Add(ctx, fn, l, store.Op{Key: e.Key, Delete: true}); err != nil {
		return fmt.Errorf("%s: %w", l.Failure.Message, err)
	}
	o.removed(q, []store.Entry{e})
	log.Error("what was sent is a dead letter", logErr, l.Failure.Message)
	o.sink.Note(k.function, "error", "a dead letter: "+l.Failure.Message)
	return nil
}

// Requeue puts a dead letter that was to go out back into the outbox, in the
// transaction that deletes the letter.
func (o *Outbox) Requeue(ctx context.Context, function string, l dead.Letter) error {
	s := Batch{Messages: []functions.Publish{{
		Broker: l.Out.Broker, Topic: l.Event.Subject, Data: l.Event.Data, QoS: l.Out.QoS, Retain: l.Out.Retain, Properties: l.Out.Properties,
	}}}
	if l.Out.Function != "" {
		s = Batch{Invokes: []functions.Invoke{{Function: l.Out.Function, Event: l.Event}}}
	}
	p, err := o.pack(function, s)
	if err != nil {
		return err
	}
	if err := durable.Commit(ctx, o.st, o.log, "send dead letter again", append(p.Ops(), store.Op{Key: l.Key(), Delete: true})); err != nil {
		p.Dropped()
		return err
	}
	p.Posted()
	return nil
}

// callAll hands a batch of calls over and waits until each is settled.
func (o *Outbox) callAll(ctx context.Context, log *slog.Logger, k outQueueKey, q *outQueue, target string, es []store.Entry) (settled []store.Entry, err error) {
	type outcome struct {
		e   store.Entry
		err error
	}
	outcomes := make(chan outcome, len(es)) // so that settling never blocks
	waiting := 0
	for _, e := range es {
		var r outboxRecord
		ev, err := functions.Event{}, durable.Decode(e.Value, &r)
		if err == nil {
			ev, err = wire.MapEvent(r.Event)
		}
		if err != nil {
			log.Error("call cannot be read, dropping it", "key", e.Key, logErr, err)
			settled = append(settled, e)
			continue
		}
		if o.isForsaken(q, k, e) {
			settled = append(settled, e)
			continue
		}
		err = o.sink.Call(ctx, target, ev, o.ofEarlierRun(e.Key), func(err error) { outcomes <- outcome{e, err} })
		switch {
		case errors.Is(err, ErrGone):
			l := dead.Letter{
				Attempts: 1, Failure: *functions.Failf(functions.FailSend, "event %s to function %q: there is no such function any more", ev.ID, target),
				Event: ev, OwnID: true, Bytes: len(ev.Data), Out: &dead.Out{Function: target},
			}
			if err := o.deadLetter(ctx, log, k, q, e, l); err != nil {
				outcomes <- outcome{e, err}
				waiting++
			}
		case err != nil:
			outcomes <- outcome{e, err}
			waiting++
		default:
			waiting++
		}
	}
	for range waiting {
		select {
		case out := <-outcomes:
			if out.err == nil {
				settled = append(settled, out.e)
			} else {
				err = out.err
			}
		case <-ctx.Done():
			return settled, context.Cause(ctx)
		}
	}
	return settled, err
}

// ofEarlierRun reports whether a key was there when the node started.
func (o *Outbox) ofEarlierRun(key string) bool {
	id, _, _ := durable.SplitSized(key[strings.LastIndexByte(key, '/')+1:], "")
	seq, err := strconv.ParseInt(id, 16, 64)
	o.mu.Lock()
	defer o.mu.Unlock()
	return err == nil && seq <= o.loaded
}

// delete removes what was sent.
func (o *Outbox) delete(ctx context.Context, q *outQueue, sent []store.Entry) error {
	ops := make([]store.Op, len(sent))
	var bytes int64
	for i, e := range sent {
		ops[i] = store.Op{Key: e.Key, Delete: true}
		bytes += int64(len(e.Value))
	}
	err := durable.Persist(ctx, o.log, "remove sent messages", func(ctx context.Context) error {
		_, err := o.st.Commit(ctx, nil, ops)
		return err
	})
	if err != nil {
		return err // it is sent again after the restart
	}
	o.removed(q, sent)
	return nil
}

// removed counts what is not in the store any more.
func (o *Outbox) removed(q *outQueue, es []store.Entry) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range es {
		q.count--
		q.bytes -= int64(len(e.Value))
		o.budget.Give(int64(len(e.Value)))
	}
	o.vacated()
}

// setError notes why the first message of a queue does not go out; nil: it does.
func (o *Outbox) setError(q *outQueue, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	q.head.err = err
}

// Drop gives what a function has committed some time to be sent, and then has the
// rest not be sent any more, since the function was removed. Its keys are the
// caller's to delete.
func (o *Outbox) Drop(ctx context.Context, function string, grace time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	waits := func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		for k, q := range o.queues {
			if k.function == function && q.count > 0 && q.head.err == nil {
				return true
			}
		}
		return false
	}
	for waits() && durable.Sleep(ctx, 10*time.Millisecond) == nil {
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for k, q := range o.queues {
		if k.function == function {
			q.forsaken = q.last
		}
	}
}

// Waiting is how many messages, events and commands of a function wait.
func (o *Outbox) Waiting(function string) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for k, q := range o.queues {
		if k.function == function {
			n += q.count
		}
	}
	return n
}

// Depth is what waits to be sent from one function to one destination.
type Depth struct {
	Function string
	To       string // "mqtt.BROKER", "invoke.FUNCTION" or "line.LINE"
	Waiting  int
	Bytes    int64
	Oldest   time.Time // when the first one was committed, by the clock of then
	Err      error     // why the first one does not go out; nil: it does
}

// first reads the key of the first message of a queue that did not go out yet.
func (o *Outbox) first(ctx context.Context, k outQueueKey) ([]store.Entry, error) {
	o.mu.Lock()
	q := o.queue(k)
	limit := 1 + len(q.sent)
	o.mu.Unlock()
	es, _, err := o.st.List(ctx, k.prefix(), store.Read{Limit: limit, KeysOnly: true})
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.DeleteFunc(es, func(e store.Entry) bool { return q.sent[e.Key] != nil }), err
}

// Depths tells of every queue that is not empty, by function and destination.
func (o *Outbox) Depths(ctx context.Context) ([]Depth, error) {
	o.mu.Lock()
	var out []Depth
	for k, q := range o.queues {
		if q.count > 0 && q.last > q.forsaken {
			out = append(out, Depth{Function: k.function, To: k.dest, Waiting: q.count, Bytes: q.bytes, Err: q.head.err})
		}
	}
	o.mu.Unlock()
	slices.SortFunc(out, func(a, b Depth) int { return cmp.Or(cmp.Compare(a.Function, b.Function), cmp.Compare(a.To, b.To)) })
	for i := range out {
		d := &out[i]
		k := outQueueKey{d.Function, d.To}
		prefix := k.prefix()
		es, err := o.first(ctx, k)
		if err != nil {
			return out, fmt.Errorf("read outbox: %w", err)
		}
		if len(es) == 0 {
			continue // it went out meanwhile
		}
		id, _, _ := durable.SplitSized(es[0].Key, prefix)
		if ns, err := strconv.ParseInt(id, 16, 64); err == nil {
			d.Oldest = time.Unix(0, ns).UTC()
		}
	}
	return out, nil
}

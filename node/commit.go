package node

import (
	"bytes"
	"context"
	"errors"
	"log/slog"

	"github.com/oklog/ulid/v2"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
)

// maxReruns is how often an invocation is run again because another one
// changed what it had read, before that counts as a failed attempt.
const maxReruns = 16

// shyAfter is how many such conflicts make an invocation wait for the others
// of its function that have had as many: then one of them gets through.
const shyAfter = 2

// errConflict: what an invocation read was changed by another one.
var errConflict = errors.New("state was changed meanwhile")

// version is a version of a function that serves, or is to.
type version struct {
	function *functions.Function
	digest   string
	pool     Pool
	stop     func()        // ends the pool and waits for it
	shy      chan struct{} // capacity 1: see shyAfter
}

// request is an event to be run.
type request struct {
	trigger    string
	attempt    int // from 1
	event      functions.Event
	ownID      bool       // the event's id is its sender's: it takes effect once
	noWait     bool       // pool.ErrOverloaded instead of waiting
	invocation string     // empty: one is made for each run
	extra      []store.Op // committed together with the effects
}

// ran is what came of a request that succeeded, or how far one came that did not.
type ran struct {
	repeat     bool // the event's id is known as settled; nothing ran
	invocation string
	outcome    pool.Outcome
}

// executor runs events and commits what they ask for.
type executor struct {
	st         store.Store
	around     surroundings
	outbox     *outbox
	marks      *marks
	done       *doneIDs
	quota      *stateQuota
	usage      *usageBook
	maxPayload int
	log        *slog.Logger
}

// run runs an event on a version until it is not disturbed by others, and
// returns when its effects are committed. The error is a *functions.Failure,
// pool.ErrOverloaded, pool.ErrClosed, ctx's, or the store's: only a Failure that
// is not transient was the function's doing.
func (x *executor) run(ctx context.Context, v *version, r request) (ran, error) {
	for n := 0; ; n++ {
		out, err := x.once(ctx, v, r)
		if !errors.Is(err, errConflict) {
			return out, err
		}
		if n == maxReruns {
			return out, functions.Failf(functions.FailEffect, "the state that it read was changed by others while it ran, %d times in a row", n+1)
		}
		if n == shyAfter {
			select {
			case v.shy <- struct{}{}:
				defer func() { <-v.shy }()
			case <-ctx.Done():
				return out, context.Cause(ctx)
			}
		}
		if err := sleep(ctx, rerunPatience.wait(n+1)); err != nil {
			return out, err
		}
	}
}

// once runs an event and commits its effects; errConflict if they could not be.
func (x *executor) once(ctx context.Context, v *version, r request) (ran, error) {
	out := ran{invocation: r.invocation}
	if out.invocation == "" {
		out.invocation = ulid.Make().String()
	}
	tx := newTransaction(v.function, x.st, x.around, x.maxPayload)
	doneKey := ""
	if r.ownID {
		doneKey = eventKey(v.function.Name, &r.event)
		known, err := x.done.known(ctx, doneKey)
		if err != nil {
			return out, err
		}
		if known {
			out.repeat = true
			return out, x.commitExtra(ctx, r.extra)
		}
	}
	var err error
	out.outcome, err = v.pool.Invoke(ctx, pool.Invocation{
		ID: out.invocation, Trigger: r.trigger, Attempt: r.attempt, Event: r.event, Host: tx, NoWait: r.noWait,
	})
	if err == nil && tx.fault == nil {
		err = x.commit(ctx, v.function, tx, out.outcome.Result, r, doneKey)
	}
	if tx.fault != nil && ctx.Err() == nil {
		// It saw a read fail that it had a right to, so whatever it made of it
		// does not count.
		err = functions.Failf(functions.FailTransient, "%v", tx.fault)
	}
	x.meter(v.function.Name, out.outcome.Usage, err)
	return out, err
}

// meter counts what ran. Events that never reached an instance cost nothing.
func (x *executor) meter(function string, u functions.Usage, err error) {
	var f *functions.Failure
	failed := errors.As(err, &f) && f.Kind != functions.FailTransient
	if u == (functions.Usage{}) && !failed {
		return
	}
	x.usage.add(function, u, failed)
}

// commit makes an invocation's effects take place. With no state written, no
// call and no id to remember there is no transaction: messages are published
// and lines are driven at once.
func (x *executor) commit(ctx context.Context, fn *functions.Function, tx *transaction, res functions.Result, r request, doneKey string) error {
	messages := tx.messages
	if fn.Output != nil && res.Data != nil {
		if len(res.Data) > x.maxPayload {
			return functions.Failf(functions.FailResult, "the result has %d bytes, at most %d can be published", len(res.Data), x.maxPayload)
		}
		messages = append(messages, functions.Publish{
			Broker: brokerName(fn.Output.Broker), Topic: fn.Output.Topic, Data: res.Data, QoS: fn.Output.QoS, Retain: fn.Output.Retain,
		})
	}
	// A pulse takes place once for an event that can be told from its repeat.
	remember := doneKey != "" && (len(tx.writes) > 0 || tx.pulses || fn.Dedupe)
	if len(tx.writes) == 0 && len(tx.invokes) == 0 && !remember && len(r.extra) == 0 && !x.outbox.driving(fn.Name, tx.commands) {
		if err := x.outbox.publish(ctx, fn.Name, messages); err != nil {
			return effectError(err)
		}
		return x.driveNow(ctx, fn.Name, tx.commands)
	}
	undo, err := x.quota.admit(ctx, tx)
	if err != nil {
		return err
	}
	p, err := x.outbox.packWait(ctx, fn.Name, sending{messages, tx.invokes, tx.commands})
	if err != nil {
		undo()
		return effectError(err)
	}
	w := writing{guards: tx.guards(), ops: tx.stateOps()}
	w.ops = append(append(w.ops, r.extra...), p.ops...)
	if remember {
		w.done, w.id = doneKey, r.event.ID
	}
	if err := x.write(ctx, w); err != nil {
		undo()
		p.dropped()
		return effectError(err)
	}
	p.posted()
	return nil
}

// driveNow drives lines without a transaction. A line that does not obey fails
// the invocation: another attempt drives all of them again. But not for a pulse
// that was taken away: it may have begun.
func (x *executor) driveNow(ctx context.Context, function string, commands []functions.Effect) error {
	for _, c := range commands {
		if err := x.outbox.drive(ctx, function, c); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if p, ok := c.(functions.PulseLine); ok && errors.Is(err, errGone) {
				x.outbox.note(function, "error", noPulse(p.Line, err))
				continue
			}
			return functions.Failf(functions.FailEffect, "its effects cannot take place: %v", err)
		}
	}
	return nil
}

// effectError makes a Failure of an error that another attempt may not have,
// and that waiting does not cure.
func effectError(err error) error {
	var full *fullError
	if errors.As(err, &full) || errors.Is(err, store.ErrTooLarge) || errors.Is(err, store.ErrInvalid) {
		return functions.Failf(functions.FailEffect, "its effects cannot take place: %v", err)
	}
	return err
}

// commitExtra commits what goes with an event that is known already.
func (x *executor) commitExtra(ctx context.Context, ops []store.Op) error {
	if len(ops) == 0 {
		return nil
	}
	return persist(ctx, x.log, "settle event", func(ctx context.Context) error {
		_, err := x.st.Commit(ctx, nil, ops)
		return err
	})
}

// writing is a transaction of the store. With done it remembers an event's id.
type writing struct {
	guards   []store.Guard
	ops      []store.Op
	done, id string
}

// write commits, however long the store may be full or away, until ctx is done.
// It returns errConflict when a guard did not hold.
//
// A commit whose answer was lost may have taken effect, and must not take effect
// twice. Where an id is remembered, that key tells: the event is then a repeat.
// Otherwise the transaction also writes a mark, which nobody else uses.
func (x *executor) write(ctx context.Context, w writing) error {
	var m *mark
	guards, ops := w.guards, w.ops
	switch {
	case w.done != "":
		guards = append(guards, store.Guard{Key: w.done})
		ops = append(ops, store.Op{Key: w.done, Value: []byte(w.id)})
	default:
		var err error
		if m, err = x.marks.take(ctx); err != nil {
			return err
		}
		defer x.marks.put(m)
		guards = append(guards, store.Guard{Key: m.key, Version: m.version})
		ops = append(ops, store.Op{Key: m.key, Value: []byte(ulid.Make().String())})
	}
	own := &ops[len(ops)-1]
	unsure := false
	for n := 1; ; n++ {
		revision, err := x.tryWrite(ctx, guards, ops, own, w.done != "")
		switch {
		case err == nil:
			if m != nil {
				m.version, m.known = revision, true
			}
			return nil
		case errors.Is(err, store.ErrConflict):
			if unsure {
				return x.unsureConflict(ctx, m, own)
			}
			return errConflict
		case errors.Is(err, store.ErrLeaseGone):
			x.done.forget(own.Lease)
			continue
		case lasting(err):
			return err
		case !errors.Is(err, store.ErrFull):
			unsure = true
			if m != nil {
				m.known = false // until a commit says so
			}
		}
		if n == 1 {
			x.log.Warn("store does not take effects, holding events back", logErr, err)
		}
		if err := sleep(ctx, storePatience.wait(n)); err != nil {
			return err
		}
	}
}

// tryWrite commits once.
func (x *executor) tryWrite(ctx context.Context, guards []store.Guard, ops []store.Op, own *store.Op, remember bool) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	if remember {
		lease, err := x.done.lease(ctx)
		if err != nil {
			return 0, err
		}
		own.Lease = lease
	}
	revision, err := x.st.Commit(ctx, guards, ops)
	if err == nil && remember {
		x.done.count(own.Lease)
	}
	return revision, err
}

// unsureConflict finds out whether a conflict was with one's own transaction,
// whose answer was lost. An event's id that is there now may have been put by
// another run of the same event; that settles it as well.
func (x *executor) unsureConflict(ctx context.Context, m *mark, own *store.Op) error {
	var e store.Entry
	err := persist(ctx, x.log, "find out what was committed", func(ctx context.Context) (err error) {
		e, _, err = x.st.Get(ctx, own.Key, store.Read{})
		return err
	})
	if err != nil {
		return err
	}
	if m != nil {
		m.version, m.known = e.Version, true
	}
	if bytes.Equal(e.Value, own.Value) {
		return nil
	}
	return errConflict
}

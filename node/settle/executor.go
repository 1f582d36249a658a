package settle

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/node/settle/durable"
	"github.com/edgefn/edgefn/node/settle/outbox"
	"github.com/edgefn/edgefn/node/settle/usage"
)

// maxReruns is how often an invocation is run again because another one
// changed what it had read, before that counts as a failed attempt.
const maxReruns = 16

// rerunBackoff is for an invocation that is run again.
var rerunBackoff = durable.Backoff{First: 2 * time.Millisecond, Max: 250 * time.Millisecond}

// contendedAfter is how many such conflicts make an invocation wait for the others
// of its function that have had as many: then one of them gets through.
const contendedAfter = 2

// errConflict: what an invocation read was changed by another one.
var errConflict = errors.New("state was changed meanwhile")

// Version is a version of a function that serves, or is to.
type Version struct {
	Function *functions.Function
	Digest   string
	Runner   Runner

	contended chan struct{} // capacity 1: see contendedAfter
}

// NewVersion makes a version that runs on r.
func NewVersion(fn *functions.Function, digest string, r Runner) *Version {
	return &Version{Function: fn, Digest: digest, Runner: r, contended: make(chan struct{}, 1)}
}

// Request is an event to be run.
type Request struct {
	Trigger    string
	Attempt    int // from 1
	Event      functions.Event
	OwnID      bool       // the event's id is its sender's: it takes effect once
	NoWait     bool       // pool.ErrOverloaded instead of waiting
	Invocation string     // empty: one is made for each run
	Extra      []store.Op // committed together with the effects
	Expires    time.Time  // pool.ErrExpired instead of running it from then on; zero: never

	// freeze is called when the effects are about to be committed; what it returns
	// is committed together with them. thaw is called if they were not. nil: not
	// called.
	freeze func() []store.Op
	thaw   func()
	begun  func() // called when an instance has the event; nil: not called
}

// Ran is what came of a request that succeeded, or how far one came that did not.
type Ran struct {
	Repeat     bool // the event's id is known as settled; nothing ran
	Invocation string
	Outcome    pool.Outcome
}

// executor runs events and commits what they ask for.
type executor struct {
	st         store.Store
	around     Surroundings
	outbox     *outbox.Outbox
	fences     *fences
	done       *doneIDs
	quota      *quota
	usage      *usage.Book
	maxPayload int
	log        *slog.Logger
}

// run runs an event on a version until it is not disturbed by others, and
// returns when its effects are committed. The error is a *functions.Failure,
// pool.ErrOverloaded, pool.ErrClosed, pool.ErrExpired, ctx's, or the store's: only
// a Failure that is not transient was the function's doing.
func (x *executor) run(ctx context.Context, v *Version, r Request) (Ran, error) {
	for n := 0; ; n++ {
		out, err := x.once(ctx, v, r)
		if !errors.Is(err, errConflict) {
			return out, err
		}
		if n == maxReruns {
			return out, functions.Failf(functions.FailEffect, "the state that it read was changed by others while it Ran, %d times in a row", n+1)
		}
		if n == contendedAfter {
			select {
			case v.contended <- struct{}{}:
				defer func() { <-v.contended }()
			case <-ctx.Done():
				return out, context.Cause(ctx)
			}
		}
		if err := durable.Sleep(ctx, rerunBackoff.Wait(n+1)); err != nil {
			return out, err
		}
	}
}

// once runs an event and commits its effects; errConflict if they could not be.
func (x *executor) once(ctx context.Context, v *Version, r Request) (Ran, error) {
	out := Ran{Invocation: r.Invocation}
	if out.Invocation == "" {
		out.Invocation = ulid.Make().String()
	}
	tx := newTransaction(v.Function, x.st, x.around, x.maxPayload)
	doneKey := ""
	if r.OwnID {
		doneKey = eventKey(v.Function.Name, &r.Event)
		known, err := x.done.known(ctx, doneKey)
		if err != nil {
			return out, err
		}
		if known {
			out.Repeat = true
			return out, x.commitExtra(ctx, r)
		}
	}
	var err error
	out.Outcome, err = v.Runner.Invoke(ctx, pool.Invocation{
		ID: out.Invocation, Trigger: r.Trigger, Attempt: r.Attempt, Event: r.Event, Host: tx, NoWait: r.NoWait, Expires: r.Expires, Begun: r.begun,
	})
	if err == nil && tx.fault == nil {
		if err = x.commit(ctx, v.Function, tx, out.Outcome.Result, r.frozen(), doneKey); err != nil && r.thaw != nil {
			r.thaw()
		}
	}
	if tx.fault != nil && ctx.Err() == nil {
		// It saw a read fail that it had a right to, so whatever it made of it
		// does not count.
		err = functions.Failf(functions.FailTransient, "%v", tx.fault)
	}
	x.meter(v.Function.Name, out.Outcome.Usage, err)
	return out, err
}

// meter counts what ran. Events that never reached an instance cost nothing.
func (x *executor) meter(function string, u functions.Usage, err error) {
	var f *functions.Failure
	failed := errors.As(err, &f) && f.Kind != functions.FailTransient
	if u == (functions.Usage{}) && !failed {
		return
	}
	x.usage.Add(function, u, failed)
}

// commit makes an invocation's effects take place. With no state written, no
// call and no id to remember there is no transaction: messages are published
// and lines are driven at once.
func (x *executor) commit(ctx context.Context, fn *functions.Function, tx *transaction, res functions.Result, r Request, doneKey string) error {
	messages := tx.messages
	if fn.Output != nil && res.Data != nil {
		if len(res.Data) > x.maxPayload {
			return functions.Failf(functions.FailResult, "the result has %d bytes, at most %d can be published", len(res.Data), x.maxPayload)
		}
		messages = append(messages, functions.Publish{
			Broker: BrokerName(fn.Output.Broker), Topic: fn.Output.Topic, Data: res.Data, QoS: fn.Output.QoS, Retain: fn.Output.Retain,
		})
	}
	// A pulse takes place once for an event that can be told from its repeat.
	remember := doneKey != "" && (len(tx.writes) > 0 || tx.pulses || fn.Dedupe)
	if len(tx.writes) == 0 && len(tx.invokes) == 0 && !remember && len(r.Extra) == 0 && !x.outbox.Driving(fn.Name, tx.commands) {
		if err := x.outbox.Publish(ctx, fn.Name, messages); err != nil {
			return effectError(err)
		}
		return x.driveNow(ctx, fn.Name, tx.commands)
	}
	undo, err := x.quota.admit(ctx, tx)
	if err != nil {
		return err
	}
	p, err := x.outbox.Pack(ctx, fn.Name, outbox.Batch{Messages: messages, Invokes: tx.invokes, Commands: tx.commands})
	if err != nil {
		undo()
		return effectError(err)
	}
	w := writing{guards: tx.guards(), ops: tx.stateOps()}
	w.ops = append(append(w.ops, r.Extra...), p.Ops()...)
	if remember {
		w.done, w.id = doneKey, r.Event.ID
	}
	if err := x.write(ctx, w); err != nil {
		undo()
		p.Dropped()
		return effectError(err)
	}
	p.Posted()
	return nil
}

// driveNow drives lines without a transaction. A line that does not obey fails
// the invocation: another attempt drives all of them again. But not for a pulse
// that was taken away: it may have begun.
func (x *executor) driveNow(ctx context.Context, function string, commands []functions.Effect) error {
	for _, c := range commands {
		if err := x.around.Drive(ctx, function, c); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if p, ok := c.(functions.PulseLine); ok && errors.Is(err, outbox.ErrGone) {
				x.around.Note(function, "error", outbox.NoPulse(p.Line, err))
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
	var full *outbox.FullError
	if errors.As(err, &full) || errors.Is(err, store.ErrTooLarge) || errors.Is(err, store.ErrInvalid) {
		return functions.Failf(functions.FailEffect, "its effects cannot take place: %v", err)
	}
	return err
}

// frozen is the request with all that is committed together with its effects.
func (r Request) frozen() Request {
	if r.freeze != nil {
		r.Extra = append(slices.Clone(r.Extra), r.freeze()...)
	}
	return r
}

// commitExtra commits what goes with an event that is known already.
func (x *executor) commitExtra(ctx context.Context, r Request) error {
	r = r.frozen()
	if len(r.Extra) == 0 {
		return nil
	}
	err := durable.Commit(ctx, x.st, x.log, "settle event", r.Extra)
	if err != nil && r.thaw != nil {
		r.thaw()
	}
	return err
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
// Otherwise the transaction also writes a commit fence, which nobody else uses.
func (x *executor) write(ctx context.Context, w writing) error {
	var m *fence
	guards, ops := w.guards, w.ops
	switch {
	case w.done != "":
		guards = append(guards, store.Guard{Key: w.done})
		ops = append(ops, store.Op{Key: w.done, Value: []byte(w.id)})
	default:
		var err error
		if m, err = x.fences.take(ctx); err != nil {
			return err
		}
		defer x.fences.put(m)
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
		case durable.Lasting(err):
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
		if err := durable.Sleep(ctx, durable.StoreBackoff.Wait(n)); err != nil {
			return err
		}
	}
}

// tryWrite commits once.
func (x *executor) tryWrite(ctx context.Context, guards []store.Guard, ops []store.Op, own *store.Op, remember bool) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, durable.StoreTime)
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
func (x *executor) unsureConflict(ctx context.Context, m *fence, own *store.Op) error {
	var e store.Entry
	err := durable.Persist(ctx, x.log, "find out what was committed", func(ctx context.Context) (err error) {
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

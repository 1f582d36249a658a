package outbox

import (
	"context"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// A message that went out leaves the store with the next transaction of its
// function, which costs nothing, or else after sentWait. What a crash leaves of
// it is sent once more.
const (
	sentWait = 500 * time.Millisecond
	// maxSent is how many one transaction takes along, and how many wait for one
	// at the most before the relay removes them itself.
	maxSent = 64
)

// sentMessage is in the store although it went out.
type sentMessage struct {
	bytes int64
	at    time.Time // when it went out
	taken bool      // a transaction is under way that removes it
}

// removal is a sent message that a parcel takes along.
type removal struct {
	q   *outQueue
	key string
}

// keepSent has messages that went out be removed with the next transaction.
func (o *Outbox) keepSent(ctx context.Context, q *outQueue, sent []store.Entry) {
	o.mu.Lock()
	if q.sent == nil {
		q.sent = map[string]*sentMessage{}
	}
	for _, e := range sent {
		q.sent[e.Key] = &sentMessage{bytes: int64(len(e.Value)), at: time.Now()}
		q.count--
		q.bytes -= int64(len(e.Value))
	}
	many := len(q.sent) > maxSent
	o.mu.Unlock()
	if many {
		o.removeSent(ctx, 0)
		return
	}
	select {
	case o.sentWake <- struct{}{}:
	default:
	}
}

// takeSent has a parcel remove what its function has sent. The caller holds mu.
func (o *Outbox) takeSent(p *Parcel, function string) {
	for k, q := range o.queues {
		if k.function != function {
			continue
		}
		for key, m := range q.sent {
			if len(p.sent) == maxSent {
				return
			}
			if !m.taken {
				m.taken = true
				p.sent = append(p.sent, removal{q, key})
			}
		}
	}
}

// dropSent ends the removals of a parcel, which was committed or was not. The
// caller holds mu.
func (o *Outbox) dropSent(removals []removal, committed bool) {
	for _, r := range removals {
		m := r.q.sent[r.key]
		switch {
		case m == nil:
		case committed:
			delete(r.q.sent, r.key)
			o.budget.Give(m.bytes)
		default:
			m.taken = false
		}
	}
	if committed && len(removals) > 0 {
		o.vacated()
	}
}

// runSent removes what no transaction took along in its time, until ctx is done.
func (o *Outbox) runSent(ctx context.Context) {
	for {
		select {
		case <-o.sentWake:
		case <-ctx.Done():
			return
		}
		for o.anySent() {
			if durable.Sleep(ctx, sentWait) != nil {
				return
			}
			o.removeSent(ctx, sentWait)
		}
	}
}

func (o *Outbox) anySent() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, q := range o.queues {
		if len(q.sent) > 0 {
			return true
		}
	}
	return false
}

// removeSent removes what went out that long ago and that no transaction has
// taken along. What a store that is away keeps from being removed is tried again
// later, or sent again after a restart.
func (o *Outbox) removeSent(ctx context.Context, age time.Duration) {
	for {
		var batch []removal
		var ops []store.Op
		o.mu.Lock()
		for _, q := range o.queues {
			for key, m := range q.sent {
				if !m.taken && time.Since(m.at) >= age && len(batch) < store.MaxOps/2 {
					m.taken = true
					batch = append(batch, removal{q, key})
					ops = append(ops, store.Op{Key: key, Delete: true})
				}
			}
		}
		o.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		err := durable.Commit(ctx, o.st, o.log, "remove sent messages", ops)
		o.mu.Lock()
		o.dropSent(batch, err == nil)
		o.mu.Unlock()
		if err != nil {
			return
		}
	}
}

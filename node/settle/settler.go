package settle

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/node/settle/dead"
	"github.com/edgefn/edgefn/node/settle/durable"
	"github.com/edgefn/edgefn/node/settle/outbox"
	"github.com/edgefn/edgefn/node/settle/retry"
	"github.com/edgefn/edgefn/node/settle/usage"
)

// Keys of log lines.
const (
	logFunction = "function"
	logTrigger  = "trigger"
	logErr      = "err"
)

// Runner runs the handler of one version: the pool of this node.
type Runner interface {
	// Invoke hands an event to an instance. The error is a *functions.Failure,
	// pool.ErrOverloaded, pool.ErrClosed or ctx's.
	Invoke(ctx context.Context, in pool.Invocation) (pool.Outcome, error)
}

// Surroundings is the rest of the node: where effects go, and what handlers may
// read and know of it.
type Surroundings interface {
	outbox.Sink
	// HasBroker reports whether the node knows a broker by this name.
	HasBroker(name string) bool
	// HasFunction reports whether a function is deployed.
	HasFunction(name string) bool
	// IsOutput reports whether a line is one that can be commanded.
	IsOutput(line string) bool
	ReadLine(ctx context.Context, line string) (on bool, err error)
	// ReadSensor returns a reading in JSON.
	ReadSensor(ctx context.Context, sensor string) ([]byte, error)
}

// Config of a Settler.
type Config struct {
	Node       string // names this node in the store's keys
	Store      store.Store
	Quota      int64 // of the store in bytes; 0: unknown
	Around     Surroundings
	MaxPayload int // bytes of data that an event may have
	State      StateLimits
	Logger     *slog.Logger // nil discards
}

// Settler settles the events of one node. It keeps all that is common to its
// functions; a Service takes the events of one of them.
type Settler struct {
	Dead   *dead.Letters
	Outbox *outbox.Outbox
	Usage  *usage.Book

	cfg     Config
	log     *slog.Logger
	budget  *durable.Budget
	retries *retry.Queue
	exec    *executor
}

// New makes a settler. It does no I/O: Load it, then Run it.
func New(cfg Config) *Settler {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	log := cfg.Logger
	s := &Settler{cfg: cfg, log: log, budget: durable.NewBudget(cfg.Quota), Usage: usage.New(cfg.Store, log, cfg.Node)}
	st := s.Usage.Metered(strings.TrimPrefix(fencePrefix, durable.Root), leasesKind)
	s.Dead = dead.New(st, s.budget, log)
	s.retries = retry.New(st, s.budget, log)
	s.Outbox = outbox.New(st, s.budget, s.Dead, cfg.Around, log)
	s.exec = &executor{
		st: st, around: cfg.Around, outbox: s.Outbox, fences: newFences(st, log, cfg.Node), done: newDoneIDs(st, log, cfg.Node),
		quota: newQuota(st, log, cfg.State), usage: s.Usage, maxPayload: cfg.MaxPayload, log: log,
	}
	return s
}

// Load reads what an earlier run left in the store.
func (s *Settler) Load(ctx context.Context) error {
	for _, f := range []func(context.Context) error{s.Usage.Load, s.Dead.Load, s.retries.Load, s.Outbox.Load, s.exec.done.load} {
		if err := f(ctx); err != nil {
			return fmt.Errorf("read store: %w", err)
		}
	}
	return nil
}

// Run sends what was committed and writes what functions cost, until ctx is
// done.
func (s *Settler) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { s.Outbox.Run(ctx) })
	wg.Go(func() { s.Usage.Run(ctx) })
	wg.Wait()
}

// QueueBytes is what the node's own queues may take in the store, all together.
func (s *Settler) QueueBytes() int64 { return s.budget.Limit() }

// PutState writes a key of a function's state, as a user asks. A state that is
// full is a *functions.Failure.
func (s *Settler) PutState(ctx context.Context, function, key string, value []byte) error {
	return s.ChangeState(ctx, function, map[string][]byte{key: value}, nil)
}

// Erase returns what deletes everything that is kept of a function, its state
// apart where that is to be kept. Before it is committed Outbox.Drop has to be
// called, afterwards Forget.
func (s *Settler) Erase(function string, keepState bool) []store.Op {
	var ops []store.Op
	if !keepState {
		ops = append(ops, store.Op{Key: StateKey(function, ""), Delete: true, Prefix: true})
	}
	for _, p := range []string{donePrefix, dead.Prefix, retry.Prefix, retry.HeaderPrefix, outbox.Prefix, usage.Prefix} {
		ops = append(ops, store.Op{Key: p + function + "/", Delete: true, Prefix: true})
	}
	return ops
}

// Kept is what is kept of a function.
type Kept struct {
	StateKeys   int
	StateBytes  int64 // of keys and values
	DeadLetters int
	Retries     int // events to be tried again
	Outgoing    int // messages, events and commands that wait to be sent
}

// Kept counts what is kept of a function. It reads all of its state.
func (s *Settler) Kept(ctx context.Context, function string) (Kept, error) {
	k := Kept{DeadLetters: s.Dead.Count(function), Retries: s.retries.Count(function), Outgoing: s.Outbox.Waiting(function)}
	prefix := StateKey(function, "")
	err := durable.EachEntry(ctx, s.cfg.Store, prefix, store.Read{Limit: 100}, func(e store.Entry) error {
		k.StateKeys++
		k.StateBytes += int64(len(e.Key)-len(prefix)) + int64(len(e.Value))
		return nil
	})
	return k, err
}

// Forget drops what is known of a function that was erased.
func (s *Settler) Forget(function string) {
	s.Dead.Forget(function)
	s.retries.Forget(function)
	s.Usage.Forget(function)
	s.exec.quota.forget(function)
}

// Expire removes the dead letters of a function that are too old.
func (s *Settler) Expire(ctx context.Context, fn *functions.Function) error {
	return s.Dead.Expire(ctx, fn, time.Now())
}

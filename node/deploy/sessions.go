package deploy

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// endEvery is how often sessions are tried to be ended whose broker was away.
const endEvery = time.Minute

// endTime bounds one try.
const endTime = 5 * time.Second

// endings ends the sessions of triggers that are gone. One whose broker is away
// is written down and tried again, also after a restart.
type endings struct {
	st         store.Store
	log        *slog.Logger
	endSession func(ctx context.Context, broker, clientID string) error

	mu sync.Mutex // held while a session is ended, so that it is not used anew meanwhile
}

func endingKey(broker, clientID string) string { return keyEnding + broker + "/" + clientID }

// end ends a session, now or later; the error is why not now.
func (e *endings) end(ctx context.Context, broker, clientID string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	err := e.try(ctx, broker, clientID)
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, durable.StoreTime)
	defer cancel()
	if _, serr := e.st.Commit(ctx, nil, []store.Op{{Key: endingKey(broker, clientID)}}); serr != nil {
		e.log.Warn("session at broker stays", logBroker, broker, "client", clientID, logErr, serr)
	}
	return err
}

func (e *endings) try(ctx context.Context, broker, clientID string) error {
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	return e.endSession(ctx, broker, clientID)
}

// keep says that a session is in use again.
func (e *endings) keep(ctx context.Context, broker, clientID string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, durable.StoreTime)
	defer cancel()
	key := endingKey(broker, clientID)
	if entry, _, err := e.st.Get(ctx, key, store.Read{}); err == nil && entry.Version == 0 {
		return
	}
	if _, err := e.st.Commit(ctx, nil, []store.Op{{Key: key, Delete: true}}); err != nil {
		e.log.Warn("session at broker may be ended once more", logBroker, broker, "client", clientID, logErr, err)
	}
}

// run tries again until ctx is done.
func (e *endings) run(ctx context.Context) {
	t := time.NewTicker(endEvery)
	defer t.Stop()
	for {
		err := durable.EachKey(ctx, e.st, keyEnding, func(key string) {
			broker, id, _ := strings.Cut(strings.TrimPrefix(key, keyEnding), "/")
			e.again(ctx, key, broker, id)
		})
		if err != nil && ctx.Err() == nil {
			e.log.Warn("sessions to be ended cannot be read", logErr, err)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

func (e *endings) again(ctx context.Context, key, broker, clientID string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, durable.StoreTime+endTime)
	defer cancel()
	// It may be in use again since the list was made.
	if entry, _, err := e.st.Get(ctx, key, store.Read{}); err != nil || entry.Version == 0 {
		return
	}
	if err := e.try(ctx, broker, clientID); err != nil {
		e.log.Debug("session at broker is not ended yet", logBroker, broker, "client", clientID, logErr, err)
		return
	}
	if _, err := e.st.Commit(ctx, nil, []store.Op{{Key: key, Delete: true}}); err != nil {
		e.log.Debug("session was ended and will be once more", logBroker, broker, logErr, err)
	}
}

package settle

import (
	"context"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// Bounds of one ChangeState.
const (
	MaxChangeKeys  = 500
	MaxChangeBytes = 1 << 20 // of values
)

// ChangeState writes and deletes keys of a function's state in one transaction,
// as a user asks. A state that is full is a *functions.Failure.
func (s *Settler) ChangeState(ctx context.Context, function string, puts map[string][]byte, deletes []string) error {
	tx := newTransaction(&functions.Function{Name: function}, s.cfg.Store, s.cfg.Around, s.cfg.MaxPayload)
	for key, value := range puts {
		tx.writes[StateKey(function, key)] = write{value: value}
	}
	for _, key := range deletes {
		tx.writes[StateKey(function, key)] = write{deleted: true}
	}
	undo, err := s.exec.quota.admit(ctx, tx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, durable.StoreTime)
	defer cancel()
	if _, err := s.cfg.Store.Commit(ctx, nil, tx.stateOps()); err != nil {
		undo()
		return err
	}
	return nil
}

package settle

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
)

func TestJudge(t *testing.T) {
	r := functions.Retry{Attempts: 3, First: 8 * time.Second, Max: time.Minute}
	raised, transient := functions.Failf(functions.FailRaised, "x"), functions.Failf(functions.FailTransient, "x")
	lost := functions.Failf(functions.FailLost, "x")
	tests := []struct {
		name          string
		err           error
		failed, waits int
		want          verdict
		counted       bool
		least, most   time.Duration
	}{
		{"success", nil, 0, 0, settled, false, 0, 0},
		{"first failure", raised, 0, 0, again, true, 0, 8 * time.Second},
		{"second failure", raised, 1, 0, again, true, 0, 16 * time.Second},
		{"last failure", raised, 2, 0, deadLetter, true, 0, 0},
		{"asked to be tried later", &functions.Failure{Kind: functions.FailRaised, RetryAfter: time.Hour}, 0, 0, again, true, time.Hour, time.Hour},
		{"asked to be tried soon", &functions.Failure{Kind: functions.FailRaised, RetryAfter: 1}, 0, 0, again, true, 1, 8 * time.Second},
		{"rejected", functions.Failf(functions.FailRejected, "x"), 0, 0, deadLetter, true, 0, 0},
		{"payload", functions.Failf(functions.FailPayload, "x"), 0, 0, deadLetter, true, 0, 0},
		{"sandbox lost under it at the last attempt of three", lost, 2, 0, deadLetter, true, 0, 0},
		{"sandbox lost under it at the only attempt", lost, 0, 0, again, true, 0, 8 * time.Second},
		{"sandbox gone at the last attempt", transient, 2, 0, again, false, 100 * time.Millisecond, 300 * time.Millisecond},
		{"sandbox gone for long", transient, 0, 1000, again, false, 5 * time.Second, 15 * time.Second},
		{"replaced", pool.ErrClosed, 0, 0, again, false, 0, 0},
		{"replaced again and again", pool.ErrClosed, 0, 3, again, false, 800 * time.Millisecond, 2400 * time.Millisecond},
		{"overloaded", pool.ErrOverloaded, 0, 0, again, false, 100 * time.Millisecond, 300 * time.Millisecond},
		{"store away", errors.New("no quorum"), 2, 0, again, false, 100 * time.Millisecond, 300 * time.Millisecond},
		{"store closed", fmt.Errorf("get: %w", store.ErrClosed), 0, 0, stopped, false, 0, 0},
		{"node stops", context.Canceled, 2, 0, stopped, false, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v, wait, counted := judge(tt.err, tt.failed, tt.waits, r)
			if v != tt.want || counted != tt.counted || wait < tt.least || wait > tt.most {
				t.Errorf("got %v, counted %v, %v; want %v, %v, %v to %v", v, counted, wait, tt.want, tt.counted, tt.least, tt.most)
			}
		})
	}
}

package dead_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/edgefn/edgefn/cluster/store/memstore"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/settle/dead"
	"github.com/edgefn/edgefn/node/settle/durable"
)

func TestDeadLettersAge(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(memstore.Config{})
	b := durable.NewBudget(0)
	d := dead.New(st, b, slog.New(slog.DiscardHandler))
	f := functions.Defaults()
	f.Name = "fan"
	fn := &f
	for range 3 {
		l := dead.Letter{Failure: functions.Failure{Kind: functions.FailRaised, Message: "x"}}
		if err := d.Add(ctx, fn, l); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Expire(ctx, fn, time.Now().Add(fn.Dead.Age-time.Minute)); err != nil || d.Count("fan") != 3 {
		t.Errorf("too early: %d left, %v", d.Count("fan"), err)
	}
	if err := d.Expire(ctx, fn, time.Now().Add(fn.Dead.Age+time.Minute)); err != nil || d.Count("fan") != 0 {
		t.Errorf("%d left, %v", d.Count("fan"), err)
	}
	if n, err := st.Count(ctx, dead.Prefix); err != nil || n != 0 || b.Used() != 0 {
		t.Errorf("%d left in the store, %v; %d bytes of the budget", n, err, b.Used())
	}
}

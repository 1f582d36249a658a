package triggers_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/triggers"
)

func TestLocalTriesAgain(t *testing.T) {
	errConfig, errAway := errors.New("not like this"), errors.New("unplugged")
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		var tries []string
		l := triggers.NewLocal(triggers.LocalConfig{
			Refused: func(err error) bool { return errors.Is(err, errConfig) },
			Listen: func(ctx context.Context, l *triggers.Local) error {
				state, _ := l.Status()
				tries = append(tries, state+" "+time.Since(begun).String())
				switch len(tries) {
				case 1, 2:
					return errAway
				case 3:
					return errConfig
				case 4:
					l.Reached(nil) // the waits begin anew
					return errAway
				case 5:
					l.Reached(errAway)
				}
				<-ctx.Done()
				return nil
			},
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		time.Sleep(30 * time.Second)
		if state, err := l.Status(); state != triggers.StateOffline || !errors.Is(err, errAway) {
			t.Errorf("status %s %v, want offline", state, err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		want := []string{"connecting 0s", "offline 500ms", "offline 1.5s", "refused 3.5s", "offline 4s"}
		if diff := cmp.Diff(want, tries); diff != "" {
			t.Errorf("tries (-want +got):\n%s", diff)
		}
		if state, err := l.Status(); state != triggers.StateStopped || err != nil {
			t.Errorf("status %s %v, want stopped", state, err)
		}
		if err := l.Run(t.Context()); err == nil {
			t.Error("ran twice")
		}
	})
}

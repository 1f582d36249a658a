package main

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/edgefn/edgefn/node"
)

// childEnv makes the test binary run the command line with a stubbornNode.
const childEnv = "EDGEFN_TEST_CHILD"

// stubbornNode is a node that drains until a line comes on stdin.
func stubbornNode(ctx context.Context, cfg node.Config) error {
	cfg.Ready("ready")
	<-ctx.Done()
	cfg.Ready("draining")
	_, err := bufio.NewReader(os.Stdin).ReadString('\n')
	return err
}

// The first signal lets a node drain, the second one ends it at once.
func TestSignals(t *testing.T) {
	for _, c := range []struct {
		name   string
		second bool
	}{{"drained", false}, {"twice", true}} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "node")
			cmd.Env = append(os.Environ(), childEnv+"=1")
			in, err1 := cmd.StdinPipe()
			out, err2 := cmd.StdoutPipe()
			if err := errors.Join(err1, err2, cmd.Start()); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(out)
			expect := func(want string) {
				if got, err := lines.ReadString('\n'); strings.TrimSpace(got) != want {
					t.Errorf("%q, want %q: %v", got, want, err)
				}
			}
			expect("ready")
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			expect("draining")
			if !c.second {
				if _, err := in.Write([]byte("\n")); err != nil {
					t.Fatal(err)
				}
				if err := cmd.Wait(); err != nil {
					t.Errorf("a node that drained: %v", err)
				}
				return
			}
			// The process takes the second signal once the first one's handler
			// is gone: until then it may swallow one more.
			done := make(chan error, 1)
			go func() { done <- cmd.Wait() }()
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for {
				if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
					t.Fatal(err)
				}
				select {
				case err := <-done:
					var exit *exec.ExitError
					if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
						t.Errorf("it ended with %v", err)
					}
					return
				case <-tick.C:
				}
			}
		})
	}
}

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/backup"
)

func (a *app) restoreCommand() *cobra.Command {
	var (
		out  *format
		f    dataFlags
		yes  bool
		wait time.Duration
	)
	cmd := &cobra.Command{
		Use:   "restore FILE|- [--data DIR [--config F]] [--yes] [--wait 5m] [-o table|json]",
		Short: "Bring a node back from a backup",
		Long: "restore puts what is in a backup in the place of all functions and all state of a running node: it\n" +
			"takes the backup, finishes what runs, starts anew from the backup and serves again. With --data it is\n" +
			"a node that does not run, whose data folder is on this machine; its next start imports the images.\n" +
			"The backup is checked whole before anything is changed, and what was there is kept beside it, in\n" +
			"store.old-N of the data folder. What happened since the backup is as if it had not: what waited then\n" +
			"to be sent is sent again.\n\n" + notInBackup,
		Example: "  edgefn restore gate.tar\n" +
			"  edgefn restore gate.tar --node ssh://admin@gateway --yes\n" +
			"  edgefn restore gate.tar --data /var/lib/edgefn",
		Args: wants("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if wait <= 0 {
				return usagef(cmd, "--wait %v is not a time to wait", wait)
			}
			in, err := a.openBackup(args[0])
			if err != nil {
				return err
			}
			defer func() { _ = in.Close() }()
			r := restore{a: a, cmd: cmd, in: in, yes: yes, fromIn: args[0] == "-"}
			var done api.Restored
			if f.offline() {
				done, err = r.data(cmd.Context(), &f)
			} else {
				done, err = r.node(cmd.Context(), wait)
			}
			if err != nil {
				return err
			}
			return a.printRestored(done, out.json())
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "replace what is there without asking")
	cmd.Flags().DurationVar(&wait, "wait", 5*time.Minute, "how long a running node may take to serve again")
	out = formatFlag(cmd, "table", "json")
	return cmd
}

// openBackup opens a file, or stdin.
func (a *app) openBackup(name string) (io.ReadCloser, error) {
	if name == "-" {
		return io.NopCloser(a.in), nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, &usageError{text: fmt.Sprintf("open backup: %v", err), err: err}
	}
	return f, nil
}

// restore is one restore.
type restore struct {
	a      *app
	cmd    *cobra.Command
	in     io.Reader
	fromIn bool // in is stdin
	yes    bool
}

// confirm asks whether something may be replaced.
func (r *restore) confirm(i backup.Info, what string) error {
	if r.yes {
		return nil
	}
	if !r.a.inTerm || !r.a.errTerm || r.fromIn {
		return &usageError{text: "restore replaces " + what + ", and there is nobody to be asked: nothing was changed", hint: "say --yes if that is meant"}
	}
	_, _ = fmt.Fprintf(r.a.err, "Replace %s by the backup of node %s at %s with %s? [y/N] ",
		clean(what), clean(i.Node), i.Time.Local().Format("2006-01-02 15:04:05"), count(len(i.Functions), "function", "functions"))
	answer, err := bufio.NewReader(r.a.in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return errors.New("nothing was changed")
}

// data restores the data folder of a node that does not run.
func (r *restore) data(ctx context.Context, f *dataFlags) (api.Restored, error) {
	cfg, err := f.read(r.a, r.cmd)
	if err != nil {
		return api.Restored{}, err
	}
	p := r.a.progress("restoring")
	defer p.end()
	return r.a.tools.RestoreData(ctx, cfg, r.in, func(n int64) { p.step(size(n)) }, func(i backup.Info, replaced string) error {
		p.end() // or its line is where the question is
		return r.confirm(i, "the store in "+replaced)
	})
}

// Times of waiting for a node that starts anew.
const (
	restartPoll = 200 * time.Millisecond
	restartAsk  = 10 * time.Second // one answer may take it
)

// node restores a running node and waits until it serves again.
func (r *restore) node(ctx context.Context, wait time.Duration) (api.Restored, error) {
	c, err := r.a.dial()
	if err != nil {
		return api.Restored{}, err
	}
	before, err := c.Status(ctx)
	if err != nil {
		return api.Restored{}, hintData(err, "edgefn restore FILE")
	}
	what := fmt.Sprintf("all functions and all state of node %s", before.Node)
	if r.yes || r.fromIn {
		if err := r.confirm(backup.Info{}, what); err != nil {
			return api.Restored{}, err
		}
	} else if err := r.look(what); err != nil {
		return api.Restored{}, err
	}
	p := r.a.progress("restoring node " + before.Node)
	defer p.end()
	var n int64
	taken, err := c.Restore(ctx, io.TeeReader(r.in, &meter{w: io.Discard, count: func(k int64) {
		n += k
		p.step("sent " + size(n))
	}}))
	if err != nil {
		return api.Restored{}, err
	}
	p.step("the node starts anew")
	wctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for tick := time.NewTicker(restartPoll); ; {
		if st, err := askStatus(wctx, c); err == nil && st.Ready && !st.Started.Equal(before.Started) {
			tick.Stop()
			return outcomeOf(st, taken)
		}
		select {
		case <-tick.C:
		case <-wctx.Done():
			tick.Stop()
			if ctx.Err() != nil {
				return api.Restored{}, ctx.Err()
			}
			return api.Restored{}, &api.Error{
				Err: api.ErrTimeout, Message: fmt.Sprintf("node %s has taken the backup and does not serve again after %v", before.Node, wait),
				Hint: "see its log, and edgefn status --wait 5m",
			}
		}
	}
}

func askStatus(ctx context.Context, c *api.Client) (api.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, restartAsk)
	defer cancel()
	return c.Status(ctx)
}

// look checks the backup before its node is stopped for it, and asks.
func (r *restore) look(what string) error {
	f, ok := r.in.(*os.File)
	if !ok {
		return errors.New("read backup: it is no file")
	}
	p := r.a.progress("checking " + filepath.Base(f.Name()))
	defer p.end()
	i, err := backup.Check(f)
	if err != nil {
		return &api.Error{Err: err, Message: fmt.Sprintf("%s: %v", f.Name(), err), Hint: "nothing was changed; take another backup"}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read backup: %w", err)
	}
	p.end()
	return r.confirm(i, what)
}

// outcomeOf says what a node that has started anew has done with the backup.
func outcomeOf(st api.Status, taken api.Restoring) (api.Restored, error) {
	if st.Restored == nil || (st.Restored.Error == "" && !st.Restored.Time.Equal(taken.Time)) {
		return api.Restored{}, &api.Error{
			Message: fmt.Sprintf("node %s has started again and says nothing of a backup", st.Node),
			Hint:    "see its log: it may have been started once more meanwhile",
		}
	}
	if st.Restored.Error != "" {
		return api.Restored{}, &api.Error{Message: fmt.Sprintf("node %s serves again: %s", st.Node, st.Restored.Error), Hint: "see its log"}
	}
	return *st.Restored, nil
}

func (a *app) printRestored(d api.Restored, asJSON bool) error {
	if asJSON {
		return a.printJSON(d)
	}
	if err := a.printf("restored the backup of node %s at %s: %s\n", clean(d.Node), d.Time.Local().Format("2006-01-02 15:04:05"), count(d.Functions, "function", "functions")); err != nil {
		return err
	}
	if d.Old != "" {
		a.message("what was there before is in %s: remove it when it is not needed any more", clean(d.Old))
	}
	for _, l := range d.Left {
		a.message("deploy again: %s", clean(l))
	}
	return nil
}

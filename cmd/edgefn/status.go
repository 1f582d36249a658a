package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/edgefn/edgefn/node/api"
)

// statusPoll is the time between two looks at a node that is not ready.
const statusPoll = 100 * time.Millisecond

func (a *app) statusCommand() *cobra.Command {
	var (
		out  *format
		wait time.Duration
	)
	cmd := &cobra.Command{
		Use:   "status [--wait 30s] [-o table|json]",
		Short: "Show the state of the node",
		Long: "status shows whether the node is ready, the state of its parts, what waits to be sent, and what\n" +
			"the node has written to its disk in the last day. A node that is degraded or not ready makes the\n" +
			"exit code 1, or 5 when --wait is over and it is still not ready; the reason is with it.",
		Example: "  edgefn status\n  edgefn status --wait 30s && edgefn deploy fan",
		Args:    wants(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if wait < 0 {
				return usagef(cmd, "--wait %v is negative", wait)
			}
			st, err := a.status(cmd.Context(), wait)
			if err != nil {
				return err
			}
			if out.json() {
				err = a.printJSON(st)
			} else {
				err = a.printStatus(st)
			}
			switch {
			case err != nil:
				return err
			case st.State == "degraded":
				return &api.Error{Message: fmt.Sprintf("node %s is degraded: %s", st.Node, clean(strings.Join(st.Reasons, "; ")))}
			case st.Ready:
				return nil
			case wait > 0:
				return &api.Error{Err: api.ErrTimeout, Message: fmt.Sprintf("node %s is not ready after %v", st.Node, wait), Hint: "its log says what it waits for"}
			default:
				text := fmt.Sprintf("node %s is not ready", st.Node)
				if len(st.Reasons) > 0 {
					text += ": " + clean(strings.Join(st.Reasons, "; "))
				}
				return &api.Error{Message: text, Hint: "edgefn status --wait 30s waits until it is"}
			}
		},
	}
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait so long for the node to be ready")
	out = formatFlag(cmd, "table", "json")
	return cmd
}

// status returns the node's state, at once or, with wait, when it is ready or
// the time is over. A node that could not be reached in all that time is an
// error.
func (a *app) status(ctx context.Context, wait time.Duration) (api.Status, error) {
	c, err := a.dial()
	if err != nil {
		return api.Status{}, err
	}
	if wait == 0 {
		return c.Status(ctx)
	}
	bound, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	p := a.progress("waiting for the node")
	defer p.end()
	tick := time.NewTicker(statusPoll)
	defer tick.Stop()
	var (
		last    api.Status
		lastErr error
	)
	for {
		st, err := c.Status(bound)
		switch {
		case ctx.Err() != nil:
			return last, fmt.Errorf("wait for node: %w", ctx.Err())
		case err == nil && st.Ready:
			return st, nil
		case bound.Err() != nil && err != nil && (lastErr != nil || last.Node != ""):
			return last, lastErr // this try was cut short: the one before tells more
		case err != nil && !errors.Is(err, api.ErrUnreach) && !errors.Is(err, api.ErrStopping):
			return last, err
		}
		last, lastErr = st, err
		p.step("it is not reachable")
		if err == nil {
			p.step("it is not ready")
		}
		select {
		case <-tick.C:
		case <-bound.Done():
			if ctx.Err() != nil {
				return last, fmt.Errorf("wait for node: %w", ctx.Err())
			}
			return last, lastErr
		}
	}
}

func (a *app) printStatus(st api.Status) error {
	state := st.State
	if state == "" { // a node of an older version
		state = "not ready"
		if st.Ready {
			state = "ready"
		}
	}
	t := newTable()
	t.row("node:", st.Node)
	t.row("state:", a.paint(state))
	for _, r := range st.Reasons {
		t.row("reason:", clean(r))
	}
	t.row("version:", st.Version)
	t.row("platform:", st.Platform)
	t.row("started:", a.ago(st.Started))
	t.row("functions:", strconv.Itoa(st.Functions))
	known := "less than a minute" // whole ones are counted
	if d := time.Duration(st.Flash.KnownS) * time.Second; d >= time.Minute {
		known = d.String()
	}
	written := size(st.Flash.Bytes) + " in " + known
	if st.Flash.Daily > 0 {
		written += ", " + size(st.Flash.Daily) + " a day are allowed"
	}
	t.row("written:", written)
	var rts []string
	for _, r := range slices.Sorted(maps.Keys(st.Runtimes)) {
		rts = append(rts, strings.TrimSpace(r+" "+st.Runtimes[r]))
	}
	t.row("runtimes:", strings.Join(rts, ", "))
	if err := t.printTo(a.out); err != nil {
		return err
	}
	if err := a.printf("\n"); err != nil {
		return err
	}
	t = newTable("PART", a.paint("STATE"), "ADDRESS", "DETAIL")
	part := func(name string, c api.ComponentStatus) {
		t.row(name, a.paint(c.State), c.Address, cell(c.Detail, 120))
	}
	part("containerd", st.Containerd)
	part("store", st.Store)
	part("broker", st.Broker)
	for _, b := range slices.Sorted(maps.Keys(st.Brokers)) {
		part("broker "+b, st.Brokers[b])
	}
	if err := t.printTo(a.out); err != nil {
		return err
	}
	if err := a.printOutbox(st.Outbox); err != nil {
		return err
	}
	for _, w := range st.Warnings {
		if err := a.printf("\nwarning: %s\n", clean(w)); err != nil {
			return err
		}
	}
	return nil
}

// printOutbox prints what waits to be sent, if anything does.
func (a *app) printOutbox(queues []api.OutboxQueue) error {
	if len(queues) == 0 {
		return nil
	}
	if err := a.printf("\n"); err != nil {
		return err
	}
	t := newTable("TO BE SENT BY", "TO", "WAITING", "SIZE", "OLDEST", "ERROR OF THE FIRST")
	for _, q := range queues {
		t.row(q.Function, q.To, strconv.Itoa(q.Waiting), size(q.Bytes), a.ago(q.Oldest), cell(q.Error, 100))
	}
	return t.printTo(a.out)
}

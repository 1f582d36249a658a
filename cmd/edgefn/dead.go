package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/api"
)

func (a *app) deadCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dead list|show|retry|delete FUNCTION [ID|--all]",
		Short: "Look after events that could not be handled",
		Long: "dead looks after a function's dead letters: events that failed as often as the function's\n" +
			"retry allows. A letter stays until it is handled, deleted or too old.",
		Example: "  edgefn dead list fan\n  edgefn dead show fan 01K5\n  edgefn dead retry fan --all\n  edgefn dead delete fan 01K5",
		Args:    cobra.ArbitraryArgs,
		RunE:    subcommands,
	}
	cmd.AddCommand(a.deadListCommand(), a.deadShowCommand(), a.deadRetryCommand(), a.deadDeleteCommand())
	return cmd
}

func (a *app) deadListCommand() *cobra.Command {
	var out *format
	cmd := &cobra.Command{
		Use:   "list FUNCTION [-o table|json]",
		Short: "List the dead letters",
		Long: "list prints a function's dead letters without their data, and below them what the function has\n" +
			"sent and still waits to go out, with the reason. A letter with a destination under TO is a message\n" +
			"or an event that the function sent and that nobody takes; retry sends it again.",
		Example:           "  edgefn dead list fan",
		Args:              wants("FUNCTION"),
		ValidArgsFunction: a.complete(functionNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial()
			if err != nil {
				return err
			}
			ls, err := c.DeadList(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if out.json() {
				return a.printJSON(ls)
			}
			if len(ls) == 0 {
				a.message("no dead letters")
			} else {
				t := newTable("ID", "TIME", "TRIGGER", "TO", "SUBJECT", "ATTEMPTS", "SIZE", "FAILURE", "ERROR")
				for _, l := range ls {
					t.row(cell(l.ID, 512), a.ago(l.Time), l.Trigger, cell(destination(l), 60), cell(l.Event.Subject, 60), strconv.Itoa(l.Attempts),
						size(int64(l.Bytes)), string(l.Failure.Kind), cell(l.Failure.Message, 80))
				}
				if err := t.printTo(a.out); err != nil {
					return err
				}
			}
			st, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			return a.printOutbox(slices.DeleteFunc(st.Outbox, func(q api.OutboxQueue) bool { return q.Function != args[0] }))
		},
	}
	out = formatFlag(cmd, "table", "json")
	return cmd
}

// destination is where a letter was to go; empty: it came to the function.
func destination(l api.DeadLetter) string {
	switch {
	case l.Out == nil:
		return ""
	case l.Out.Function != "":
		return "function " + l.Out.Function
	}
	return "broker " + l.Out.Broker
}

func (a *app) deadShowCommand() *cobra.Command {
	var out *format
	cmd := &cobra.Command{
		Use:               "show FUNCTION ID [-o table|json|data]",
		Short:             "Show a dead letter whole",
		Long:              "show prints a dead letter with its event and why it failed; with -o data the bytes of the event's data alone.",
		Example:           "  edgefn dead show fan 01K5\n  edgefn dead show fan 01K5 -o data > event.bin",
		Args:              wants("FUNCTION", "ID"),
		ValidArgsFunction: a.complete(functionNames, letters),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial()
			if err != nil {
				return err
			}
			l, err := c.DeadShow(cmd.Context(), args[0], args[1])
			switch {
			case err != nil:
				return err
			case out.json():
				return a.printJSON(l)
			case out.value == "data":
				return a.print(l.Event.Data)
			default:
				return a.printLetter(l)
			}
		},
	}
	out = formatFlag(cmd, "table", "json", "data")
	return cmd
}

// expiry is the time at which an event expires; empty: never.
func expiry(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format(time.RFC3339)
}

func (a *app) printLetter(l api.DeadLetter) error {
	t := newTable()
	e := l.Event
	for _, f := range [][2]string{
		{"id", l.ID},
		{"function", l.Function},
		{"trigger", l.Trigger},
		{"to", destination(l)},
		{"time", l.Time.Local().Format(time.RFC3339)},
		{"attempts", strconv.Itoa(l.Attempts)},
		{"failure", l.Failure.Error()},
		{"event id", e.ID},
		{"event type", e.Type},
		{"event source", e.Source},
		{"event subject", e.Subject},
		{"content type", e.DataContentType},
		{"expires", expiry(e.Expires)},
	} {
		if f[1] == "" && (f[0] == "to" || f[0] == "expires") {
			continue // it came to the function, or never expires
		}
		t.row(f[0]+":", cell(f[1], 500))
	}
	for _, k := range slices.Sorted(maps.Keys(e.Extensions)) {
		t.row("extension:", cell(k+"="+e.Extensions[k], 200))
	}
	bytes := size(int64(l.Bytes))
	if l.Cut {
		bytes += ", of which the first " + size(int64(len(e.Data))) + " are kept; it cannot be retried"
	}
	t.row("data:", bytes)
	if err := t.printTo(a.out); err != nil {
		return err
	}
	data := "(bytes that are not text; -o data prints them)"
	if utf8.Valid(e.Data) {
		data = clean(string(e.Data))
	}
	if len(e.Data) > 0 {
		if err := a.printf("%s\n", indent(data)); err != nil {
			return err
		}
	}
	if l.Failure.Detail != "" {
		return a.printf("detail:\n%s\n", indent(clean(l.Failure.Detail)))
	}
	return nil
}

// letterArgs wants a function and either an id or --all.
func letterArgs(all *bool) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 1 && *all, len(args) == 2 && !*all:
			return nil
		case len(args) == 2:
			return fmt.Errorf("%s takes an ID or --all, not both", cmd.CommandPath())
		case len(args) == 1:
			return fmt.Errorf("%s needs the ID of a dead letter, or --all", cmd.CommandPath())
		default:
			return fmt.Errorf("%s takes FUNCTION and ID, or FUNCTION and --all; got %d arguments", cmd.CommandPath(), len(args))
		}
	}
}

// letter is the id among args, empty for all.
func letter(args []string) string {
	if len(args) > 1 {
		return args[1]
	}
	return ""
}

func (a *app) deadRetryCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:               "retry FUNCTION ID|--all",
		Short:             "Run dead letters again, now",
		Long:              "retry runs dead letters again. One that is handled goes, one that fails stays, and then the exit code is 3.",
		Example:           "  edgefn dead retry fan 01K5\n  edgefn dead retry fan --all",
		Args:              letterArgs(&all),
		ValidArgsFunction: a.complete(functionNames, letters),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := a.dead(cmd.Context(), "retrying", args, (*api.Client).DeadRetry)
			if err != nil {
				return err
			}
			if err := a.printf("handled %d, failed %d\n", o.Handled, o.Failed); err != nil {
				return err
			}
			if o.Failed > 0 {
				return &functionError{name: args[0], failure: *functions.Failf(functions.FailRaised,
					"%s failed again and stays; edgefn dead list %s tells why", count(o.Failed, "dead letter", "dead letters"), args[0])}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all of the function's dead letters")
	return cmd
}

func (a *app) deadDeleteCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:               "delete FUNCTION ID|--all",
		Short:             "Delete dead letters",
		Long:              "delete removes dead letters with their events. It does not ask.",
		Example:           "  edgefn dead delete fan 01K5\n  edgefn dead delete fan --all",
		Args:              letterArgs(&all),
		ValidArgsFunction: a.complete(functionNames, letters),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := a.dead(cmd.Context(), "deleting", args, (*api.Client).DeadDelete)
			if err != nil {
				return err
			}
			return a.printf("deleted %d\n", o.Deleted)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all of the function's dead letters")
	return cmd
}

func (a *app) dead(ctx context.Context, doing string, args []string, do func(*api.Client, context.Context, string, string) (api.DeadOutcome, error)) (api.DeadOutcome, error) {
	c, err := a.dial()
	if err != nil {
		return api.DeadOutcome{}, err
	}
	p := a.progress(doing + " dead letters of " + args[0])
	defer p.end()
	return do(c, ctx, args[0], letter(args))
}

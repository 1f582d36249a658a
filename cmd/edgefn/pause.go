package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/edgefn/edgefn/node/api"
)

func (a *app) pauseCommand() *cobra.Command {
	return a.pauseOrResume((*api.Client).Pause, &cobra.Command{
		Use:   "pause NAME [--trigger T] [-o table|json]",
		Short: "Let a function's events wait",
		Long: "pause lets no more events of a function run, or of one of its triggers. Those that come are\n" +
			"kept, as far as there is room for them; then their senders wait. What runs already ends. It\n" +
			"stays so over restarts and new versions until edgefn resume. edgefn invoke still runs the\n" +
			"function, and edgefn dead retry its dead letters: those are a person's own calls.",
		Example: "  edgefn pause fan\n  edgefn pause fan --trigger readings",
	})
}

func (a *app) resumeCommand() *cobra.Command {
	return a.pauseOrResume((*api.Client).Resume, &cobra.Command{
		Use:   "resume NAME [--trigger T] [-o table|json]",
		Short: "Let a paused function's events run",
		Long: "resume lets the events of a function run that edgefn pause has wait, in their order: of all\n" +
			"its triggers, or of one.",
		Example: "  edgefn resume fan\n  edgefn resume fan --trigger readings",
	})
}

func (a *app) pauseOrResume(do func(c *api.Client, ctx context.Context, name, trigger string) (api.Paused, error), cmd *cobra.Command) *cobra.Command {
	var (
		out     *format
		trigger string
	)
	cmd.Args = wants("NAME")
	cmd.ValidArgsFunction = a.complete(functionNames)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().Changed("trigger") && trigger == "" {
			return usagef(cmd, "--trigger names no trigger")
		}
		c, err := a.dial()
		if err != nil {
			return err
		}
		p, err := do(c, cmd.Context(), args[0], trigger)
		if err != nil {
			return err
		}
		if out.json() {
			return a.printJSON(p)
		}
		return a.printPaused(p)
	}
	cmd.Flags().StringVar(&trigger, "trigger", "", "only this one of its triggers")
	// It cannot fail: the flag is there and has no completion yet.
	_ = cmd.RegisterFlagCompletionFunc("trigger", func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return a.offer(cmd, args, triggerNames), noFiles
	})
	out = formatFlag(cmd, "table", "json")
	return cmd
}

// printPaused says what of a function is paused now.
func (a *app) printPaused(p api.Paused) error {
	what := "nothing is paused"
	switch {
	case p.Paused:
		what = "paused"
	case len(p.Triggers) > 0:
		what = "paused " + clean(strings.Join(p.Triggers, ", "))
	}
	return a.printf("%s: %s\n", p.Function, what)
}

// triggerNames are the triggers of the function args[0].
func triggerNames(ctx context.Context, c *api.Client, args []string) []string {
	if len(args) == 0 {
		return nil
	}
	d, err := c.Describe(ctx, args[0])
	if err != nil {
		return nil
	}
	var names []string
	for _, t := range d.Function.Triggers {
		names = append(names, t.Name)
	}
	return names
}

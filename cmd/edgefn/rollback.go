package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/edgefn/edgefn/node/api"
)

func (a *app) rollbackCommand() *cobra.Command {
	var (
		out *format
		to  string
	)
	cmd := &cobra.Command{
		Use:               "rollback NAME [--to VERSION] [-o table|json]",
		Short:             "Let an earlier version of a function serve again",
		Long:              "rollback activates a version that the node still keeps, by default the one before the\nactive one, and returns when it serves. edgefn describe lists the versions.",
		Example:           "  edgefn rollback fan\n  edgefn rollback fan --to sha256:9f86d081884c",
		Args:              wants("NAME"),
		ValidArgsFunction: a.complete(functionNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial()
			if err != nil {
				return err
			}
			p := a.progress("rolling back " + args[0])
			defer p.end()
			d, err := c.Rollback(cmd.Context(), args[0], to, func(s api.Progress) { p.step(stepText(s)) })
			p.end()
			if err != nil {
				return err
			}
			if out.json() {
				a.warn(d.Warnings)
				return a.printJSON(d)
			}
			return a.printDeployed(d, "")
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "the version, or the beginning of it (default the one before)")
	// It cannot fail: the flag is there and has no completion yet.
	_ = cmd.RegisterFlagCompletionFunc("to", func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return a.offer(cmd, args, versions), noFiles
	})
	out = formatFlag(cmd, "table", "json")
	return cmd
}

// stepText is a step of a deploy for people.
func stepText(p api.Progress) string {
	if p.Text == "" || p.Step == "" {
		return p.Step + p.Text
	}
	return p.Step + ": " + p.Text
}

// warn shows a deploy's warnings.
func (a *app) warn(warnings []string) {
	for _, w := range warnings {
		a.message("warning: %s", clean(w))
	}
}

// printDeployed says which version serves where, its warnings, and what was
// sent for it, if anything had to be.
func (a *app) printDeployed(d api.Deployed, sent string) error {
	a.warn(d.Warnings)
	t := newTable()
	t.row("name:", d.Name)
	t.row("version:", d.Version)
	t.row("nodes:", strings.Join(d.Nodes, ", "))
	if sent != "" {
		t.row("sent:", sent)
	}
	if d.Unchanged {
		t.row("unchanged:", "the same content serves already")
	}
	return t.printTo(a.out)
}

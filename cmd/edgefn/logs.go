package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/edgefn/edgefn/node/api"
)

func (a *app) logsCommand() *cobra.Command {
	var (
		out    *format
		follow bool
		since  string
	)
	cmd := &cobra.Command{
		Use:   "logs NAME [-f] [--since 10m] [-o table|json]",
		Short: "Print what a function logged",
		Long: "logs prints a function's log in order of time: what it wrote to stdout, stderr and its\n" +
			"log, and what the node has to say of it. With -o json each line is a JSON object.",
		Example:           "  edgefn logs fan --since 10m\n  edgefn logs fan -f\n  edgefn logs fan -o json | jq 'select(.level == \"error\")'",
		Args:              wants("NAME"),
		ValidArgsFunction: a.complete(functionNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, err := a.since(cmd, since)
			if err != nil {
				return err
			}
			c, err := a.dial()
			if err != nil {
				return err
			}
			err = c.Logs(cmd.Context(), args[0], api.LogOptions{Follow: follow, Since: from}, func(l api.LogLine) error {
				if out.json() {
					return a.printLine(l)
				}
				return a.printf("%s\n", logText(l))
			})
			if err == nil && follow {
				// Following ends with an interrupt, which scripts must see.
				err = cmd.Context().Err()
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new lines until interrupted")
	cmd.Flags().StringVar(&since, "since", "", "only lines from then on: a duration back from now, or a time")
	out = formatFlag(cmd, "table", "json")
	return cmd
}

// logText is a log line for people. Further lines of its text stand under the first.
func logText(l api.LogLine) string {
	var b strings.Builder
	b.WriteString(l.Time.Local().Format("2006-01-02 15:04:05.000"))
	b.WriteString(" " + pad(l.Level, 7))
	b.WriteString(" " + pad(l.Stream, 6))
	inv := l.Invocation
	if inv == "" {
		inv = "-"
	}
	b.WriteString(" " + clean(inv) + " ")
	b.WriteString(strings.ReplaceAll(clean(strings.TrimRight(l.Text, "\n")), "\n", "\n    "))
	return b.String()
}

func pad(s string, n int) string {
	return s + strings.Repeat(" ", max(0, n-len(s)))
}

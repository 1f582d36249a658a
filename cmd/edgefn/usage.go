package main

import (
	"fmt"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

func (a *app) usageCommand() *cobra.Command {
	var out *format
	cmd := &cobra.Command{
		Use:   "usage [NAME] [-o table|json]",
		Short: "Show what functions have cost",
		Long: "usage shows what each function has cost since it was first deployed: invocations, time of\n" +
			"execution, CPU time of the whole process tree, and memory as its peak times the time it\n" +
			"was held. A cold start is an event that waited for its instance. EXPIRED events did not run,\n" +
			"for the time that their senders gave them was over. WRITTEN is what the store has written to\n" +
			"the disk for the function.",
		Example:           "  edgefn usage\n  edgefn usage fan -o json",
		Args:              wants("[NAME]"),
		ValidArgsFunction: a.complete(functionNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial()
			if err != nil {
				return err
			}
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			us, err := c.Usage(cmd.Context(), name)
			if err != nil {
				return err
			}
			if out.json() {
				return a.printJSON(us)
			}
			if len(us) == 0 {
				a.message("no function has run")
				return nil
			}
			t := newTable("FUNCTION", "INVOCATIONS", "FAILURES", "EXECUTION", "CPU", "MEMORY", "COLD", "WARM", "EXPIRED", "WRITTEN", "SINCE")
			for _, u := range us {
				t.row(u.Function, humanize.Comma(u.Invocations), humanize.Comma(u.Failures), millis(u.WallMS), millis(u.CPUMS),
					fmt.Sprintf("%.2f MiB·s", u.MemoryMiBMS/1000), humanize.Comma(u.Cold), humanize.Comma(u.Warm), humanize.Comma(u.Expired), size(u.WrittenBytes), u.Since.Local().Format(time.DateOnly))
			}
			return t.printTo(a.out)
		},
	}
	out = formatFlag(cmd, "table", "json")
	return cmd
}

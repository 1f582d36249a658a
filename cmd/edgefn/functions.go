package main

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) functionsCommand() *cobra.Command {
	var out *format
	cmd := &cobra.Command{
		Use:     "functions [-o table|json]",
		Aliases: []string{"list"},
		Short:   "List the functions",
		Long:    "functions lists the functions that are deployed: what state each is in, which version\nserves, how many instances and waiting events it has, and what triggers it.",
		Example: "  edgefn functions\n  edgefn functions -o json",
		Args:    wants(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.dial()
			if err != nil {
				return err
			}
			fs, err := c.Functions(cmd.Context())
			if err != nil {
				return err
			}
			if out.json() {
				return a.printJSON(fs)
			}
			if len(fs) == 0 {
				a.message("no function is deployed; edgefn init makes one, edgefn deploy brings it here")
				return nil
			}
			t := newTable("NAME", a.paint("STATE"), "RUNTIME", "VERSION", "INSTANCES", "QUEUED", "DEAD", "DEPLOYED", "TRIGGERS")
			for _, f := range fs {
				t.row(f.Name, a.paint(f.State), string(f.Runtime), short(f.Version), strconv.Itoa(f.Instances),
					strconv.Itoa(f.Queued), strconv.Itoa(f.Dead), a.ago(f.Deployed), cell(strings.Join(f.Triggers, ", "), 60))
			}
			if err := t.printTo(a.out); err != nil {
				return err
			}
			for _, f := range fs {
				if len(f.PausedTriggers) > 0 {
					a.message("%s: paused is %s", f.Name, clean(strings.Join(f.PausedTriggers, ", ")))
				}
				if f.Error != "" {
					a.message("%s: %s", f.Name, clean(f.Error))
				}
			}
			return nil
		},
	}
	out = formatFlag(cmd, "table", "json")
	return cmd
}

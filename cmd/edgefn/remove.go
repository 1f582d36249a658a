package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/edgefn/edgefn/node/api"
)

func (a *app) removeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "remove NAME",
		Aliases: []string{"rm"},
		Short:   "Remove a function",
		Long: "remove takes a function away and says what went with it. It does not ask. Its session\n" +
			"at the broker ends, so messages that arrive later are not kept for it.",
		Example:           "  edgefn remove fan",
		Args:              wants("NAME"),
		ValidArgsFunction: a.complete(functionNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial()
			if err != nil {
				return err
			}
			// A function that cannot be described can still be removed.
			d, err := c.Describe(cmd.Context(), args[0])
			if errors.Is(err, api.ErrNotFound) || errors.Is(err, api.ErrInvalid) || errors.Is(err, api.ErrUnreach) {
				return err
			}
			known := err == nil
			p := a.progress("removing " + args[0])
			defer p.end()
			err = c.Remove(cmd.Context(), args[0])
			p.end()
			if err != nil {
				return err
			}
			if !known {
				return a.printf("removed %s\n", args[0])
			}
			return a.printf("removed %s: %s, %s, %s\n", args[0], count(len(d.Versions), "version", "versions"),
				count(len(d.Function.Triggers), "trigger", "triggers"), count(d.Dead, "dead letter", "dead letters"))
		},
	}
	return cmd
}

package main

import (
	"github.com/spf13/cobra"

	"github.com/edgefn/edgefn/node/api"
)

func (a *app) stateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "state get|put|delete|list|export|import FUNCTION [KEY|FILE]",
		Short:   "Read and write a function's state",
		Long:    "state reads and writes the keys that a function keeps. Values are bytes, printed as they are.",
		Example: "  edgefn state list fan\n  edgefn state get fan last\n  edgefn state put fan limit 28\n  edgefn state delete fan limit\n  edgefn state export fan fan.jsonl",
		Args:    cobra.ArbitraryArgs,
		RunE:    subcommands,
	}
	cmd.AddCommand(a.stateGetCommand(), a.statePutCommand(), a.stateDeleteCommand(), a.stateListCommand(), a.stateExportCommand(), a.stateImportCommand())
	return cmd
}

func (a *app) stateGetCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "get FUNCTION KEY",
		Short:             "Print a value",
		Long:              "get prints the bytes of a value alone on stdout.",
		Example:           "  edgefn state get fan last",
		Args:              wants("FUNCTION", "KEY"),
		ValidArgsFunction: a.complete(functionNames, stateKeys),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial()
			if err != nil {
				return err
			}
			v, err := c.StateGet(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			return a.print(v)
		},
	}
}

func (a *app) statePutCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "put FUNCTION KEY TEXT|@FILE|-",
		Short:             "Write a value",
		Long:              "put writes a value: text, the bytes of a file, or stdin.",
		Example:           "  edgefn state put fan limit 28\n  edgefn state put fan table @table.bin\n  date | edgefn state put fan seen -",
		Args:              wants("FUNCTION", "KEY", "TEXT"),
		ValidArgsFunction: a.complete(functionNames, stateKeys),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := a.data(cmd, args[2])
			if err != nil {
				return err
			}
			c, err := a.dial()
			if err != nil {
				return err
			}
			return c.StatePut(cmd.Context(), args[0], args[1], v)
		},
	}
}

func (a *app) stateDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "delete FUNCTION KEY",
		Short:             "Delete a key",
		Long:              "delete removes a key and its value.",
		Example:           "  edgefn state delete fan limit",
		Args:              wants("FUNCTION", "KEY"),
		ValidArgsFunction: a.complete(functionNames, stateKeys),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial()
			if err != nil {
				return err
			}
			return c.StateDelete(cmd.Context(), args[0], args[1])
		},
	}
}

// statePage is how many keys are asked for at once.
const statePage = 1000

func (a *app) stateListCommand() *cobra.Command {
	var out *format
	cmd := &cobra.Command{
		Use:               "list FUNCTION [PREFIX] [-o table|json]",
		Short:             "List the keys",
		Long:              "list prints the keys that begin with a prefix, all by default, and how large their values are.",
		Example:           "  edgefn state list fan\n  edgefn state list fan sensors/ -o json",
		Args:              wants("FUNCTION", "[PREFIX]"),
		ValidArgsFunction: a.complete(functionNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial()
			if err != nil {
				return err
			}
			prefix := ""
			if len(args) > 1 {
				prefix = args[1]
			}
			keys := []api.StateKey{}
			for after := ""; ; after = keys[len(keys)-1].Key {
				page, err := c.StateList(cmd.Context(), args[0], prefix, after, statePage)
				if err != nil {
					return err
				}
				keys = append(keys, page...)
				if len(page) < statePage {
					break
				}
			}
			if out.json() {
				return a.printJSON(keys)
			}
			if len(keys) == 0 {
				a.message("no keys")
				return nil
			}
			t := newTable("KEY", "SIZE")
			for _, k := range keys {
				t.row(cell(k.Key, 512), size(int64(k.Bytes)))
			}
			return t.printTo(a.out)
		},
	}
	out = formatFlag(cmd, "table", "json")
	return cmd
}

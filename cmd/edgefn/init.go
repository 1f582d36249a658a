package main

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/edgefn/edgefn/functions"
)

var functionName = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

func (a *app) initCommand() *cobra.Command {
	var rt, name string
	var known []string
	for _, r := range functions.Runtimes {
		known = append(known, string(r))
	}
	cmd := &cobra.Command{
		Use:               "init DIR --runtime R [--name N]",
		Short:             "Make a function that deploys as it is",
		Long:              "init writes a manifest and a small function into a new folder, ready to be deployed and changed.",
		Example:           "  edgefn init fan --runtime python\n  edgefn deploy fan",
		Args:              wants("DIR"),
		ValidArgsFunction: folders,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(known, rt) {
				if rt == "" {
					return usagef(cmd, "--runtime is missing: it is one of %s", strings.Join(known, ", "))
				}
				return usagef(cmd, "--runtime %q is not known: it is one of %s", rt, strings.Join(known, ", "))
			}
			if name == "" {
				abs, err := filepath.Abs(args[0])
				if err != nil {
					return fmt.Errorf("find folder %s: %w", args[0], err)
				}
				name = filepath.Base(abs)
			}
			if !functionName.MatchString(name) {
				return usagef(cmd, "%q cannot be a function's name: 1 to 63 of a-z, 0-9 and - make one; give another with --name", name)
			}
			if err := a.tools.Scaffold(args[0], name, functions.Runtime(rt)); err != nil {
				return err
			}
			a.message("next: edgefn deploy %s", args[0])
			return a.printf("%s\n", filepath.Join(args[0], "edgefn.yaml"))
		},
	}
	cmd.Flags().StringVar(&rt, "runtime", "", "what runs the function: "+strings.Join(known, ", "))
	cmd.Flags().StringVar(&name, "name", "", "the function's name (default the folder's)")
	// It cannot fail: the flag is there and has no completion yet.
	_ = cmd.RegisterFlagCompletionFunc("runtime", cobra.FixedCompletions(known, noFiles))
	return cmd
}

package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/edgefn/edgefn/node/api"
)

// completeTime is how long the shell may be kept waiting for names.
const completeTime = 500 * time.Millisecond

const noFiles = cobra.ShellCompDirectiveNoFileComp

// completer offers words for the argument at some place.
type completer func(ctx context.Context, c *api.Client, args []string) []string

// complete offers for each argument in turn what its completer knows. A node
// that does not answer offers nothing.
func (a *app) complete(cs ...completer) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= len(cs) {
			return nil, noFiles
		}
		return a.offer(cmd, args, cs[len(args)]), noFiles
	}
}

func (a *app) offer(cmd *cobra.Command, args []string, f completer) []string {
	c, err := a.dial()
	if err != nil || strings.HasPrefix(c.Target(), "ssh://") {
		return nil // logging in takes longer than that, and may ask for a password
	}
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completeTime)
	defer cancel()
	return f(ctx, c, args)
}

// functionNames are the names of the node's functions.
func functionNames(ctx context.Context, c *api.Client, _ []string) []string {
	fs, err := c.Functions(ctx)
	if err != nil {
		return nil
	}
	var names []string
	for _, f := range fs {
		names = append(names, f.Name)
	}
	return names
}

// versions are the versions of the function args[0] that are kept.
func versions(ctx context.Context, c *api.Client, args []string) []string {
	if len(args) == 0 {
		return nil
	}
	d, err := c.Describe(ctx, args[0])
	if err != nil {
		return nil
	}
	var vs []string
	for _, v := range d.Versions {
		if !v.Active {
			vs = append(vs, v.Version)
		}
	}
	return vs
}

// stateKeys are the first keys of the function args[0].
func stateKeys(ctx context.Context, c *api.Client, args []string) []string {
	ks, err := c.StateList(ctx, args[0], "", "", 100)
	if err != nil {
		return nil
	}
	var keys []string
	for _, k := range ks {
		keys = append(keys, k.Key)
	}
	return keys
}

// letters are the ids of dead letters of the function args[0].
func letters(ctx context.Context, c *api.Client, args []string) []string {
	ls, err := c.DeadList(ctx, args[0])
	if err != nil {
		return nil
	}
	var ids []string
	for _, l := range ls {
		ids = append(ids, l.ID)
	}
	return ids
}

// deviceNames are the names of the node's devices.
func deviceNames(ctx context.Context, c *api.Client, _ []string) []string {
	d, err := c.Devices(ctx)
	if err != nil {
		return nil
	}
	var names []string
	for _, i := range d.Devices {
		names = append(names, i.Name)
	}
	return names
}

// simulations are what the device args[0] can be told, but for values.
func simulations(ctx context.Context, c *api.Client, args []string) []string {
	d, err := c.Devices(ctx)
	if err != nil {
		return nil
	}
	for _, i := range d.Devices {
		switch {
		case i.Name != args[0]:
		case i.Kind == "line" && i.What == "in":
			return []string{"on", "off", "fault", "ok"}
		default:
			return []string{"fault", "ok"}
		}
	}
	return nil
}

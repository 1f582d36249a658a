package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/edgefn/edgefn/functions/manifest"
	"github.com/edgefn/edgefn/node/api"
)

func (a *app) deployCommand() *cobra.Command {
	var (
		out   *format
		archs []string
		wait  time.Duration
	)
	cmd := &cobra.Command{
		Use:   "deploy DIR [--arch A,B] [--wait 60s] [-o table|json]",
		Short: "Build a function and let it serve",
		Long: "deploy builds the function in a folder, brings it to the node and returns when the new\n" +
			"version serves and the old one has done what it had begun. No event is lost meanwhile. A\n" +
			"version that does not load is refused, and the old one goes on. The same content deployed\n" +
			"again changes nothing.",
		Example:           "  edgefn deploy fan\n  edgefn deploy fan --wait 2m -o json",
		Args:              wants("DIR"),
		ValidArgsFunction: folders,
		RunE: func(cmd *cobra.Command, args []string) error {
			if wait <= 0 {
				return usagef(cmd, "--wait %v is not a time to wait", wait)
			}
			d, err := a.deploy(cmd.Context(), args[0], archs, wait)
			if err != nil {
				return err
			}
			return a.printDeployed(d, out.json())
		},
	}
	archFlag(cmd, &archs, "the node's")
	cmd.Flags().DurationVar(&wait, "wait", time.Minute, "how long the new version may take to serve")
	out = formatFlag(cmd, "table", "json")
	return cmd
}

func (a *app) deploy(ctx context.Context, dir string, archs []string, wait time.Duration) (d api.Deployed, err error) {
	f, err := manifest.Load(dir)
	if err != nil {
		return api.Deployed{}, configError(err)
	}
	c, err := a.dial()
	if err != nil {
		return api.Deployed{}, err
	}
	// A build can take long: say first if there is nowhere to bring it.
	st, err := c.Status(ctx)
	if err != nil {
		return api.Deployed{}, err
	}
	if len(archs) == 0 && st.Platform != "" {
		archs = []string{st.Platform}
	}
	img, err := a.build(ctx, f.Name, dir, archs)
	if err != nil {
		return api.Deployed{}, err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	p := a.progress("deploying " + f.Name)
	defer p.end()
	// The image goes from the builder to the node without being held whole.
	pr, pw := io.Pipe()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_ = pw.CloseWithError(img.WriteTar(pw)) // never fails
	}()
	d, err = c.Deploy(ctx, pr, api.DeployOptions{Wait: wait}, func(s api.Progress) { p.step(stepText(s)) })
	_ = pr.Close() // never fails; the writer ends if the node did not read it all
	<-sent
	return d, located(dir, err)
}

// located shows what a node does not take of a function at its place in the
// manifest.
func located(dir string, err error) error {
	faults := api.Faults(err)
	if len(faults) == 0 {
		return err
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	return &api.Error{Err: err, Message: first + "\n" + manifest.Locate(dir, faults).Error()}
}

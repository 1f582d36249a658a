package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/edgefn/edgefn/cross"
	"github.com/edgefn/edgefn/functions"
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
			"again changes nothing, and what the node has of an image is not sent again.\n\n" + platformHelp,
		Example: "  edgefn deploy fan\n  edgefn deploy fan --wait 2m -o json\n" +
			"  edgefn deploy fan --arch arm64 --node ssh://admin@gateway",
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
			return a.printUploaded(d, out.json())
		},
	}
	archFlag(cmd, &archs, "the node's")
	cmd.Flags().DurationVar(&wait, "wait", time.Minute, "how long the new version may take to serve")
	out = formatFlag(cmd, "table", "json")
	return cmd
}

// uploaded is a deploy with what it cost.
type uploaded struct {
	api.Deployed
	Sent   int64 `json:"sent_bytes"`   // to the node
	Reused int64 `json:"reused_bytes"` // of the image, which the node had
}

func (a *app) deploy(ctx context.Context, dir string, archs []string, wait time.Duration) (out uploaded, err error) {
	f, err := manifest.Load(dir)
	if err != nil {
		return out, configError(err)
	}
	c, err := a.dial()
	if err != nil {
		return out, err
	}
	// A build can take long: say first if there is nowhere to bring it.
	st, err := c.Status(ctx)
	if err != nil {
		return out, err
	}
	if len(archs) == 0 && st.Platform != "" {
		archs = []string{st.Platform}
	}
	if err := checkArchs(archs, st); err != nil {
		return out, err
	}
	img, err := a.build(ctx, f.Name, buildRequest{dir: dir, platforms: archs, python: st.Runtimes[string(functions.Python)]})
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	p := a.progress("deploying " + f.Name)
	defer p.end()
	u := upload{client: c, img: img, wait: wait, step: p.step}
	out.Deployed, err = u.deploy(ctx)
	out.Sent, out.Reused = u.sent, u.reused
	return out, located(dir, err)
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

// checkArchs refuses a build of which the node could run nothing.
func checkArchs(archs []string, st api.Status) error {
	node, err := cross.ParsePlatform(st.Platform)
	if err != nil {
		return nil //nolint:nilerr // a node of a newer kind knows itself what it runs
	}
	for _, s := range archs {
		p, err := cross.ParsePlatform(s)
		if err != nil {
			return archError(err)
		}
		if node.Runs(p) {
			return nil
		}
	}
	return &usageError{
		text: fmt.Sprintf("--arch %s: node %q is %s and runs none of these; nothing was built or sent", strings.Join(archs, ","), st.Node, node),
		hint: "name its platform too, --arch " + strings.Join(append(archs, strings.TrimPrefix(node.String(), "linux/")), ",") + ", or leave --arch out",
	}
}

func (a *app) printUploaded(u uploaded, asJSON bool) error {
	if asJSON {
		a.warn(u.Warnings)
		return a.printJSON(u)
	}
	return a.printDeployed(u.Deployed, fmt.Sprintf("%s, %s were there", size(u.Sent), size(u.Reused)))
}

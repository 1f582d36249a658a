package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/edgefn/edgefn/node"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/doctor"
)

// packagedConfig is the config that the Debian package installs.
const packagedConfig = "/etc/edgefn/config.yaml"

// doctorStatusTime is how long the node may take to tell its state.
const doctorStatusTime = 5 * time.Second

func (a *app) doctorCommand() *cobra.Command {
	var (
		out    *format
		config string
	)
	cmd := &cobra.Command{
		Use:   "doctor [--config F] [-o table|json]",
		Short: "Say what this machine lacks to run functions well, and what helps",
		Long: "doctor looks at this machine as a node needs it: kernel, control groups, clock, disk,\n" +
			"containerd, runtimes, and the buses and lines that the config names. For each thing that is\n" +
			"wrong it prints the lines that put it right. No node has to run. A warning does not make the\n" +
			"exit code 1; what has failed does.",
		Example: "  edgefn doctor\n  edgefn doctor --config /etc/edgefn/config.yaml\n  edgefn doctor -o json | jq -r '.[] | select(.state == \"failed\") | .fix[]?'",
		Args:    wants(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := doctorConfig(config)
			found := doctor.Examine(cmd.Context(), a.tools.Machine(a.nodeStatus(cfg)), cfg, err)
			if cmd.Context().Err() != nil {
				return cmd.Context().Err()
			}
			if out.json() {
				err = a.printJSON(found)
			} else {
				err = a.printFindings(found)
			}
			if err != nil {
				return err
			}
			failed := 0
			for _, f := range found {
				if f.State == doctor.Failed {
					failed++
				}
			}
			if failed > 0 {
				return fmt.Errorf("%s failed", count(failed, "check", "checks"))
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&config, "config", "", "the node's config file (default "+packagedConfig+", if it is there)")
	out = formatFlag(cmd, "table", "json")
	return cmd
}

// doctorConfig is the config of the node in question; with an error, that of a
// node that was told nothing.
func doctorConfig(name string) (node.Config, error) {
	if name == "" {
		if _, err := os.Stat(packagedConfig); err != nil {
			return node.Defaults(), nil //nolint:nilerr // a machine with no config has a node with none
		}
		name = packagedConfig
	}
	cfg, err := node.LoadConfig(name)
	if err != nil {
		return node.Defaults(), err
	}
	return cfg, cfg.Validate()
}

// nodeStatus asks the node that the command line means, or else the config's.
func (a *app) nodeStatus(cfg node.Config) func(context.Context) (api.Status, error) {
	return func(ctx context.Context) (api.Status, error) {
		if a.target == "" && a.getenv("EDGEFN_NODE") == "" {
			a.target = "unix://" + cfg.Socket()
		}
		c, err := a.dial()
		if err != nil {
			return api.Status{}, err
		}
		ctx, cancel := context.WithTimeout(ctx, doctorStatusTime)
		defer cancel()
		return c.Status(ctx)
	}
}

// printFindings writes all findings as a table, and below it what helps.
func (a *app) printFindings(found []doctor.Finding) error {
	t := newTable(a.paint("STATE"), "CHECK", "DETAIL")
	for _, f := range found {
		t.row(a.paint(string(f.State)), f.Check, cell(f.Detail, 160))
	}
	if err := t.printTo(a.out); err != nil {
		return err
	}
	for _, f := range found {
		if len(f.Fix) == 0 || f.State == doctor.OK {
			continue
		}
		if err := a.printf("\n%s: %s\n", f.Check, clean(f.Detail)); err != nil {
			return err
		}
		for _, line := range f.Fix {
			if err := a.printf("    %s\n", line); err != nil {
				return err
			}
		}
	}
	return nil
}

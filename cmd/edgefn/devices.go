package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/edgefn/edgefn/node"
	"github.com/edgefn/edgefn/node/api"
)

func (a *app) devicesCommand() *cobra.Command {
	var out *format
	cmd := &cobra.Command{
		Use:   "devices [-o table|json]",
		Short: "List lines, sensors and what else the machine offers",
		Long: "devices lists the lines and sensors of the node's config: who drives or hears each, its last\n" +
			"value and what is wrong with it; and what the machine offers beside them, each with the line\n" +
			"that makes it a device when it stands below devices: in the node's config.",
		Example: "  edgefn devices\n  edgefn devices -o json | jq '.devices[] | select(.state == \"fault\")'",
		Args:    wants(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.dial()
			if err != nil {
				return err
			}
			d, err := c.Devices(cmd.Context())
			if err != nil {
				return err
			}
			if d.Unseen != "" {
				a.message("not all that the machine offers can be seen: %s", d.Unseen)
			}
			if out.json() {
				return a.printJSON(d)
			}
			return a.printDevices(d)
		},
	}
	out = formatFlag(cmd, "table", "json")
	cmd.AddCommand(a.devicesSafeCommand(), a.devicesSimulateCommand())
	return cmd
}

func (a *app) devicesSafeCommand() *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:   "safe --config F",
		Short: "Put every output to its safe value, with no node",
		Long: "safe drives each output of a node's config to its safe value and lets go of it. It is for when\n" +
			"the node was killed: its unit runs it then. It needs no node, and is refused lines that a\n" +
			"running node holds.",
		Example: "  edgefn devices safe --config /etc/edgefn/config.yaml",
		Args:    wants(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if config == "" {
				return usagef(cmd, "--config F is missing: whose lines go to their safe values")
			}
			cfg, err := node.LoadConfig(config)
			if err != nil {
				return configError(err)
			}
			if cfg.Hardware == node.HardwareSim {
				a.message("%s has hardware: sim, and simulated lines end with their node", config)
				return nil
			}
			lines, err := a.tools.Safe(cmd.Context(), cfg)
			for _, name := range lines {
				a.message("line %s is at its safe value", name)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "the node's config file")
	return cmd
}

func (a *app) devicesSimulateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "simulate NAME on|off|QUANTITY=VALUE|fault|ok",
		Short: "Change what a simulated device says",
		Long: "simulate presses a button or changes what a sensor says on a node whose config has\n" +
			"hardware: sim. fault makes a device fail, ok lets it work again.",
		Example: "  edgefn devices simulate door on\n  edgefn devices simulate greenhouse temperature=31.5\n  edgefn devices simulate greenhouse fault",
		Args:    wants("NAME", "WHAT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial()
			if err != nil {
				return err
			}
			return c.Simulate(cmd.Context(), args[0], args[1])
		},
		ValidArgsFunction: a.complete(deviceNames, simulations),
	}
}

func (a *app) printDevices(d api.Devices) error {
	t := newTable("NAME", "KIND", "WHAT", "WHERE", a.paint("STATE"), "VALUE", "SEEN", "DRIVEN BY", "HEARD BY", "DETAIL")
	for _, i := range d.Devices {
		seen := ""
		if !i.Time.IsZero() {
			seen = a.ago(i.Time)
		}
		detail := i.Error
		if i.Lost > 0 && detail == "" {
			detail = fmt.Sprintf("%d edges lost", i.Lost)
		}
		t.row(i.Name, i.Kind, i.What, i.Where, a.paint(i.State), cell(i.Value, 60), seen, holders(i.Holders), strings.Join(i.Listeners, ", "), cell(detail, 120))
	}
	if len(d.Devices) == 0 {
		a.message("no devices: the node's config names none")
	} else if err := t.printTo(a.out); err != nil {
		return err
	}
	t = newTable("OFFERED", "NAME", "WHAT", "USED BY", "CONFIG")
	offered := 0
	for _, f := range d.Found {
		if f.Device == "" {
			offered++
			t.row(f.Kind, f.Name, cell(f.What, 60), cell(f.UsedBy, 30), f.Config)
		}
	}
	if offered == 0 {
		return nil
	}
	if len(d.Devices) > 0 {
		if err := a.printf("\n"); err != nil {
			return err
		}
	}
	return t.printTo(a.out)
}

// holders names who drives a line, with priorities where there are several.
func holders(hs []api.Holder) string {
	names := make([]string, len(hs))
	for i, h := range hs {
		names[i] = h.Function
		if h.Priority > 0 {
			names[i] += " (" + strconv.Itoa(h.Priority) + ")"
		}
	}
	return strings.Join(names, ", ")
}

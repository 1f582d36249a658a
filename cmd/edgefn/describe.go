package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/api"
)

func (a *app) describeCommand() *cobra.Command {
	var out *format
	cmd := &cobra.Command{
		Use:               "describe NAME [-o table|json]",
		Short:             "Show one function whole",
		Long:              "describe shows a function: its state, limits, triggers, grants, the versions that are kept and what it has cost.",
		Example:           "  edgefn describe fan\n  edgefn describe fan -o json",
		Args:              wants("NAME"),
		ValidArgsFunction: a.complete(functionNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial()
			if err != nil {
				return err
			}
			d, err := c.Describe(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if out.json() {
				return a.printJSON(d)
			}
			return a.printDetail(d)
		},
	}
	out = formatFlag(cmd, "table", "json")
	return cmd
}

// printDetail shows d: what it is, then a table each of triggers and versions.
func (a *app) printDetail(d api.FunctionDetail) error {
	f := d.Function
	t := newTable()
	field := func(name, format string, args ...any) { t.row(name+":", fmt.Sprintf(format, args...)) }
	field("name", "%s", d.Name)
	field("state", "%s", a.paint(d.State))
	if d.Error != "" {
		field("error", "%s", cell(d.Error, 200))
	}
	field("version", "%s", d.Version)
	field("deployed", "%s (%s)", d.Deployed.Local().Format(time.RFC3339), a.ago(d.Deployed))
	field("runtime", "%s", strings.TrimSpace(string(d.Runtime)+" "+f.RuntimeVersion))
	field("handler", "%s", cell(strings.Join(f.Handler, " "), 200))
	if f.Image != "" {
		field("image", "%s", cell(f.Image, 200))
	}
	field("limits", "%s of memory, %v per invocation", size(f.Memory), f.Timeout)
	field("isolation", "%s", f.Isolation)
	field("scale", "%d to %d instances, idle after %v, %s may wait", f.Scale.Min, f.Scale.Max, f.Scale.Idle, count(f.Scale.Queue, "event", "events"))
	field("now", "%s, %s waiting, %s", count(d.Instances, "instance", "instances"), count(d.Queued, "event", "events"), count(d.Dead, "dead letter", "dead letters"))
	field("retry", "%s, first after %v, at most %v apart", count(f.Retry.Attempts, "attempt", "attempts"), f.Retry.First, f.Retry.Max)
	if o := f.Output; o != nil {
		field("output", "mqtt %s %s (QoS %d%s)", o.Broker, cell(o.Topic, 200), o.QoS, map[bool]string{true: ", retained"}[o.Retain])
	}
	for _, k := range slices.Sorted(maps.Keys(f.Env)) {
		field("env", "%s", cell(k+"="+f.Env[k], 200))
	}
	if len(f.Secrets) > 0 {
		field("secrets", "%s", cell(strings.Join(f.Secrets, ", "), 200))
	}
	for _, g := range grants(f.Grants) {
		field("grant", "%s", cell(g, 200))
	}
	u := d.Usage
	field("usage", "%s, %d failed, %s of execution, %s of CPU", count(int(u.Invocations), "invocation", "invocations"), u.Failures, millis(u.WallMS), millis(u.CPUMS))
	if err := t.printTo(a.out); err != nil {
		return err
	}
	if err := a.printTriggers(d); err != nil {
		return err
	}
	return a.printVersions(d.Versions)
}

// grants lists what a function may touch, kind first.
func grants(g functions.Grants) []string {
	var all, lines []string
	for _, l := range g.Lines {
		if l.Priority > 0 {
			lines = append(lines, fmt.Sprintf("%s (priority %d)", l.Line, l.Priority))
		} else {
			lines = append(lines, l.Line)
		}
	}
	for _, k := range []struct {
		kind string
		to   []string
	}{{"publish", g.Publish}, {"state", g.State}, {"connect", g.Connect}, {"invoke", g.Invoke}, {"line", lines}, {"sensor", g.Sensors}, {"bus", g.Buses}} {
		for _, to := range k.to {
			all = append(all, k.kind+" "+to)
		}
	}
	return all
}

func (a *app) printTriggers(d api.FunctionDetail) error {
	if len(d.Function.Triggers) == 0 {
		return nil
	}
	sources := map[string]api.SourceInfo{}
	for _, s := range d.Sources {
		sources[s.Trigger] = s
	}
	var long []string
	t := newTable("TRIGGER", a.paint("STATE"), "SOURCE", "ORDER", "ERROR")
	for _, tr := range d.Function.Triggers {
		what := ""
		switch {
		case tr.MQTT != nil:
			what = fmt.Sprintf("mqtt %s %s (QoS %d)", tr.MQTT.Broker, tr.MQTT.Topic, tr.MQTT.QoS)
		case tr.GPIO != nil:
			what = fmt.Sprintf("gpio %s %s, debounce %v", tr.GPIO.Line, tr.GPIO.Edge, tr.GPIO.Debounce)
		case tr.Sensor != nil:
			what = fmt.Sprintf("sensor %s every %v%s%s", tr.Sensor.Device, tr.Sensor.Every, changes(tr.Sensor.Change), occasions(tr.Sensor.Events))
		}
		s := sources[tr.Name]
		state := s.State
		switch {
		case state == "":
			state = "-"
		case s.Paused && state == "connected":
			state = "paused" // what is wrong with it counts more
		}
		why := cell(s.Error, maxTriggerError)
		if strings.HasSuffix(why, "…") {
			long = append(long, fmt.Sprintf("%s: %s", tr.Name, cell(s.Error, math.MaxInt)))
		}
		t.row(tr.Name, a.paint(state), cell(what, 100), string(tr.Order), why)
	}
	if err := a.printf("\n"); err != nil {
		return err
	}
	if err := t.printTo(a.out); err != nil {
		return err
	}
	for _, l := range long { // what to do about it stands at its end
		if err := a.printf("\n%s\n", l); err != nil {
			return err
		}
	}
	return nil
}

// maxTriggerError bounds an error in the table of triggers, in characters; a
// longer one stands below it, too.
const maxTriggerError = 120

// changes says how far quantities have to move.
func changes(change map[string]float64) string {
	var s strings.Builder
	for _, q := range slices.Sorted(maps.Keys(change)) {
		fmt.Fprintf(&s, ", %s by %v", q, change[q])
	}
	return s.String()
}

// occasions says on what occasions there is an event, where these are not the
// readings alone.
func occasions(events []functions.SensorEvent) string {
	if slices.Equal(events, []functions.SensorEvent{functions.SensorReading}) {
		return ""
	}
	var s strings.Builder
	for _, e := range events {
		s.WriteString(", " + string(e))
	}
	return s.String()
}

func (a *app) printVersions(vs []api.VersionInfo) error {
	if len(vs) == 0 {
		return nil
	}
	t := newTable("VERSION", "ACTIVE", "DEPLOYED")
	for _, v := range vs {
		t.row(v.Version, map[bool]string{true: "yes"}[v.Active], a.ago(v.Deployed))
	}
	if err := a.printf("\n"); err != nil {
		return err
	}
	return t.printTo(a.out)
}

package deploy

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/settle"
)

// decodeFunction reads the function that an image carries.
func decodeFunction(text []byte) (*functions.Function, error) {
	dec := json.NewDecoder(strings.NewReader(string(text)))
	dec.DisallowUnknownFields()
	var fn functions.Function
	if err := dec.Decode(&fn); err != nil {
		return nil, &api.Error{
			Err: api.ErrInvalid, Message: fmt.Sprintf("the function in the image cannot be read: %v", err),
			Hint: "build it with the edgefn of this node's version",
		}
	}
	faults := fn.Validate()
	if len(faults) == 0 {
		return &fn, nil
	}
	return nil, &api.Error{Err: api.ErrInvalid, Message: fmt.Sprintf("function %q is not valid:\n%s", fn.Name, faultLines(faults))}
}

func faultLines(faults []functions.Fault) string {
	lines := make([]string, len(faults))
	for i, f := range faults {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// admit checks that this node can serve a function, and says everything that
// keeps it from that.
func (d *Deployer) admit(fn *functions.Function) error {
	var faults []functions.Fault
	fault := func(field, format string, args ...any) {
		faults = append(faults, functions.Fault{Field: field, Message: fmt.Sprintf(format, args...)})
	}
	if fn.Image == "" && (fn.Runtime == functions.Python || fn.Runtime == functions.Node) {
		have, ok := d.cfg.Runtimes[fn.Runtime]
		switch {
		case !ok:
			fault("runtime", "this node has no %s: install it, or name an image that has it (image: in edgefn.yaml)", fn.Runtime)
		default:
			if err := d.cfg.Satisfies(fn.RuntimeVersion, have); err != nil {
				fault("runtime_version", "%v", err)
			}
		}
	}
	for i, t := range fn.Triggers {
		if t.MQTT != nil && !d.cfg.HasBroker(settle.BrokerName(t.MQTT.Broker)) {
			fault(fmt.Sprintf("triggers[%d].mqtt.broker", i), "%s", d.noBroker(settle.BrokerName(t.MQTT.Broker)))
		}
	}
	if fn.Output != nil && !d.cfg.HasBroker(settle.BrokerName(fn.Output.Broker)) {
		fault("output.mqtt.broker", "%s", d.noBroker(settle.BrokerName(fn.Output.Broker)))
	}
	for i, s := range fn.Secrets {
		field, name := fmt.Sprintf("secrets[%d]", i), filepath.Join(d.cfg.SecretsDir, s)
		if info, err := os.Stat(name); err != nil {
			fault(field, "secret %q: %v", s, err)
		} else if !info.Mode().IsRegular() {
			fault(field, "secret %q: %s is no file", s, name)
		}
	}
	faults = append(faults, d.cfg.Devices.Faults(fn, d.Specs())...)
	return d.cannotServe(fn, faults)
}

// cannotServe is the refusal of a function for some faults; nil: it has none.
func (d *Deployer) cannotServe(fn *functions.Function, faults []functions.Fault) error {
	if len(faults) == 0 {
		return nil
	}
	return &api.Error{
		Err: api.ErrRefused, Message: fmt.Sprintf("node %q cannot serve function %q:\n%s", d.cfg.Node, fn.Name, faultLines(faults)),
		Faults: faults,
	}
}

// takeLines gives a function that was admitted its outputs. Another deploy may
// have been faster since then.
func (d *Deployer) takeLines(fn *functions.Function) error {
	if err := d.cannotServe(fn, d.cfg.Devices.Faults(fn, d.Specs())); err != nil {
		return err
	}
	if err := d.hold(fn); err != nil { // faster still
		return &api.Error{Err: errors.Join(api.ErrRefused, err), Message: fmt.Sprintf("node %q cannot serve function %q: %v", d.cfg.Node, fn.Name, err)}
	}
	return nil
}

func (d *Deployer) noBroker(name string) string {
	if name == functions.LocalBroker {
		return "the broker inside this node is off: start the node with --mqtt ADDR"
	}
	return fmt.Sprintf("this node has no broker %q: name it under brokers in the node's config", name)
}

// warnings are limits of a function that this machine cannot hold to, and that
// it is paused.
func (d *Deployer) warnings(fn *functions.Function, p *pause) []string {
	out := slices.Clone(d.cfg.Images.Warnings())
	if w := p.warning(fn.Name); w != "" {
		out = append(out, w)
	}
	if fn.Dead.Bytes > d.cfg.Settler.QueueBytes() {
		out = append(out, fmt.Sprintf("dead.bytes: the store has %s for all queues together", functions.FormatSize(d.cfg.Settler.QueueBytes())))
	}
	return out
}

package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/settle"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// Missing implements api.Backend.
func (n *Node) Missing(ctx context.Context, version string, blobs []string) ([]string, error) {
	done, err := n.enter()
	if err != nil {
		return nil, err
	}
	defer done()
	return n.boxes.Missing(ctx, version, blobs)
}

// Deploy implements api.Backend.
func (n *Node) Deploy(ctx context.Context, image io.Reader, o api.DeployOptions, progress func(api.Progress)) (api.Deployed, error) {
	done, err := n.enter()
	if err != nil {
		return api.Deployed{}, err
	}
	defer done()
	progress(api.Progress{Step: "import", Text: "importing the image"})
	img, err := n.boxes.Import(ctx, image)
	if err != nil {
		return api.Deployed{}, err
	}
	fn, err := decodeFunction(img.Function)
	if err != nil {
		n.discard(ctx, img.Digest)
		return api.Deployed{}, err
	}
	unlock, err := n.locks.lock(ctx, fn.Name)
	if err != nil {
		return api.Deployed{}, err
	}
	defer unlock()
	if d, ok := n.lookup(fn.Name); ok && d.spec().Version == img.Digest && d.serving() {
		return api.Deployed{Name: fn.Name, Version: img.Digest, Unchanged: true, Nodes: []string{n.cfg.Name}, Warnings: n.warnings(fn)}, nil
	}
	if err := n.admit(fn); err != nil {
		n.discard(ctx, img.Digest)
		return api.Deployed{}, err
	}
	out, err := n.install(ctx, fn, img.Digest, installing{wait: o.Wait, newest: true}, progress)
	if err != nil {
		n.discard(ctx, img.Digest)
	}
	return out, err
}

// Rollback implements api.Backend. An empty to is the version before the
// active one; else it is a version or the beginning of one.
func (n *Node) Rollback(ctx context.Context, name, to string, progress func(api.Progress)) (api.Deployed, error) {
	done, err := n.enter()
	if err != nil {
		return api.Deployed{}, err
	}
	defer done()
	unlock, err := n.locks.lock(ctx, name)
	if err != nil {
		return api.Deployed{}, err
	}
	defer unlock()
	d, err := n.find(name)
	if err != nil {
		return api.Deployed{}, err
	}
	d.mu.Lock()
	target, err := pickVersion(name, d.versions, d.record.Version, to)
	d.mu.Unlock()
	if err != nil {
		return api.Deployed{}, err
	}
	if target.Version == d.spec().Version && d.serving() {
		return api.Deployed{Name: name, Version: target.Version, Unchanged: true, Nodes: []string{n.cfg.Name}}, nil
	}
	if there, err := n.boxes.Has(ctx, target.Version); err != nil || !there {
		return api.Deployed{}, errors.Join(err, &api.Error{
			Err: api.ErrRefused, Message: fmt.Sprintf("the image of version %s of function %q is not there", target.Version, name), Hint: "deploy it again from its source",
		})
	}
	if err := n.admit(&target.Function); err != nil {
		return api.Deployed{}, err
	}
	return n.install(ctx, &target.Function, target.Version, installing{}, progress)
}

// pickVersion finds what to roll back to among versions, newest first.
func pickVersion(name string, versions []versionRecord, active, to string) (versionRecord, error) {
	var found []versionRecord
	for i, v := range versions {
		switch {
		case to == "" && i > 0 && versions[i-1].Version == active:
			return v, nil
		case to != "" && (strings.HasPrefix(v.Version, to) || strings.HasPrefix(v.Version, "sha256:"+to)):
			found = append(found, v)
		}
	}
	hint := fmt.Sprintf("edgefn describe %s lists the versions that are kept, %d at most", name, keepVersions)
	switch {
	case to == "":
		return versionRecord{}, &api.Error{Err: api.ErrRefused, Message: fmt.Sprintf("function %q has no version before the active one", name), Hint: hint}
	case len(found) == 0:
		return versionRecord{}, &api.Error{Err: api.ErrNotFound, Message: fmt.Sprintf("function %q has no version %q", name, to), Hint: hint}
	case len(found) > 1:
		return versionRecord{}, &api.Error{Err: api.ErrInvalid, Message: fmt.Sprintf("%d versions of function %q begin with %q", len(found), name, to), Hint: hint}
	}
	return found[0], nil
}

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
func (n *Node) admit(fn *functions.Function) error {
	var faults []functions.Fault
	fault := func(field, format string, args ...any) {
		faults = append(faults, functions.Fault{Field: field, Message: fmt.Sprintf(format, args...)})
	}
	if fn.Image == "" && (fn.Runtime == functions.Python || fn.Runtime == functions.Node) {
		have, ok := n.runtimes[fn.Runtime]
		switch {
		case !ok:
			fault("runtime", "this node has no %s: install it, or name an image that has it (image: in edgefn.yaml)", fn.Runtime)
		default:
			if err := n.parts.Satisfies(fn.RuntimeVersion, have); err != nil {
				fault("runtime_version", "%v", err)
			}
		}
	}
	for i, t := range fn.Triggers {
		if t.MQTT != nil && !n.hasBroker(settle.BrokerName(t.MQTT.Broker)) {
			fault(fmt.Sprintf("triggers[%d].mqtt.broker", i), "%s", n.noBroker(settle.BrokerName(t.MQTT.Broker)))
		}
	}
	if fn.Output != nil && !n.hasBroker(settle.BrokerName(fn.Output.Broker)) {
		fault("output.mqtt.broker", "%s", n.noBroker(settle.BrokerName(fn.Output.Broker)))
	}
	for i, s := range fn.Secrets {
		field, name := fmt.Sprintf("secrets[%d]", i), filepath.Join(n.cfg.SecretsDir, s)
		if info, err := os.Stat(name); err != nil {
			fault(field, "secret %q: %v", s, err)
		} else if !info.Mode().IsRegular() {
			fault(field, "secret %q: %s is no file", s, name)
		}
	}
	faults = append(faults, n.deviceFaults(fn)...)
	return n.cannotServe(fn, faults)
}

// cannotServe is the refusal of a function for some faults; nil: it has none.
func (n *Node) cannotServe(fn *functions.Function, faults []functions.Fault) error {
	if len(faults) == 0 {
		return nil
	}
	return &api.Error{
		Err: api.ErrRefused, Message: fmt.Sprintf("node %q cannot serve function %q:\n%s", n.cfg.Name, fn.Name, faultLines(faults)),
		Faults: faults,
	}
}

// takeLines gives a function that was admitted its outputs. Another deploy may
// have been faster since then.
func (n *Node) takeLines(fn *functions.Function) error {
	if err := n.cannotServe(fn, n.deviceFaults(fn)); err != nil {
		return err
	}
	if err := n.hold(fn); err != nil { // faster still
		return &api.Error{Err: errors.Join(api.ErrRefused, err), Message: fmt.Sprintf("node %q cannot serve function %q: %v", n.cfg.Name, fn.Name, err)}
	}
	return nil
}

func (n *Node) noBroker(name string) string {
	if name == functions.LocalBroker {
		return "the broker inside this node is off: start the node with --mqtt ADDR"
	}
	return fmt.Sprintf("this node has no broker %q: name it under brokers in the node's config", name)
}

// warnings are limits of a function that this machine cannot hold to.
func (n *Node) warnings(fn *functions.Function) []string {
	out := n.boxes.Warnings()
	if fn.Dead.Bytes > n.settler.QueueBytes() {
		out = append(out, fmt.Sprintf("dead.bytes: the store has %s for all queues together", functions.FormatSize(n.settler.QueueBytes())))
	}
	return out
}

// installing says how a version is installed.
type installing struct {
	wait   time.Duration // it may take to start; 0: defaultWait
	newest bool          // it becomes the newest version; else one that is kept keeps its place
}

// install has a version serve in place of the one that does, whose events in
// work it lets end. On an error the old one goes on serving. The caller holds
// the function's lock.
func (n *Node) install(ctx context.Context, fn *functions.Function, digest string, o installing, progress func(api.Progress)) (api.Deployed, error) {
	if o.wait <= 0 {
		o.wait = defaultWait
	}
	d, known := n.lookup(fn.Name)
	if known && d.spec().Version == digest {
		d.halt() // it is being brought up already; one of a version at a time
	}
	progress(api.Progress{Step: "check", Text: "starting an instance"})
	v, err := n.newVersion(fn, digest)
	if err != nil {
		n.retryOld(d)
		return api.Deployed{}, err
	}
	if err := n.checkVersion(ctx, v, o.wait); err != nil {
		v.stop()
		n.retryOld(d)
		return api.Deployed{}, refusal(ctx, fn, o.wait, err)
	}
	if known {
		d.halt() // or the version of record would take its lines back
	}
	progress(api.Progress{Step: "activate", Text: "switching to the new version"})
	// From here on it is not given up half-way because a client went away.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*durable.StoreTime)
	defer cancel()
	r := functionRecord{Version: digest, Deployed: time.Now().UTC()}
	n.claims.Lock()
	claimed := sync.OnceFunc(n.claims.Unlock)
	defer claimed()
	if err := n.takeLines(fn); err != nil {
		v.stop()
		n.retryOld(d)
		return api.Deployed{}, err
	}
	versions, drop, err := n.record(ctx, d, fn, r, o.newest)
	if err != nil {
		v.stop()
		n.unhold(d, fn.Name)
		n.retryOld(d)
		return api.Deployed{}, storeError(fmt.Errorf("write function %q: %w", fn.Name, err))
	}
	if known {
		d.mu.Lock()
		d.record, d.versions = r, versions
		d.mu.Unlock()
	} else {
		d = n.newDeployment(r, versions, fn)
		n.mu.Lock()
		n.functions[fn.Name] = d
		n.mu.Unlock()
	}
	old := d.activate(v)
	claimed()
	out := api.Deployed{Name: fn.Name, Version: digest, Nodes: []string{n.cfg.Name}, Warnings: n.warnings(fn)}
	out.Warnings = append(out.Warnings, n.bind(ctx, d, fn)...)
	if old != nil {
		progress(api.Progress{Step: "drain", Text: "the old version finishes its events"})
		n.retire(ctx, old)
	}
	for _, digest := range drop {
		n.removeImage(ctx, digest)
	}
	n.log.Info("function deployed", logFunction, fn.Name, logVersion, digest)
	return out, nil
}

// retryOld goes on bringing the version of record up, if that was halted.
func (n *Node) retryOld(d *deployment) {
	if d == nil || d.svc.Current() != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.starting == nil {
		d.starting = n.spawn(func(ctx context.Context) { n.bringUp(ctx, d) })
	}
}

// refusal says why a version does not serve.
func refusal(ctx context.Context, fn *functions.Function, wait time.Duration, err error) error {
	var f *functions.Failure
	switch {
	case errors.As(err, &f):
		return &api.Error{Err: api.ErrRefused, Message: fmt.Sprintf("function %q does not start: %s", fn.Name, failureText(err)), Hint: "nothing was changed; a version that was active goes on serving"}
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, context.DeadlineExceeded):
		return &api.Error{Err: api.ErrTimeout, Message: fmt.Sprintf("function %q did not start within %v", fn.Name, wait), Hint: "give it more time with --wait; edgefn logs " + fn.Name + " may tell more"}
	}
	return fmt.Errorf("start function %q: %w", fn.Name, err)
}

// record writes a version and makes it the active one, in one transaction that
// also forgets versions that are not kept any more.
func (n *Node) record(ctx context.Context, d *deployment, fn *functions.Function, r functionRecord, newest bool) (versions []versionRecord, drop []string, err error) {
	v := versionRecord{Version: r.Version, Deployed: r.Deployed, Function: *fn}
	if d != nil {
		d.mu.Lock()
		versions = slices.Clone(d.versions)
		d.mu.Unlock()
	}
	i := slices.IndexFunc(versions, func(o versionRecord) bool { return o.Version == v.Version })
	if i >= 0 && !newest {
		v.Deployed = versions[i].Deployed
		versions[i] = v
	} else {
		if i >= 0 {
			versions = slices.Delete(versions, i, i+1)
		}
		versions = slices.Insert(versions, 0, v)
	}
	versions, drop = keepNewest(versions, r.Version)
	vtext, err := json.Marshal(v)
	if err != nil {
		return nil, nil, err
	}
	rtext, err := json.Marshal(r)
	if err != nil {
		return nil, nil, err
	}
	ops := []store.Op{{Key: keyFunctions + fn.Name, Value: rtext}, {Key: keyVersions + fn.Name + "/" + v.Version, Value: vtext}}
	for _, digest := range drop {
		ops = append(ops, store.Op{Key: keyVersions + fn.Name + "/" + digest, Delete: true})
	}
	_, err = n.st.Commit(ctx, nil, ops)
	return versions, drop, err
}

// keepNewest splits versions, newest first, into those that are kept, the
// active one among them, and the names of the others.
func keepNewest(versions []versionRecord, active string) (keep []versionRecord, drop []string) {
	room := keepVersions
	if slices.ContainsFunc(versions, func(v versionRecord) bool { return v.Version == active }) {
		room--
	}
	for _, v := range versions {
		switch {
		case v.Version == active:
			keep = append(keep, v)
		case room > 0:
			keep = append(keep, v)
			room--
		default:
			drop = append(drop, v.Version)
		}
	}
	return keep, drop
}

// retire lets a version finish its events and ends it.
func (n *Node) retire(ctx context.Context, v *version) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*v.Function.Timeout+drainTime)
	defer cancel()
	if err := v.pool.Drain(ctx); err != nil {
		n.log.Warn("old version did not finish in time, its events are run again", logFunction, v.Function.Name, logVersion, v.Digest, logErr, err)
	}
	v.stop()
}

// discard removes an image that was imported in vain, unless it is a version
// that is kept.
func (n *Node) discard(ctx context.Context, digest string) {
	for _, d := range n.deployments() {
		d.mu.Lock()
		kept := slices.ContainsFunc(d.versions, func(v versionRecord) bool { return v.Version == digest })
		d.mu.Unlock()
		if kept {
			return
		}
	}
	n.removeImage(ctx, digest)
}

func (n *Node) removeImage(ctx context.Context, digest string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), durable.StoreTime)
	defer cancel()
	if err := n.boxes.Remove(ctx, digest); err != nil {
		n.log.Warn("image stays", logVersion, digest, logErr, err)
	}
}

// storeError gives an error of the store its place in the API.
func storeError(err error) error {
	if errors.Is(err, store.ErrFull) {
		return &api.Error{Err: errors.Join(api.ErrFull, err), Message: err.Error(), Hint: "make room: delete state or dead letters, or free the disk"}
	}
	if errors.Is(err, store.ErrClosed) {
		return errors.Join(api.ErrStopping, err)
	}
	return err
}

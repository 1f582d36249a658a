package node

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/settle/durable"
	"github.com/edgefn/edgefn/triggers/mqtt"
)

// States of a node.
const (
	stateReady    = "ready"
	stateDegraded = "degraded"
	stateStarting = "starting"
	stateStopping = "stopping"
)

// starting says why the node can be asked for nothing yet; nil: it can.
func (n *Node) starting() error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.loaded {
		return nil
	}
	text := "the node is starting"
	if why := n.storeTrouble(); why != "" {
		text += ": " + why
	}
	return &api.Error{Err: api.ErrStarting, Message: text, Hint: "edgefn status --wait 30s waits until it is ready"}
}

// storeTrouble is what keeps the store from serving all calls; empty: nothing.
// The caller holds mu.
func (n *Node) storeTrouble() string {
	if n.st == nil {
		return ""
	}
	h := n.st.Health()
	if h.State == store.StateOK {
		return ""
	}
	return "store: " + h.Reason
}

// Status implements api.Backend.
func (n *Node) Status(ctx context.Context) (api.Status, error) {
	n.mu.RLock()
	s := api.Status{
		Node: n.cfg.Name, Version: n.cfg.Version, Ready: n.ready, State: stateReady, Started: n.started,
		Runtimes: map[string]string{}, Brokers: map[string]api.ComponentStatus{}, Broker: api.ComponentStatus{State: "off"},
	}
	why, loaded, stopping := n.storeTrouble(), n.loaded, n.stopping
	n.mu.RUnlock()
	if why != "" {
		s.State, s.Reasons = stateDegraded, []string{why}
	}
	if stopping {
		s.State = stateStopping
	}
	if !loaded {
		s.State = stateStarting
		s.Containerd, s.Store = api.ComponentStatus{State: "down"}, api.ComponentStatus{State: "down", Detail: why}
		return s, nil
	}
	s.Restored = n.restored
	s.Platform, s.Functions = n.boxes.Platform(), len(n.deployer.Deployments())
	if s.Containerd = n.boxes.Status(ctx); s.Containerd.State != "up" && !stopping {
		s.State = stateDegraded
		s.Reasons = append(s.Reasons, "containerd does not answer: no function can start until it does")
	}
	s.Store = n.storeStatus(ctx)
	if n.local != nil {
		s.Broker = n.local.Status()
	}
	for _, name := range n.brokerNames() {
		s.Brokers[name] = n.publishers[name].Status()
	}
	for r, v := range n.runtimes {
		s.Runtimes[string(r)] = v
	}
	s.Warnings = slices.Concat(n.boxes.Warnings(), n.diskWarning(), n.restoreWarnings(), n.sourceWarnings())
	var err error
	if s.Outbox, err = n.outboxQueues(ctx); err != nil {
		s.Warnings = append(s.Warnings, err.Error())
	}
	bytes, known := n.flash.Day()
	s.Flash = api.Flash{Bytes: bytes, KnownS: known.Seconds(), Daily: n.cfg.FlashDaily}
	if n.cfg.FlashDaily > 0 && bytes > n.cfg.FlashDaily {
		s.Warnings = append(s.Warnings, fmt.Sprintf(
			"the node has written %s to its disk in a day, more than the %s of flash.daily in its config: edgefn usage tells for which functions",
			humanize.IBytes(uint64(bytes)), humanize.IBytes(uint64(n.cfg.FlashDaily))))
	}
	return s, nil
}

// outboxQueues is what waits to be sent. With an error it may not say since when.
func (n *Node) outboxQueues(ctx context.Context) ([]api.OutboxQueue, error) {
	ctx, cancel := context.WithTimeout(ctx, durable.StoreTime)
	defer cancel()
	depths, err := n.settler.Outbox.Depths(ctx)
	out := make([]api.OutboxQueue, 0, len(depths))
	for _, d := range depths {
		q := api.OutboxQueue{Function: d.Function, To: d.To, Waiting: d.Waiting, Bytes: d.Bytes, Oldest: d.Oldest}
		if !d.Oldest.IsZero() {
			q.AgeS = max(0, time.Since(d.Oldest).Seconds())
		}
		if d.Err != nil {
			q.Error = d.Err.Error()
		}
		out = append(out, q)
	}
	return out, err
}

// Health implements api.Backend: it reads what every event looks up.
func (n *Node) Health(context.Context) error {
	n.mu.RLock()
	loaded := n.loaded
	n.mu.RUnlock()
	if loaded {
		_ = n.deployer.Deployments()
	}
	return nil
}

func (n *Node) storeStatus(ctx context.Context) api.ComponentStatus {
	ctx, cancel := context.WithTimeout(ctx, durable.StoreTime)
	defer cancel()
	address := "embedded"
	if len(n.cfg.Store.Endpoints) > 0 {
		address = n.cfg.Store.Endpoints[0]
	}
	used, quota, err := n.st.Size(ctx)
	if err != nil {
		return api.ComponentStatus{State: "down", Address: address, Detail: err.Error()}
	}
	detail := functions.FormatSize(used) + " used"
	if quota > 0 {
		detail = fmt.Sprintf("%s of %s used", functions.FormatSize(used), functions.FormatSize(quota))
	}
	c := api.ComponentStatus{State: "up", Address: address, Detail: detail}
	if h := n.st.Health(); h.State != store.StateOK {
		c.State, c.Detail = h.State, h.Reason+" ("+detail+")"
	}
	return c
}

// sourceWarnings are of triggers whose session at a broker outside another client
// takes away again and again: no retry of ours mends that.
func (n *Node) sourceWarnings() (warnings []string) {
	for _, f := range n.deployer.Deployments() {
		for _, s := range n.deployer.Sources(f) {
			if s.State == states[mqtt.StateContested] {
				warnings = append(warnings, fmt.Sprintf("function %q, trigger %q: %s", f.Name(), s.Trigger, s.Error))
			}
		}
	}
	return warnings
}

// littleRoom is what the disk of the data folder has to have free before status
// warns: the store refuses puts far below.
const littleRoom = 64 << 20

// diskWarning says that the disk of the data folder is nearly full, if it is.
func (n *Node) diskWarning() []string {
	var fs unix.Statfs_t
	if err := unix.Statfs(n.cfg.DataDir, &fs); err != nil {
		return []string{fmt.Sprintf("the room of the disk at %s is not known: %v", n.cfg.DataDir, err)}
	}
	free := fs.Bavail * uint64(fs.Bsize)
	if free >= littleRoom {
		return nil
	}
	return []string{fmt.Sprintf("the disk is nearly full: %s left at %s: free some, or the store takes deletes only", humanize.IBytes(free), n.cfg.DataDir)}
}

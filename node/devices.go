package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/edgefn/edgefn/drivers"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/devices"
)

// Devices implements api.Backend.
func (n *Node) Devices(ctx context.Context) (api.Devices, error) {
	out := api.Devices{Devices: []api.Device{}, Found: []api.FoundDevice{}}
	deployed := n.deployer.Specs()
	for _, i := range n.hardware.List() {
		d := api.Device{
			Name: i.Name, Kind: i.Kind, What: i.What, Where: i.Where, State: i.State,
			Value: i.Value, Time: i.Time, Error: i.Error, Lost: i.Lost, Holders: []api.Holder{},
		}
		for _, h := range i.Holders {
			d.Holders = append(d.Holders, api.Holder(h))
		}
		d.Listeners = devices.Listeners(i.Name, deployed)
		out.Devices = append(out.Devices, d)
	}
	found, err := n.hardware.Discover(ctx)
	if err != nil {
		out.Unseen = err.Error()
	}
	for _, f := range found {
		out.Found = append(out.Found, api.FoundDevice{Kind: f.Kind, Name: f.Name, What: f.What, UsedBy: f.UsedBy, Config: f.Config, Device: f.Device})
	}
	return out, nil
}

// Simulate implements api.Backend.
func (n *Node) Simulate(_ context.Context, name, what string) error {
	err := n.hardware.Simulate(name, what)
	switch {
	case errors.Is(err, drivers.ErrUnknown):
		return fmt.Errorf("%w: %w", api.ErrNotFound, err)
	case err != nil:
		return fmt.Errorf("%w: %w", api.ErrInvalid, err)
	}
	return nil
}

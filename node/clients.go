package node

import (
	"context"

	"github.com/edgefn/edgefn/node/api"
)

// MQTTClients implements api.Backend.
func (n *Node) MQTTClients(_ context.Context, after string, limit int) ([]api.MQTTClient, error) {
	if n.local == nil {
		return nil, &api.Error{
			Err:     api.ErrRefused,
			Message: "the broker inside the node is off",
			Hint:    "give it an address with --mqtt ADDR, or with mqtt.listen in the node's config",
		}
	}
	return n.local.MQTTClients(after, limit), nil
}

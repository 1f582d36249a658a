package node_test

import (
	"errors"
	"testing"

	"github.com/edgefn/edgefn/node"
	"github.com/edgefn/edgefn/node/api"
)

func TestMQTTClients(t *testing.T) {
	w := newWorld(t)
	n, stop := w.run(w.config())
	if got, err := n.MQTTClients(t.Context(), "", 9); err != nil || len(got) != 1 || got[0].ID != "pump" {
		t.Errorf("got %+v, %v", got, err)
	}
	stop()

	w = newWorld(t)
	cfg := w.config()
	cfg.MQTT.Addr = node.Off
	n, stop = w.run(cfg)
	defer stop()
	if _, err := n.MQTTClients(t.Context(), "", 9); !errors.Is(err, api.ErrRefused) || api.Hint(err) == "" {
		t.Errorf("with the broker off: %v", err)
	}
}

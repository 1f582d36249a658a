package mqtt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Versions of MQTT as Broker.Version names them.
const (
	versionAuto = "auto"
	version311  = "3.1.1"
	version5    = "5"
)

var (
	// errVersion: the broker answered a CONNECT of MQTT 5 as one that does not
	// speak it.
	errVersion = errors.New("the broker does not speak MQTT 5")
	// errUnanswered: the connection ended, or the time passed, between CONNECT
	// and CONNACK.
	errUnanswered = errors.New("the broker did not answer CONNECT")
)

// hangUpsMeanOld is how many CONNECTs of MQTT 5 in a row a broker must leave
// unanswered, before it ever answered one, to be asked in 3.1.1. One alone may
// be a broker that is just being restarted.
const hangUpsMeanOld = 2

// opener opens connections for publishing, over MQTT 5 where the broker speaks it:
// it tells what the broker takes and why it refuses a message. Its methods are
// safe for concurrent use.
type opener struct {
	broker      endpoint
	keepAlive   time.Duration
	maxInFlight int
	negotiation negotiation
}

// negotiation finds out which version of MQTT a broker speaks. Its methods are
// safe for concurrent use.
type negotiation struct {
	version string // Broker.Version
	log     *slog.Logger

	mu   sync.Mutex
	seen versions
}

// versions is what is known of the versions that a broker speaks.
type versions struct {
	spoken  string // version5 or version311; empty: not known yet
	hangUps int    // see hangUpsMeanOld
}

// next takes the outcome of a CONNECT of MQTT 5 and reports whether 3.1.1 is to
// be tried in its place.
func (v *versions) next(err error) (old bool) {
	switch {
	case err == nil:
		*v = versions{spoken: version5}
	case errors.Is(err, errVersion):
		return true
	case errors.Is(err, errUnanswered) && v.spoken == "":
		v.hangUps++
		return v.hangUps >= hangUpsMeanOld
	}
	return false
}

// connect connects with five, or with old where the broker speaks 3.1.1 only or is
// to be spoken to in that.
func (n *negotiation) connect(five, old func() error) error {
	version := n.version
	if version == "" || version == versionAuto {
		n.mu.Lock()
		version = n.seen.spoken
		n.mu.Unlock()
	}
	if version != version311 {
		err := five()
		if again := n.next(err); err == nil || n.version == version5 || !again {
			return err
		}
	}
	if err := old(); err != nil {
		return err
	}
	if version != version311 {
		n.mu.Lock()
		n.seen = versions{spoken: version311}
		n.mu.Unlock()
		n.log.Info("broker does not speak mqtt 5; it is spoken to in 3.1.1, which tells less")
	}
	return nil
}

func (n *negotiation) next(err error) (old bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.seen.next(err)
}

// open connects with a clean session.
func (o *opener) open(ctx context.Context, clientID string) (out *outlet, err error) {
	cfg := linkConfig{broker: o.broker, clientID: clientID, clean: true, keepAlive: o.keepAlive}
	err = o.negotiation.connect(func() error {
		w, l, err := connect5(ctx, cfg)
		if err == nil {
			out = newOutlet(w, l, o.maxInFlight)
		}
		return err
	}, func() error {
		w, err := connect(ctx, cfg)
		if err == nil {
			out = newOutlet(w, unknown, o.maxInFlight)
		}
		return err
	})
	return out, err
}

func checkVersion(version string) error {
	switch version {
	case "", versionAuto, version311, version5:
		return nil
	}
	return fmt.Errorf("is %q; use auto, 3.1.1 or 5", version)
}

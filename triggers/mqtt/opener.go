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

// opener opens connections for publishing and finds out which version of MQTT
// the broker speaks: 5, which tells what the broker takes and why it refuses a
// message, or else 3.1.1. Its methods are safe for concurrent use.
type opener struct {
	broker      endpoint
	keepAlive   time.Duration
	maxInFlight int
	log         *slog.Logger

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

// open connects with a clean session.
func (o *opener) open(ctx context.Context, clientID string) (*outlet, error) {
	cfg := linkConfig{broker: o.broker, clientID: clientID, clean: true, keepAlive: o.keepAlive}
	version := o.broker.Version
	if version == "" || version == versionAuto {
		o.mu.Lock()
		version = o.seen.spoken
		o.mu.Unlock()
	}
	if version != version311 {
		w, l, err := connect5(ctx, cfg)
		if err == nil {
			o.seenNext(nil)
			return newOutlet(w, l, o.maxInFlight), nil
		}
		if o.broker.Version == version5 || !o.seenNext(err) {
			return nil, err
		}
	}
	w, err := connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if version != version311 {
		o.mu.Lock()
		o.seen = versions{spoken: version311}
		o.mu.Unlock()
		o.log.Info("broker does not speak mqtt 5, so what it takes is not known")
	}
	return newOutlet(w, unknown, o.maxInFlight), nil
}

func (o *opener) seenNext(err error) (old bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.seen.next(err)
}

func checkVersion(version string) error {
	switch version {
	case "", versionAuto, version311, version5:
		return nil
	}
	return fmt.Errorf("is %q; use auto, 3.1.1 or 5", version)
}

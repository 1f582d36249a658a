package mqtt

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/triggers"
)

// States of a Source or a Publisher, as Status tells them.
const (
	StateConnecting = "connecting" // no connection yet, or one on its way
	StateConnected  = "connected"  // a source is subscribed, too
	StateRefused    = "refused"    // the broker says no; tried again with back-off
	// StateContested: another client has the same client id, and the two throw
	// each other out. It stays while that is so, connected or not.
	StateContested = "contested"
	StateOffline   = "offline" // the connection is lost or cannot be made; tried again with back-off
	StateStopped   = "stopped" // Run has returned
)

// Log keys.
const (
	keyBroker   = "broker"
	keyFunction = "function"
	keyTrigger  = "trigger"
	keyErr      = "err"
	keyClient   = "client"
	keyRetryIn  = "retry_in"
)

// SourceConfig configures a Source. Broker, ClientID, Binding and Sink are needed.
type SourceConfig struct {
	Broker   Broker
	ClientID string           // see the function ClientID
	Binding  triggers.Binding // its trigger must be an MQTT one
	Sink     triggers.Sink
	// Memory keeps over a restart which retained messages the function has had.
	// With nil each restart makes events of all of them.
	Memory Memory
	Logger *slog.Logger     // nil discards
	Now    func() time.Time // the time of events; nil: time.Now

	KeepAlive time.Duration // whole seconds; 0: 30 s
	Backoff   Backoff
	// Drain is how long Run goes on after its context is done, so that events
	// that the Sink has taken can be settled and acknowledged; 0: 30 s.
	Drain time.Duration

	// MaxHeld and MaxHeldBytes bound the QoS 1 and 2 messages that were
	// received and are not settled: 0 is 4096 and 16 MiB. They matter where the
	// broker's in-flight window is larger; over MQTT 5 that is 256 at most. What goes beyond is not kept and not
	// acknowledged; once half of it is settled the Source connects anew, and
	// the broker sends the rest again. One message alone is always taken.
	MaxHeld      int
	MaxHeldBytes int
	// MaxQoS0 and MaxQoS0Bytes bound the QoS 0 messages that wait for the
	// function: 0 is 1024 and 4 MiB. What goes beyond is dropped and counted.
	MaxQoS0      int
	MaxQoS0Bytes int
}

func (c SourceConfig) withDefaults() SourceConfig {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.KeepAlive == 0 {
		c.KeepAlive = 30 * time.Second
	}
	if c.Drain == 0 {
		c.Drain = 30 * time.Second
	}
	c.Backoff = c.Backoff.withDefaults()
	for _, d := range []struct {
		v   *int
		def int
	}{{&c.MaxHeld, 4096}, {&c.MaxHeldBytes, 16 << 20}, {&c.MaxQoS0, 1024}, {&c.MaxQoS0Bytes, 4 << 20}} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	return c
}

func (c SourceConfig) validate() error {
	faults := []error{c.Broker.Validate(), checkClient(c.ClientID, c.KeepAlive)}
	if c.Sink == nil {
		faults = append(faults, errors.New("sink is missing"))
	}
	if t := c.Binding.Trigger.MQTT; t == nil {
		faults = append(faults, errors.New("trigger is not an MQTT trigger"))
	} else {
		if err := functions.CheckFilter(t.Topic); err != nil {
			faults = append(faults, fmt.Errorf("mqtt.topic: %w", err))
		}
		if t.QoS > 2 {
			faults = append(faults, fmt.Errorf("mqtt.qos is %d; use 0, 1 or 2", t.QoS))
		}
	}
	return errors.Join(faults...)
}

func checkClient(id string, keepAlive time.Duration) error {
	switch {
	case id == "" || len(id) > functions.MaxTopic:
		return errors.New("client id is missing or too long; a session needs a stable one")
	case keepAlive < time.Second || keepAlive%time.Second != 0 || keepAlive > 65535*time.Second:
		return fmt.Errorf("keep-alive is %s; use whole seconds, 1 to 65535", keepAlive) // [MQTT-3.1.2.10]
	}
	return nil
}

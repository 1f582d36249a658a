package mqtt

import (
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	packets5 "github.com/eclipse/paho.golang/packets"
)

// manyShort is how many connections in a row a broker must accept and end early
// before another client is suspected of using the client id.
const manyShort = 3

// contest finds out whether another client connects with the same client id. A
// broker then ends the older connection [MQTT-3.1.4-2], the client that lost it
// connects again, and so on for ever. MQTT 5 has a reason code for it; over 3.1.1
// the broker only hangs up. It has no lock and no clock.
type contest struct {
	backoff Backoff
	short   int   // connections in a row that the broker ended early
	cause   error // of the newest end, once there is a contest; nil: there is none
	said    bool  // the broker has said it
}

// ended takes note of a connection that the broker had accepted and that ended.
func (c *contest) ended(lasted time.Duration, err error) {
	switch {
	case takenOver(err):
		c.cause, c.said = err, true
		c.short++
	case !hungUp(err), lasted >= c.calm():
		*c = contest{backoff: c.backoff}
	case lasted < c.backoff.Stable:
		if c.short++; c.short >= manyShort {
			c.cause = err
		}
	case c.cause == nil:
		c.short = 0
	}
}

// on reports whether there is a contest.
func (c *contest) on() bool { return c.cause != nil }

// over takes note of a connection that has lasted for calm.
func (c *contest) over() { *c = contest{backoff: c.backoff} }

// calm is how long a connection must last until the other client has given up:
// one that backs off as we do comes back after Max.
func (c *contest) calm() time.Duration { return 2*c.backoff.Max + c.backoff.Stable }

// failures is Backoff.failures; while there is a contest a connection is no good
// one before it has lasted for calm, so that both sides try ever more slowly.
func (c *contest) failures(before int, lasted time.Duration) int {
	if c.on() && lasted < c.calm() {
		return before + 1
	}
	return c.backoff.failures(before, lasted)
}

// err says what is wrong and what to do, or is nil.
func (c *contest) err(broker, clientID string) error {
	if c.cause == nil {
		return nil
	}
	what := fmt.Sprintf("another client uses the client id %q at broker %q", clientID, broker)
	if !c.said {
		what = fmt.Sprintf("another client seems to use the client id %q at broker %q, which ended %d connections in a row within %s",
			clientID, broker, c.short, c.backoff.Stable)
	}
	return fmt.Errorf("%s: each throws the other out and events may come late; if another node has the same name, give it one of its own (edgefn node --name), or else end the other client: %w", what, c.cause)
}

// takenOver reports whether a broker of MQTT 5 has said that another client has
// the session now.
func takenOver(err error) bool {
	var d *disconnectError
	return errors.As(err, &d) && d.code == packets5.DisconnectSessionTakenOver
}

// hungUp reports whether it was the other side that ended a connection, and not
// time or the network.
func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

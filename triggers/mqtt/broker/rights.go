package broker

import (
	"context"
	"log/slog"
	"sync/atomic"
)

// What a client may do is decided in access; here it is asked, counted, and
// told to whom it may concern.

// denials says which kinds of denial of a connection were logged at Warn: the
// first of each is, since a 3.1.1 client is not told why its messages go nowhere.
type denials struct{ publish, subscribe, receive atomic.Bool }

func (c *conn) denied(before *atomic.Bool, msg, topic string) {
	c.b.stats.denied.Add(1)
	log := c.b.cfg.Logger.Debug
	if before.CompareAndSwap(false, true) {
		log = c.b.cfg.Logger.Warn
	}
	log(msg, keyClient, c.who.ID, keyUser, c.who.User, keyTopic, topic)
}

// notLetIn logs that a client was refused, unless many were in this minute.
func (c *conn) notLetIn(id string, level slog.Level, why error) {
	ok, hidden := c.b.notLetIn.say(c.b.cfg.Clock())
	if !ok {
		return
	}
	args := []any{keyClient, id, keyRemote, c.nc.RemoteAddr().String(), keyErr, why}
	if hidden > 0 {
		args = append(args, "others_not_logged", hidden)
	}
	c.b.cfg.Logger.Log(context.Background(), level, "mqtt client refused", args...)
}

func (c *conn) mayPublish(topic string) bool {
	ok := c.who.MayPublish(topic)
	if !ok {
		c.denied(&c.denials.publish, "mqtt message dropped: its sender may not publish to that topic", topic)
	}
	return ok
}

func (c *conn) maySubscribe(filter string) bool {
	ok := c.who.MaySubscribe(filter)
	if !ok {
		c.denied(&c.denials.subscribe, "mqtt subscription refused: the client may not have all that it matches", filter)
	}
	return ok
}

// mayReceive is asked when a message is written, by the rules of that moment.
func (c *conn) mayReceive(m *message) bool {
	ok := c.who.MayReceive(m.Topic)
	if !ok {
		c.denied(&c.denials.receive, "mqtt message not delivered: the client may not have that topic", m.Topic)
	}
	return ok
}

package broker

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
)

// What a client may do is decided in access; here it is asked, counted, and
// told to whom it may concern.

// denials says which kinds of denial of a connection were logged at Warn: the
// first of each is, since a 3.1.1 client is not told why its messages go
// nowhere, unless many were in this minute.
type denials struct{ publish, subscribe, receive atomic.Bool }

func (c *conn) noteDenial(before *atomic.Bool, act, topic string) {
	c.b.stats.denied.Add(1)
	args := []any{"act", act, keyClient, c.who.ID, keyUser, c.who.User, keyTopic, shorten(topic)}
	level := slog.LevelDebug
	if before.CompareAndSwap(false, true) {
		if ok, hidden := c.b.denied.say(c.b.cfg.Clock()); ok {
			level = slog.LevelWarn
			args = unlogged(args, hidden)
		}
	}
	c.b.cfg.Logger.Log(context.Background(), level, "mqtt topic rules do not allow this", args...)
}

// unlogged adds how many lines of a kind were not logged before this one.
func unlogged(args []any, hidden int) []any {
	if hidden > 0 {
		args = append(args, "not_logged", hidden)
	}
	return args
}

// shorten makes what a client has sent fit a line of the log.
func shorten(s string) string {
	const most = 200
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

// notLetIn logs that a client was refused, unless many were in this minute.
func (c *conn) notLetIn(id string, level slog.Level, why error) {
	ok, hidden := c.b.notLetIn.say(c.b.cfg.Clock())
	if !ok {
		return
	}
	args := []any{keyClient, shorten(id), keyRemote, c.nc.RemoteAddr().String(), keyErr, why}
	c.b.cfg.Logger.Log(context.Background(), level, "mqtt client refused", unlogged(args, hidden)...)
}

func (c *conn) mayPublish(topic string) bool {
	ok := c.who.MayPublish(topic)
	if !ok {
		c.noteDenial(&c.denials.publish, "publish", topic)
	}
	return ok
}

func (c *conn) maySubscribe(filter string) bool {
	ok := c.who.MaySubscribe(filter)
	if !ok {
		c.noteDenial(&c.denials.subscribe, "subscribe", filter)
	}
	return ok
}

// mayReceive is asked when a message is written, by the rules of that moment.
func (c *conn) mayReceive(m *message) bool {
	ok := c.who.MayReceive(m.Topic)
	if !ok {
		c.noteDenial(&c.denials.receive, "receive", m.Topic)
	}
	return ok
}

// Package broker is the MQTT broker inside a node: a front door that
// acknowledges a message when its event is settled.
//
// It speaks MQTT 3.1, 3.1.1 and 5. Packets are read and written by
// mochi-mqtt's codec, which nothing outside this package sees; sessions,
// queues, acknowledgements and persistence are its own, because mochi's server
// acknowledges before it queues, keeps both directions' packet ids in one map,
// stores sessions without their packet ids, and writes to a slow subscriber
// under a lock that publishers need. Its codec has weaknesses of its own,
// which codec.go steps around.
//
// # The way of a message
//
// The connection's reader recognises repeats, reserves room and routes: the
// retained message is replaced, each matching session gets the message in its
// queue, each matching function trigger gets an event in the client's lane. A
// lane hands events to the Sink one after the other, so a full function holds
// back that client's acknowledgements while its pings are still answered. The
// message is finished when the store has committed what persistent sessions
// must not lose and every function has settled its event; only then PUBACK or
// PUBREC is written, in whatever order messages finish.
//
// A client that has receiveMaximum messages, or clientBytes bytes, in work is
// not read from until one is finished (MQTT 5: it is disconnected when it
// exceeds the announced receive maximum). A QoS 0 message waits there for
// half a keep-alive at most and is then dropped and counted.
//
// # Repeats
//
// A message with the packet id and the content of one in work is the same
// message: it takes over the acknowledgement and nothing else happens. A QoS 1
// message whose PUBACK was written is forgotten: devices reuse packet ids and
// even contents, and a message too many is better than one too few. A QoS 2
// packet id is remembered until PUBREL, on disk for a persistent session, and
// its event carries an id made of client, session, packet id and content, so
// that the node finds out about a repeat after a crash. The same packet id with
// other content is another message.
//
// # Who may do what
//
// Each Listener has its own certificates, users and topic rules; package access
// decides by them. It is asked when a client connects, when it publishes and
// subscribes, and again for each message that is written to it, since rules
// change and another user may have had the session. What is not allowed is
// refused where the protocol has a word for it; a 3.1.1 PUBLISH is acknowledged
// and dropped. A client id is no proof of anything: rules with %c are as good as
// the word of those who may log in.
//
// MQTT over WebSocket is a stream of bytes like any other once its request is
// upgraded. Who comes when MaxClients are connected is told so in the words of
// its version, and closed.
//
// # Durability
//
// One bbolt file holds sessions, subscriptions, queued messages with their
// packet ids, received QoS 2 packet ids, retained messages, and events of
// function outputs that wait. Writes of all connections share commits. There
// are no $SYS topics; nothing is written when nothing happens.
//
// # Locks
//
// In this order: Broker.routing, Broker.mu, session.mu, conn.mu, then the leaves
// (subscriptions, lanes, store). No lock is held during I/O.
package broker

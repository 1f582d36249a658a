// Package broker is the MQTT broker inside a node: a front door that
// acknowledges a message when its event is settled.
//
// It speaks MQTT 3.1, 3.1.1 and 5. Packets are read and written by
// mochi-mqtt's codec, which nothing outside this folder sees; sessions,
// queues, acknowledgements and persistence are its own, because mochi's server
// acknowledges before it queues, keeps both directions' packet ids in one map,
// stores sessions without their packet ids, and writes to a slow subscriber
// under a lock that publishers need. Its codec has weaknesses of its own: the
// package packet stands in front of it, with the table of what a server must
// check.
//
// # The way of a message
//
// The connection's reader recognises repeats, takes room and routes: the
// retained message is replaced, each matching session gets the message in its
// queue, each matching function trigger gets an event. Events of one client for
// one trigger have a lane, which hands them to the Sink one after the other: a
// full function holds back its own events and no other's, and a client that
// sends many does not stand before one that sends few. The message is finished when the
// store has committed what persistent sessions must not lose and every function
// has settled its event; only then PUBACK or PUBREC is written, in whatever
// order messages finish.
//
// The reader never waits for room, so that a client's pings are answered while
// everything is full. A message of QoS 1 or 2 for which there is none (see
// demand) is not taken, nor is any after it on that connection, which ends once
// there is room: the client then sends again what was not acknowledged, in order.
// MQTT 5 clients are told a receive maximum and disconnected when they exceed it.
// A QoS 0 message for which there is no room goes to no function and is counted.
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
// packet ids, received QoS 2 packet ids, wills, retained messages, and events of
// function outputs that wait. Writes of all connections share commits. Retained
// messages that nobody waits for (QoS 0) are written once a minute, each topic's
// newest. There are no $SYS topics; nothing is written when nothing happens.
//
// At a bound a message is refused (MQTT 5: 0x97; else it is not acknowledged) or
// the oldest goes, as the config says; see Overflow. A client that was connected
// when the node ended has some seconds to come back before its will is published.
//
// # Time
//
// Intervals of the protocol are whole seconds that begin at any moment. They are
// kept as instants in nanoseconds, so that no message, session or will delay
// ends before its time; it may end up to a sweep (a second) after it.
//
// # The standard
//
// What a server must check on a packet is the table of the package packet. The
// tests have all normative statements of MQTT 3.1.1 and 5 by their numbers, each
// with bytes and the answer to them, the test that shows it, or why it does not
// apply (statements*_test.go). Enhanced authentication is not there: a CONNECT
// that asks for it gets 0x8C.
//
// Of Eclipse's interoperability tests (paho.mqtt.testing), all pass but two:
// test_server_keep_alive wants the 60 s of that project's own broker, where ours
// lets a client have what it asks for up to 300 s; test_subscribe_failure wants
// a topic that nobody may subscribe to, which is a matter of access rules.
//
// # Locks
//
// In this order: Broker.routing, Broker.mu, retained.mu, session.mu, conn.mu, then
// the leaves (subscriptions, lanes, store). No lock is held during I/O.
package broker

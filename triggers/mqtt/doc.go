// Package mqtt makes events of the messages of any MQTT broker, and publishes what
// functions send, over MQTT 5 where the broker speaks it and else over 3.1.1. It is
// the only place that knows the client libraries, paho.mqtt.golang and, for MQTT 5,
// paho.golang. The broker inside the node is in broker/ and builds its events with
// Event of this package.
//
// A Source is one connection for one trigger, with a persistent session and a
// stable client id (ClientID). It acknowledges a message when its event is
// settled, not before:
//
//	QoS 0  handed over once; beyond a bound of messages waiting it is dropped and counted
//	QoS 1  PUBACK when settled
//	QoS 2  PUBREC when settled; the message is known until its PUBREL came,
//	       so a repeat is acknowledged again and not handled again
//
// What is received goes into a queue that the client's callback never waits
// for, so pings and acknowledgements go on while a function is busy; the
// broker's in-flight window bounds the queue, and behind it a bound of our own
// (see SourceConfig.MaxHeld). One goroutine hands the queue to the Sink in
// order. When the function is full the Sink blocks, the window fills and the
// broker keeps the rest.
//
// Messages are acknowledged in the order in which they are settled, not in
// which they came: one subject that is being retried does not hold the others
// up. [MQTT-4.6.0-2] asks for the order of arrival; brokers go by packet id and
// take any order. The client of paho.golang acknowledges in that order only, which
// would let one event that is being retried hold all others up until the window is
// full: over MQTT 5 messages are received with its codec and a loop of our own
// (receiver5).
//
// After a lost connection the broker sends again what was not acknowledged. A
// repeat of a message that is still in work is recognised by its packet id,
// topic and payload and only gives the acknowledgement a connection to go on.
// Where an acknowledgement was written and then the connection broke, nobody
// can tell whether it arrived: a QoS 1 message is then handled again, for its
// packet id may already name another one. Events with an id of their own take
// effect once in any case.
//
// For each subscription that it is asked for, so at each connection, a broker
// sends all retained messages again. One whose content the function has had last
// on its topic is acknowledged and is no event; one that has changed meanwhile is
// an event, once (replay/). Over MQTT 5 it is known which messages are retained,
// and only those are remembered; over 3.1.1 a message that was not retained makes
// an older retained one on its topic an event once more. What the function has had is saved as digests in the
// SourceConfig's Memory: at once where it changes now and then, every few minutes
// where it changes all the time, and when Run ends (remember). What was just
// published is always an event. A retained message that was deleted and published
// again with the same content while there was no connection is not told from one
// that stayed.
//
// A Publisher tells of each message what became of it, so that whoever keeps the
// messages can set one aside that the broker does not take:
//
//	nil          acknowledged
//	ErrOffline   nothing is wrong with the message
//	ErrRefused   the broker said no, or had said before what it takes
//	ErrHungUp    the connection ended while the message was in flight
//	ErrNoAnswer  the caller's context was done
//
// Where another client has the client id, the two throw each other out for ever.
// MQTT 5 has a reason code for it; some brokers, and all over 3.1.1, only hang up
// soon after they have accepted the connection. Status says so, connected or not,
// until a connection has lasted, and each try waits longer (contest).
//
// Only MQTT 5 has words for a refusal, and a CONNACK that says what the broker
// takes. So a Publisher goes back to 3.1.1 only where the broker does not speak it. Over 3.1.1 brokers hang up, and all that was in flight is
// suspect: PublishAlone sends a suspect over a connection of its own. A message
// of QoS 0 is given up once it is written; a hang-up on it makes others suspect.
//
// Steps around what the parts do: the client library reconnects with its own
// rhythm, keeps state between connections and drops acknowledgements of an
// earlier one, so each connection gets a client of its own with a store that
// keeps nothing, and the loop around it is ours. It writes acknowledgements
// and pings without a deadline and panics on a SUBACK that is too long: the
// connection underneath it (conn) sets the deadline and refuses such a packet. To
// subscribe over a connection that has just ended takes it writeTimeout.
//
// The library for MQTT 5 takes a length of any number of bytes and allocates up
// to 256 MiB on a broker's word (the scanner refuses both), writes a packet in
// four pieces (conn5 gathers them), panics when a PUBREC meets the end of the
// connection (session keeps them apart) and on an authentication method that
// nobody asked for (noAuth), does not tell a message in flight of a DISCONNECT
// (link5.publish does), and returns no error with a PUBREC that refuses.
package mqtt

// Package mqtt makes events of the messages of any MQTT 3.1.1 broker, and
// publishes what functions send. It is the only place that knows the client
// library, paho.mqtt.golang. The broker inside the node is in broker/ and
// builds its events with Event of this package.
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
// take any order.
//
// After a lost connection the broker sends again what was not acknowledged. A
// repeat of a message that is still in work is recognised by its packet id,
// topic and payload and only gives the acknowledgement a connection to go on.
// Where an acknowledgement was written and then the connection broke, nobody
// can tell whether it arrived: a QoS 1 message is then handled again, for its
// packet id may already name another one. Events with an id of their own take
// effect once in any case.
//
// Steps around what the parts do: the client library reconnects with its own
// rhythm, keeps state between connections and drops acknowledgements of an
// earlier one, so each connection gets a client of its own with a store that
// keeps nothing, and the loop around it is ours. It writes acknowledgements
// and pings without a deadline and panics on a SUBACK that is too long: the
// connection underneath it (conn) sets the deadline and refuses such a packet.
package mqtt

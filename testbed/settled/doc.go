// Command settled checks from outside that edgefn loses nothing that it has
// acknowledged.
//
// MQTT clients publish events at a steady rate to functions of every promise: with ids
// and without, QoS 1 and 2, through the embedded broker and through a Mosquitto,
// with state, with outputs, failing at first and for ever. A schedule that comes
// of a seed does faults to the node meanwhile (faults.go): whatever can be
// killed is killed, the disk is full, slow and loses its power, the clock is
// wrong, versions change. In the end the system settles and every event is
// looked for (audit.go): one that was acknowledged took effect or is a dead
// letter, once if it has an id or came by QoS 2, and those of a subject took
// effect in the order in which they were sent.
//
// It knows nothing of the node's inside: it has the program bin/edgefn, clients,
// files, signals, and the command line with -o json. What became of an event is
// read in the journal that the functions in testdata keep in their state, in the
// dead letters, and by a subscriber.
//
// An acknowledgement counts when the client library takes the message out of its
// store (ledger.go). An event counts for the fault before or during which it was
// acknowledged, and recovery is the time from a fault to the first
// acknowledgement of an event that was published after it.
//
// Mosquitto loses what it has acknowledged when it is killed. So before it is,
// all of that is waited for; what it acknowledges between then and the kill is
// excused, and counted as such where it is missing.
//
// That the checker can see is proved by what must lose: a subscriber that
// acknowledges before it writes (naive), and a disk that ignores flushes.
package main

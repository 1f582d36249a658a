// Package node is the composition root: it puts the parts together and is the
// only one that knows them all.
//
// The way of an event through it:
//
//	Deliver    a source hands an event over; it waits while the function is
//	           full (dispatch.go), in the lane of its subject (lanes.go)
//	run        the event goes to the pool of the version that is active then;
//	           reads, writes, messages and calls of the handler go into a
//	           transaction that nobody else sees (transaction.go)
//	commit     state, the event's id and what is to be sent go to the store in
//	           one transaction; an invocation that neither wrote state nor
//	           invoked makes none: its messages are published and its lines
//	           driven at once (commit.go)
//	settle     the sender is told; or the event is tried again by the retry
//	           schedule (settle.go) and in the end dead-lettered (dead.go)
//
// Messages and calls that were committed are sent by the outbox (outbox.go),
// at least once, also after a restart. An event is settled when nothing can
// lose it, never before: while the store is full or gone it waits, and with it
// its sender.
//
// # What counts as an attempt
//
// A handler that fails, is killed or runs out of time has used up an attempt
// of `retry`. A sandbox that went away, a version that was replaced while the
// event waited, and a store or broker that is not there have not: the event is
// tried again until the node stops. An invocation that read state which another
// one then changed is run again, up to 16 times, before that counts as one
// failed attempt.
//
// # Lines
//
// A version claims the outputs of its grants before it is written to the store,
// so that of two deploys one is refused (devices.go). Commands of lines that go
// through a transaction are carried out by the outbox, in their order: a set at
// least once, a pulse at most once across a crash (outboxline.go). A function
// that fails three times in a row, that is removed or does not want a line any
// more loses what it commands, also what still waits. When the node stops, every
// output goes to its safe value once nothing runs that could command it.
//
// # Versions
//
// A deploy imports the image, checks the function against this node, starts one
// instance of the new version, writes it to the store and only then switches
// (deploy.go). Events that wait go to the new version, those that run finish on
// the old one. A trigger that did not change keeps its source, so no message and
// no session is lost.
package node

// Package settle brings an event from its delivery to where nothing can lose it.
//
// The way of an event through it:
//
//	Deliver    a source hands an event over; it waits while the function is
//	           full (service.go), behind the others of its subject (queue.go)
//	run        a Runner runs it on the version that is active then; reads,
//	           writes, messages and calls of the handler go into a transaction
//	           that nobody else sees (transaction.go, lines.go)
//	commit     state, the event's id and what is to be sent go to the store in
//	           one transaction; an invocation that neither wrote state nor
//	           invoked makes none: its messages are published and its lines
//	           driven at once (executor.go)
//	settle     the sender is told; or the event is tried again by the retry
//	           schedule (verdict.go) and in the end dead-lettered (package dead)
//
// A sender waits until its event is settled, but not longer than `hold` once it
// runs, and not for another attempt: then the event is put into the retry queue
// (storing.go, package retry), its sender is told, and it goes on from there, also
// after a restart. What comes behind it in its order is put there as well.
//
// An event whose sender gave it a time that is over before an instance has it is
// settled without being run, wherever it waited (expire.go). It is counted and is
// no dead letter. An attempt that has begun is not cut short for it, and what is a
// dead letter, or is run by hand, does not expire.
//
// Messages and calls that were committed are sent by the outbox (package outbox).
// While the store is full or away an event waits, and with it its sender.
//
// It knows no node: it is given a store, a Runner per version, and Surroundings
// for what handlers ask for. Attempts and commit stay with the node where the
// event arose.
//
// # What counts as an attempt
//
// A handler that fails, is killed or runs out of time has used up an attempt of
// `retry`, and so has one whose sandbox or node ended under it, though such an
// event has three at the least: it may be innocent. Attempts of an event in the
// retry queue are counted there before they take place, and an event that its
// sender repeats is put there first, so that one that ends the node each time
// ends as a dead letter. A sandbox that could not be had, a version that was
// replaced while the event waited, and a store or broker that is not there are no
// attempts: the event is tried again until the node stops. An invocation that
// read state which another one then changed is run again, up to 16 times, before
// that counts as one failed attempt.
package settle

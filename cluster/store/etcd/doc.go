// Package etcd is a store.Store by etcd: embedded in this process (Open), or
// outside (Connect). Both go through the same client code; only the opening
// and the upkeep differ. It is the only importer of etcd.
//
// # The embedded server
//
// It has one member and no client port. Calls go to it in process. Its peer
// URL is a Unix socket, since etcd will not run without one; nobody dials it.
// Its settings spare a flash card: see the constants in server.go.
//
// The quota is kept here, ahead of etcd's own: etcd counts the size of its
// file, which deletes do not shrink, and once it is over it raises an alarm
// that stops every put until an operator acts; a write that races with the
// alarm is applied although it is answered with an error. So a write is refused
// before it is proposed, by the bytes that are truly in use, and etcd's own
// limit lies so far above that it is not met. What compaction can free is
// freed before a write is refused. An alarm that stands nevertheless is undone
// by Maintain.
//
// etcd ends the process when it cannot write to its disk or finds its files
// damaged. Here that becomes an error: of Open, or of every later call once
// Done is closed. What failed in that way cannot be opened again by the same
// process, since etcd's goroutines may still hold its files: end it and let its
// supervisor start it anew. To keep it rare, writes are refused while the disk
// has less than a small reserve.
//
// # Guards of a range
//
// etcd compares the keys that exist, so a range with a key too few compares as
// well as a whole one. Commit therefore lists a guarded range (keys only),
// refuses if their number is not the guard's, and then guards in the
// transaction both each of these keys by its version and the whole range
// against anything newer:
//
//	none newer than R       every key there now was there at R, unchanged
//	as many listed as at R  and each still there: so none has gone
package etcd

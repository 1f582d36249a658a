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
// # A disk that fills up
//
// The store keeps a reserve file in its directory: blocks that are allocated and
// hold nothing (DefaultReserve, at most an eighth of the disk). With free for
// what the disk has left beside it, and by every look at the disk, which is once
// a second and ahead of every write:
//
//	free + reserve < whole reserve + putRoom   puts and new leases: ErrFull
//	free < giveRoom                            the reserve is given back
//	free < lastRoom                            deletes too: ErrUnavailable
//	free + reserve >= whole reserve + putRoom + takeRoom
//	                                           the reserve is made whole again
//
// putRoom is 8 MiB, giveRoom 6, lastRoom 6 (at most half of the reserve) and
// takeRoom 8: with a reserve of 16 MiB, puts are refused with less than 8 MiB
// left beside it, and it is made whole again with 32 MiB free.
//
// In between, deletes, the ends of leases and compaction pass. Since what the
// reserve still holds counts as free for puts, giving it back does not invite
// them. Reads are served all the while.
//
// # A run that fails
//
// etcd ends the process when it cannot write to its disk. Here it ends a run:
// the store takes nothing that this run answers for true any more, ends the calls
// in progress with ErrUnavailable, keeps the run from its files (see
// server.disarm), ends it, and starts another in this process, with a back-off
// and not before there is room. A commit that was in progress may have taken
// place or not. A watch goes on in the next run where it was. All leases begin
// their time anew.
//
// A start on a disk with no room is the same: Open returns, calls fail with
// ErrUnavailable, Health says why, and the start is tried again. Reads are not
// served from the database meanwhile: it may lag behind the log by a second of
// acknowledged commits.
//
// The store fails for good (Done, ErrFailed) when its files are damaged, its
// member was removed, or runs that failed do not end: the process has to go on
// without it, or start anew.
//
// # Damage
//
// Before each start the files are read and examined (see examine), since etcd
// panics, waits for ever or goes on without what is lost, depending on what is
// damaged. The error names the file and how to restore.
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

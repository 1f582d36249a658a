// Package store is the replicated store: keys, transactions with guards,
// watches and leases, in words of its own.
//
// Every commit has a revision, one higher than the last. A key's version is
// the revision that last changed it, so "nothing that I read has changed" is a
// list of guards: one per key read (version 0 for a key that was absent) and
// one per range listed. Reading at one revision gives one consistent picture
// however many calls it takes:
//
//	es, rev, err := s.List(ctx, "orders/", store.Read{})
//	e, _, err := s.Get(ctx, "total", store.Read{Revision: rev})
//	_, err = s.Commit(ctx, []store.Guard{
//		{Key: "orders/", Prefix: true, Version: rev, Count: len(es)},
//		{Key: "total", Version: e.Version},
//	}, ops)
//
// Update repeats such a step until no other writer was first.
package store

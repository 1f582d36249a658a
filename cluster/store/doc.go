// Package store is the replicated store: keys, transactions with guards,
// watches and leases, in words of its own.
package store

// Package dead keeps the dead letters: the events that could not be handled, in
// the store, oldest first, in one queue per function with the bounds of its
// manifest. In memory there is only an index of ids and sizes.
//
// A letter leaves when it is deleted, when it is older than its function keeps
// it, or in the transaction that settles its event after all.
package dead

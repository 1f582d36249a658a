// Package durable is what every part of settling needs of the store: trying
// until it answers, reading in pages, records in the encoding of the wire, and
// the budget of the node's own queues.
package durable

// Package access decides who may connect to the broker inside the node, and
// what each client may publish and read. It takes no connection and knows no
// packet: the broker asks, and says the answer in the protocol's words.
//
// A Policy is what one listener allows: the users of its password file, what it
// makes of client certificates and of clients with no name, and its topic
// rules. A Client is one that was let in; it answers for topics and filters,
// by the rules of now.
//
// # Logins
//
// A password hash is dear on purpose: a good part of a second of a small
// gateway's CPU. After a power cut every client is back at the same moment, so
// Logins, which all listeners share, computes few hashes at a time, off the
// goroutine that accepts, and keeps the rest in a queue of bounded length. Who
// has no place in it, or waits too long, is told that the broker is busy, never
// that the password is wrong. A password that was right is known again by a
// keyed hash (HMAC-SHA256, its key made at the start and never written), so
// that a client that comes back costs microseconds; so is one that was wrong,
// which is what a device with an old password sends for ever. Both are
// forgotten when the password file changes.
//
// The queue is fair to addresses, and within one to user names. Addresses that
// were wrong a short while ago wait in a line of their own, which gets one turn
// in four while others wait: who guesses slows down other guesses.
//
// # Topic rules
//
// With rules, what none of them allows is refused. A subscription is allowed
// when every topic that its filter matches is covered by the filters allowed,
// taken together.
package access

// Package outbox sends what invocations committed: messages to brokers, events to
// other functions, commands to lines.
//
// What an invocation sends is packed into its transaction (Pack, Parcel.Ops), so
// it is there exactly if the invocation took effect. One relay per function and
// destination sends it at least once, in the order of the commits, also after a
// restart; only a pulse of a line is sent at most once. Where nothing else is to
// be committed and nothing waits before it, a message goes out at once and the
// store is not touched (Publish).
//
// A message that its broker refuses, or on which the broker hangs up again and
// again while nothing else is on the way, becomes a dead letter with the reason,
// and so does an event for a function that is gone: nothing is given up unsaid,
// and nothing holds up what is behind it for good. Depths tells what waits.
//
// A message to which its function gave a time is not sent once that is over, and
// the function's log says so. Its properties are stored with it; a record of an
// earlier version has none.
package outbox

// Package triggers is the contract between a source of events and the node.
//
// A source builds an event and hands the node a Delivery through its Sink.
// The hand-over blocks while the function is full: that is the back-pressure,
// all the way to the sender. When the event is settled (its effects are
// committed, or it is durably in the dead-letter queue) the node calls Settle,
// and only then does the source tell its sender (PUBACK, HTTP response).
//
// The kinds of source each have a folder: mqtt/ is a client of any broker,
// mqtt/broker/ the broker inside the node, gpio/ listens to lines, sensor/ reads
// sensors. The last two have nobody to tell of an outcome. What they have in
// common is Local: it hands their events over through a Feed, and tries a device
// again that is away. certs/ has what TLS needs of files, whoever renews them.
package triggers

// Package node is the composition root: it puts the parts together and is the
// only one that knows them all.
//
// The way of an event: a source (bind.go) hands it to Deliver, which passes it to
// its function's settle.Service (package settle); from there it goes to a pool
// of instances, to the store and the brokers (surroundings.go), and back to its
// sender.
//
// # Lines
//
// A version claims the outputs of its grants before it is written to the store,
// so that of two deploys one is refused (devices.go). Commands of lines that go
// through a transaction are carried out by the outbox, in their order: a set at
// least once, a pulse at most once across a crash. A function
// that fails three times in a row, that is removed or does not want a line any
// more loses what it commands, also what still waits. When the node stops, every
// output goes to its safe value once nothing runs that could command it.
//
// # Versions
//
// A deploy imports the image, checks the function against this node, starts one
// instance of the new version, writes it to the store and only then switches
// (deploy.go). Events that wait go to the new version, those that run finish on
// the old one. A trigger that did not change keeps its source, so no message and
// no session is lost.
package node

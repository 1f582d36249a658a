// Package devices is what functions may do with the lines, sensors and buses of
// a node.
//
// Faults says what keeps a function from its devices. Hold gives it its outputs:
// a version claims them before it is written to the store, so that of two
// deploys one is refused. Drive carries a command out; one that went through a
// transaction comes from the outbox, in its order: a set at least once, a pulse
// at most once across a crash. A function that fails three times in a row, that
// is removed or does not want a line any more loses what it commands. When the
// node stops, every output goes to its safe value once nothing runs that could
// command it.
//
// The package knows no node: who is deployed is handed in.
package devices

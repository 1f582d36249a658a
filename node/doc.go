// Package node is the composition root: it reads the config, puts the real parts
// together (parts.go), and has them live and end in the right order (node.go).
// It is the only package that knows them all; what they do is in its rooms.
//
// The way of an event: a source or the broker inside the node hands it to
// Deliver, which passes it to its function's settle.Service (settle); from there
// it goes to a pool of instances, and its effects to the store, the brokers and
// the lines (surroundings.go, devices); then its sender is told.
//
// The way of a deploy: the control API (api) calls the Backend, which Node
// implements (backend.go, letters.go, devices.go); that hands it to deploy, which
// has versions serve and binds their triggers.
//
// When the node stops it takes no more events, lets those that run end, sends
// what was committed, puts every output to its safe value, and only then lets go
// of the sandboxes, which could have commanded it.
package node

// Package functions is the domain of edgefn: what a function is, what happens
// to it and what it gives back.
//
// A Function has a name, limits, grants and triggers; a version of it is an
// OCI image index, named by its digest. An Event is something that happened,
// with CloudEvents 1.0 attributes. One event handed to one function is an
// invocation; it ends in a Result with its effects, or in a Failure.
//
// The package is plain Go with no I/O: values, their validation, and the pure
// decisions about them (topic filters, grants, retry schedules). Around it
// stand the adapters, one folder each:
//
//	manifest/   edgefn.yaml <-> Function
//	wire/       the frames between a node and an instance
//	sandbox/    containerd: images in, sandboxes up and down
//	init/       PID 1 of a sandbox: starts, feeds and buries instances
//	pool/       the instances of one function on one node
//	runtimes/   what runs in a sandbox per language, and its SDKs
//
// Nothing here imports another part of the project outside this subtree.
package functions

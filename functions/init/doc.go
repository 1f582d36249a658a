// Command edgefn-init is process 1 of a sandbox. It starts, feeds and buries
// the instances of one function version: it is told what to run once, starts
// an instance in a slot when the node asks, kills it when the node asks, and
// says when nothing of it is left. Events do not pass through it.
//
// It is one static program under three names, so that a sandbox maps one file:
//
//	edgefn-init              process 1
//	edgefn-init exec -- ARGV the shim of the exec runtime, in a cell
//	edgefn-ctl               what a function of the exec runtime calls for its effects
package main

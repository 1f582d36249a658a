// Package pool runs the instances of one version of a function on one node.
//
// It keeps spares (instances started before their event), hands each event to
// one, starts more as demand asks, lets them go when it is quiet, and meters
// what each invocation cost. Under isolation "invocation" an instance serves
// one event and is gone.
package pool

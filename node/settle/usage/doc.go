// Package usage counts what functions cost on a node: invocations, time of
// execution, CPU time, memory, and what the store has written to its disk for
// them. The counters are written to the store once a minute, if they changed.
package usage

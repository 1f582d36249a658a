// Package execshim runs functions of the exec runtime: any program, once per
// event. It is part of edgefn-init and runs as an instance in a cell.
//
// The event's data is the program's standard input, its attributes are in
// EDGEFN_EVENT_ID, EDGEFN_EVENT_TYPE, EDGEFN_EVENT_SUBJECT and so on, and what
// is known of the invocation in EDGEFN_INVOCATION, EDGEFN_FUNCTION,
// EDGEFN_VERSION, EDGEFN_TRIGGER, EDGEFN_ATTEMPT and EDGEFN_DEADLINE_MS. What it
// writes to standard output is the result, nothing means that there is no output
// message, and a status other than 0 is a failure. Standard error goes to the
// function's log; its end is told with a failure.
//
// edgefn-ctl reject and edgefn-ctl retry make a failure of the run whatever its
// status: one that is not tried again, or not before a time.
//
// State, messages, events for other functions, lines and sensors go by the
// program edgefn-ctl, which is the same binary under another name (Ctl). It
// speaks the frames of package wire over a Unix socket, named in EDGEFN_CTL, to
// the shim, which passes them to the node.
package execshim

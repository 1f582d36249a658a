// Command edgefn is the one binary of edgefn: the node that a gateway runs,
// and the command line that builds functions and talks to a node through its
// control socket.
//
// There is a file per command. Data goes to stdout, messages to stderr, and
// the exit code comes from the table in exit.go.
package main

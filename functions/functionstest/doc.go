// Package functionstest is the conformance suite of the runtimes: every one of
// them offers a function the same, and Run shows that it does.
//
// The suite reaches functions through a Harness, which deploys a folder and
// hands it events. Direct is the plainest one: it starts shims as processes of
// the test, with no sandbox and no privilege. A harness of real sandboxes or of
// a whole node passes the same suite.
//
// The fixtures are in testdata, one folder of each runtime per function:
//
//	suite/      does what the type of its event asks for
//	instance/   counts the events that its process has handled
//	missing/    names a handler that is not there
//	broken/     does not load
package functionstest

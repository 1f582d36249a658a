// Package testbed proves edgefn through the doors that a user has.
//
// The scenarios are the testscript files in testdata: each reads as a session
// on a machine with its own node, brokers and MQTT clients (mosquitto_pub and
// mosquitto_sub, which are not ours). `make test` runs them; they need root,
// and setup.sh installs what else they need. Those in testdata/gateway run on
// an emulated arm64 machine with simulated hardware, one after the other:
// gateway/ makes it, hardware/ is what is wired to it. demo.sh is the
// demonstration, bench/ measures, settled/ does faults to a node and looks for
// every event that it acknowledged, report/ prints the outcome of a test run.
//
// Nothing imports this package.
package testbed

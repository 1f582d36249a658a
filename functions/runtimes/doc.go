// Package runtimes is what runs in a sandbox per language: how an instance of
// a function is started, and the shims that are mounted into its sandbox.
//
// A shim loads the author's handler, says hello on file 3, and then hands it
// events as package wire describes; its language's SDK is in it:
//
//	python/    main.py and the package edgefn: standard library only
//	node/      main.mjs and the types edgefn.d.ts
//	golang/    package edgefn, which authors compile into their program
//	execshim/  runs any program per event; part of edgefn-init
//
// The shims of python and node are embedded here and written by Write to a
// folder that the node mounts read-only into each sandbox, so that an upgrade
// of edgefn needs no redeploy. Every runtime passes the suite in
// functions/functionstest.
package runtimes

// Package doctor looks at a machine with the eyes of a node: what is missing or
// wrong, how that shows, and the lines that put it right.
//
// What a check can read, it reads below one root, so that each is tested on a
// small tree of files; what only the running kernel can tell comes through the
// functions of a Machine. A check changes nothing but a file of its own for the
// time of a measurement. No node has to run.
package doctor

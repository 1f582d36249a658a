// Package manifest reads edgefn.yaml, the file in which an author configures a
// function.
//
// Decoding is strict and in one pass over the document's nodes: an unknown key
// is a fault with its line and the nearest known key, and what can be decoded
// is then validated by the domain, so that an author sees every fault at once.
// The package adds nothing to the rules of functions.Function.Validate but the
// place in the file.
//
// A manifest comes from outside: it is at most MaxSize bytes, and anchors,
// aliases, tags and further documents are refused, so nothing in it can grow.
package manifest

// Package logs keeps the log of each function: what its instances write and what
// the node has to say of it, as lines of JSON in files that are rotated, bounded
// in bytes a second and in all. A line that cannot be kept is counted, and the
// count is a line of its own.
package logs

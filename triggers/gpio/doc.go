// Package gpio makes events of the edges of input lines.
//
// A Source is one trigger. The line belongs to drivers.Devices, which shares it
// among all who listen. While the function is full the Sink blocks, edges wait
// in the line's queue for it, and what that has no room for is counted: each event
// says how many edges were lost since the one before it. Where the author lets
// edges coalesce, one event is in work at a time, and those that come meanwhile
// become one. Nothing can be asked
// of a line again, so events that are not settled when the node stops are lost
// with it; they are logged.
package gpio

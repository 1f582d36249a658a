// Package sensor makes events of sensors' readings, faults and recoveries.
//
// A Source is one trigger. The sensor belongs to drivers.Devices, where one
// reading serves all who listen. Of readings the latest counts: a trigger has one
// event in work at a time, and a reading that waits for its end gives way to a
// newer one; with a change filter only those that moved become events. Faults and recoveries are each an event,
// once. A recovery has the first reading in it, and is given in place of that to
// a trigger that asks for recoveries.
package sensor

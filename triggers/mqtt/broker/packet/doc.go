// Package packet reads and writes MQTT control packets and holds what a server
// must check on them.
//
// Values are taken apart and put together by mochi-mqtt's codec. It is lenient
// where the standard is not: it takes properties twice, lets a property run past
// the end of its section, ignores bytes after the last field, the reason of a
// DISCONNECT of one byte, reserved bits of subscription options, and takes a
// length of any number of bytes. So a packet goes through four steps, and the
// first that finds a fault ends it:
//
//	header   flags and length (header.go)
//	layout   where each field begins and ends (layout.go, properties.go)
//	codec    the values, UTF-8 among them
//	table    the requirements of the standard, each with its number (requirements.go)
//
// What cannot be told from the packet alone, such as a second CONNECT or a topic
// alias that nobody set, is the connection's; the table names it all the same.
package packet

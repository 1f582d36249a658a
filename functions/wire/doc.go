// Package wire is what a node and an instance say to each other.
//
// A frame is a 4-byte big-endian length and then that many bytes of CBOR in
// its deterministic encoding (RFC 8949, section 4.2): an array of three,
// [kind, id, body]. kind is a text string, id an unsigned integer, body a map.
// The frames of one connection, on a Unix stream socket:
//
//	instance                                     node
//	hello   0 {v, runtime, sdk}              ->        the handler is loaded; or
//	failure 0 {kind: "load", message, detail} ->       it is not, and the process ends
//	                                         <-  event  n {event, context}
//	get     m {function, key}                ->        id m is the instance's own count
//	                                         <-  ok     m {found, value}
//	list    m {function, prefix}             ->
//	                                         <-  ok     m {keys}
//	put     m {function, key, value}         ->
//	delete  m {function, key}                ->
//	publish m {broker, topic, data, qos, retain, content_type, response_topic, correlation, expiry_s, user} ->
//	invoke  m {function, type, subject, data, id} ->
//	                                         <-  ok     m {} (invoke: {id})
//	set_line     m {device, on}              ->
//	pulse_line   m {device, ms}              ->
//	release_line m {device}                  ->
//	                                         <-  ok     m {}
//	read_line    m {device}                  ->
//	                                         <-  ok     m {on}
//	read_sensor  m {device}                  ->
//	                                         <-  ok     m {value}: JSON, quantities under names with units
//	                                         <-  error  m {message}
//	log     0 {level, text}                  ->        no answer
//	result  n {data, datacontenttype}        ->        data null: no output; or
//	failure n {kind, message, detail, retry_after_ms} ->
//
// Under isolation "invocation" the process ends after its result or failure;
// under "instance" the next event follows. Effects (put, delete, publish,
// invoke, set_line, pulse_line, release_line) are kept by the node and take
// place together after the result, those of one line in their order; the reads of
// the same invocation see its own writes and commands. An error frame answers a
// call that is not granted, not valid, or of a device that does not work, so that
// it is raised at the line that made it.
//
// The kind of a failure is raised, rejected or result. One that is rejected is
// not tried again. retry_after_ms, up to 24 h, asks that the next attempt after
// a raised one be no sooner; absent or 0, it follows the schedule.
//
// Of a message, correlation is a byte string, user an array of arrays [name,
// value], expiry_s the whole seconds after which it is of no more use; absent or
// 0: it always is.
//
// Version 1 of the protocol had none of the calls of devices. Rejections,
// retry_after_ms and the properties of a message, from content_type on, have no
// version of their own: a node that does not know them takes the first two for a
// failure that is raised, and tries again by its schedule, and sends the message
// without.
//
// The event is a map under CloudEvents 1.0 attribute names (specversion, id,
// type, source, subject, time and expirytime as RFC 3339, datacontenttype,
// extensions beside them), data a byte string. The context is {invocation, function, version,
// trigger, attempt, deadline_ms, max_frame}: deadline_ms is what is left of the
// timeout at hand-over, in milliseconds; max_frame is the largest frame that
// the node takes, 1 MiB + 64 KiB where it is absent. An instance refuses a longer one of
// its own, so that its author hears which value was too large.
//
// A frame that is too long, cut, not CBOR, or out of turn ends that instance,
// never the node.
package wire

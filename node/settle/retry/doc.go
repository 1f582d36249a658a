// Package retry keeps the events whose senders have been told and that are not
// settled yet: their first attempt failed or took longer than they may be held,
// they wait behind such an event of their subject, or their function is paused.
//
// An event is two keys: its record, written once, and a header of some hundred
// bytes with all that is known of it beside its data, written before each
// attempt. The arrival number in both is the order in which events run; it
// grows also when the clock is set back. In memory there are headers only.
//
// An event leaves in the transaction that settles it: that of its effects, or of
// its dead letter, or one of its own once it has expired. What is left of its time
// is in the header, as of when that was written.
package retry

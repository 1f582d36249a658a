package broker_test

// everything is a PUBLISH's properties that go to subscribers as they came.
var everything = []byte("\x01\x01\x03\x00\x04text\x08\x00\x05reply\x09\x00\x03\x00\x01\xff\x26\x00\x01b\x00\x012\x26\x00\x01a\x00\x00\x26\x00\x01b\x00\x011")

var statements5Publish = []statement{
	{n: "3.3.1-1", says: "what is sent again has DUP", by: "TestUnacknowledgedIsSentAgainWithItsPacketID"},
	{n: "3.3.1-2", says: "QoS 0 has no DUP", steps: bad(0x81, v5.pub(again, "x", 0, ""), v5.pub(again|retained, "x", 0, ""))},
	{n: "3.3.1-3", says: "DUP is not passed on", steps: each(
		open("a", options{}), send("a", v5.sub1(1, "x", 1)), want("a", v5.suback(1, 1)),
		open("b", options{}), send("b", v5.pub(qos1|again, "x", 1, "y")), want("b", ack(pPuback, 1)), want("a", v5.pub(qos1, "x", 1, "y")))},
	{n: "3.3.1-4", says: "QoS is not 3", steps: bad(0x81, v5.pub(qos1|qos2, "x", 1, ""))},
	{n: "3.3.1-5", says: "a retained message replaces the one before", steps: each(
		open("b", options{}), send("b", v5.pub(retained|qos1, "x", 1, "old"), v5.pub(retained|qos1, "x", 2, "new")), unordered("b", ack(pPuback, 1), ack(pPuback, 2)),
		open("a", options{}), send("a", v5.sub1(1, "x", 0)), want("a", v5.suback(1, 0), v5.pub(retained, "x", 0, "new")), quiet("a"))},
	{n: "3.3.1-6", says: "an empty one removes it, and goes to subscribers", steps: each(
		open("a", options{}), send("a", v5.sub1(1, "x", 0)), want("a", v5.suback(1, 0)),
		open("b", options{}), send("b", v5.pub(retained|qos1, "x", 1, "old")), want("b", ack(pPuback, 1)),
		send("b", v5.pub(retained|qos1, "x", 2, "")), want("b", ack(pPuback, 2)),
		want("a", v5.pub(0, "x", 0, "old"), v5.pub(0, "x", 0, "")),
		open("c", options{}), send("c", v5.sub1(1, "x", 0)), want("c", v5.suback(1, 0)), quiet("c"))},
	{n: "3.3.1-7", says: "an empty one is not kept", same: "3.3.1-6"},
	{n: "3.3.1-8", says: "without the flag nothing is kept, removed or replaced", steps: each(
		open("b", options{}), send("b", v5.pub(retained|qos1, "x", 1, "old")), want("b", ack(pPuback, 1)),
		send("b", v5.pub(qos1, "x", 2, "new")), want("b", ack(pPuback, 2)), send("b", v5.pub(qos1, "x", 3, "")), want("b", ack(pPuback, 3)),
		open("a", options{}), send("a", v5.sub1(1, "x", 0)), want("a", v5.suback(1, 0), v5.pub(retained, "x", 0, "old")), quiet("a"))},
	{n: "3.3.1-9", says: "retain handling 0: each subscription gets what is retained", steps: each(
		open("b", options{}), send("b", v5.pub(retained|qos1, "x", 1, "kept")), want("b", ack(pPuback, 1)),
		open("a", options{}), send("a", v5.sub1(1, "x", 0)), want("a", v5.suback(1, 0), v5.pub(retained, "x", 0, "kept")),
		send("a", v5.sub1(2, "x", 0)), want("a", v5.suback(2, 0), v5.pub(retained, "x", 0, "kept")))},
	{n: "3.3.1-10", says: "retain handling 1: only a new subscription does", steps: each(
		open("b", options{}), send("b", v5.pub(retained|qos1, "x", 1, "kept")), want("b", ack(pPuback, 1)),
		open("a", options{}), send("a", v5.sub1(1, "x", 0x10)), want("a", v5.suback(1, 0), v5.pub(retained, "x", 0, "kept")),
		send("a", v5.sub1(2, "x", 0x10)), want("a", v5.suback(2, 0)), quiet("a"))},
	{n: "3.3.1-11", says: "retain handling 2: none does", steps: each(
		open("b", options{}), send("b", v5.pub(retained|qos1, "x", 1, "kept")), want("b", ack(pPuback, 1)),
		open("a", options{}), send("a", v5.sub1(1, "x", 0x20)), want("a", v5.suback(1, 0)), quiet("a"))},
	{n: "3.3.1-12", says: "the retain flag is not passed on", steps: each(
		open("a", options{}), send("a", v5.sub1(1, "x", 0)), want("a", v5.suback(1, 0)),
		open("b", options{}), send("b", v5.pub(retained, "x", 0, "y")), want("a", v5.pub(0, "x", 0, "y")))},
	{n: "3.3.1-13", says: "retain as published: it is", steps: each(
		open("a", options{}), send("a", v5.sub1(1, "x", 8)), want("a", v5.suback(1, 0)),
		open("b", options{}), send("b", v5.pub(retained, "x", 0, "y"), v5.pub(0, "x", 0, "z")),
		want("a", v5.pub(retained, "x", 0, "y"), v5.pub(0, "x", 0, "z")))},

	{n: "3.3.2-1", says: "the topic is the first field, and UTF-8", steps: bad(0x81, frame(0x30, nil), frame(0x30, []byte{0, 5, 'x'}), v5.pub(0, surrogate, 0, ""))},
	{n: "3.3.2-2", says: "the topic has no wildcard", steps: bad(0x90, v5.pub(0, "a/+", 0, ""), v5.pub(0, "#", 0, ""), v5.pub(0, "a+b", 0, ""))},
	{n: "3.3.2-3", says: "what a subscriber gets matches its filter", by: "TestSubscriptionsMatchLikeFilters"},
	{n: "3.3.2-4", says: "the payload format is passed on", steps: each(
		open("a", options{}), send("a", v5.sub1(1, "x", 0)), want("a", v5.suback(1, 0)),
		send("a", v5.pub(0, "x", 0, "y", everything...)), want("a", v5.pub(0, "x", 0, "y", everything...)),
		send("a", v5.pub(0, "x", 0, "y", 1, 0)), want("a", v5.pub(0, "x", 0, "y", 1, 0)))},
	{n: "3.3.2-5", says: "an expired message is not delivered", by: "TestMessageExpiry"},
	{n: "3.3.2-6", says: "what is left of the expiry interval is passed on", by: "TestMessageExpiry"},
	{n: "3.3.2-7", says: "topic aliases end with the connection", steps: each(
		open("a", options{}), send("a", v5.pub(qos1, "x", 1, "", 35, 0, 1), v5.pub(qos1, "", 2, "", 35, 0, 1)), unordered("a", ack(pPuback, 1), ack(pPuback, 2)),
		drop("a"), open("a", options{}), send("a", v5.pub(qos1, "", 1, "", 35, 0, 1)), closed("a", 0x82))},
	{n: "3.3.2-8", says: "no topic alias is 0", steps: bad(0x94, v5.pub(0, "x", 0, "", 35, 0, 0))},
	{n: "3.3.2-9", says: "no topic alias is over the server's maximum", steps: bad(0x94, v5.pub(0, "x", 0, "", 35, 0, 65), v5.pub(0, "x", 0, "", 35, 0xff, 0xff))},
	{n: "3.3.2-10", says: "a client takes aliases up to its maximum", na: clients},
	{n: "3.3.2-11", says: "no alias to a client over its maximum", same: "3.1.2-26"},
	{n: "3.3.2-12", says: "all aliases up to the server's maximum are taken", steps: each(
		open("a", options{}), send("a", v5.sub1(1, "#", 0)), want("a", v5.suback(1, 0)),
		send("a", v5.pub(0, "x", 0, "1", 35, 0, 1), v5.pub(0, "y", 0, "2", 35, 0, 64), v5.pub(0, "", 0, "3", 35, 0, 1),
			v5.pub(0, "z", 0, "4", 35, 0, 1), v5.pub(0, "", 0, "5", 35, 0, 64), v5.pub(0, "", 0, "6", 35, 0, 1)),
		want("a", v5.pub(0, "x", 0, "1"), v5.pub(0, "y", 0, "2"), v5.pub(0, "x", 0, "3"), v5.pub(0, "z", 0, "4"), v5.pub(0, "y", 0, "5"), v5.pub(0, "z", 0, "6")))},
	{n: "3.3.2-13", says: "the response topic is UTF-8", steps: bad(0x81, v5.pub(0, "x", 0, "", 8, 0, 1, 0xff), v5.pub(0, "x", 0, "", 8, 0, 1, 0))},
	{n: "3.3.2-14", says: "the response topic has no wildcard", steps: bad(0x82, v5.pub(0, "x", 0, "", 8, 0, 1, '#'), v5.pub(0, "x", 0, "", 8, 0, 3, 'a', '/', '+'))},
	{n: "3.3.2-15", says: "the response topic is passed on", same: "3.3.2-4"},
	{n: "3.3.2-16", says: "correlation data are passed on", same: "3.3.2-4"},
	{n: "3.3.2-17", says: "user properties are passed on", same: "3.3.2-4"},
	{n: "3.3.2-18", says: "user properties keep their order", same: "3.3.2-4"},
	{n: "3.3.2-19", says: "the content type is UTF-8", steps: bad(0x81, v5.pub(0, "x", 0, "", 3, 0, 1, 0xff), v5.pub(0, "x", 0, "", 3, 0, 1, 0))},
	{n: "3.3.2-20", says: "the content type is passed on", same: "3.3.2-4"},

	{n: "3.3.4-1", says: "the answer goes by the QoS", same: "2.2.1-5"},
	{n: "3.3.4-2", says: "overlapping subscriptions: the highest QoS counts", steps: each(
		open("a", options{}), send("a", v5.sub(1, nil, filter{"x/#", 0}, filter{"x/+", 2}, filter{"x/y", 1})), want("a", v5.suback(1, 0, 2, 1)),
		open("b", options{}), send("b", v5.pub(qos2, "x/y", 1, "z")), want("b", ack(pPubrec, 1)), want("a", v5.pub(qos2, "x/y", 1, "z")), quiet("a"))},
	{n: "3.3.4-3", says: "overlapping subscriptions: all identifiers are sent", steps: each(
		open("a", options{}), send("a", v5.sub(1, []byte{11, 1}, filter{"x/#", 0}), v5.sub1(2, "+/y", 0), v5.sub(3, []byte{11, 0xff, 1}, filter{"x/y", 0})),
		want("a", v5.suback(1, 0), v5.suback(2, 0), v5.suback(3, 0)),
		open("b", options{}), send("b", v5.pub(0, "x/y", 0, "z")), want("a", v5.pub(0, "x/y", 0, "z", 11, 1, 11, 0xff, 1)), quiet("a"))},
	{n: "3.3.4-4", says: "one copy has the identifiers of all subscriptions", same: "3.3.4-3"},
	{n: "3.3.4-5", says: "several copies have each its identifier", na: "the broker sends one copy"},
	{n: "3.3.4-6", says: "a client sends no subscription identifier", steps: bad(0x82, v5.pub(0, "x", 0, "", 11, 1))},
	{n: "3.3.4-7", says: "a client keeps to the server's receive maximum", by: "TestReceiveMaximum"},
	{n: "3.3.4-8", says: "a client delays nothing else for it", na: clients},
	{n: "3.3.4-9", says: "the server keeps to the client's receive maximum", steps: each(
		open("a", options{props: []byte{33, 0, 2}}), send("a", v5.sub1(1, "x", 2)), want("a", v5.suback(1, 2)),
		open("b", options{}), send("b", v5.pub(qos1, "x", 1, "1"), v5.pub(qos1, "x", 2, "2"), v5.pub(qos1, "x", 3, "3")),
		unordered("b", ack(pPuback, 1), ack(pPuback, 2), ack(pPuback, 3)),
		want("a", v5.pub(qos1, "x", 1, "1"), v5.pub(qos1, "x", 2, "2")), quiet("a"),
		send("a", ack(pPuback, 1)), want("a", v5.pub(qos1, "x", 3, "3")))},
	{n: "3.3.4-10", says: "the server delays nothing else for it", steps: each(
		open("a", options{props: []byte{33, 0, 1}}), send("a", v5.sub1(1, "x", 1)), want("a", v5.suback(1, 1)),
		open("b", options{}), send("b", v5.pub(qos1, "x", 1, "1"), v5.pub(qos1, "x", 2, "2")), unordered("b", ack(pPuback, 1), ack(pPuback, 2)),
		want("a", v5.pub(qos1, "x", 1, "1")), send("a", pingreq), want("a", pingresp), send("a", v5.sub1(2, "y", 1)), want("a", v5.suback(2, 1)),
		send("a", v5.pub(qos1, "z", 1, "")), want("a", ack(pPuback, 1)), send("b", v5.pub(0, "x", 0, "3")), want("a", v5.pub(0, "x", 0, "3")))},

	{n: "3.4.2-1", says: "PUBACK has a code of its list", steps: bad(0x82, ack(pPuback, 1, 1), ack(pPuback, 1, 0x92), ack(pPuback, 1, 0xff))},
	{n: "3.4.2-2", says: "no reason string that makes PUBACK too large", na: noReason},
	{n: "3.4.2-3", says: "no user property that makes PUBACK too large", na: noUser},
	{n: "3.5.2-1", says: "PUBREC has a code of its list", steps: bad(0x82, ack(pPubrec, 1, 1), ack(pPubrec, 1, 0x92), ack(pPubrec, 1, 0xff))},
	{n: "3.5.2-2", says: "no reason string that makes PUBREC too large", na: noReason},
	{n: "3.5.2-3", says: "no user property that makes PUBREC too large", na: noUser},
	{n: "3.6.1-1", says: "reserved flags of PUBREL are 0010", steps: bad(0x81, frame(0x60, id16(1)), frame(0x63, id16(1)), frame(0x6a, id16(1)))},
	{n: "3.6.2-1", says: "PUBREL has a code of its list", steps: bad(0x82, ack(pPubrel, 1, 0x10), ack(pPubrel, 1, 0x80))},
	{n: "3.6.2-2", says: "no reason string that makes PUBREL too large", na: noReason},
	{n: "3.6.2-3", says: "no user property that makes PUBREL too large", na: noUser},
	{n: "3.7.2-1", says: "PUBCOMP has a code of its list", steps: bad(0x82, ack(pPubcomp, 1, 0x10), ack(pPubcomp, 1, 0x80))},
	{n: "3.7.2-2", says: "no reason string that makes PUBCOMP too large", na: noReason},
	{n: "3.7.2-3", says: "no user property that makes PUBCOMP too large", na: noUser},
}

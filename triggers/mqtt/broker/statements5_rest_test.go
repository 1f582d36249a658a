package broker_test

var statements5Rest = []statement{
	{n: "3.8.1-1", says: "reserved flags of SUBSCRIBE are 0010", steps: bad(0x81,
		frame(0x80, v5.sub1(1, "x", 0)[2:]), frame(0x83, v5.sub1(1, "x", 0)[2:]), frame(0x8a, v5.sub1(1, "x", 0)[2:]))},
	{n: "3.8.3-1", says: "topic filters are UTF-8", steps: bad(0x81, v5.sub1(1, surrogate, 0), v5.sub1(1, nul, 0))},
	{n: "3.8.3-2", says: "SUBSCRIBE has a filter and its options", steps: each(
		bad(0x82, v5.sub(1, nil)), open("c", options{}), send("c", frame(0x82, append([]byte{0, 1, 0}, str("x")...))), closed("c", 0x81))},
	{n: "3.8.3-3", says: "no local: nothing of one's own comes back", steps: each(
		open("a", options{}), send("a", v5.sub1(1, "x", 4)), want("a", v5.suback(1, 0)),
		open("b", options{}), send("b", v5.sub1(1, "x", 4)), want("b", v5.suback(1, 0)),
		send("a", v5.pub(0, "x", 0, "y")), want("b", v5.pub(0, "x", 0, "y")), quiet("a"))},
	{n: "3.8.3-4", says: "no local does not go with a shared subscription", steps: bad(0x82, v5.sub1(1, "$share/g/x", 4))},
	{n: "3.8.3-5", says: "reserved bits of the options are 0", steps: bad(0x81, v5.sub1(1, "x", 0x40), v5.sub1(1, "x", 0x80))},
	{n: "3.8.4-1", says: "SUBSCRIBE is answered with SUBACK", same: "2.2.1-6"},
	{n: "3.8.4-2", says: "SUBACK has the packet id of SUBSCRIBE", same: "2.2.1-6"},
	{n: "3.8.4-3", says: "the same filter again replaces the subscription", steps: each(
		open("a", options{}), send("a", v5.sub1(1, "x", 1)), want("a", v5.suback(1, 1)), send("a", v5.sub1(2, "x", 0)), want("a", v5.suback(2, 0)),
		open("b", options{}), send("b", v5.pub(qos1, "x", 1, "y")), want("b", ack(pPuback, 1)), want("a", v5.pub(0, "x", 0, "y")), quiet("a"))},
	{n: "3.8.4-4", says: "and sends again what is retained", same: "3.3.1-9"},
	{n: "3.8.4-5", says: "several filters are like several packets with one answer", steps: each(
		open("b", options{}), send("b", v5.pub(retained|qos1, "x", 1, "r")), want("b", ack(pPuback, 1)),
		open("a", options{}), send("a", v5.sub(1, nil, filter{"x", 0}, filter{"y", 1}, filter{"a/#/b", 0}, filter{"z", 2})),
		want("a", v5.suback(1, 0, 1, 0x8f, 2), v5.pub(retained, "x", 0, "r")),
		send("b", v5.pub(qos2, "z", 2, "z")), want("b", ack(pPubrec, 2)), want("a", v5.pub(qos2, "z", 1, "z")))},
	{n: "3.8.4-6", says: "SUBACK has a code for each filter", same: "3.8.4-5"},
	{n: "3.8.4-7", says: "the code is the QoS that was granted, or a failure", same: "3.8.4-5"},
	{n: "3.8.4-8", says: "a message has the lower of its own and the granted QoS", steps: each(
		open("a", options{}), send("a", v5.sub1(1, "x", 1)), want("a", v5.suback(1, 1)),
		open("b", options{}), exactlyOnce("b", v5.pub(qos2, "x", 1, "2"), 1), want("a", v5.pub(qos1, "x", 1, "2")),
		send("b", v5.pub(0, "x", 0, "0")), want("a", v5.pub(0, "x", 0, "0")))},
	{n: "3.9.2-1", says: "no reason string that makes SUBACK too large", na: noReason},
	{n: "3.9.2-2", says: "no user property that makes SUBACK too large", na: noUser},
	{n: "3.9.3-1", says: "codes of SUBACK have the filters' order", same: "3.8.4-5"},
	{n: "3.9.3-2", says: "SUBACK has codes of its list", same: "3.8.4-5"},

	{n: "3.10.1-1", says: "reserved flags of UNSUBSCRIBE are 0010", steps: bad(0x81, frame(0xa0, v5.unsub(1, "x")[2:]), frame(0xa6, v5.unsub(1, "x")[2:]))},
	{n: "3.10.3-1", says: "topic filters are UTF-8", steps: bad(0x81, v5.unsub(1, surrogate), v5.unsub(1, nul))},
	{n: "3.10.3-2", says: "UNSUBSCRIBE has a filter", steps: bad(0x82, v5.unsub(1))},
	{n: "3.10.4-1", says: "only the very same filter ends", steps: each(
		open("a", options{}), send("a", v5.sub(1, nil, filter{"x/y", 0}, filter{"x/+", 0})), want("a", v5.suback(1, 0, 0)),
		send("a", v5.unsub(2, "x/#", "X/y", "x/y/", "+/y")), want("a", v5.unsuback(2, 0x11, 0x11, 0x11, 0x11)),
		send("a", v5.unsub(3, "x/y")), want("a", v5.unsuback(3, 0)), send("a", v5.pub(0, "x/y", 0, "z")), want("a", v5.pub(0, "x/y", 0, "z")),
		send("a", v5.unsub(4, "x/+")), want("a", v5.unsuback(4, 0)), send("a", v5.pub(0, "x/y", 0, "z")), quiet("a"))},
	{n: "3.10.4-2", says: "no new message after it", same: "3.10.4-1"},
	{n: "3.10.4-3", says: "what was begun is brought to its end", steps: each(
		open("a", options{}), send("a", v5.sub1(1, "x", 2)), want("a", v5.suback(1, 2)),
		open("b", options{}), exactlyOnce("b", v5.pub(qos2, "x", 1, "y"), 1), want("a", v5.pub(qos2, "x", 1, "y")),
		send("a", v5.unsub(2, "x")), want("a", v5.unsuback(2, 0)), send("a", ack(pPubrec, 1)), want("a", ack(pPubrel, 1)), send("a", ack(pPubcomp, 1), pingreq), want("a", pingresp))},
	{n: "3.10.4-4", says: "UNSUBSCRIBE is answered with UNSUBACK", same: "2.2.1-6"},
	{n: "3.10.4-5", says: "UNSUBACK has its packet id, even where nothing ended", same: "3.10.4-1"},
	{n: "3.10.4-6", says: "several filters are like several packets with one answer", same: "3.11.3-1"},
	{n: "3.11.2-1", says: "no reason string that makes UNSUBACK too large", na: noReason},
	{n: "3.11.2-2", says: "no user property that makes UNSUBACK too large", na: noUser},
	{n: "3.11.3-1", says: "codes of UNSUBACK have the filters' order", steps: each(
		open("a", options{}), send("a", v5.sub(1, nil, filter{"x", 0}, filter{"y", 0})), want("a", v5.suback(1, 0, 0)),
		send("a", v5.unsub(2, "x", "z", "y", "x")), want("a", v5.unsuback(2, 0, 0x11, 0, 0x11)))},
	{n: "3.11.3-2", says: "UNSUBACK has codes of its list", same: "3.11.3-1"},
	{n: "3.12.4-1", says: "PINGREQ is answered with PINGRESP", same: "3.1.2-6"},

	{n: "3.14.0-1", says: "no DISCONNECT of the server before CONNACK", same: "3.1.4-1"},
	{n: "3.14.1-1", says: "reserved flags of DISCONNECT are 0", steps: bad(0x81, []byte{0xe1, 0}, []byte{0xe2, 0}, []byte{0xe8, 0})},
	{n: "3.14.2-1", says: "DISCONNECT has a code of its list", steps: bad(0x82, []byte{0xe0, 1, 1}, []byte{0xe0, 1, 0x87}, []byte{0xe0, 2, 0x8e, 0}, []byte{0xe0, 1, 0xff})},
	{n: "3.14.2-2", says: "a server's DISCONNECT has no session expiry", same: "3.14.1-1"},
	{n: "3.14.2-3", says: "no reason string that makes DISCONNECT too large", na: noReason},
	{n: "3.14.2-4", says: "no user property that makes DISCONNECT too large", na: noUser},
	{n: "3.14.4-1", says: "nothing follows DISCONNECT", steps: each(
		open("s", options{}), send("s", v5.sub1(1, "x", 0)), want("s", v5.suback(1, 0)),
		open("a", options{}), send("a", []byte{0xe0, 0}, v5.pub(0, "x", 0, "no")), closed("a", 0), quiet("s"))},
	{n: "3.14.4-2", says: "who sends DISCONNECT closes the connection", same: "3.14.1-1"},
	{n: "3.14.4-3", says: "DISCONNECT 0 discards the will", by: "TestWillAndDisconnect"},
	{n: "3.15.1-1", says: "reserved flags of AUTH are 0", steps: bad(0x81, []byte{0xf1, 0}, []byte{0xf2, 2, 0x18, 0})},
	{n: "3.15.2-1", says: "AUTH has a code of its list", na: noAuth},
	{n: "3.15.2-2", says: "no reason string that makes AUTH too large", na: noAuth},
	{n: "3.15.2-3", says: "no user property that makes AUTH too large", na: noAuth},

	{n: "4.1.0-1", says: "a session is kept while its client is connected", steps: each(
		open("a", options{props: []byte{17, 0, 0, 0, 1}}), send("a", v5.sub1(1, "x", 0)), want("a", v5.suback(1, 0)),
		func(r *replay) { r.clock.advance(3600e9) }, sweeps, send("a", v5.pub(0, "x", 0, "y")), want("a", v5.pub(0, "x", 0, "y")))},
	{n: "4.1.0-2", says: "a session is discarded once its expiry has passed", by: "TestSessionExpires TestSessionExpiryIsNotEarly"},
	{n: "4.2-1", says: "the transport is an ordered stream without loss", by: "TestStatementsOfMQTT5 TestTLS"},
	{n: "4.3.1-1", says: "QoS 0 is sent with no DUP", same: "2.2.1-2"},
	{n: "4.3.2-1", says: "QoS 1: a new message has a packet id not in use", same: "2.2.1-4"},
	{n: "4.3.2-2", says: "QoS 1: the first time with no DUP", same: "2.2.1-4"},
	{n: "4.3.2-3", says: "QoS 1: unacknowledged until PUBACK", by: "TestUnacknowledgedIsSentAgainWithItsPacketID"},
	{n: "4.3.2-4", says: "QoS 1: answered with PUBACK", same: "2.2.1-5"},
	{n: "4.3.2-5", says: "QoS 1: after PUBACK the packet id is of a new message", steps: each(
		open("a", options{}), send("a", v5.sub1(1, "x", 0)), want("a", v5.suback(1, 0)),
		open("b", options{}), send("b", v5.pub(qos1, "x", 1, "y")), want("b", ack(pPuback, 1)), send("b", v5.pub(qos1|again, "x", 1, "y")), want("b", ack(pPuback, 1)),
		want("a", v5.pub(0, "x", 0, "y"), v5.pub(0, "x", 0, "y")))},
	{n: "4.3.3-1", says: "QoS 2: a new message has a packet id not in use", steps: each(
		open("a", options{}), send("a", v5.sub1(1, "x", 2)), want("a", v5.suback(1, 2)),
		open("b", options{}), exactlyOnce("b", v5.pub(qos2, "x", 1, "1"), 1),
		exactlyOnce("b", v5.pub(qos2, "x", 1, "2"), 1),
		want("a", v5.pub(qos2, "x", 1, "1"), v5.pub(qos2, "x", 2, "2")), send("a", ack(pPubrec, 2), ack(pPubrec, 1)), want("a", ack(pPubrel, 2), ack(pPubrel, 1)))},
	{n: "4.3.3-2", says: "QoS 2: the first time with no DUP", same: "4.3.3-1"},
	{n: "4.3.3-3", says: "QoS 2: unacknowledged until PUBREC", by: "TestUnacknowledgedIsSentAgainWithItsPacketID"},
	{n: "4.3.3-4", says: "QoS 2: PUBREC is answered with PUBREL, a refusal is not", steps: each(
		open("a", options{}), send("a", v5.sub1(1, "x", 2)), want("a", v5.suback(1, 2)),
		open("b", options{}), exactlyOnce("b", v5.pub(qos2, "x", 1, "1"), 1),
		exactlyOnce("b", v5.pub(qos2, "x", 1, "2"), 1),
		want("a", v5.pub(qos2, "x", 1, "1"), v5.pub(qos2, "x", 2, "2")), send("a", ack(pPubrec, 1, 0x80), ack(pPubrec, 2)), want("a", ack(pPubrel, 2)), quiet("a"))},
	{n: "4.3.3-5", says: "QoS 2: PUBREL is unacknowledged until PUBCOMP", by: "TestUnacknowledgedIsSentAgainWithItsPacketID"},
	{n: "4.3.3-6", says: "QoS 2: after PUBREL the message is not sent again", steps: each(
		open("a", keep), send("a", v5.sub1(1, "x", 2)), want("a", v5.suback(1, 2)),
		open("b", options{}), exactlyOnce("b", v5.pub(qos2, "x", 1, "1"), 1),
		want("a", v5.pub(qos2, "x", 1, "1")), send("a", ack(pPubrec, 1)), want("a", ack(pPubrel, 1)), drop("a"), resume("a", keep), want("a", ack(pPubrel, 1)), quiet("a"))},
	{n: "4.3.3-7", says: "QoS 2: what was sent does not expire", by: "TestMessageExpiry"},
	{n: "4.3.3-8", says: "QoS 2: answered with PUBREC", same: "2.2.1-5"},
	{n: "4.3.3-9", says: "QoS 2: after a refusal the packet id is of a new message", steps: each(
		open("a", options{}), send("a", v5.sub1(1, "x", 0)), want("a", v5.suback(1, 0)),
		open("b", options{}), send("b", v5.pub(qos2, "$SYS/x", 1, "y")), want("b", ack(pPubrec, 1, 0x87)), send("b", v5.pub(qos2, "x", 1, "y")), want("b", ack(pPubrec, 1)),
		want("a", v5.pub(0, "x", 0, "y")))},
	{n: "4.3.3-10", says: "QoS 2: a repeat before PUBREL gets PUBREC and goes nowhere", steps: each(
		open("a", options{}), send("a", v5.sub1(1, "x", 0)), want("a", v5.suback(1, 0)),
		open("b", options{}), send("b", v5.pub(qos2, "x", 1, "y")), want("b", ack(pPubrec, 1)), send("b", v5.pub(qos2|again, "x", 1, "y")), want("b", ack(pPubrec, 1)),
		want("a", v5.pub(0, "x", 0, "y")), quiet("a"))},
	{n: "4.3.3-11", says: "QoS 2: PUBREL is answered with PUBCOMP", same: "2.2.1-5"},
	{n: "4.3.3-12", says: "QoS 2: after PUBCOMP the packet id is of a new message", steps: each(
		open("a", options{}), send("a", v5.sub1(1, "x", 0)), want("a", v5.suback(1, 0)),
		open("b", options{}), send("b", v5.pub(qos2, "x", 1, "y")), want("b", ack(pPubrec, 1)), send("b", ack(pPubrel, 1)), want("b", ack(pPubcomp, 1)),
		send("b", v5.pub(qos2, "x", 1, "y")), want("b", ack(pPubrec, 1)), want("a", v5.pub(0, "x", 0, "y"), v5.pub(0, "x", 0, "y")))},
	{n: "4.3.3-13", says: "QoS 2: an expired message is acknowledged to its end", steps: each(
		open("b", options{}), send("b", v5.pub(qos2, "x", 1, "y", expiry(1)...)), want("b", ack(pPubrec, 1)),
		func(r *replay) { r.clock.advance(5e9) }, send("b", v5.pub(qos2|again, "x", 1, "y", expiry(1)...)), want("b", ack(pPubrec, 1)),
		send("b", ack(pPubrel, 1)), want("b", ack(pPubcomp, 1)))},
	{n: "4.4.0-1", says: "a resumed session is sent again what is unacknowledged, and only then", by: "TestUnacknowledgedIsSentAgainWithItsPacketID"},
	{n: "4.4.0-2", says: "a refusal is an acknowledgement", steps: each(
		open("a", keep), send("a", v5.sub1(1, "x", 2)), want("a", v5.suback(1, 2)),
		open("b", options{}), send("b", v5.pub(qos1, "x", 1, "1")), want("b", ack(pPuback, 1)),
		exactlyOnce("b", v5.pub(qos2, "x", 1, "2"), 1),
		want("a", v5.pub(qos1, "x", 1, "1"), v5.pub(qos2, "x", 2, "2")), send("a", ack(pPuback, 1, 0x97), ack(pPubrec, 2, 0x83), pingreq), want("a", pingresp),
		drop("a"), resume("a", keep), quiet("a"))},
	{n: "4.5.0-1", says: "a message is added to the session of each subscriber", same: "3.1.2-5"},
	{n: "4.5.0-2", says: "a client acknowledges all that it gets", na: clients},
	{n: "4.6.0-1", says: "a client sends again in order", na: clients},
	{n: "4.6.0-2", says: "a client sends PUBACK in order", na: clients},
	{n: "4.6.0-3", says: "a client sends PUBREC in order", na: clients},
	{n: "4.6.0-4", says: "a client sends PUBREL in order", na: clients},
	{n: "4.6.0-5", says: "messages of a client keep their order for each topic and QoS", by: "TestQueuedMessagesSurviveRestart TestMosquittoClients"},
	{n: "4.6.0-6", says: "every topic is ordered", by: "TestQueuedMessagesSurviveRestart TestMosquittoClients"},
	{n: "4.7.0-1", says: "a topic name has no wildcard", steps: each(bad(0x90, v5.pub(0, "+", 0, ""), v5.pub(0, "a/#", 0, "")), refused(v5.connect(6, "a", nil, []byte{0}, str("a/+"), str("x")), 0x90))},
	{n: "4.7.1-1", says: "# is the whole last level", steps: each(
		open("a", options{}), send("a", v5.sub(1, nil, filter{"#", 0}, filter{"a/#", 0}, filter{"a#", 0}, filter{"a/#/b", 0}, filter{"#/a", 0}, filter{"a/b#", 0})),
		want("a", v5.suback(1, 0, 0, 0x8f, 0x8f, 0x8f, 0x8f)), send("a", pingreq), want("a", pingresp))},
	{n: "4.7.1-2", says: "+ is a whole level", steps: each(
		open("a", options{}), send("a", v5.sub(1, nil, filter{"+", 0}, filter{"+/a/#", 0}, filter{"a/+/b", 0}, filter{"a+", 0}, filter{"a/+b", 0}, filter{"++", 0})),
		want("a", v5.suback(1, 0, 0, 0, 0x8f, 0x8f, 0x8f)))},
	{n: "4.7.2-1", says: "a wildcard in front does not match $", steps: each(
		open("a", options{}), send("a", v5.sub(1, nil, filter{"#", 0}, filter{"+/x", 0}, filter{"$dev/+", 1})), want("a", v5.suback(1, 0, 0, 1)),
		open("b", options{}), send("b", v5.sub(1, nil, filter{"#", 0}, filter{"+/x", 0})), want("b", v5.suback(1, 0, 0)),
		send("b", v5.pub(0, "$dev/x", 0, "y")), want("a", v5.pub(0, "$dev/x", 0, "y")), quiet("b"))},
	{n: "4.7.3-1", says: "topics and filters are not empty", steps: each(
		bad(0x82, v5.pub(0, "", 0, "")), open("a", options{}), send("a", v5.sub1(1, "", 0)), want("a", v5.suback(1, 0x8f)))},
	{n: "4.7.3-2", says: "topics and filters have no U+0000", same: "1.5.4-2"},
	{n: "4.7.3-3", says: "topics and filters are no longer than 65,535 bytes", na: "their length is written in two bytes"},
	{n: "4.7.3-4", says: "topics are compared as they are", steps: each(
		open("a", options{}), send("a", v5.sub(1, nil, filter{"caf\u00e9", 0}, filter{"X", 0}, filter{"a//b", 0}, filter{"/y", 0})), want("a", v5.suback(1, 0, 0, 0, 0)),
		send("a", v5.pub(0, "cafe\u0301", 0, ""), v5.pub(0, "x", 0, ""), v5.pub(0, "a/b", 0, ""), v5.pub(0, "y", 0, ""), v5.pub(0, "X ", 0, ""), v5.pub(0, "X", 0, "yes")),
		want("a", v5.pub(0, "X", 0, "yes")))},
	{n: "4.8.2-1", says: "a shared subscription has a name", steps: each(
		open("a", options{}), send("a", v5.sub(1, nil, filter{"$share/g/x", 0}, filter{"$share//x", 0}, filter{"$share/", 0}, filter{"$share", 0})),
		want("a", v5.suback(1, 0, 0x8f, 0x8f, 0x8f)))},
	{n: "4.8.2-2", says: "the name has no wildcard and a filter follows it", steps: each(
		open("a", options{}), send("a", v5.sub(1, nil, filter{"$share/g+/x", 0}, filter{"$share/#/x", 0}, filter{"$share/g", 0}, filter{"$share/g/", 0}, filter{"$share/g/a#", 0})),
		want("a", v5.suback(1, 0x8f, 0x8f, 0x8f, 0x8f, 0x8f)))},
	{n: "4.8.2-3", says: "the granted QoS holds for shared subscriptions", steps: each(
		open("a", options{}), send("a", v5.sub1(1, "$share/g/x", 0)), want("a", v5.suback(1, 0)),
		open("b", options{}), send("b", v5.pub(qos1, "x", 1, "y")), want("b", ack(pPuback, 1)), want("a", v5.pub(0, "x", 0, "y")))},
	{n: "4.8.2-4", says: "a QoS 2 message of a shared subscription stays with its client", steps: each(
		open("a", keep), send("a", v5.sub1(1, "$share/g/x", 2)), want("a", v5.suback(1, 2)),
		open("b", options{}), exactlyOnce("b", v5.pub(qos2, "x", 1, "y"), 1), want("a", v5.pub(qos2, "x", 1, "y")),
		open("c", options{}), send("c", v5.sub1(1, "$share/g/x", 2)), want("c", v5.suback(1, 2)), drop("a"), quiet("c"),
		resume("a", keep), want("a", v5.pub(qos2|again, "x", 1, "y")))},
	{n: "4.8.2-5", says: "and goes to no other when its session ends", steps: each(
		open("a", options{}), send("a", v5.sub1(1, "$share/g/x", 2)), want("a", v5.suback(1, 2)),
		open("b", options{}), exactlyOnce("b", v5.pub(qos2, "x", 1, "y"), 1), want("a", v5.pub(qos2, "x", 1, "y")),
		open("c", options{}), send("c", v5.sub1(1, "$share/g/x", 2)), want("c", v5.suback(1, 2)), drop("a"), quiet("c"))},
	{n: "4.8.2-6", says: "a message that is refused goes to no other", steps: each(
		open("a", options{}), send("a", v5.sub1(1, "$share/g/x", 1)), want("a", v5.suback(1, 1)),
		open("b", options{}), send("b", v5.pub(qos1, "x", 1, "y")), want("b", ack(pPuback, 1)), want("a", v5.pub(qos1, "x", 1, "y")),
		open("c", options{}), send("c", v5.sub1(1, "$share/g/x", 1)), want("c", v5.suback(1, 1)), send("a", ack(pPuback, 1, 0x80)), quiet("c"), quiet("a"))},
	{n: "4.9.0-1", says: "the send quota is no more than the receive maximum", same: "3.3.4-9"},
	{n: "4.9.0-2", says: "no PUBLISH of QoS 1 or 2 once it is used up", same: "3.3.4-9"},
	{n: "4.9.0-3", says: "other packets go on meanwhile", same: "3.3.4-10"},
	{n: "4.12.0-1", says: "an authentication method that is not there ends the connection", steps: each(
		refused(v5.connect(2, "a", append([]byte{21}, str("SCRAM-SHA-1")...)), 0x8c), refused(v5.connect(2, "a", append(append([]byte{21}, str("K")...), 22, 0, 1, 'x')), 0x8c))},
	{n: "4.12.0-2", says: "a server asks with AUTH 0x18", na: noAuth},
	{n: "4.12.0-3", says: "a client answers with AUTH 0x18", na: clients},
	{n: "4.12.0-4", says: "a server that refuses closes the connection", same: "4.12.0-1"},
	{n: "4.12.0-5", says: "all AUTH packets and CONNACK have the method", na: noAuth},
	{n: "4.12.0-6", says: "no method in CONNECT: none in CONNACK, and no AUTH", steps: each(lacks("a", options{}, 21, 22), send("a", pingreq), want("a", pingresp))},
	{n: "4.12.0-7", says: "no method in CONNECT: no AUTH of the client", steps: bad(0x82,
		[]byte{0xf0, 0}, []byte{0xf0, 2, 0x19, 0}, append([]byte{0xf0, 6, 0x18, 4, 21}, str("K")...))},
	{n: "4.12.1-1", says: "a client authenticates again by the same method", na: clients},
	{n: "4.12.1-2", says: "a failure of that closes the connection", na: noAuth},
	{n: "4.13.1-1", says: "a malformed packet or an error of protocol closes the connection", same: "2.1.3-1"},
	{n: "4.13.2-1", says: "a code of 0x80 and more closes the connection", same: "3.14.2-1"},

	{n: "6.0.0-1", says: "WebSocket: packets are in binary frames", na: transport},
	{n: "6.0.0-2", says: "WebSocket: packets and frames need not begin together", na: transport},
	{n: "6.0.0-3", says: "WebSocket: a client offers the subprotocol mqtt", na: clients},
	{n: "6.0.0-4", says: "WebSocket: the server chooses the subprotocol mqtt", na: transport},
}

// unnumbered are requirements of MQTT 5 that its text calls malformed or an
// error of protocol without a number.
type unnumbered struct {
	section, what string
	steps         []step
}

var unnumbered5 = []unnumbered{
	{"2.2.2.1", "properties that do not fit their packet", bad(0x81,
		[]byte{0x30, 4, 0, 1, 'x', 9}, []byte{0x30, 7, 0, 1, 'x', 3, 2, 0, 0}, []byte{0x30, 3, 0, 1, 'x'}, ack(pPuback, 1, 0, 5), []byte{0xe0, 2, 0, 9})},
	{"2.2.2.2", "property that this packet does not have", bad(0x81,
		v5.pub(0, "x", 0, "", 17, 0, 0, 0, 1), v5.sub(1, []byte{1, 0}, filter{"x", 0}), v5.pub(0, "x", 0, "", 127, 0), []byte{0xe0, 6, 0, 4, 2, 0, 0, 0}[:8])},
	{"2.2.2.2", "property more than once", each(
		bad(0x82, v5.pub(0, "x", 0, "", 1, 0, 1, 0), v5.pub(0, "x", 0, "", 35, 0, 1, 35, 0, 1), v5.sub(1, []byte{11, 1, 11, 2}, filter{"x", 0}),
			ack(pPuback, 1, 0, 8, 31, 0, 1, 'a', 31, 0, 1, 'b'), []byte{0xe0, 12, 0, 10, 17, 0, 0, 0, 0, 17, 0, 0, 0, 0}),
		refused(v5.connect(2, "a", []byte{33, 0, 1, 33, 0, 1}), 0x82), refused(v5.connect(6, "a", nil, []byte{4, 1, 0, 1, 0}, str("w"), str("x")), 0x82))},
	{"2", "bytes after the last field", bad(0x81, []byte{0xc0, 1, 0}, ack(pPuback, 1, 0, 0, 9), []byte{0xe0, 3, 0, 0, 9})},
	{"3.1.2.11.3", "receive maximum 0", each(refused(v5.connect(2, "a", []byte{33, 0, 0}), 0x82))},
	{"3.1.2.11.4", "maximum packet size 0", each(refused(v5.connect(2, "a", []byte{39, 0, 0, 0, 0}), 0x82))},
	{"3.1.2.11.6", "request response information is neither 0 nor 1", each(refused(v5.connect(2, "a", []byte{25, 2}), 0x82))},
	{"3.1.2.11.7", "request problem information is neither 0 nor 1", each(refused(v5.connect(2, "a", []byte{23, 2}), 0x82))},
	{"3.1.2.11.10", "authentication data and no method", each(refused(v5.connect(2, "a", []byte{22, 0, 1, 'x'}), 0x82))},
	{"3.1.3.2.3", "payload format of the will is neither 0 nor 1", each(refused(v5.connect(6, "a", nil, []byte{2, 1, 2}, str("w"), str("x")), 0x82))},
	{"3.1.3.2.6", "response topic of the will is none", each(
		refused(v5.connect(6, "a", nil, []byte{4, 8, 0, 1, '#'}, str("w"), str("x")), 0x82), refused(v5.connect(6, "a", nil, []byte{3, 8, 0, 0}, str("w"), str("x")), 0x82))},
	{"3.3.2.3.2", "payload format is neither 0 nor 1", bad(0x82, v5.pub(0, "x", 0, "", 1, 2))},
	{"3.3.4", "topic alias that was not set", bad(0x82, v5.pub(0, "", 0, "", 35, 0, 7))},
	{"3.8.2.1.2", "subscription identifier 0", bad(0x82, v5.sub(1, []byte{11, 0}, filter{"x", 0}))},
	{"3.8.3.1", "subscription of QoS 3", bad(0x82, v5.sub1(1, "x", 3))},
	{"3.8.3.1", "retain handling 3", bad(0x82, v5.sub1(1, "x", 0x30))},
	{"3.14.2.2.2", "session expiry after CONNECT asked for none", bad(0x82, []byte{0xe0, 7, 0, 5, 17, 0, 0, 0, 1})},
	{"3.14.2.2.5", "server reference of a client", bad(0x82, []byte{0xe0, 6, 0, 4, 28, 0, 1, 'x'})},
	{"2.1.2", "packet that only a server sends", bad(0x82, []byte{0x20, 3, 0, 0, 0}, v5.suback(1, 0), v5.unsuback(1, 0), pingresp)},
}

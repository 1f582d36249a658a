package broker_test

import "strings"

// refused311 is a CONNECT that is answered with a return code.
func refused311(data []byte, code byte) step { return first(data, []byte{0x20, 2, 0, code}) }

var statements311 = []statement{
	{n: "1.5.3-1", says: "strings are UTF-8 with no surrogates", steps: bad(0, v4.pub(0, surrogate, 0, "x"), v4.pub(0, overlong, 0, "x"), v4.pub(0, "a\xff", 0, "x"))},
	{n: "1.5.3-2", says: "strings have no U+0000", steps: bad(0, v4.pub(0, nul, 0, "x"), v4.sub1(1, nul, 0))},
	{n: "1.5.3-3", says: "a byte order mark is a character like others", steps: each(
		open("a", options{}), send("a", v4.sub1(1, "\ufeffx", 0)), want("a", v4.suback(1, 0)),
		send("a", v4.pub(0, "x", 0, "no"), v4.pub(0, "\ufeffx", 0, "yes")), want("a", v4.pub(0, "\ufeffx", 0, "yes")))},
	{n: "2.2.2-1", says: "reserved flags have the listed value", same: "2.2.2-2"},
	{n: "2.2.2-2", says: "wrong flags close the connection", steps: bad(0, []byte{0xc1, 0}, frame(0x42, id16(1)), frame(0x52, id16(1)), frame(0x72, id16(1)))},
	{n: "2.3.1-1", says: "packet ids are not 0", steps: bad(0, v4.pub(qos1, "x", 0, "y"), v4.pub(qos2, "x", 0, "y"), v4.sub1(0, "x", 0), v4.unsub(0, "x"))},
	{n: "2.3.1-2", says: "a client takes a packet id that is not in use", na: clients},
	{n: "2.3.1-3", says: "a client sends again with the same packet id", na: clients},
	{n: "2.3.1-4", says: "so does a server", by: "TestUnacknowledgedIsSentAgainWithItsPacketID"},
	{n: "2.3.1-5", says: "PUBLISH of QoS 0 has no packet id", steps: each(
		open("a", options{}), send("a", v4.sub1(1, "x", 0), v4.pub(0, "x", 0, "y")), want("a", v4.suback(1, 0), v4.pub(0, "x", 0, "y")))},
	{n: "2.3.1-6", says: "acknowledgements have the packet id of their PUBLISH", steps: each(
		open("a", options{}), send("a", v4.pub(qos1, "x", 77, "")), want("a", ack(pPuback, 77)), exactlyOnce("a", v4.pub(qos2, "x", 78, ""), 78))},
	{n: "2.3.1-7", says: "SUBACK and UNSUBACK have the packet id of what they answer", steps: each(
		open("a", options{}), send("a", v4.sub1(513, "x", 0), v4.unsub(514, "x")), want("a", v4.suback(513, 0), v4.unsuback(514)))},

	{n: "3.1.0-1", says: "the first packet is CONNECT", steps: each(first(pingreq, nil), first(v4.pub(0, "x", 0, "y"), nil), first(v4.sub1(1, "x", 0), nil), first([]byte{0xe0, 0}, nil))},
	{n: "3.1.0-2", says: "a second CONNECT is a violation", steps: bad(0, v4.connect(2, "bad0", nil), v5.connect(2, "other", nil))},
	{n: "3.1.2-1", says: "another protocol is not spoken", steps: each(
		first(frame(0x10, append(str("HTTP"), 4, 2, 0, 0, 0, 1, 'a')), nil), first(frame(0x10, append(str("mqtt"), 4, 2, 0, 0, 0, 1, 'a')), nil))},
	{n: "3.1.2-2", says: "another level gets return code 1", steps: each(
		refused311(dialect(6).connect(2, "a", nil), 1), refused311(dialect(3).connect(2, "a", nil), 1), refused311(frame(0x10, append(str("MQTT"), 0x84)), 1))},
	{n: "3.1.2-3", says: "the reserved flag is 0", steps: each(first(v4.connect(3, "a", nil), nil))},
	{n: "3.1.2-4", says: "clean session 0 resumes the session, or makes one", steps: each(
		open("a", keep), send("a", v4.sub1(1, "x", 1)), want("a", v4.suback(1, 1)), drop("a"),
		open("b", options{}), send("b", v4.pub(qos1, "x", 1, "kept")), want("b", ack(pPuback, 1)), resume("a", keep), want("a", v4.pub(qos1, "x", 1, "kept")))},
	{n: "3.1.2-5", says: "messages of QoS 1 and 2 are kept for it", same: "3.1.2-4"},
	{n: "3.1.2-6", says: "clean session 1 begins and ends with the connection", steps: each(
		open("a", keep), send("a", v4.sub1(1, "x", 1)), want("a", v4.suback(1, 1)), drop("a"),
		open("b", options{}), send("b", v4.pub(qos1, "x", 1, "")), want("b", ack(pPuback, 1)),
		open("a", options{}), send("b", v4.pub(qos1, "x", 2, "")), want("b", ack(pPuback, 2)), quiet("a"), drop("a"), open("a", keep))},
	{n: "3.1.2-7", says: "retained messages outlive a session", steps: each(
		open("a", options{}), send("a", v4.pub(retained|qos1, "x", 1, "y")), want("a", ack(pPuback, 1)), leave("a"),
		open("b", options{}), send("b", v4.sub1(1, "x", 0)), want("b", v4.suback(1, 0), v4.pub(retained, "x", 0, "y")))},
	{n: "3.1.2-8", says: "a will is published when the connection ends, not after DISCONNECT", by: "TestWill TestWillAndDisconnect"},
	{n: "3.1.2-9", says: "with the will flag topic and message are there", steps: each(first(v4.connect(6, "a", nil), nil), first(v4.connect(6, "a", nil, str("w")), nil))},
	{n: "3.1.2-10", says: "a will is gone once it was published", steps: each(
		open("s", options{}), send("s", v4.sub1(1, "will", 0)), want("s", v4.suback(1, 0)),
		open("a", options{will: "died"}), drop("a"), want("s", v4.pub(0, "will", 0, "died")), open("a", options{}), drop("a"), quiet("s"))},
	{n: "3.1.2-11", says: "without the will flag there is nothing of a will", steps: each(
		first(v4.connect(2|1<<3, "a", nil), nil), first(v4.connect(2|1<<5, "a", nil), nil), first(v4.connect(2, "a", nil, str("w"), str("x")), nil))},
	{n: "3.1.2-12", says: "and none is published", same: "3.1.2-10"},
	{n: "3.1.2-13", says: "no will, no QoS of it", steps: each(first(v4.connect(2|1<<3, "a", nil), nil), first(v4.connect(2|2<<3, "a", nil), nil))},
	{n: "3.1.2-14", says: "the QoS of a will is not 3", steps: each(first(v4.connect(6|3<<3, "a", nil, str("w"), str("x")), nil))},
	{n: "3.1.2-15", says: "no will, no retain flag of it", steps: each(first(v4.connect(2|1<<5, "a", nil), nil))},
	{n: "3.1.2-16", says: "a will without the retain flag is not retained", steps: each(
		open("s", options{}), send("s", v4.sub1(1, "will", 0)), want("s", v4.suback(1, 0)), open("a", options{will: "died"}), drop("a"), want("s", v4.pub(0, "will", 0, "died")),
		open("late", options{}), send("late", v4.sub1(1, "will", 0)), want("late", v4.suback(1, 0)), quiet("late"))},
	{n: "3.1.2-17", says: "a will with the retain flag is retained", steps: each(
		open("s", options{}), send("s", v4.sub1(1, "will", 0)), want("s", v4.suback(1, 0)),
		open("a", options{will: "died", willFlags: 1 << 5}), drop("a"), want("s", v4.pub(0, "will", 0, "died")),
		open("late", options{}), send("late", v4.sub1(1, "will", 0)), want("late", v4.suback(1, 0), v4.pub(retained, "will", 0, "died")))},
	{n: "3.1.2-18", says: "no user name without its flag", steps: each(first(v4.connect(2, "a", nil, str("anna")), nil))},
	{n: "3.1.2-19", says: "with its flag there is a user name", steps: each(first(v4.connect(2|1<<7, "a", nil), nil))},
	{n: "3.1.2-20", says: "no password without its flag", steps: each(first(v4.connect(2|1<<7, "a", nil, str("anna"), str("secret")), nil))},
	{n: "3.1.2-21", says: "with its flag there is a password", steps: each(first(v4.connect(2|3<<6, "a", nil, str("anna")), nil))},
	{n: "3.1.2-22", says: "no password without a user name", steps: each(first(v4.connect(2|1<<6, "a", nil, str("secret")), nil))},
	{n: "3.1.2-23", says: "a silent client sends PINGREQ", na: clients},
	{n: "3.1.2-24", says: "one and a half keep-alives of silence end the connection", by: "TestKeepAlive"},
	{n: "3.1.3-1", says: "the fields come in their order", steps: each(
		open("s", options{}), send("s", v4.sub1(1, "w", 0)), want("s", v4.suback(1, 0)),
		func(r *replay) {
			c := &client{t: r.T, nc: dialRaw(r.T, r.s.Addr()), version: 4, packets: make(chan packet, 10)}
			c.start(v4.connect(0xc6, "all", nil, str("w"), str("x"), str("anna"), str("secret")))
			if p := c.want(pConnack); p.body[1] != 0 {
				r.Fatalf("CONNACK code %#x", p.body[1])
			}
			r.clients["all"] = c
		}, drop("all"), want("s", v4.pub(0, "w", 0, "x")))},
	{n: "3.1.3-2", says: "the client id is what a session is known by", steps: each(open("a", keep), drop("a"), open("b", keep), resume("a", keep))},
	{n: "3.1.3-3", says: "the client id is the first field and is there", steps: each(
		first(frame(0x10, append(str("MQTT"), 4, 2, 0, 0)), nil), first(frame(0x10, append(str("MQTT"), 4, 2, 0, 0, 0, 3, 'a')), nil))},
	{n: "3.1.3-4", says: "the client id is UTF-8", steps: each(first(v4.connect(2, surrogate, nil), nil), first(v4.connect(2, nul, nil), nil))},
	{n: "3.1.3-5", says: "1 to 23 letters and digits are a client id", steps: each(
		open(alnum[:23], options{}), open(alnum[23:46], options{}), open(alnum[46:], options{}), open("z", options{}))},
	{n: "3.1.3-6", says: "an empty client id gets one", steps: each(
		func(r *replay) { // both stay: their ids differ
			for _, name := range []string{"a", "b"} {
				c, _, code := connect(r.T, r.s.Addr(), options{version: 4})
				if code != 0 {
					r.Fatalf("CONNACK code %d", code)
				}
				r.clients[name] = c
			}
		}, send("a", pingreq), want("a", pingresp), send("b", pingreq), want("b", pingresp))},
	{n: "3.1.3-7", says: "an empty client id goes with clean session 1", same: "3.1.3-8"},
	{n: "3.1.3-8", says: "otherwise it gets return code 2", steps: each(refused311(v4.connect(0, "", nil), 2))},
	{n: "3.1.3-9", says: "a client id that is not taken gets return code 2", steps: each(refused311(v4.connect(2, strings.Repeat("x", 1025), nil), 2))},
	{n: "3.1.3-10", says: "the topic of a will is UTF-8", steps: each(first(v4.connect(6, "a", nil, str(surrogate), str("x")), nil), first(v4.connect(6, "a", nil, str(nul), str("x")), nil))},
	{n: "3.1.3-11", says: "the user name is UTF-8", steps: each(first(v4.connect(2|1<<7, "a", nil, str(surrogate)), nil), first(v4.connect(2|1<<7, "a", nil, str(nul)), nil))},
	{n: "3.1.4-1", says: "a CONNECT of another form ends the connection with no CONNACK", steps: each(
		first(frame(0x10, str("MQTT")), nil), first(v4.connect(2, "a", nil, []byte{9}), nil), first(frame(0x11, append(str("MQTT"), 4, 2, 0, 0, 0, 1, 'a')), nil))},
	{n: "3.1.4-2", says: "an older connection of the client id ends", steps: each(
		open("a", options{}), func(r *replay) { r.clients["old"] = r.clients["a"] }, open("a", options{}), closed("old", 0))},
	{n: "3.1.4-3", says: "clean session is heeded", same: "3.1.2-6"},
	{n: "3.1.4-4", says: "a CONNECT that is taken gets CONNACK 0", same: "3.1.2-4"},
	{n: "3.1.4-5", says: "nothing after a refused CONNECT is processed", steps: each(
		open("s", options{}), send("s", v4.sub1(1, "x", 0)), want("s", v4.suback(1, 0)), refused311(append(v4.connect(0, "", nil), v4.pub(0, "x", 0, "no")...), 2), quiet("s"))},
	{n: "3.2.0-1", says: "CONNACK comes first", same: "3.1.2-4"},
	{n: "3.2.2-1", says: "clean session: no session present", same: "3.1.2-6"},
	{n: "3.2.2-2", says: "session present tells that there was one", same: "3.1.3-2"},
	{n: "3.2.2-3", says: "and that there was none", same: "3.1.3-2"},
	{n: "3.2.2-4", says: "a refusal says no session", same: "3.1.3-9"},
	{n: "3.2.2-5", says: "a refusal ends the connection", same: "3.1.3-9"},
	{n: "3.2.2-6", says: "where no return code fits there is no CONNACK", steps: each(first(v4.connect(6, "a", nil, str("a/#"), str("x")), nil))},

	{n: "3.3.1-1", says: "what is sent again has DUP", by: "TestUnacknowledgedIsSentAgainWithItsPacketID"},
	{n: "3.3.1-2", says: "QoS 0 has no DUP", steps: bad(0, v4.pub(again, "x", 0, ""), v4.pub(again|retained, "x", 0, ""))},
	{n: "3.3.1-3", says: "DUP is not passed on", steps: each(
		open("a", options{}), send("a", v4.sub1(1, "x", 1)), want("a", v4.suback(1, 1)),
		open("b", options{}), send("b", v4.pub(qos1|again, "x", 1, "y")), want("b", ack(pPuback, 1)), want("a", v4.pub(qos1, "x", 1, "y")))},
	{n: "3.3.1-4", says: "QoS is not 3", steps: bad(0, v4.pub(qos1|qos2, "x", 1, ""))},
	{n: "3.3.1-5", says: "a retained message is kept with its QoS", steps: each(
		open("b", options{}), send("b", v4.pub(retained|qos1, "x", 1, "y")), want("b", ack(pPuback, 1)),
		open("a", options{}), send("a", v4.sub1(1, "x", 2)), want("a", v4.suback(1, 2), v4.pub(retained|qos1, "x", 1, "y")))},
	{n: "3.3.1-6", says: "a new subscription gets the last one of each topic", by: "TestRetained"},
	{n: "3.3.1-7", says: "one of QoS 0 replaces what was there", steps: each(
		open("b", options{}), send("b", v4.pub(retained|qos1, "x", 1, "old")), want("b", ack(pPuback, 1)), send("b", v4.pub(retained, "x", 0, "new"), pingreq), want("b", pingresp),
		open("a", options{}), send("a", v4.sub1(1, "x", 1)), want("a", v4.suback(1, 1), v4.pub(retained, "x", 0, "new")), quiet("a"))},
	{n: "3.3.1-8", says: "it comes with the retain flag", same: "3.3.1-5"},
	{n: "3.3.1-9", says: "an established subscription gets no retain flag", steps: each(
		open("a", options{}), send("a", v4.sub1(1, "x", 0)), want("a", v4.suback(1, 0)),
		open("b", options{}), send("b", v4.pub(retained, "x", 0, "y")), want("a", v4.pub(0, "x", 0, "y")))},
	{n: "3.3.1-10", says: "an empty one removes it, and goes to subscribers", steps: each(
		open("b", options{}), send("b", v4.pub(retained|qos1, "x", 1, "old")), want("b", ack(pPuback, 1)),
		open("a", options{}), send("a", v4.sub1(1, "x", 0)), want("a", v4.suback(1, 0), v4.pub(retained, "x", 0, "old")),
		send("b", v4.pub(retained|qos1, "x", 2, "")), want("b", ack(pPuback, 2)), want("a", v4.pub(0, "x", 0, "")),
		open("c", options{}), send("c", v4.sub1(1, "x", 0)), want("c", v4.suback(1, 0)), quiet("c"))},
	{n: "3.3.1-11", says: "an empty one is not kept", same: "3.3.1-10"},
	{n: "3.3.1-12", says: "without the flag nothing is kept, removed or replaced", steps: each(
		open("b", options{}), send("b", v4.pub(retained|qos1, "x", 1, "old")), want("b", ack(pPuback, 1)), send("b", v4.pub(qos1, "x", 2, "new")), want("b", ack(pPuback, 2)),
		send("b", v4.pub(qos1, "x", 3, "")), want("b", ack(pPuback, 3)),
		open("a", options{}), send("a", v4.sub1(1, "x", 0)), want("a", v4.suback(1, 0), v4.pub(retained, "x", 0, "old")), quiet("a"))},
	{n: "3.3.2-1", says: "the topic is the first field, and UTF-8", steps: bad(0, frame(0x30, nil), frame(0x30, []byte{0, 5, 'x'}), v4.pub(0, surrogate, 0, ""))},
	{n: "3.3.2-2", says: "the topic has no wildcard", steps: bad(0, v4.pub(0, "a/+", 0, ""), v4.pub(0, "#", 0, ""), v4.pub(0, "a+b", 0, ""))},
	{n: "3.3.2-3", says: "what a subscriber gets matches its filter", by: "TestSubscriptionsMatchLikeFilters"},
	{n: "3.3.4-1", says: "the answer goes by the QoS", same: "2.3.1-6"},
	{n: "3.3.5-1", says: "overlapping subscriptions: the highest QoS counts", steps: each(
		open("a", options{}), send("a", v4.sub(1, nil, filter{"x/#", 0}, filter{"x/+", 2}, filter{"x/y", 1})), want("a", v4.suback(1, 0, 2, 1)),
		open("b", options{}), exactlyOnce("b", v4.pub(qos2, "x/y", 1, "z"), 1), want("a", v4.pub(qos2, "x/y", 1, "z")), quiet("a"))},
	{n: "3.3.5-2", says: "who may not publish gets an acknowledgement or is disconnected", by: "TestReservedTopicIsDenied"},
	{n: "3.6.1-1", says: "reserved flags of PUBREL are 0010", steps: bad(0, frame(0x60, id16(1)), frame(0x63, id16(1)), frame(0x6a, id16(1)))},

	{n: "3.8.1-1", says: "reserved flags of SUBSCRIBE are 0010", steps: bad(0, frame(0x80, v4.sub1(1, "x", 0)[2:]), frame(0x83, v4.sub1(1, "x", 0)[2:]), frame(0x8a, v4.sub1(1, "x", 0)[2:]))},
	{n: "3.8.3-1", says: "topic filters are UTF-8", steps: bad(0, v4.sub1(1, surrogate, 0), v4.sub1(1, nul, 0))},
	{n: "3.8.3-2", says: "a server without wildcards refuses them", na: "the broker has wildcards"},
	{n: "3.8.3-3", says: "SUBSCRIBE has a filter and its QoS", steps: bad(0, v4.sub(1, nil), frame(0x82, append([]byte{0, 1}, str("x")...)))},
	{n: "3-8.3-4", says: "QoS is not 3 and reserved bits are 0", steps: bad(0, v4.sub1(1, "x", 3), v4.sub1(1, "x", 4), v4.sub1(1, "x", 0x80))},
	{n: "3.8.4-1", says: "SUBSCRIBE is answered with SUBACK", same: "2.3.1-7"},
	{n: "3.8.4-2", says: "SUBACK has the packet id of SUBSCRIBE", same: "2.3.1-7"},
	{n: "3.8.4-3", says: "the same filter again replaces the subscription and sends what is retained", steps: each(
		open("b", options{}), send("b", v4.pub(retained|qos1, "x", 1, "kept")), want("b", ack(pPuback, 1)),
		open("a", options{}), send("a", v4.sub1(1, "x", 1)), want("a", v4.suback(1, 1), v4.pub(retained|qos1, "x", 1, "kept")),
		send("a", v4.sub1(2, "x", 0)), want("a", v4.suback(2, 0), v4.pub(retained, "x", 0, "kept")),
		send("b", v4.pub(qos1, "x", 2, "y")), want("b", ack(pPuback, 2)), want("a", v4.pub(0, "x", 0, "y")), quiet("a"))},
	{n: "3.8.4-4", says: "several filters are like several packets with one answer", steps: each(
		open("a", options{}), send("a", v4.sub(1, nil, filter{"x", 0}, filter{"y", 1}, filter{"a/#/b", 0}, filter{"z", 2})), want("a", v4.suback(1, 0, 1, 0x80, 2)),
		open("b", options{}), exactlyOnce("b", v4.pub(qos2, "z", 2, "z"), 2), want("a", v4.pub(qos2, "z", 1, "z")))},
	{n: "3.8.4-5", says: "SUBACK has for each filter its QoS, or a failure", same: "3.8.4-4"},
	{n: "3.8.4-6", says: "a message has the lower of its own and the granted QoS", steps: each(
		open("a", options{}), send("a", v4.sub1(1, "x", 1)), want("a", v4.suback(1, 1)), open("b", options{}),
		exactlyOnce("b", v4.pub(qos2, "x", 1, "2"), 1), want("a", v4.pub(qos1, "x", 1, "2")), send("b", v4.pub(0, "x", 0, "0")), want("a", v4.pub(0, "x", 0, "0")))},
	{n: "3.9.3-1", says: "codes of SUBACK have the filters' order", same: "3.8.4-4"},
	{n: "3.9.3-2", says: "they are 0, 1, 2 and 0x80", same: "3.8.4-4"},
	{n: "3.10.1-1", says: "reserved flags of UNSUBSCRIBE are 0010", steps: bad(0, frame(0xa0, v4.unsub(1, "x")[2:]), frame(0xa6, v4.unsub(1, "x")[2:]))},
	{n: "3.10.3-1", says: "topic filters are UTF-8", steps: bad(0, v4.unsub(1, surrogate), v4.unsub(1, nul))},
	{n: "3.10.3-2", says: "UNSUBSCRIBE has a filter", steps: bad(0, v4.unsub(1))},
	{n: "3.10.4-1", says: "only the very same filter ends", steps: each(
		open("a", options{}), send("a", v4.sub(1, nil, filter{"x/y", 0}, filter{"x/+", 0})), want("a", v4.suback(1, 0, 0)),
		send("a", v4.unsub(2, "x/#", "X/y", "x/y/", "+/y"), v4.unsub(3, "x/y")), want("a", v4.unsuback(2), v4.unsuback(3)),
		send("a", v4.pub(0, "x/y", 0, "z")), want("a", v4.pub(0, "x/y", 0, "z")), send("a", v4.unsub(4, "x/+")), want("a", v4.unsuback(4)), send("a", v4.pub(0, "x/y", 0, "z")), quiet("a"))},
	{n: "3.10.4-2", says: "no new message after it", same: "3.10.4-1"},
	{n: "3.10.4-3", says: "what was begun is brought to its end", steps: each(
		open("a", options{}), send("a", v4.sub1(1, "x", 2)), want("a", v4.suback(1, 2)), open("b", options{}), exactlyOnce("b", v4.pub(qos2, "x", 1, "y"), 1),
		want("a", v4.pub(qos2, "x", 1, "y")), send("a", v4.unsub(2, "x")), want("a", v4.unsuback(2)), send("a", ack(pPubrec, 1)), want("a", ack(pPubrel, 1)),
		send("a", ack(pPubcomp, 1), pingreq), want("a", pingresp))},
	{n: "3.10.4-4", says: "UNSUBSCRIBE is answered with UNSUBACK of its packet id", same: "2.3.1-7"},
	{n: "3.10.4-5", says: "even where nothing ended", same: "3.10.4-1"},
	{n: "3.10.4-6", says: "several filters are like several packets with one answer", steps: each(
		open("a", options{}), send("a", v4.sub(1, nil, filter{"x", 0}, filter{"y", 0})), want("a", v4.suback(1, 0, 0)),
		send("a", v4.unsub(2, "x", "z", "y"), v4.pub(0, "x", 0, ""), v4.pub(0, "y", 0, "")), want("a", v4.unsuback(2)), quiet("a"))},
	{n: "3.12.4-1", says: "PINGREQ is answered with PINGRESP", same: "3.10.4-3"},
	{n: "3.14.1-1", says: "reserved flags of DISCONNECT are 0", steps: bad(0, []byte{0xe1, 0}, []byte{0xe2, 0}, []byte{0xe8, 0})},
	{n: "3.14.4-1", says: "a client closes after DISCONNECT", na: clients},
	{n: "3.14.4-2", says: "a client sends nothing after DISCONNECT", na: clients},
	{n: "3.14.4-3", says: "DISCONNECT discards the will", by: "TestWillAndDisconnect"},

	{n: "4.1.0-1", says: "a session is kept for as long as it lasts", same: "3.1.2-4"},
	{n: "4.1.0-2", says: "it lasts at least as long as the connection", steps: each(
		open("a", keep), send("a", v4.sub1(1, "x", 0)), want("a", v4.suback(1, 0)), func(r *replay) { r.clock.advance(90 * 24 * 3600e9) }, sweeps,
		send("a", v4.pub(0, "x", 0, "y")), want("a", v4.pub(0, "x", 0, "y")))},
	{n: "4.3.1-1", says: "QoS 0 is sent with no DUP", same: "2.3.1-5"},
	{n: "4.3.2-1", says: "QoS 1, sender: a packet id not in use, no DUP, unacknowledged until PUBACK", by: "TestUnacknowledgedIsSentAgainWithItsPacketID TestNeverSentHasNoDup"},
	{n: "4.3.2-2", says: "QoS 1, receiver: PUBACK, and after it the packet id is of a new message", steps: each(
		open("a", options{}), send("a", v4.sub1(1, "x", 0)), want("a", v4.suback(1, 0)), open("b", options{}), send("b", v4.pub(qos1, "x", 1, "y")), want("b", ack(pPuback, 1)),
		send("b", v4.pub(qos1|again, "x", 1, "y")), want("b", ack(pPuback, 1)), want("a", v4.pub(0, "x", 0, "y"), v4.pub(0, "x", 0, "y")))},
	{n: "4.3.3-1", says: "QoS 2, sender: PUBREL after PUBREC, and then no PUBLISH of it any more", steps: each(
		open("a", keep), send("a", v4.sub1(1, "x", 2)), want("a", v4.suback(1, 2)), open("b", options{}), exactlyOnce("b", v4.pub(qos2, "x", 1, "1"), 1),
		want("a", v4.pub(qos2, "x", 1, "1")), send("a", ack(pPubrec, 1)), want("a", ack(pPubrel, 1)), drop("a"), resume("a", keep), want("a", ack(pPubrel, 1)), quiet("a"))},
	{n: "4.3.3-2", says: "QoS 2, receiver: a repeat before PUBREL gets PUBREC and goes nowhere", steps: each(
		open("a", options{}), send("a", v4.sub1(1, "x", 0)), want("a", v4.suback(1, 0)), open("b", options{}), send("b", v4.pub(qos2, "x", 1, "y")), want("b", ack(pPubrec, 1)),
		send("b", v4.pub(qos2|again, "x", 1, "y")), want("b", ack(pPubrec, 1)), send("b", ack(pPubrel, 1)), want("b", ack(pPubcomp, 1)), want("a", v4.pub(0, "x", 0, "y")), quiet("a"),
		exactlyOnce("b", v4.pub(qos2, "x", 1, "y"), 1), want("a", v4.pub(0, "x", 0, "y")))},
	{n: "4.4.0-1", says: "a resumed session is sent again what is unacknowledged", by: "TestUnacknowledgedIsSentAgainWithItsPacketID"},
	{n: "4.5.0-1", says: "a message is added to the session of each subscriber", same: "3.1.2-4"},
	{n: "4.5.0-2", says: "a client acknowledges all that it gets", na: clients},
	{n: "4.6.0-1", says: "what is sent again keeps its order", by: "TestUnacknowledgedIsSentAgainWithItsPacketID"},
	{n: "4.6.0-2", says: "a client sends PUBACK in order", na: clients},
	{n: "4.6.0-3", says: "a client sends PUBREC in order", na: clients},
	{n: "4.6.0-4", says: "a client sends PUBREL in order", na: clients},
	{n: "4.6.0-5", says: "every topic is ordered", by: "TestQueuedMessagesSurviveRestart TestMosquittoClients"},
	{n: "4.6.0-6", says: "messages of a client keep their order for each topic and QoS", by: "TestQueuedMessagesSurviveRestart TestMosquittoClients"},
	{n: "4.7.1-1", says: "a topic name has no wildcard", steps: each(bad(0, v4.pub(0, "+", 0, ""), v4.pub(0, "a/#", 0, "")), first(v4.connect(6, "a", nil, str("a/+"), str("x")), nil))},
	{n: "4.7.1-2", says: "# is the whole last level", steps: each(
		open("a", options{}), send("a", v4.sub(1, nil, filter{"#", 0}, filter{"a/#", 0}, filter{"a#", 0}, filter{"a/#/b", 0}, filter{"#/a", 0}, filter{"a/b#", 0})),
		want("a", v4.suback(1, 0, 0, 0x80, 0x80, 0x80, 0x80)), send("a", pingreq), want("a", pingresp))},
	{n: "4.7.1-3", says: "+ is a whole level", steps: each(
		open("a", options{}), send("a", v4.sub(1, nil, filter{"+", 0}, filter{"+/a/#", 0}, filter{"a/+/b", 0}, filter{"a+", 0}, filter{"a/+b", 0}, filter{"++", 0})),
		want("a", v4.suback(1, 0, 0, 0, 0x80, 0x80, 0x80)))},
	{n: "4.7.2-1", says: "a wildcard in front does not match $", steps: each(
		open("a", options{}), send("a", v4.sub1(1, "$dev/+", 1)), want("a", v4.suback(1, 1)), open("b", options{}), send("b", v4.sub(1, nil, filter{"#", 0}, filter{"+/x", 0})),
		want("b", v4.suback(1, 0, 0)), send("b", v4.pub(0, "$dev/x", 0, "y")), want("a", v4.pub(0, "$dev/x", 0, "y")), quiet("b"))},
	{n: "4.7.3-1", says: "topics and filters are not empty", steps: each(bad(0, v4.pub(0, "", 0, "")), open("a", options{}), send("a", v4.sub1(1, "", 0)), want("a", v4.suback(1, 0x80)))},
	{n: "4.7.3-2", says: "topics and filters have no U+0000", same: "1.5.3-2"},
	{n: "4.7.3-3", says: "topics and filters are no longer than 65,535 bytes", na: "their length is written in two bytes"},
	{n: "4.7.3-4", says: "topics are compared as they are", steps: each(
		open("a", options{}), send("a", v4.sub(1, nil, filter{"caf\u00e9", 0}, filter{"X", 0}, filter{"a//b", 0}, filter{"/y", 0})), want("a", v4.suback(1, 0, 0, 0, 0)),
		send("a", v4.pub(0, "cafe\u0301", 0, ""), v4.pub(0, "x", 0, ""), v4.pub(0, "a/b", 0, ""), v4.pub(0, "y", 0, ""), v4.pub(0, "X", 0, "yes")), want("a", v4.pub(0, "X", 0, "yes")))},
	{n: "4.8.0-1", says: "a violation closes the connection", same: "2.2.2-2"},
	{n: "4.8.0-2", says: "a passing error closes the connection of the packet that met it", by: "TestUnsettledMessageComesAgain TestFullDisk"},
	{n: "6.0.0-1", says: "WebSocket: packets are in binary frames", na: transport},
	{n: "6.0.0-2", says: "WebSocket: packets and frames need not begin together", na: transport},
	{n: "6.0.0-3", says: "WebSocket: a client offers the subprotocol mqtt", na: clients},
	{n: "6.0.0-4", says: "WebSocket: the server chooses the subprotocol mqtt", na: transport},
	{n: "7.0.0-1", says: "a server that connects to other servers is a client too", na: "the broker connects to none; the package mqtt does, with client libraries"},
	{n: "7.0.0-2", says: "nothing beyond the standard is needed to talk to it", by: "TestMosquittoClients TestPaho"},
	{n: "7.1.1-1", says: "a server has an ordered transport without loss", by: "TestStatementsOfMQTT311 TestTLS"},
	{n: "7.1.2-1", says: "so has a client", na: clients},
}

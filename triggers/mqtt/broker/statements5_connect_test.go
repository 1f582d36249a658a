package broker_test

import (
	"bytes"
	"slices"
	"strings"
	"time"
)

// lacks wants CONNACK to have none of some properties.
func lacks(name string, o options, ids ...byte) step {
	return func(r *replay) {
		r.Helper()
		o.id, o.version = name, byte(r.d)
		c := &client{t: r.T, nc: dialRaw(r.T, r.s.Addr()), version: o.version, packets: make(chan packet, 10)}
		c.start(connectPacket(o))
		r.clients[name] = c
		for p := c.want(pConnack).body[3:]; len(p) > 0; {
			if slices.Contains(ids, p[0]) {
				r.Fatalf("CONNACK has property %d", p[0])
			}
			switch p[0] { // those that this broker sends
			case 19, 33, 34:
				p = p[3:]
			case 17, 39:
				p = p[5:]
			default:
				r.Fatalf("CONNACK has property %d, which this test does not know", p[0])
			}
		}
	}
}

// assigned wants a client id in CONNACK that is not in seen yet.
func assigned(name string, seen map[string]bool) step {
	return func(r *replay) {
		r.Helper()
		c := &client{t: r.T, nc: dialRaw(r.T, r.s.Addr()), version: 5, packets: make(chan packet, 10)}
		c.start(connectPacket(options{version: 5}))
		r.clients[name] = c
		body := c.want(pConnack).body
		_, id, ok := bytes.Cut(body, []byte{18, 0})
		if !ok || body[1] != 0 || int(id[0]) >= len(id) || id[0] == 0 {
			r.Fatalf("CONNACK %x has no assigned client id", body)
		}
		if id := string(id[1 : 1+id[0]]); seen[id] {
			r.Fatalf("client id %s was given twice", id)
		} else {
			seen[id] = true
		}
	}
}

var (
	surrogate = string([]byte{'a', 0xed, 0xa0, 0x80})
	overlong  = string([]byte{'a', 0xc0, 0xaf})
	nul       = "a\x00b"
	alnum     = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

var statements5Connect = []statement{
	{n: "1.5.4-1", says: "strings are UTF-8 with no surrogates", steps: bad(0x81,
		v5.pub(0, surrogate, 0, "x"), v5.pub(0, overlong, 0, "x"), v5.pub(0, "a\xff", 0, "x"), v5.pub(0, "a\xf4\x90\x80\x80", 0, "x"))},
	{n: "1.5.4-2", says: "strings have no U+0000", steps: bad(0x81, v5.pub(0, nul, 0, "x"), v5.sub1(1, nul, 0))},
	{n: "1.5.4-3", says: "a byte order mark is a character like others", steps: each(
		open("a", options{}), send("a", v5.sub1(1, "\ufeffx", 0)), want("a", v5.suback(1, 0)),
		send("a", v5.pub(0, "x", 0, "no"), v5.pub(0, "\ufeffx", 0, "yes")), want("a", v5.pub(0, "\ufeffx", 0, "yes")))},
	{n: "1.5.5-1", says: "variable byte integers are as short as can be", steps: bad(0x81,
		[]byte{0xc0, 0x80, 0}, []byte{0x30, 5, 0, 1, 'x', 0x80, 0}, v5.sub(1, []byte{11, 0x85, 0}, filter{"x", 0}))},
	{n: "1.5.7-1", says: "both strings of a user property are UTF-8", steps: bad(0x81,
		v5.pub(0, "x", 0, "", 38, 0, 1, 0xff, 0, 0), v5.pub(0, "x", 0, "", 38, 0, 0, 0, 1, 0xff))},
	{n: "2.1.3-1", says: "reserved flags have the listed value", steps: bad(0x81,
		[]byte{0xc1, 0}, frame(0x42, id16(1)), frame(0x52, id16(1)), frame(0x72, id16(1)))},
	{n: "2.2.1-2", says: "PUBLISH of QoS 0 has no packet id", steps: each(
		open("a", options{}), send("a", v5.sub1(1, "x", 0), v5.pub(0, "x", 0, "y")), want("a", v5.suback(1, 0), v5.pub(0, "x", 0, "y")))},
	{n: "2.2.1-3", says: "a client's packet ids are not 0", steps: bad(0x82,
		v5.pub(qos1, "x", 0, "y"), v5.pub(qos2, "x", 0, "y"), v5.sub1(0, "x", 0), v5.unsub(0, "x"),
		ack(pPuback, 0), ack(pPubrec, 0), ack(pPubrel, 0), ack(pPubcomp, 0))},
	{n: "2.2.1-4", says: "a server's packet ids are not 0 and not in use", steps: each(
		open("a", options{}), send("a", v5.sub1(1, "x", 1), v5.pub(0|qos1, "x", 9, "1"), v5.pub(qos1, "x", 8, "2")),
		want("a", v5.suback(1, 1)), unordered("a", ack(pPuback, 9), ack(pPuback, 8), v5.pub(qos1, "x", 1, "1"), v5.pub(qos1, "x", 2, "2")))},
	{n: "2.2.1-5", says: "acknowledgements have the packet id of their PUBLISH", steps: each(
		open("a", options{}), send("a", v5.pub(qos1, "x", 77, "")), want("a", ack(pPuback, 77)),
		send("a", v5.pub(qos2, "x", 78, "")), want("a", ack(pPubrec, 78)), send("a", ack(pPubrel, 78)), want("a", ack(pPubcomp, 78)))},
	{n: "2.2.1-6", says: "SUBACK and UNSUBACK have the packet id of what they answer", steps: each(
		open("a", options{}), send("a", v5.sub1(513, "x", 0), v5.unsub(514, "x")), want("a", v5.suback(513, 0), v5.unsuback(514, 0)))},
	{n: "2.2.2-1", says: "no properties are a length of 0", same: "2.2.1-2"},

	{n: "3.1.0-1", says: "the first packet is CONNECT", steps: each(
		first(pingreq, nil), first(v5.pub(0, "x", 0, "y"), nil), first(v5.sub1(1, "x", 0), nil), first([]byte{0xe0, 0}, nil), first([]byte{0, 0}, nil))},
	{n: "3.1.0-2", says: "a second CONNECT is an error of protocol", steps: bad(0x82, v5.connect(2, "bad0", nil), v4.connect(2, "other", nil))},
	{n: "3.1.2-1", says: "the protocol's name is MQTT", steps: each(
		first(frame(0x10, append(str("HTTP"), 5, 2, 0, 0, 0, 0, 1, 'a')), nil), first(frame(0x10, append(str("mqtt"), 5, 2, 0, 0, 0, 0, 1, 'a')), nil))},
	{n: "3.1.2-2", says: "a version that is not spoken ends the connection", steps: each(
		first(dialect(6).connect(2, "a", nil), []byte{0x20, 2, 0, 1}), first(frame(0x10, append(str("MQTT"), 0x84)), []byte{0x20, 2, 0, 1}))},
	{n: "3.1.2-3", says: "the reserved flag of CONNECT is 0", steps: each(refused(v5.connect(3, "a", nil), 0x81))},
	{n: "3.1.2-4", says: "clean start begins a new session", steps: each(
		open("a", keep), send("a", v5.sub1(1, "x", 1)), want("a", v5.suback(1, 1)), drop("a"),
		open("b", options{}), send("b", v5.pub(qos1, "x", 1, "")), want("b", ack(pPuback, 1)),
		open("a", options{}), send("b", v5.pub(qos1, "x", 2, "")), want("b", ack(pPuback, 2)), quiet("a"))},
	{n: "3.1.2-5", says: "a session that is there is resumed", steps: each(
		open("a", keep), send("a", v5.sub1(1, "x", 1)), want("a", v5.suback(1, 1)), drop("a"),
		open("b", options{}), send("b", v5.pub(qos1, "x", 1, "kept")), want("b", ack(pPuback, 1)),
		resume("a", keep), want("a", v5.pub(qos1, "x", 1, "kept")))},
	{n: "3.1.2-6", says: "without a session a new one is made", steps: each(open("a", keep), send("a", pingreq), want("a", pingresp))},
	{n: "3.1.2-7", says: "a will is kept with the session", by: "TestWill TestWillAndDisconnect"},
	{n: "3.1.2-8", says: "the will is published after its delay or at the session's end", by: "TestWillAndDisconnect TestWillDelayIsNotEarly"},
	{n: "3.1.2-9", says: "with the will flag all fields of a will are there", steps: each(
		refused(v5.connect(6, "a", nil), 0x81), refused(v5.connect(6, "a", nil, []byte{0}, str("w")), 0x81), refused(v5.connect(6, "a", nil, []byte{0}), 0x81))},
	{n: "3.1.2-10", says: "a will is gone once it was published", steps: each(
		open("s", options{}), send("s", v5.sub1(1, "will", 0)), want("s", v5.suback(1, 0)),
		open("a", options{will: "died"}), drop("a"), want("s", v5.pub(0, "will", 0, "died")), open("a", options{}), drop("a"), quiet("s"))},
	{n: "3.1.2-11", says: "no will, no QoS of it", steps: each(refused(v5.connect(2|1<<3, "a", nil), 0x81), refused(v5.connect(2|2<<3, "a", nil), 0x81))},
	{n: "3.1.2-12", says: "the QoS of a will is 0, 1 or 2", steps: each(
		refused(v5.connect(6|3<<3, "a", nil, []byte{0}, str("w"), str("x")), 0x81), open("q", options{will: "x", willFlags: 2 << 3}))},
	{n: "3.1.2-13", says: "no will, no retain flag of it", steps: each(refused(v5.connect(2|1<<5, "a", nil), 0x81))},
	{n: "3.1.2-14", says: "a will without the retain flag is not retained", steps: each(
		open("s", options{}), send("s", v5.sub1(1, "will", 0)), want("s", v5.suback(1, 0)),
		open("a", options{will: "died"}), drop("a"), want("s", v5.pub(0, "will", 0, "died")),
		open("late", options{}), send("late", v5.sub1(1, "will", 0)), want("late", v5.suback(1, 0)), quiet("late"))},
	{n: "3.1.2-15", says: "a will with the retain flag is retained", steps: each(
		open("s", options{}), send("s", v5.sub1(1, "will", 0)), want("s", v5.suback(1, 0)),
		open("a", options{will: "died", willFlags: 1 << 5}), drop("a"), want("s", v5.pub(0, "will", 0, "died")),
		open("late", options{}), send("late", v5.sub1(1, "will", 0)), want("late", v5.suback(1, 0), v5.pub(retained, "will", 0, "died")))},
	{n: "3.1.2-16", says: "no user name without its flag", steps: each(refused(v5.connect(2, "a", nil, str("anna")), 0x81))},
	{n: "3.1.2-17", says: "with its flag there is a user name", steps: each(refused(v5.connect(2|1<<7, "a", nil), 0x81))},
	{n: "3.1.2-18", says: "no password without its flag", steps: each(refused(v5.connect(2|1<<7, "a", nil, str("anna"), str("secret")), 0x81))},
	{n: "3.1.2-19", says: "with its flag there is a password", steps: each(refused(v5.connect(2|3<<6, "a", nil, str("anna")), 0x81))},
	{n: "3.1.2-20", says: "a silent client sends PINGREQ", na: clients},
	{n: "3.1.2-21", says: "a client goes by the server's keep-alive", na: clients},
	{n: "3.1.2-22", says: "one and a half keep-alives of silence end the connection", by: "TestKeepAlive"},
	{n: "3.1.2-23", says: "the session is kept while its expiry interval lasts", by: "TestSessionExpiryIsNotEarly"},
	{n: "3.1.2-24", says: "no packet is larger than the client takes", steps: each(
		open("a", options{props: []byte{39, 0, 0, 0, 20}}), send("a", v5.sub1(1, "x", 1)), want("a", v5.suback(1, 1)),
		send("a", v5.pub(qos1, "x", 1, strings.Repeat("y", 13)), v5.pub(qos1, "x", 2, strings.Repeat("y", 12))),
		unordered("a", ack(pPuback, 1), ack(pPuback, 2), v5.pub(qos1, "x", 2, strings.Repeat("y", 12))),
		open("b", options{props: []byte{39, 0, 0, 0, 20}}), send("b", v5.sub(1, nil, slices.Repeat([]filter{{"x", 0}}, 20)...)), closed("b", 0x95),
		first(connectPacket(options{id: "c", version: 5, props: []byte{39, 0, 0, 0, 8}}), nil))},
	{n: "3.1.2-25", says: "what is too large counts as sent", same: "3.1.2-24"},
	{n: "3.1.2-26", says: "no topic alias over the client's maximum", steps: each(
		open("a", options{props: []byte{34, 0, 2}}), send("a", v5.sub1(1, "#", 0)), want("a", v5.suback(1, 0)),
		send("a", v5.pub(0, "topic/1", 0, "1"), v5.pub(0, "topic/1", 0, "2"), v5.pub(0, "x", 0, "3"), v5.pub(0, "topic/2", 0, "4"), v5.pub(0, "topic/3", 0, "5"), v5.pub(0, "topic/2", 0, "6")),
		want("a", v5.pub(0, "topic/1", 0, "1", 35, 0, 1), v5.pub(0, "", 0, "2", 35, 0, 1), v5.pub(0, "x", 0, "3"),
			v5.pub(0, "topic/2", 0, "4", 35, 0, 2), v5.pub(0, "topic/3", 0, "5"), v5.pub(0, "", 0, "6", 35, 0, 2)))},
	{n: "3.1.2-27", says: "no topic alias for a client that takes none", steps: each(
		open("a", options{}), send("a", v5.sub1(1, "topic/1", 0), v5.pub(0, "topic/1", 0, "1"), v5.pub(0, "topic/1", 0, "2")),
		want("a", v5.suback(1, 0), v5.pub(0, "topic/1", 0, "1"), v5.pub(0, "topic/1", 0, "2")))},
	{n: "3.1.2-28", says: "no response information that was not asked for", steps: each(
		lacks("a", options{props: []byte{25, 0}}, 26), lacks("b", options{}, 26))},
	{n: "3.1.2-29", says: "no reason string that the client does not want", steps: each(
		open("a", options{props: []byte{23, 0}}), send("a", v5.pub(qos1, "$SYS/x", 1, ""), v5.sub1(2, "a#", 0), v5.unsub(3, "x")),
		want("a", ack(pPuback, 1, 0x87), v5.suback(2, 0x8f), v5.unsuback(3, 0x11)))},
	{n: "3.1.2-30", says: "a client that authenticates by a method waits for CONNACK", na: clients},
	{n: "3.1.3-1", says: "the fields come in their order", steps: each(
		open("s", options{}), send("s", v5.sub1(1, "w", 0)), want("s", v5.suback(1, 0)),
		func(r *replay) {
			c := &client{t: r.T, nc: dialRaw(r.T, r.s.Addr()), version: 5, packets: make(chan packet, 10)}
			c.start(v5.connect(0xc6, "all", nil, []byte{0}, str("w"), str("x"), str("anna"), str("secret")))
			if p := c.want(pConnack); p.body[1] != 0 {
				r.Fatalf("CONNACK code %#x", p.body[1])
			}
			r.clients["all"] = c
		}, drop("all"), want("s", v5.pub(0, "w", 0, "x")))},
	{n: "3.1.3-2", says: "the client id is what a session is known by", steps: each(open("a", keep), drop("a"), open("b", keep), resume("a", keep))},
	{n: "3.1.3-3", says: "the client id is the first field and is there", steps: each(
		refused(frame(0x10, append(str("MQTT"), 5, 2, 0, 0, 0)), 0x81), refused(frame(0x10, append(str("MQTT"), 5, 2, 0, 0, 0, 0, 3, 'a')), 0x81))},
	{n: "3.1.3-4", says: "the client id is UTF-8", steps: each(refused(v5.connect(2, surrogate, nil), 0x85), refused(v5.connect(2, nul, nil), 0x85))},
	{n: "3.1.3-5", says: "1 to 23 letters and digits are a client id", steps: each(
		open(alnum[:23], options{}), open(alnum[23:46], options{}), open(alnum[46:], options{}), open("z", options{}))},
	{n: "3.1.3-6", says: "an empty client id gets one", steps: func() []step {
		seen := map[string]bool{}
		return each(assigned("a", seen), assigned("b", seen), send("a", pingreq), want("a", pingresp), send("b", pingreq), want("b", pingresp))
	}()},
	{n: "3.1.3-7", says: "the id that it gets is told", same: "3.1.3-6"},
	{n: "3.1.3-8", says: "a client id that is not taken ends the connection", steps: each(refused(v5.connect(2, strings.Repeat("x", 1025), nil), 0x85))},
	{n: "3.1.3-9", says: "no will once its client is back within the delay", steps: each(
		open("s", options{}), send("s", v5.sub1(1, "will", 0)), want("s", v5.suback(1, 0)),
		open("a", options{keep: true, props: keep.props, will: "died", willProps: []byte{24, 0, 0, 0, 5}}), drop("a"), resume("a", keep),
		wait(10*time.Second), sweeps, quiet("s"))},
	{n: "3.1.3-10", says: "user properties of a will keep their order", steps: each(
		open("s", options{}), send("s", v5.sub1(1, "will", 0)), want("s", v5.suback(1, 0)),
		open("a", options{will: "died", willProps: []byte("\x26\x00\x01b\x00\x012\x26\x00\x01a\x00\x011\x26\x00\x01b\x00\x011")}), drop("a"),
		want("s", v5.pub(0, "will", 0, "died", []byte("\x26\x00\x01b\x00\x012\x26\x00\x01a\x00\x011\x26\x00\x01b\x00\x011")...)))},
	{n: "3.1.3-11", says: "the topic of a will is UTF-8", steps: each(
		refused(v5.connect(6, "a", nil, []byte{0}, str(surrogate), str("x")), 0x81), refused(v5.connect(6, "a", nil, []byte{0}, str(nul), str("x")), 0x81))},
	{n: "3.1.3-12", says: "the user name is UTF-8", steps: each(
		refused(v5.connect(2|1<<7, "a", nil, str(surrogate)), 0x81), refused(v5.connect(2|1<<7, "a", nil, str(nul)), 0x81))},
	{n: "3.1.4-1", says: "a CONNECT of another form ends the connection", steps: each(
		refused(v5.connect(2, "a", []byte{17, 0, 0}), 0x81), refused(v5.connect(2, "a", []byte{1, 0}), 0x81), refused(v5.connect(2, "a", nil, []byte{9}), 0x81),
		first(frame(0x10, str("MQTT")), nil), first(frame(0x11, append(str("MQTT"), 5, 2, 0, 0, 0, 0, 1, 'a')), nil))},
	{n: "3.1.4-2", says: "who may not connect is disconnected", by: "TestAuthentication"},
	{n: "3.1.4-3", says: "an older connection of the client id ends, and is told so", steps: each(
		open("a", options{}), func(r *replay) { r.clients["old"] = r.clients["a"] }, open("a", options{}), closed("old", 0x8e))},
	{n: "3.1.4-4", says: "clean start is heeded", same: "3.1.2-4"},
	{n: "3.1.4-5", says: "a CONNECT that is taken gets CONNACK 0", same: "3.1.2-6"},
	{n: "3.1.4-6", says: "nothing after a refused CONNECT is processed", steps: each(
		open("s", options{}), send("s", v5.sub1(1, "x", 0)), want("s", v5.suback(1, 0)),
		refused(append(v5.connect(3, "a", nil), v5.pub(0, "x", 0, "no")...), 0x81), quiet("s"))},

	{n: "3.2.0-1", says: "CONNACK comes first", same: "3.1.2-5"},
	{n: "3.2.0-2", says: "there is one CONNACK", same: "3.1.0-2"},
	{n: "3.2.2-1", says: "reserved flags of CONNACK are 0", same: "3.1.4-1"},
	{n: "3.2.2-2", says: "clean start: no session present", same: "3.1.2-4"},
	{n: "3.2.2-3", says: "session present tells whether there was one", same: "3.1.3-2"},
	{n: "3.2.2-4", says: "a client with no session that hears of one disconnects", na: clients},
	{n: "3.2.2-5", says: "a client discards a session that the server does not have", na: clients},
	{n: "3.2.2-6", says: "a refusal says no session", steps: each(
		open("a", keep), drop("a"), refused(v5.connect(4, "a", keep.props, []byte{0}, str("a/#"), str("x")), 0x90))},
	{n: "3.2.2-7", says: "a refusal ends the connection", same: "3.1.3-8"},
	{n: "3.2.2-8", says: "CONNACK has a code of its list", same: "3.1.4-1"},
	{n: "3.2.2-9", says: "a server of less than QoS 2 says so", na: "the broker has QoS 2"},
	{n: "3.2.2-10", says: "a server of less than QoS 2 still takes subscriptions of it", na: "the broker has QoS 2"},
	{n: "3.2.2-11", says: "a client publishes with no more than the maximum QoS", na: clients},
	{n: "3.2.2-12", says: "a will of a QoS that is not there is refused", na: "the broker has QoS 2"},
	{n: "3.2.2-13", says: "a retained will is refused where nothing is retained", na: "the broker retains"},
	{n: "3.2.2-14", says: "a client does not retain where nothing is retained", na: clients},
	{n: "3.2.2-15", says: "a packet over the maximum size is an error", by: "TestTooLargePacketIsRefused"},
	{n: "3.2.2-16", says: "an assigned client id is told and is new", same: "3.1.3-6"},
	{n: "3.2.2-17", says: "a client keeps to the maximum of topic aliases", na: clients + "; what the broker does is 3.3.2-9"},
	{n: "3.2.2-18", says: "a client uses no alias where none is taken", na: clients},
	{n: "3.2.2-19", says: "no reason string that makes CONNACK too large", na: noReason},
	{n: "3.2.2-20", says: "no user property that makes CONNACK too large", na: noUser},
	{n: "3.2.2-21", says: "a client goes by the server's keep-alive", na: clients},
	{n: "3.2.2-22", says: "without a keep-alive of the server the client's counts", na: "the broker always sends its own; that it keeps to it is shown by TestKeepAlive"},
}

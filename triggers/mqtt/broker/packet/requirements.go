package packet

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Checker is the part of the broker that checks a requirement.
type Checker string

// The parts that check.
const (
	Header     Checker = "header"     // the first bytes, in this package
	Layout     Checker = "layout"     // where fields begin and end, in this package
	Codec      Checker = "codec"      // mochi-mqtt's decoders
	Table      Checker = "table"      // the functions of the table of requirements
	Connection Checker = "connection" // what depends on more than one packet
)

// Requirement is one thing that a server must check on packets.
type Requirement struct {
	V5   string // its number in MQTT 5, such as "MQTT-3.1.2-3", or the section where it has none; empty: not in MQTT 5
	V311 string // its number in MQTT 3.1.1
	What string // what a packet must not be
	By   Checker
	Code packets.Code // what an MQTT 5 client is told

	in    []byte // packet types; nil: not of one type
	fails func(v *view) bool
}

// Requirements returns the table.
func Requirements() []Requirement { return slices.Clone(table) }

// number is the requirement's number in a version.
func (r *Requirement) number(version byte) string {
	if version == V5 {
		return r.V5
	}
	return r.V311
}

// check holds a packet against the functions of the table.
func (v *view) check() error {
	for _, r := range byType[v.FixedHeader.Type] {
		if number := r.number(v.ProtocolVersion); number != "" && r.fails(v) {
			if !strings.HasPrefix(number, "MQTT-") {
				number = "" // of a section
			}
			return &Error{Code: r.Code.Code, Number: number, Text: name(v.FixedHeader.Type) + ": " + r.What}
		}
	}
	return nil
}

// byType has the table's functions by packet type.
var byType = func() (out [16][]*Requirement) {
	for i := range table {
		for _, kind := range table[i].in {
			out[kind] = append(out[kind], &table[i])
		}
	}
	return out
}()

var (
	connects     = []byte{packets.Connect}
	publishes    = []byte{packets.Publish}
	subscribes   = []byte{packets.Subscribe}
	unsubscribes = []byte{packets.Unsubscribe}
	withID       = []byte{packets.Puback, packets.Pubrec, packets.Pubrel, packets.Pubcomp, packets.Subscribe, packets.Unsubscribe}
)

var table = []Requirement{
	// 1.5 Data representation
	{V5: "MQTT-1.5.4-1", V311: "MQTT-1.5.3-1", What: "string that is no UTF-8, or has surrogates", By: Codec, Code: packets.ErrMalformedPacket},
	{V5: "MQTT-1.5.4-2", V311: "MQTT-1.5.3-2", What: "string with U+0000", By: Codec, Code: packets.ErrMalformedPacket},
	{V5: "MQTT-1.5.5-1", What: "variable byte integer that could be shorter", By: Layout, Code: packets.ErrMalformedPacket},
	{V5: "MQTT-1.5.7-1", What: "user property that is no UTF-8", By: Codec, Code: packets.ErrMalformedPacket},

	// 2 Format of packets
	{V5: "MQTT-2.1.3-1", V311: "MQTT-2.2.2-2", What: "reserved flags are wrong", By: Header, Code: packets.ErrMalformedPacket},
	{
		V5: "MQTT-2.2.1-3", V311: "MQTT-2.3.1-1", What: "packet id 0", By: Table, Code: packets.ErrProtocolViolation,
		in: append(slices.Clone(withID), packets.Publish),
		fails: func(v *view) bool {
			return v.PacketID == 0 && (v.FixedHeader.Type != packets.Publish || v.FixedHeader.Qos > 0)
		},
	},
	{V5: "2.2.2.1", What: "properties that do not fit their packet", By: Layout, Code: packets.ErrMalformedPacket},
	{V5: "2.2.2.2", What: "property that this packet does not have", By: Codec, Code: packets.ErrMalformedPacket},
	{
		V5: "2.2.2.2", What: "property more than once", By: Table, Code: packets.ErrProtocolViolation,
		in: []byte{
			packets.Connect, packets.Publish, packets.Puback, packets.Pubrec, packets.Pubrel, packets.Pubcomp,
			packets.Subscribe, packets.Unsubscribe, packets.Disconnect, packets.Auth,
		},
		fails: func(v *view) bool { return v.props.twice != 0 || v.will.twice != 0 },
	},
	{
		V5: "2", V311: "2", What: "bytes after the last field", By: Table, Code: packets.ErrMalformedPacket,
		in: []byte{
			packets.Puback, packets.Pubrec, packets.Pubrel, packets.Pubcomp, packets.Pingreq, packets.Disconnect, packets.Auth,
		},
		fails: func(v *view) bool { return len(v.rest) > 0 },
	},

	// 3.1 CONNECT
	{V5: "MQTT-3.1.0-1", V311: "MQTT-3.1.0-1", What: "another packet before CONNECT", By: Connection, Code: packets.ErrProtocolViolation},
	{V5: "MQTT-3.1.0-2", V311: "MQTT-3.1.0-2", What: "second CONNECT", By: Layout, Code: packets.ErrProtocolViolation},
	{V5: "MQTT-3.1.2-1", V311: "MQTT-3.1.2-1", What: "another protocol's name", By: Layout, Code: packets.ErrProtocolViolation},
	{V5: "MQTT-3.1.2-2", V311: "MQTT-3.1.2-2", What: "version that is not spoken", By: Layout, Code: packets.ErrUnsupportedProtocolVersion},
	{
		V5: "MQTT-3.1.2-3", V311: "MQTT-3.1.2-3", What: "reserved flag is set", By: Table, Code: packets.ErrMalformedPacket,
		in: connects, fails: func(v *view) bool { return v.ReservedBit != 0 },
	},
	{
		V5: "MQTT-3.1.2-11", V311: "MQTT-3.1.2-13", What: "QoS of a will that is not there", By: Table, Code: packets.ErrMalformedPacket,
		in: connects, fails: func(v *view) bool { return !v.Connect.WillFlag && v.Connect.WillQos != 0 },
	},
	{
		V5: "MQTT-3.1.2-12", V311: "MQTT-3.1.2-14", What: "will of QoS 3", By: Table, Code: packets.ErrMalformedPacket,
		in: connects, fails: func(v *view) bool { return v.Connect.WillQos > 2 },
	},
	{
		V5: "MQTT-3.1.2-13", V311: "MQTT-3.1.2-15", What: "retain flag of a will that is not there", By: Table, Code: packets.ErrMalformedPacket,
		in: connects, fails: func(v *view) bool { return !v.Connect.WillFlag && v.Connect.WillRetain },
	},
	{V5: "MQTT-3.1.2-9", V311: "MQTT-3.1.2-9", What: "will flag and no will", By: Layout, Code: packets.ErrMalformedPacket},
	{V5: "MQTT-3.1.2-17", V311: "MQTT-3.1.2-19", What: "user name flag and no user name", By: Layout, Code: packets.ErrMalformedPacket},
	{V5: "MQTT-3.1.2-19", V311: "MQTT-3.1.2-21", What: "password flag and no password", By: Layout, Code: packets.ErrMalformedPacket},
	{
		// A user name that is there without its flag is what follows the last field.
		V5: "MQTT-3.1.2-16", V311: "MQTT-3.1.2-18", What: "fields that no flag announces", By: Table, Code: packets.ErrMalformedPacket,
		in: connects, fails: func(v *view) bool { return len(v.rest) > 0 },
	},
	{
		V311: "MQTT-3.1.2-22", What: "password and no user name", By: Table, Code: packets.ErrMalformedPacket,
		in: connects, fails: func(v *view) bool { return v.Connect.PasswordFlag && !v.Connect.UsernameFlag },
	},
	{
		V5: "3.1.2.11.3", What: "receive maximum 0", By: Table, Code: packets.ErrProtocolViolation,
		in: connects, fails: func(v *view) bool { return v.props.has(packets.PropReceiveMaximum) && v.Properties.ReceiveMaximum == 0 },
	},
	{
		V5: "3.1.2.11.4", What: "maximum packet size 0", By: Table, Code: packets.ErrProtocolViolation,
		in: connects, fails: func(v *view) bool {
			return v.props.has(packets.PropMaximumPacketSize) && v.Properties.MaximumPacketSize == 0
		},
	},
	{
		V5: "3.1.2.11.6", What: "request response information is neither 0 nor 1", By: Table, Code: packets.ErrProtocolViolation,
		in: connects, fails: func(v *view) bool { return v.Properties.RequestResponseInfo > 1 },
	},
	{
		V5: "3.1.2.11.7", What: "request problem information is neither 0 nor 1", By: Table, Code: packets.ErrProtocolViolation,
		in: connects, fails: func(v *view) bool { return v.Properties.RequestProblemInfo > 1 },
	},
	{
		V5: "3.1.2.11.10", What: "authentication data and no method", By: Table, Code: packets.ErrProtocolViolation,
		in: connects, fails: func(v *view) bool {
			return v.props.has(packets.PropAuthenticationData) && !v.props.has(packets.PropAuthenticationMethod)
		},
	},
	{V5: "MQTT-3.1.2-22", V311: "MQTT-3.1.2-24", What: "silence for more than one and a half keep-alives", By: Connection, Code: packets.ErrKeepAliveTimeout},
	{V5: "MQTT-3.1.3-4", V311: "MQTT-3.1.3-4", What: "client id that is no UTF-8", By: Codec, Code: packets.ErrClientIdentifierNotValid},
	{V5: "MQTT-3.1.3-8", V311: "MQTT-3.1.3-8", What: "client id that is not taken", By: Connection, Code: packets.ErrClientIdentifierNotValid},
	{V5: "MQTT-3.1.3-11", V311: "MQTT-3.1.3-10", What: "topic of the will is no UTF-8", By: Codec, Code: packets.ErrMalformedPacket},
	{
		V5: "MQTT-3.1.3-12", V311: "MQTT-3.1.3-11", What: "user name is no UTF-8 or has U+0000", By: Table, Code: packets.ErrMalformedPacket,
		in: connects, fails: func(v *view) bool {
			return !utf8.Valid(v.Connect.Username) || slices.Contains(v.Connect.Username, 0)
		},
	},
	{
		V5: "3.1.3.2.3", What: "payload format of the will is neither 0 nor 1", By: Table, Code: packets.ErrProtocolViolation,
		in: connects, fails: func(v *view) bool { return v.Connect.WillProperties.PayloadFormat > 1 },
	},
	{
		V5: "3.1.3.2.6", What: "response topic of the will is none", By: Table, Code: packets.ErrProtocolViolation,
		in: connects, fails: func(v *view) bool { return noResponseTopic(v.will, &v.Connect.WillProperties) },
	},
	{V5: "MQTT-4.7.0-1", V311: "MQTT-4.7.1-1", What: "topic of the will is none", By: Connection, Code: packets.ErrTopicNameInvalid},
	{V5: "MQTT-4.12.0-1", What: "authentication method that is not there", By: Connection, Code: packets.ErrBadAuthenticationMethod},

	// 3.3 PUBLISH
	{V5: "MQTT-3.3.1-2", V311: "MQTT-3.3.1-2", What: "DUP and QoS 0", By: Header, Code: packets.ErrMalformedPacket},
	{V5: "MQTT-3.3.1-4", V311: "MQTT-3.3.1-4", What: "QoS 3", By: Header, Code: packets.ErrMalformedPacket},
	{V5: "MQTT-3.3.2-1", V311: "MQTT-3.3.2-1", What: "topic is no UTF-8", By: Codec, Code: packets.ErrMalformedPacket},
	{
		V5: "MQTT-3.3.2-2", V311: "MQTT-3.3.2-2", What: "topic with a wildcard", By: Table, Code: packets.ErrTopicNameInvalid,
		in: publishes, fails: func(v *view) bool { return strings.ContainsAny(v.TopicName, "+#") },
	},
	{
		V5: "MQTT-3.3.2-8", What: "topic alias 0", By: Table, Code: packets.ErrTopicAliasInvalid,
		in: publishes, fails: func(v *view) bool { return v.Properties.TopicAliasFlag && v.Properties.TopicAlias == 0 },
	},
	{V5: "MQTT-3.3.2-9", What: "topic alias over the maximum", By: Connection, Code: packets.ErrTopicAliasInvalid},
	{V5: "3.3.4", What: "topic alias that was not set", By: Connection, Code: packets.ErrProtocolViolation},
	{
		V5: "MQTT-4.7.3-1", V311: "MQTT-4.7.3-1", What: "no topic", By: Table, Code: packets.ErrProtocolViolation,
		in: publishes, fails: func(v *view) bool { return v.TopicName == "" && !v.Properties.TopicAliasFlag },
	},
	{
		V5: "3.3.2.3.2", What: "payload format is neither 0 nor 1", By: Table, Code: packets.ErrProtocolViolation,
		in: publishes, fails: func(v *view) bool { return v.Properties.PayloadFormat > 1 },
	},
	{V5: "MQTT-3.3.2-13", What: "response topic is no UTF-8", By: Codec, Code: packets.ErrMalformedPacket},
	{
		V5: "MQTT-3.3.2-14", What: "response topic is none", By: Table, Code: packets.ErrProtocolViolation,
		in: publishes, fails: func(v *view) bool { return noResponseTopic(v.props, &v.Properties) },
	},
	{V5: "MQTT-3.3.2-19", What: "content type is no UTF-8", By: Codec, Code: packets.ErrMalformedPacket},
	{
		V5: "MQTT-3.3.4-6", What: "subscription identifier", By: Table, Code: packets.ErrProtocolViolation,
		in: publishes, fails: func(v *view) bool { return v.props.has(packets.PropSubscriptionIdentifier) },
	},
	{V5: "MQTT-3.3.4-7", What: "more messages than the receive maximum", By: Connection, Code: packets.ErrReceiveMaximum},

	// 3.4 to 3.7 Acknowledgements
	{
		V5: "MQTT-3.4.2-1", What: "reason code that PUBACK does not have", By: Table, Code: packets.ErrProtocolViolation,
		in: []byte{packets.Puback}, fails: func(v *view) bool { return !reasons.puback[v.ReasonCode] },
	},
	{
		V5: "MQTT-3.5.2-1", What: "reason code that PUBREC does not have", By: Table, Code: packets.ErrProtocolViolation,
		in: []byte{packets.Pubrec}, fails: func(v *view) bool { return !reasons.puback[v.ReasonCode] },
	},
	{V5: "MQTT-3.6.1-1", V311: "MQTT-3.6.1-1", What: "reserved flags of PUBREL are wrong", By: Header, Code: packets.ErrMalformedPacket},
	{
		V5: "MQTT-3.6.2-1", What: "reason code that PUBREL does not have", By: Table, Code: packets.ErrProtocolViolation,
		in: []byte{packets.Pubrel}, fails: func(v *view) bool { return !reasons.pubrel[v.ReasonCode] },
	},
	{
		V5: "MQTT-3.7.2-1", What: "reason code that PUBCOMP does not have", By: Table, Code: packets.ErrProtocolViolation,
		in: []byte{packets.Pubcomp}, fails: func(v *view) bool { return !reasons.pubrel[v.ReasonCode] },
	},

	// 3.8 SUBSCRIBE, 3.10 UNSUBSCRIBE
	{V5: "MQTT-3.8.1-1", V311: "MQTT-3.8.1-1", What: "reserved flags of SUBSCRIBE are wrong", By: Header, Code: packets.ErrMalformedPacket},
	{V5: "MQTT-3.8.3-1", V311: "MQTT-3.8.3-1", What: "topic filter is no UTF-8", By: Codec, Code: packets.ErrMalformedPacket},
	{
		V5: "MQTT-3.8.3-2", V311: "MQTT-3.8.3-3", What: "no topic filter", By: Table, Code: packets.ErrProtocolViolation,
		in: subscribes, fails: func(v *view) bool { return len(v.Filters) == 0 },
	},
	{V5: "3.8.3.1", V311: "MQTT-3-8.3-4", What: "subscription of QoS 3", By: Codec, Code: packets.ErrProtocolViolation},
	{
		V5: "MQTT-3.8.3-4", What: "no local and a shared subscription", By: Table, Code: packets.ErrProtocolViolation,
		in: subscribes, fails: func(v *view) bool {
			return slices.ContainsFunc(v.Filters, func(s packets.Subscription) bool {
				return s.NoLocal && strings.HasPrefix(s.Filter, "$share/")
			})
		},
	},
	{
		V5: "MQTT-3.8.3-5", V311: "MQTT-3-8.3-4", What: "reserved bits of a subscription's options are set", By: Table, Code: packets.ErrMalformedPacket,
		in: subscribes, fails: func(v *view) bool {
			reserved := byte(0xc0)
			if v.ProtocolVersion < V5 {
				reserved = 0xfc
			}
			return slices.ContainsFunc(v.options, func(o byte) bool { return o&reserved != 0 })
		},
	},
	{
		V5: "3.8.3.1", What: "retain handling 3", By: Table, Code: packets.ErrProtocolViolation,
		in: subscribes, fails: func(v *view) bool {
			return slices.ContainsFunc(v.options, func(o byte) bool { return o&0x30 == 0x30 })
		},
	},
	{
		V5: "3.8.2.1.2", What: "subscription identifier 0", By: Table, Code: packets.ErrProtocolViolation,
		in: subscribes, fails: func(v *view) bool { return slices.Contains(v.Properties.SubscriptionIdentifier, 0) },
	},
	{V5: "MQTT-4.7.1-1", V311: "MQTT-4.7.1-2", What: "topic filter that is none", By: Connection, Code: packets.ErrTopicFilterInvalid},
	{V5: "MQTT-3.10.1-1", V311: "MQTT-3.10.1-1", What: "reserved flags of UNSUBSCRIBE are wrong", By: Header, Code: packets.ErrMalformedPacket},
	{V5: "MQTT-3.10.3-1", V311: "MQTT-3.10.3-1", What: "topic filter is no UTF-8", By: Codec, Code: packets.ErrMalformedPacket},
	{
		V5: "MQTT-3.10.3-2", V311: "MQTT-3.10.3-2", What: "no topic filter", By: Table, Code: packets.ErrProtocolViolation,
		in: unsubscribes, fails: func(v *view) bool { return len(v.Filters) == 0 },
	},

	// 3.14 DISCONNECT, 3.15 AUTH
	{V5: "MQTT-3.14.1-1", V311: "MQTT-3.14.1-1", What: "reserved flags of DISCONNECT are wrong", By: Header, Code: packets.ErrMalformedPacket},
	{
		V5: "MQTT-3.14.2-1", What: "reason code that a client's DISCONNECT does not have", By: Table, Code: packets.ErrProtocolViolation,
		in: []byte{packets.Disconnect}, fails: func(v *view) bool { return !reasons.disconnect[v.ReasonCode] },
	},
	{V5: "3.14.2.2.2", What: "session expiry after CONNECT asked for none", By: Connection, Code: packets.ErrProtocolViolation},
	{V5: "3.14.2.2.5", What: "server reference of a client", By: Layout, Code: packets.ErrProtocolViolation},
	{V5: "MQTT-3.15.1-1", What: "reserved flags of AUTH are wrong", By: Header, Code: packets.ErrMalformedPacket},
	{
		// No CONNECT with a method is taken, so every AUTH is one too many.
		V5: "MQTT-4.12.0-7", What: "AUTH and no authentication method in CONNECT", By: Table, Code: packets.ErrProtocolViolation,
		in: []byte{packets.Auth}, fails: func(*view) bool { return true },
	},
	{V5: "2.1.2", V311: "2.2.1", What: "packet that only a server sends", By: Header, Code: packets.ErrProtocolViolation},
	{V5: "MQTT-3.2.2-15", What: "packet over the maximum size", By: Header, Code: packets.ErrPacketTooLarge},
}

func noResponseTopic(s section, p *packets.Properties) bool {
	return s.has(packets.PropResponseTopic) && (p.ResponseTopic == "" || strings.ContainsAny(p.ResponseTopic, "+#"))
}

// codes is a set of reason codes.
type codes map[byte]bool

func set(list ...packets.Code) codes {
	out := codes{}
	for _, c := range list {
		out[c.Code] = true
	}
	return out
}

// reasons are the codes that a client may send.
var reasons = struct{ puback, pubrel, disconnect codes }{
	puback: set( // and PUBREC
		packets.CodeSuccess, packets.CodeNoMatchingSubscribers, packets.ErrUnspecifiedError, packets.ErrImplementationSpecificError,
		packets.ErrNotAuthorized, packets.ErrTopicNameInvalid, packets.ErrPacketIdentifierInUse, packets.ErrQuotaExceeded,
		packets.ErrPayloadFormatInvalid,
	),
	pubrel: set(packets.CodeSuccess, packets.ErrPacketIdentifierNotFound), // and PUBCOMP
	disconnect: set(
		packets.CodeDisconnect, packets.CodeDisconnectWillMessage, packets.ErrUnspecifiedError, packets.ErrMalformedPacket,
		packets.ErrProtocolViolation, packets.ErrImplementationSpecificError, packets.ErrTopicNameInvalid, packets.ErrReceiveMaximum,
		packets.ErrTopicAliasInvalid, packets.ErrPacketTooLarge, packets.ErrMessageRateTooHigh, packets.ErrQuotaExceeded,
		packets.ErrAdministrativeAction, packets.ErrPayloadFormatInvalid,
	),
}

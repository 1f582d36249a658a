package broker

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/triggers/mqtt/broker/access"
	"github.com/edgefn/edgefn/triggers/mqtt/broker/packet"
)

// connect reads CONNECT, checks it and takes the session. When ok is false the
// client has its answer; c.s is set once the session was taken.
func (c *conn) connect() (present, ok bool) {
	pk, err := packet.Read(c.br, 0, maxConnectPacket)
	c.version = pk.ProtocolVersion
	if err != nil {
		c.refuseMalformed(err)
		return false, false
	}
	if pk.FixedHeader.Type != packets.Connect {
		return false, false // [MQTT-3.1.0-1]
	}
	p := &pk.Connect
	c.setLimits(&pk)
	if pk.Properties.AuthenticationMethod != "" {
		c.refuse(packets.ErrBadAuthenticationMethod)
		return false, false
	}
	id := p.ClientIdentifier
	if len(id) > maxClientID || (id == "" && c.version < mqtt5 && !p.Clean) { // [MQTT-3.1.3-8]
		c.refuse(packets.ErrClientIdentifierNotValid)
		return false, false
	}
	if p.WillFlag && !c.setWill(p) {
		c.refuse(packets.ErrTopicNameInvalid)
		return false, false
	}
	id = c.clientID(id)
	if code := c.authenticate(p, id); code != packets.CodeSuccess {
		c.refuse(code)
		return false, false
	}
	present, code := c.b.attach(c, id, p.Clean, c.expiry)
	if code != packets.CodeSuccess {
		c.refuse(code)
		return false, false
	}
	return present, true
}

func (c *conn) clientID(id string) string {
	if c.assigned = id == ""; c.assigned {
		return randomID()
	}
	return strings.Clone(id) // not the packet's memory
}

// authenticate finds out who the client is, and whether it may have its will.
func (c *conn) authenticate(p *packets.ConnectParams, id string) packets.Code {
	who, err := c.login(access.Login{ClientID: id, User: string(p.Username), Password: p.Password})
	switch {
	case errors.Is(err, access.ErrBusy):
		c.notLetIn(id, slog.LevelInfo, err)
		return packets.ErrServerBusy
	case err != nil:
		c.notLetIn(id, slog.LevelWarn, err)
		return packets.ErrBadUsernameOrPassword
	case c.will != nil && !who.MayPublish(c.will.m.Topic):
		c.notLetIn(id, slog.LevelWarn, fmt.Errorf("its will goes to topic %q, which it may not publish to", shorten(c.will.m.Topic)))
		return packets.ErrNotAuthorized
	}
	c.who, c.since = who, c.b.cfg.Clock()
	return packets.CodeSuccess
}

func (c *conn) setWill(p *packets.ConnectParams) bool {
	if functions.CheckTopic(p.WillTopic) != nil || reserved(p.WillTopic) {
		return false
	}
	m := &message{Topic: p.WillTopic, Payload: p.WillPayload, QoS: p.WillQos, Retain: p.WillRetain}
	m.origin = p.ClientIdentifier
	c.will = &will{m: m}
	if c.version == mqtt5 {
		m.setProperties(&p.WillProperties)
		m.Lifetime = p.WillProperties.MessageExpiryInterval
		c.will.delay = int64(p.WillProperties.WillDelayInterval)
	}
	return true
}

// setLimits takes over what CONNECT asks for, within the broker's bounds.
func (c *conn) setLimits(pk *packets.Packet) {
	keepAlive := pk.Connect.Keepalive
	c.window = sendMaximum
	if c.version == mqtt5 {
		p := &pk.Properties
		c.expiry = int64(p.SessionExpiryInterval)
		if p.ReceiveMaximum > 0 {
			c.window = min(c.window, int(p.ReceiveMaximum))
		}
		c.maxSize = int(p.MaximumPacketSize)
		c.maxAlias = min(maxAliases, int(p.TopicAliasMaximum))
		if keepAlive == 0 || keepAlive > maxKeepAlive {
			keepAlive = maxKeepAlive
		}
	} else if !pk.Connect.Clean {
		c.expiry = c.b.maxExpiry()
	}
	c.keepAlive = time.Duration(keepAlive) * time.Second
}

func (c *conn) connack(present bool) packets.Packet {
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connack}, SessionPresent: present}
	if c.version != mqtt5 {
		return pk
	}
	p := &pk.Properties
	p.ReceiveMaximum, p.MaximumPacketSize, p.TopicAliasMaximum = receiveMaximum, uint32(c.b.cfg.MaxPacket), maxAliases
	p.ServerKeepAlive, p.ServerKeepAliveFlag = uint16(c.keepAlive/time.Second), true
	if c.expiry > c.b.maxExpiry() {
		p.SessionExpiryInterval, p.SessionExpiryIntervalFlag = uint32(c.b.maxExpiry()), true
	}
	if c.assigned {
		p.AssignedClientID = c.s.id // [MQTT-3.2.2-16]
	}
	return pk
}

// refuseMalformed answers a first packet that is no CONNECT of ours. MQTT 5 has
// a code for each fault; before it only a version that is not spoken has one
// [MQTT-3.1.4-1].
func (c *conn) refuseMalformed(err error) {
	var pe *packet.Error
	if !errors.As(err, &pe) {
		return
	}
	c.b.cfg.Logger.Info("mqtt connection refused for an error of protocol", keyRemote, c.nc.RemoteAddr().String(), keyErr, err)
	switch {
	case pe.Code == packets.ErrUnsupportedProtocolVersion.Code:
		c.version = mqtt311
		c.refuse(packets.ErrUnsupportedProtocolVersion) // [MQTT-3.1.2-2]
	case c.version == mqtt5:
		c.refuse(packets.Code{Code: pe.Code})
	}
}

// refuse answers CONNECT with an error.
func (c *conn) refuse(code packets.Code) {
	pk := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Connack}, ProtocolVersion: c.version, ReasonCode: code.Code,
	}
	if code == packets.ErrServerShuttingDown { // which CONNACK does not have
		pk.ReasonCode = packets.ErrServerUnavailable.Code
	}
	if c.version != mqtt5 {
		switch code.Code {
		case packets.ErrUnsupportedProtocolVersion.Code:
			pk.ReasonCode = 1
		case packets.ErrClientIdentifierNotValid.Code:
			pk.ReasonCode = 2
		case packets.ErrServerBusy.Code, packets.ErrQuotaExceeded.Code, packets.ErrServerUnavailable.Code, packets.ErrServerShuttingDown.Code:
			pk.ReasonCode = 3
		case packets.ErrBadUsernameOrPassword.Code, packets.ErrNotAuthorized.Code:
			pk.ReasonCode = 5 // not authorized: 4 is for malformed ones
		default:
			return // no code for it: the connection is closed
		}
	}
	data := packet.Encode(pk)
	if c.maxSize > 0 && len(data) > c.maxSize { // [MQTT-3.1.2-24]
		return
	}
	_, err := c.nc.Write(data)
	c.refused = err == nil
}

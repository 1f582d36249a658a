package mqtt

import (
	"fmt"
	"strings"

	packets5 "github.com/eclipse/paho.golang/packets"
)

// maxWords bounds, in bytes, what is kept of a broker's own words.
const maxWords = 256

// reasoner is a packet of MQTT 5 with a reason code.
type reasoner interface{ Reason() string }

// words says a reason code as the standard does, and what the broker added.
func words(p reasoner, added string) string {
	var code byte
	switch p := p.(type) {
	case *packets5.Connack:
		code = p.ReasonCode
	case *packets5.Puback:
		code = p.ReasonCode
	case *packets5.Pubrec:
		code = p.ReasonCode
	case *packets5.Disconnect:
		code = p.ReasonCode
	}
	text := fmt.Sprintf("0x%02x", code)
	if s := strings.TrimSuffix(p.Reason(), "."); s != "" {
		text += ", " + s
	}
	return text + said(added)
}

// said is what a broker added in its own words, if anything.
func said(words string) string {
	if words == "" {
		return ""
	}
	return fmt.Sprintf(" (%.*q)", maxWords, words)
}

// disconnectError is a broker's DISCONNECT.
type disconnectError struct {
	code byte
	text string
}

func (e *disconnectError) Error() string {
	return "the broker ended the connection: " + e.text
}

// refusal reports whether the reason is about a message and nothing else. One
// that was alone on its connection is refused then.
func (e *disconnectError) refusal() bool {
	switch e.code {
	case packets5.DisconnectPacketTooLarge, packets5.DisconnectTopicNameInvalid, packets5.DisconnectPayloadFormatInvalid,
		packets5.DisconnectRetainNotSupported, packets5.DisconnectQoSNotSupported:
		return true
	}
	return false
}

// blameless reports whether the reason cannot be a message.
func (e *disconnectError) blameless() bool {
	switch e.code {
	case packets5.DisconnectServerBusy, packets5.DisconnectServerShuttingDown, packets5.DisconnectKeepAliveTimeout,
		packets5.DisconnectSessionTakenOver, packets5.DisconnectAdministrativeAction, packets5.DisconnectUseAnotherServer,
		packets5.DisconnectServerMoved, packets5.DisconnectConnectionRateExceeded, packets5.DisconnectMaximumConnectTime:
		return true
	}
	return false
}

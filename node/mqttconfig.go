package node

import (
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/edgefn/edgefn/triggers/mqtt/broker"
	"github.com/edgefn/edgefn/triggers/mqtt/broker/access"
)

// How a listener takes client certificates.
const (
	certRequired = "require"
	certOptional = "optional"
)

// MQTTConfig is how the broker inside the node listens.
type MQTTConfig struct {
	MQTTListener                // the first; its Addr is Off to have no broker
	Listeners    []MQTTListener // more of them
	MQTTBounds
}

// MQTTBounds are what the broker inside the node keeps at the most; see
// broker.Config. Sizes are bytes.
type MQTTBounds struct {
	MaxClients    int // connections at once, of all listeners
	MaxLogins     int // passwords that wait to be compared; who comes later is told that the broker is busy
	MaxPacket     int64
	MaxSessions   int
	SessionExpiry time.Duration // of a session whose client is away
	Queue         MQTTQueue
	Retained      MQTTRetained
}

// MQTTQueue bounds the messages that wait for clients.
type MQTTQueue struct {
	Messages int   // for one session
	Bytes    int64 // for one session
	Total    int64 // bytes for all sessions
	Full     broker.Overflow
}

// MQTTRetained bounds the retained messages.
type MQTTRetained struct {
	Messages int
	Bytes    int64
	Full     broker.Overflow
}

// defaultMQTTBounds are those of a broker that is told none.
func defaultMQTTBounds() MQTTBounds {
	d := broker.Defaults()
	return MQTTBounds{
		MaxClients: d.MaxClients, MaxLogins: 1024, MaxPacket: int64(d.MaxPacket), MaxSessions: d.MaxSessions, SessionExpiry: d.SessionExpiry,
		Queue:    MQTTQueue{Messages: d.MaxQueue, Bytes: d.MaxQueueBytes, Total: d.MaxQueuedBytes, Full: d.QueueFull},
		Retained: MQTTRetained{Messages: d.MaxRetained, Bytes: d.MaxRetainedBytes, Full: d.RetainedFull},
	}
}

// boundsFile is the shape of the bounds in the config file.
type boundsFile struct {
	MaxClients    int           `yaml:"max_clients"`
	MaxLogins     int           `yaml:"max_logins"`
	MaxPacket     size          `yaml:"max_packet"`
	MaxSessions   int           `yaml:"max_sessions"`
	SessionExpiry time.Duration `yaml:"session_expiry"`
	Queue         struct {
		Messages int             `yaml:"messages"`
		Bytes    size            `yaml:"bytes"`
		Total    size            `yaml:"total"`
		Full     broker.Overflow `yaml:"full"`
	} `yaml:"queue"`
	Retained struct {
		Messages int             `yaml:"messages"`
		Bytes    size            `yaml:"bytes"`
		Full     broker.Overflow `yaml:"full"`
	} `yaml:"retained"`
}

func (f *boundsFile) from(b MQTTBounds) {
	f.MaxClients, f.MaxLogins, f.MaxPacket, f.MaxSessions, f.SessionExpiry = b.MaxClients, b.MaxLogins, size(b.MaxPacket), b.MaxSessions, b.SessionExpiry
	f.Queue.Messages, f.Queue.Bytes, f.Queue.Total, f.Queue.Full = b.Queue.Messages, size(b.Queue.Bytes), size(b.Queue.Total), b.Queue.Full
	f.Retained.Messages, f.Retained.Bytes, f.Retained.Full = b.Retained.Messages, size(b.Retained.Bytes), b.Retained.Full
}

func (f *boundsFile) bounds() MQTTBounds {
	return MQTTBounds{
		MaxClients: f.MaxClients, MaxLogins: f.MaxLogins, MaxPacket: int64(f.MaxPacket), MaxSessions: f.MaxSessions, SessionExpiry: f.SessionExpiry,
		Queue:    MQTTQueue{Messages: f.Queue.Messages, Bytes: int64(f.Queue.Bytes), Total: int64(f.Queue.Total), Full: f.Queue.Full},
		Retained: MQTTRetained{Messages: f.Retained.Messages, Bytes: int64(f.Retained.Bytes), Full: f.Retained.Full},
	}
}

// validate reports every fault. What is possible keeps the node within the
// memory of a small gateway, or is what the protocol can say.
func (b *MQTTBounds) validate(fault func(path, format string, args ...any)) {
	for _, x := range []struct {
		path      string
		v, lo, hi int64
	}{
		{"mqtt.max_clients", int64(b.MaxClients), 1, 100_000},
		{"mqtt.max_logins", int64(b.MaxLogins), 1, 100_000},
		{"mqtt.max_packet", b.MaxPacket, 1 << 10, broker.MaxPacket},
		{"mqtt.max_sessions", int64(b.MaxSessions), 1, 100_000},
		{"mqtt.queue.messages", int64(b.Queue.Messages), 1, 60_000},
		{"mqtt.queue.bytes", b.Queue.Bytes, 1 << 10, 1 << 30},
		{"mqtt.queue.total", b.Queue.Total, 1 << 10, 4 << 30},
		{"mqtt.retained.messages", int64(b.Retained.Messages), 1, 1_000_000},
		{"mqtt.retained.bytes", b.Retained.Bytes, 1 << 10, 1 << 30},
	} {
		if x.v < x.lo || x.v > x.hi {
			fault(x.path, "%d: %d to %d are possible", x.v, x.lo, x.hi)
		}
	}
	if b.SessionExpiry < time.Second || b.SessionExpiry > 365*24*time.Hour {
		fault("mqtt.session_expiry", "%v: 1s to 8760h are possible", b.SessionExpiry)
	}
	for path, v := range map[string]broker.Overflow{"mqtt.queue.full": b.Queue.Full, "mqtt.retained.full": b.Retained.Full} {
		if v != broker.Refuse && v != broker.DropOldest {
			fault(path, "%q: write %s or %s", v, broker.Refuse, broker.DropOldest)
		}
	}
}

// MQTTListener is one address of the broker inside the node, and whom it lets
// in there. See broker.Listener.
type MQTTListener struct {
	Addr         string // host:port
	WebSocket    bool   // MQTT over WebSocket is spoken
	Origins      []string
	PasswordFile string // lines USER:HASH, of edgefn mqtt passwd or mosquitto_passwd
	CertFile     string // PEM; with it TLS is spoken
	KeyFile      string
	ClientCA     string // PEM; the common name of a client's certificate is its user name
	ClientCert   string // "require", which empty stands for, or "optional"
	Anonymous    bool   // let in clients that do not say who they are
	ACL          []access.Rule
	ACLFile      string
}

// listenerFile is the shape of a listener in the config file.
type listenerFile struct {
	Listen       string        `yaml:"listen"`
	WebSocket    bool          `yaml:"websocket"`
	Origins      []string      `yaml:"origins"`
	PasswordFile string        `yaml:"password_file"`
	TLS          listenerTLS   `yaml:"tls"`
	Anonymous    bool          `yaml:"anonymous"`
	ACL          []access.Rule `yaml:"acl"`
	ACLFile      string        `yaml:"acl_file"`
}

type listenerTLS struct {
	tlsFile    `yaml:",inline"`
	ClientCA   string `yaml:"client_ca"`
	ClientCert string `yaml:"client_cert"`
}

func (f listenerFile) listener() MQTTListener {
	return MQTTListener{
		Addr: f.Listen, WebSocket: f.WebSocket, Origins: f.Origins, PasswordFile: f.PasswordFile, CertFile: f.TLS.Cert, KeyFile: f.TLS.Key,
		ClientCA: f.TLS.ClientCA, ClientCert: f.TLS.ClientCert,
		Anonymous: f.Anonymous, ACL: f.ACL, ACLFile: f.ACLFile,
	}
}

// Addrs are the addresses of all listeners; none where the broker is off.
func (c *MQTTConfig) Addrs() []string {
	if c.Addr == Off {
		return nil
	}
	addrs := []string{c.Addr}
	for _, l := range c.Listeners {
		addrs = append(addrs, l.Addr)
	}
	return addrs
}

// validate reports every fault of the broker inside the node.
func (c *MQTTConfig) validate(fault func(path, format string, args ...any), file func(path, name string)) {
	c.MQTTBounds.validate(fault)
	c.MQTTListener.validate("mqtt", c.Addr == Off, fault, file)
	for i := range c.Listeners {
		c.Listeners[i].validate(fmt.Sprintf("mqtt.listeners[%d]", i), false, fault, file)
	}
}

func (l *MQTTListener) validate(path string, off bool, fault func(path, format string, args ...any), file func(path, name string)) {
	host, _, err := net.SplitHostPort(l.Addr)
	ruled := l.ACL != nil || l.ACLFile != ""
	switch {
	case off:
	case err != nil && path == "mqtt":
		fault(path+".listen", "%w: write host:port, or %q", err, Off)
	case err != nil:
		fault(path+".listen", "%w: write host:port", err)
	case broker.IsLoopback(host):
	case l.Anonymous && !ruled:
		fault(path+".anonymous", "anybody who reaches %s could do everything: write %s.acl with what those with no name may do, or listen on 127.0.0.1", l.Addr, path)
	case !l.Anonymous && l.PasswordFile == "" && l.ClientCA == "":
		fault(path+".listen", "other machines reach %s, and it asks nobody who they are: write %s.password_file or %s.tls.client_ca, or listen on 127.0.0.1", l.Addr, path, path)
	}
	for i, o := range l.Origins {
		if err := broker.CheckOrigin(o); err != nil {
			fault(fmt.Sprintf("%s.origins[%d]", path, i), "%q is no origin of web pages: %w", o, err)
		}
	}
	if len(l.Origins) > 0 && !l.WebSocket {
		fault(path+".origins", "are for WebSocket: write %s.websocket: true, or leave them out", path)
	}
	file(path+".password_file", l.PasswordFile)
	pair(fault, file, path+".tls", l.CertFile, l.KeyFile)
	file(path+".tls.client_ca", l.ClientCA)
	switch {
	case l.ClientCert != "" && !slices.Contains([]string{certRequired, certOptional}, l.ClientCert):
		fault(path+".tls.client_cert", "%q: write %s or %s", l.ClientCert, certRequired, certOptional)
	case l.ClientCert != "" && l.ClientCA == "":
		fault(path+".tls.client_ca", "is missing: client certificates are checked with it")
	case l.ClientCA != "" && l.CertFile == "":
		fault(path+".tls.cert", "is missing: client certificates need TLS, and it a certificate of the node's own")
	}
	file(path+".acl_file", l.ACLFile)
	switch {
	case l.ACL != nil && l.ACLFile != "":
		fault(path+".acl_file", "is there beside %s.acl: use one of them", path)
	case l.ACL != nil:
		for _, err := range access.CheckRules(l.ACL) {
			fault(path+".acl", "%w", err)
		}
		if l.PasswordFile == "" && l.ClientCA == "" && !slices.ContainsFunc(l.ACL, func(r access.Rule) bool { return r.User == access.Anonymous }) {
			fault(path+".acl", "is for users with a name, and nobody has one here: write %s.password_file, or rules with user: %s", path, access.Anonymous)
		}
	}
}

// brokerListeners are the listeners in the broker's words.
func (c *MQTTConfig) brokerListeners() []broker.Listener {
	var out []broker.Listener
	for i, l := range append([]MQTTListener{c.MQTTListener}, c.Listeners...) {
		setting := "mqtt"
		if i > 0 {
			setting = fmt.Sprintf("mqtt.listeners[%d]", i-1)
		}
		out = append(out, broker.Listener{
			Addr: l.Addr, Setting: setting, WebSocket: l.WebSocket, Origins: l.Origins, CertFile: l.CertFile, KeyFile: l.KeyFile,
			ClientCA: l.ClientCA, ClientCertOptional: l.ClientCert == certOptional,
			PasswordFile: l.PasswordFile, Anonymous: l.Anonymous, Rules: l.ACL, RulesFile: l.ACLFile,
		})
	}
	return out
}

package node

import (
	"fmt"
	"net"
	"slices"

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
	MaxClients   int            // connections at once, of all listeners
	MaxLogins    int            // passwords that wait to be compared; who comes later is told that the broker is busy
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
	if c.MaxClients < 1 || c.MaxClients > 100_000 {
		fault("mqtt.max_clients", "%d: 1 to 100000 are possible", c.MaxClients)
	}
	if c.MaxLogins < 1 || c.MaxLogins > 100_000 {
		fault("mqtt.max_logins", "%d: 1 to 100000 are possible", c.MaxLogins)
	}
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
	for _, l := range append([]MQTTListener{c.MQTTListener}, c.Listeners...) {
		out = append(out, broker.Listener{
			Addr: l.Addr, WebSocket: l.WebSocket, Origins: l.Origins, CertFile: l.CertFile, KeyFile: l.KeyFile,
			ClientCA: l.ClientCA, ClientCertOptional: l.ClientCert == certOptional,
			PasswordFile: l.PasswordFile, Anonymous: l.Anonymous, Rules: l.ACL, RulesFile: l.ACLFile,
		})
	}
	return out
}

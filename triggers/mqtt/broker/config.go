package broker

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/triggers"
)

// Errors of the broker.
var (
	// ErrInsecure is returned by New for an address beyond loopback with no
	// password file.
	ErrInsecure = errors.New("address is reachable from other machines and no password file is set")
	// ErrNotRunning is returned by Publish before Listen and after Run.
	ErrNotRunning = errors.New("mqtt broker is not running")
	// ErrBacklog is returned by Publish when too many events of function
	// outputs already wait on disk for their functions.
	ErrBacklog = errors.New("too many events of function outputs wait for their functions")
	// ErrRetainedFull is returned by Publish when the message was delivered but
	// could not be retained, because the store of retained messages is full.
	ErrRetainedFull = errors.New("store of retained messages is full")
)

// Config says how a broker listens and what it keeps. Zero values stand for
// the defaults named here.
type Config struct {
	Addr string // host:port; default 127.0.0.1:1883, port 0 takes a free one
	Name string // name in the source of events; default "local"
	Dir  string // folder of the broker's own file; made when missing

	Sink   triggers.Sink // takes the events of function triggers
	Logger *slog.Logger  // nil discards

	// MaxPayload is the largest payload that functions take, in bytes; default
	// 1 MiB - 64 KiB. A larger one still becomes an event, which the node
	// dead-letters; it is counted in Stats.Oversized. A packet over 4 MiB is
	// refused at the protocol's level.
	MaxPayload int
	MaxClients int // connections at once, whether they said CONNECT or not; default 1024

	// PasswordFile has lines "user:hash" as PasswordLine makes them. With it,
	// every client must authenticate. It is read again when it changes.
	PasswordFile string
	TLS          *tls.Config // TLS settings; or else CertFile and KeyFile
	CertFile     string      // PEM certificate chain
	KeyFile      string      // PEM private key

	// MaxQueue and MaxQueueBytes bound the QoS 1 and 2 messages that wait for
	// one session. A full queue drops its oldest message that was not sent yet
	// and counts it. Defaults 10,000 and 32 MiB.
	MaxQueue      int
	MaxQueueBytes int64
	MaxSessions   int // sessions kept, connected or not; default 4096
	// SessionExpiry is the longest that the session of a disconnected client is
	// kept; default 30 days. MQTT 5 clients are told so in CONNACK.
	SessionExpiry time.Duration

	ConnectTimeout time.Duration // from accept until a valid CONNECT; default 10 s
	WriteTimeout   time.Duration // until a client takes the next 64 KiB; default 10 s

	Clock func() time.Time // default time.Now
}

// Bounds that no config changes.
const (
	maxPacket        = 4 << 20   // bytes of a packet
	maxConnectPacket = 256 << 10 // bytes of a CONNECT packet: two strings and a will of 64 KiB each, and properties
	receiveMaximum   = 1024      // unfinished messages of one client
	clientBytes      = 8 << 20   // bytes of one client's unfinished messages; at least one packet
	totalBytes       = 64 << 20  // bytes of all clients' unfinished messages
	sendMaximum      = 256       // unacknowledged messages to one client, if it asks for no fewer
	queue0Count      = 4096      // QoS 0 messages that wait for a client to read; a full queue drops the new one
	queue0Bytes      = 8 << 20
	controlBytes     = 1 << 20 // acknowledgements that wait for a client to read; more close its connection
	maxSubscriptions = 1000    // subscriptions of one client
	maxRetained      = 10000   // retained messages
	maxRetainedBytes = 32 << 20
	maxPending       = 10000 // events of function outputs on disk, or in a trigger's lane
	maxPendingBytes  = 64 << 20
	maxKeepAlive     = 300  // seconds; MQTT 5 clients are told in CONNACK
	maxAliases       = 64   // topic aliases of one client, in each direction
	maxClientID      = 1024 // bytes

	sweepEvery    = time.Second
	closeGrace    = time.Second            // for the last bytes to a client that is disconnected
	lingerBytes   = 1 << 20                // read from such a client meanwhile, and thrown away
	failureGrace  = time.Second            // before a client is disconnected whose message was not settled
	chainWait     = 250 * time.Millisecond // that a function's output waits for the functions that it triggers
	pendingExpiry = 7 * 24 * time.Hour     // that an output waits for a function that is not there
)

// Keys of log attributes.
const (
	keyClient   = "client"
	keyRemote   = "remote"
	keyFunction = "function"
	keyTrigger  = "trigger"
	keyErr      = "err"
)

func (c Config) withDefaults() Config {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	dur := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	if c.Addr == "" {
		c.Addr = "127.0.0.1:1883"
	}
	if c.Name == "" {
		c.Name = functions.LocalBroker
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	def(&c.MaxPayload, 1<<20-64<<10)
	def(&c.MaxClients, 1024)
	def(&c.MaxQueue, 10000)
	def(&c.MaxSessions, 4096)
	if c.MaxQueueBytes == 0 {
		c.MaxQueueBytes = 32 << 20
	}
	dur(&c.SessionExpiry, 30*24*time.Hour)
	dur(&c.ConnectTimeout, 10*time.Second)
	dur(&c.WriteTimeout, 10*time.Second)
	return c
}

// validate reports every fault at once.
func (c Config) validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.Dir == "" {
		fault("mqtt broker: Dir is empty: sessions and retained messages need a folder")
	}
	if c.Sink == nil {
		fault("mqtt broker: Sink is nil")
	}
	for name, v := range map[string]int64{
		"MaxPayload": int64(c.MaxPayload), "MaxClients": int64(c.MaxClients), "MaxQueue": int64(c.MaxQueue),
		"MaxQueueBytes": c.MaxQueueBytes, "MaxSessions": int64(c.MaxSessions), "SessionExpiry": int64(c.SessionExpiry),
		"ConnectTimeout": int64(c.ConnectTimeout), "WriteTimeout": int64(c.WriteTimeout),
	} {
		if v < 0 {
			fault("mqtt broker: %s is %d: it must be positive", name, v)
		}
	}
	if c.MaxQueue > 60000 {
		// A queued message holds one of 65,535 packet ids.
		fault("mqtt broker: MaxQueue is %d, at most 60000 messages can wait for a session", c.MaxQueue)
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		fault("mqtt broker: CertFile and KeyFile go together: set both or none")
	}
	if c.TLS != nil && c.CertFile != "" {
		fault("mqtt broker: both TLS and CertFile are set: use one")
	}
	host, _, err := net.SplitHostPort(c.Addr)
	switch {
	case err != nil:
		fault("mqtt broker: address %q: %w (host:port, such as 127.0.0.1:1883)", c.Addr, err)
	case !isLoopback(host) && c.PasswordFile == "":
		fault("mqtt broker: %s: %w: set a password file, or listen on 127.0.0.1", c.Addr, ErrInsecure)
	}
	return errors.Join(faults...)
}

// isLoopback reports whether only this machine reaches host. A name other than
// localhost is not trusted: what it resolves to can change.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// tlsConfig returns the settings of the listener, nil for plain TCP.
func (c Config) tlsConfig() (*tls.Config, error) {
	if c.CertFile == "" {
		return c.TLS, nil
	}
	cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("mqtt broker: load certificate %s with key %s: %w", c.CertFile, c.KeyFile, err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, nil
}

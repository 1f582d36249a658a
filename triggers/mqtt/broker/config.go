package broker

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/triggers"
	"github.com/edgefn/edgefn/triggers/mqtt/broker/access"
)

// Errors of the broker.
var (
	// ErrInsecure is returned by New for an address beyond loopback where anybody
	// would be let in.
	ErrInsecure = errors.New("address is reachable from other machines and no password file or client CA is set")
	// ErrNotRunning is returned by Publish before Listen and after Run.
	ErrNotRunning = errors.New("mqtt broker is not running")
	// ErrBacklog is returned by Publish when too many events of function
	// outputs already wait on disk for their functions.
	ErrBacklog = errors.New("too many events of function outputs wait for their functions")
	// ErrRetainedFull is returned by Publish when there is no room to retain the
	// message. One of QoS 1 or 2 went nowhere then; one of QoS 0 was delivered.
	ErrRetainedFull = errors.New("store of retained messages is full")
	// ErrQueueFull is returned by Publish when a session that the message is for
	// has no room and QueueFull is Refuse. The message went nowhere.
	ErrQueueFull = errors.New("queue of a client that is away or slow is full")
)

// MaxPacket is the largest that Config.MaxPacket can be, in bytes.
const MaxPacket = 4 << 20

// Config says how a broker listens and what it keeps. Zero values stand for
// the defaults named here.
type Config struct {
	// Listeners are the addresses to listen on. With none there is one, of Addr,
	// PasswordFile, TLS, CertFile and KeyFile, which mean what they do in Listener.
	Listeners    []Listener
	Addr         string // default 127.0.0.1:1883
	PasswordFile string
	TLS          *tls.Config
	CertFile     string
	KeyFile      string

	Name string // name in the source of events; default "local"
	Dir  string // folder of the broker's own file; made when missing

	Sink   triggers.Sink // takes the events of function triggers
	Logger *slog.Logger  // nil discards

	// MaxPayload is the largest payload that functions take, in bytes; default
	// 1 MiB - 64 KiB. A larger one still becomes an event, which the node
	// dead-letters; it is counted in Stats.Oversized. A packet over
	// MaxPacket is refused at the protocol's level.
	MaxPayload int
	MaxPacket  int // bytes of a packet; default and at most MaxPacket
	MaxClients int // connections at once, whether they said CONNECT or not; default 1024

	// OfFunction reports whether a connection comes from a function of this node,
	// through its connect grant; nil: none does. Such a client needs a user where
	// only programs of this machine need none.
	OfFunction func(remote netip.AddrPort) bool

	// Logins bounds what the comparison of passwords costs.
	Logins access.LoginsConfig

	// MaxQueue and MaxQueueBytes bound the QoS 1 and 2 messages that wait for
	// one session, MaxQueuedBytes those of all. A session may hold no more than
	// is left for all others, so that there is always room for another one.
	// Defaults 10,000, 32 MiB and 64 MiB. QueueFull says what happens at a
	// bound: DropOldest, the default, drops what waits the longest for that
	// session and was not sent yet, and counts it.
	MaxQueue       int
	MaxQueueBytes  int64
	MaxQueuedBytes int64
	QueueFull      Overflow

	// MaxRetained and MaxRetainedBytes bound the retained messages. Defaults
	// 10,000 and 32 MiB. RetainedFull is Refuse by default.
	MaxRetained      int
	MaxRetainedBytes int64
	RetainedFull     Overflow

	MaxSessions int // sessions kept, connected or not; default 4096
	// SessionExpiry is the longest that the session of a disconnected client is
	// kept; default 30 days. MQTT 5 clients are told so in CONNACK.
	SessionExpiry time.Duration

	ConnectTimeout time.Duration // from accept until a valid CONNECT; default 10 s
	WriteTimeout   time.Duration // until a client takes the next 64 KiB; default 10 s

	Clock func() time.Time // default time.Now
}

// Bounds that no config changes.
const (
	maxConnectPacket = 256 << 10 // bytes of a CONNECT packet: two strings and a will of 64 KiB each, and properties
	receiveMaximum   = 1024      // unfinished messages of an MQTT 5 client; of others there are at most 65,535
	clientBytes      = 8 << 20   // bytes of one client's unfinished messages; at least one packet
	clientLeast      = 64 << 10  // bytes of the one message that a client may have in work though all is full
	totalBytes       = 64 << 20  // bytes of all clients' unfinished messages
	workBytes        = 1 << 10   // that an unfinished message takes beside itself
	sendMaximum      = 256       // unacknowledged messages to one client, if it asks for no fewer
	queueLeast       = 4 << 10   // bytes of the one message that may wait for a session though all is full
	queue0Count      = 4096      // QoS 0 messages that wait for a client to read; a full queue drops the new one
	queue0Bytes      = 8 << 20
	controlBytes     = 1 << 20 // acknowledgements that wait for a client to read; more close its connection
	maxSubscriptions = 1000    // subscriptions of one client
	maxFilterBytes   = 256 << 10
	maxLevels        = 128 // levels of a topic or filter

	maxAllSubscriptions = 100_000 // of all clients
	maxAllFilterBytes   = 16 << 20
	maxPending          = 10000 // events of function outputs on disk, or in a trigger's lane
	maxPendingBytes     = 64 << 20
	maxKeepAlive        = 300  // seconds; MQTT 5 clients are told in CONNACK
	maxAliases          = 64   // topic aliases of one client, in each direction
	maxClientID         = 1024 // bytes

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
	keyTopic    = "topic"
	keyUser     = "user"
	keyErr      = "err"
)

// Defaults are what zero values stand for.
func Defaults() Config { return Config{}.withDefaults() }

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
	def(&c.MaxPacket, MaxPacket)
	def(&c.MaxClients, 1024)
	def(&c.MaxQueue, 10000)
	def(&c.MaxSessions, 4096)
	def(&c.MaxRetained, 10000)
	size := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	size(&c.MaxQueueBytes, 32<<20)
	size(&c.MaxQueuedBytes, 64<<20)
	size(&c.MaxRetainedBytes, 32<<20)
	c.QueueFull = cmp.Or(c.QueueFull, DropOldest)
	c.RetainedFull = cmp.Or(c.RetainedFull, Refuse)
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
		"MaxPayload": int64(c.MaxPayload), "MaxClients": int64(c.MaxClients), "MaxPacket": int64(c.MaxPacket), "MaxQueue": int64(c.MaxQueue),
		"MaxQueueBytes": c.MaxQueueBytes, "MaxQueuedBytes": c.MaxQueuedBytes,
		"MaxRetained": int64(c.MaxRetained), "MaxRetainedBytes": c.MaxRetainedBytes, "MaxSessions": int64(c.MaxSessions), "SessionExpiry": int64(c.SessionExpiry),
		"ConnectTimeout": int64(c.ConnectTimeout), "WriteTimeout": int64(c.WriteTimeout),
	} {
		if v < 0 {
			fault("mqtt broker: %s is %d: it must be positive", name, v)
		}
	}
	for name, v := range map[string]Overflow{"QueueFull": c.QueueFull, "RetainedFull": c.RetainedFull} {
		if v != Refuse && v != DropOldest {
			fault("mqtt broker: %s is %q: it must be %q or %q", name, v, Refuse, DropOldest)
		}
	}
	if c.MaxPacket > MaxPacket {
		fault("mqtt broker: MaxPacket is %d, at most %d bytes are taken at once", c.MaxPacket, MaxPacket)
	}
	if c.MaxQueue > 60000 {
		// A queued message holds one of 65,535 packet ids.
		fault("mqtt broker: MaxQueue is %d, at most 60000 messages can wait for a session", c.MaxQueue)
	}
	if len(c.Listeners) > 0 && (c.PasswordFile != "" || c.TLS != nil || c.CertFile != "" || c.KeyFile != "") {
		fault("mqtt broker: PasswordFile, TLS, CertFile and KeyFile are for a broker with no Listeners")
	}
	for _, l := range c.listeners() {
		if err := l.validate(); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

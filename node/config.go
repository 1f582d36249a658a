package node

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/edgefn/edgefn/drivers"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/wire"
	"github.com/edgefn/edgefn/node/logs"
	"github.com/edgefn/edgefn/node/settle"
	"github.com/edgefn/edgefn/triggers/mqtt"
)

// What serves the devices of a node.
const (
	HardwareReal = "real" // the machine's own
	HardwareSim  = "sim"  // simulated: for a machine that has none
)

// Off turns a listener off where an address is asked for.
const Off = "off"

// maxSocketPath is the longest path of a Unix socket: sun_path of unix(7) is
// 108 bytes with the NUL at its end.
const maxSocketPath = 107

// longestSocket is the longest name that the node gives a socket below its run
// folder.
const longestSocket = "containerd/c.sock.ttrpc"

// Config of a node. Defaults says what the fields are when nothing is given.
type Config struct {
	Name       string // of this node, [a-z0-9-]
	Version    string // of the program, for status
	DataDir    string // what must survive a restart
	RunDir     string // sockets; short, since a socket's path has a bound
	SecretsDir string // one file per secret
	Containerd string // socket; empty: a running one, or else one of the node's own
	MaxEvent   int64  // bytes of an event with its attributes

	MQTT    MQTTConfig
	Brokers map[string]mqtt.Broker // brokers outside, by name
	Store   StoreConfig
	Log     logs.Config
	State   settle.StateLimits
	// FlashDaily is how many bytes a day the node may write to its disk before
	// status and doctor warn; 0: any.
	FlashDaily int64

	Hardware string         // what serves Devices: HardwareReal or HardwareSim
	Devices  []drivers.Spec // in the order of the file

	Logger *slog.Logger // nil discards
	// Ready is called once, when the node serves, with a line for people. nil: nothing.
	Ready func(line string)
	// Busy is called now and then while a start takes long because a backup is
	// being restored, with a line for people. nil: nothing.
	Busy func(line string)
}

// StoreConfig names an etcd outside; with no endpoints the node runs its own.
type StoreConfig struct {
	Endpoints []string
	CAFile    string
	CertFile  string
	KeyFile   string
}

// Defaults returns the config of a node that was told nothing.
func Defaults() Config {
	name, err := os.Hostname()
	if err != nil {
		name = "node"
	}
	return Config{ //nolint:gosec // a folder of secrets is no secret
		Name:       nodeName(name),
		DataDir:    "/var/lib/edgefn",
		RunDir:     "/run/edgefn",
		SecretsDir: "/etc/edgefn/secrets",
		MaxEvent:   wire.MaxFrame,
		MQTT:       MQTTConfig{MQTTListener: MQTTListener{Addr: "127.0.0.1:1883"}, MQTTBounds: defaultMQTTBounds()},
		Log:        logs.Config{FileSize: 1 << 20, Files: 4, Rate: 64 << 10},
		State:      settle.StateLimits{Keys: 100_000, Bytes: 64 << 20},
		Hardware:   HardwareReal,
	}
}

var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// validBroker is what a manifest can name.
var validBroker = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// nodeName makes a valid name of a host's.
func nodeName(host string) string {
	host, _, _ = strings.Cut(strings.ToLower(host), ".")
	name := strings.Trim(regexp.MustCompile(`[^a-z0-9-]+`).ReplaceAllString(host, "-"), "-")
	if name = strings.Trim(name[:min(len(name), 63)], "-"); name == "" {
		return "node"
	}
	return name
}

// Socket is the path of the node's control socket.
func (c *Config) Socket() string { return filepath.Join(c.RunDir, "edgefn.sock") }

// MaxPayload is the most data that an event may have, in bytes: what MaxEvent
// leaves beside the attributes.
func (c *Config) MaxPayload() int { return int(c.MaxEvent) - wire.Overhead }

// Validate reports every fault at once, each with its path in the config file.
// It reads no file but asks whether those named are there.
func (c *Config) Validate() error {
	var faults []error
	fault := func(path, format string, args ...any) {
		faults = append(faults, fmt.Errorf("%s: %w", path, fmt.Errorf(format, args...)))
	}
	file := func(path, name string) {
		if name == "" {
			return
		}
		if _, err := os.Stat(name); err != nil {
			fault(path, "%w", err)
		}
	}
	if !validName.MatchString(c.Name) {
		fault("name", "%q is not 1 to 63 of [a-z0-9-], with no - at either end", c.Name)
	}
	for _, d := range []struct{ path, dir string }{{"data", c.DataDir}, {"run", c.RunDir}, {"secrets", c.SecretsDir}} {
		if !filepath.IsAbs(d.dir) {
			fault(d.path, "%q is not an absolute path", d.dir)
		}
	}
	if n := len(filepath.Join(c.RunDir, longestSocket)) - maxSocketPath; n > 0 {
		fault("run", "%q is %d bytes too long for the sockets in it: choose a shorter path", c.RunDir, n)
	}
	if c.Containerd != "" && !filepath.IsAbs(c.Containerd) {
		fault("containerd", "%q is not an absolute path of a socket", c.Containerd)
	}
	// The upper bound is what one transaction of the store holds, with room
	// for state; the lower one is room for attributes and some data.
	if c.MaxEvent < 2*wire.Overhead || c.MaxEvent > 2<<20 {
		fault("max_event", "%d bytes: 128Ki to 2Mi are possible", c.MaxEvent)
	}
	c.MQTT.validate(fault, file)
	for _, name := range slices.Sorted(maps.Keys(c.Brokers)) {
		b := c.Brokers[name]
		switch b.Name = name; {
		case name == functions.LocalBroker:
			fault("brokers."+name, "is the name of the broker inside the node: choose another")
			continue
		case !validBroker.MatchString(name):
			fault("brokers."+name, "the name is not 1 to 63 of [A-Za-z0-9._-], beginning with a letter or digit")
			continue
		}
		if err := b.Validate(); err != nil {
			faults = append(faults, err)
		}
	}
	for i, e := range c.Store.Endpoints {
		if e == "" {
			fault(fmt.Sprintf("store.endpoints[%d]", i), "is empty")
		}
	}
	if len(c.Store.Endpoints) == 0 && (c.Store.CAFile != "" || c.Store.CertFile != "" || c.Store.KeyFile != "") {
		fault("store.tls", "is for a store outside: name its endpoints")
	}
	file("store.tls.ca", c.Store.CAFile)
	pair(fault, file, "store.tls", c.Store.CertFile, c.Store.KeyFile)
	if c.Log.FileSize < 16<<10 || c.Log.FileSize > 1<<30 {
		fault("log.size", "%d bytes: 16Ki to 1Gi are possible", c.Log.FileSize)
	}
	if c.Log.Files < 1 || c.Log.Files > 100 {
		fault("log.files", "%d: 1 to 100 are possible", c.Log.Files)
	}
	if c.Log.Rate < 1<<10 {
		fault("log.rate", "%d bytes a second: at least 1Ki", c.Log.Rate)
	}
	if c.State.Keys < 1 {
		fault("state.keys", "%d: at least 1", c.State.Keys)
	}
	if c.State.Bytes < functions.MaxValue {
		fault("state.bytes", "%d: at least %d, the largest value", c.State.Bytes, functions.MaxValue)
	}
	if c.Hardware != HardwareReal && c.Hardware != HardwareSim {
		fault("hardware", "%q: write %s or %s", c.Hardware, HardwareReal, HardwareSim)
	}
	if err := drivers.Validate(c.Devices); err != nil {
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// pair checks a certificate and its key.
func pair(fault func(path, format string, args ...any), file func(path, name string), path, cert, key string) {
	switch {
	case cert != "" && key == "":
		fault(path+".key", "is missing: a certificate needs its key")
	case cert == "" && key != "":
		fault(path+".cert", "is missing: a key needs its certificate")
	}
	file(path+".cert", cert)
	file(path+".key", key)
}

// Bounds in time that are no one's to configure.
const (
	drainTime  = 10 * time.Second // running invocations have it when the node stops
	answerTime = time.Second      // answers of the control socket have it when the node stops
	flushTime  = 2 * time.Second  // committed messages have it when the node stops
	storeTime  = 10 * time.Second // one call of the store
)

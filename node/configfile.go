package node

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/agnivade/levenshtein"
	"go.yaml.in/yaml/v3"

	"github.com/edgefn/edgefn/drivers"
	"github.com/edgefn/edgefn/node/logs"
	"github.com/edgefn/edgefn/node/settle"
	"github.com/edgefn/edgefn/triggers/mqtt"
)

// SampleConfig is a config file with every key explained.
//
//go:embed sample.yaml
var SampleConfig string

// maxConfig bounds what is read of a config file.
const maxConfig = 1 << 20

// size is a number of bytes: 4096, 64Ki, 1Mi, 2Gi.
type size int64

// UnmarshalYAML implements yaml.Unmarshaler.
func (s *size) UnmarshalYAML(n *yaml.Node) error {
	text, unit := n.Value, int64(1)
	for i, suffix := range []string{"Ki", "Mi", "Gi"} {
		if rest, ok := strings.CutSuffix(text, suffix); ok {
			text, unit = rest, 1<<(10*(i+1))
		}
	}
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil || v < 0 || v > (1<<50)/unit {
		return fmt.Errorf("line %d: %q is no size: write bytes, or a number with Ki, Mi or Gi", n.Line, n.Value)
	}
	*s = size(v * unit)
	return nil
}

// configFile is the shape of the config file.
type configFile struct {
	Name       string `yaml:"name"`
	Data       string `yaml:"data"`
	Run        string `yaml:"run"`
	Secrets    string `yaml:"secrets"`
	Containerd string `yaml:"containerd"`
	MaxEvent   size   `yaml:"max_event"`
	MQTT       struct {
		listenerFile `yaml:",inline"`
		boundsFile   `yaml:",inline"`
		Listeners    []listenerFile `yaml:"listeners"`
	} `yaml:"mqtt"`
	Brokers map[string]mqtt.Broker `yaml:"brokers"`
	Store   struct {
		Endpoints []string `yaml:"endpoints"`
		TLS       struct {
			CA      string `yaml:"ca"`
			tlsFile `yaml:",inline"`
		} `yaml:"tls"`
	} `yaml:"store"`
	Log struct {
		Size  size `yaml:"size"`
		Files int  `yaml:"files"`
		Rate  size `yaml:"rate"`
	} `yaml:"log"`
	State struct {
		Keys  int  `yaml:"keys"`
		Bytes size `yaml:"bytes"`
	} `yaml:"state"`
	Flash struct {
		Daily size `yaml:"daily"`
	} `yaml:"flash"`
	Hardware string                  `yaml:"hardware"`
	Devices  map[string]drivers.Spec `yaml:"devices"`
}

type tlsFile struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// LoadConfig reads a config file over the defaults. Flags override it
// afterwards, and then Validate is to be called.
func LoadConfig(name string) (Config, error) {
	f, err := os.Open(name)
	if err != nil {
		return Config{}, fmt.Errorf("read config: %w", err)
	}
	defer func() { _ = f.Close() }() // only read from
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return Config{}, fmt.Errorf("read config: %w", err)
	}
	if len(text) > maxConfig {
		return Config{}, fmt.Errorf("read config %s: more than %d bytes", name, maxConfig)
	}
	return ParseConfig(name, text)
}

// ParseConfig reads the text of a config file over the defaults. name stands
// in its errors.
func ParseConfig(name string, text []byte) (Config, error) {
	c := Defaults()
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return Config{}, placed(name, err)
	}
	if len(doc.Content) == 0 { // an empty file
		return c, nil
	}
	root := doc.Content[0]
	if faults := checkKeys(name, "", root, reflect.TypeFor[configFile]()); len(faults) > 0 {
		return Config{}, errors.Join(faults...)
	}
	f := c.file()
	if err := root.Decode(&f); err != nil {
		return Config{}, placed(name, err)
	}
	if f.MQTT.Listen == Off && len(f.MQTT.Listeners) > 0 {
		return Config{}, fmt.Errorf("%s:%d: mqtt.listen is %s, which turns the broker off with all of mqtt.listeners: give it the address of one of them",
			name, valueOf(valueOf(root, "mqtt"), "listen").Line, Off)
	}
	f.into(&c)
	c.Devices = f.devices(name, root)
	return c, nil
}

// The decoder's words for a fault, its line in front.
var (
	faultForm = regexp.MustCompile(`^(?:yaml: )?line (\d+): (.*)$`)
	typeForm  = regexp.MustCompile("^cannot unmarshal !!(?:seq|map|[a-z]+ `(.*)`) into (.*)$")
	twiceForm = regexp.MustCompile(`^mapping key (".*") already defined at line (\d+)$`)
)

// placed says every fault of the decoder with its place in the file, in words
// for people.
func placed(file string, err error) error {
	texts := []string{err.Error()}
	var types *yaml.TypeError
	if errors.As(err, &types) {
		texts = types.Errors
	}
	faults := make([]error, len(texts))
	for i, text := range texts {
		m := faultForm.FindStringSubmatch(text)
		if m == nil {
			faults[i] = fmt.Errorf("%s: %s", file, text)
			continue
		}
		text = m[2]
		if t := typeForm.FindStringSubmatch(text); t != nil {
			text = expected(t[2]) + " is expected here"
			if t[1] != "" {
				text += fmt.Sprintf(", not %q", t[1])
			}
		} else if t := twiceForm.FindStringSubmatch(text); t != nil {
			text = fmt.Sprintf("%s is already defined at line %s: remove one", t[1], t[2])
		}
		faults[i] = fmt.Errorf("%s:%s: %s", file, m[1], text)
	}
	return errors.Join(faults...)
}

// expected says for people what a Go type takes.
func expected(goType string) string {
	switch {
	case goType == "bool":
		return "true or false"
	case goType == "uint16":
		return "a whole number, 0 to 0xffff and not in quotes,"
	case strings.Contains(goType, "int"):
		return "a whole number"
	case strings.HasPrefix(goType, "float"):
		return "a number"
	case strings.HasPrefix(goType, "[]"):
		return "a list"
	}
	return "a text"
}

// devices lists the devices in the order of the file, each with its place.
func (f *configFile) devices(name string, root *yaml.Node) []drivers.Spec {
	at := valueOf(root, "devices")
	if at == nil {
		return nil
	}
	var out []drivers.Spec
	for i := 0; i+1 < len(at.Content); i += 2 {
		key := at.Content[i]
		s := f.Devices[key.Value]
		s.Name, s.Where = key.Value, fmt.Sprintf("%s:%d", name, key.Line)
		out = append(out, s)
	}
	return out
}

// valueOf is the value of a key in a mapping, nil if it is not there.
func valueOf(n *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// file is the config as a file would give it.
func (c *Config) file() configFile {
	f := configFile{
		Name: c.Name, Data: c.DataDir, Run: c.RunDir, Secrets: c.SecretsDir, Containerd: c.Containerd,
		MaxEvent: size(c.MaxEvent),
	}
	f.MQTT.Listen = c.MQTT.Addr
	f.MQTT.from(c.MQTT.MQTTBounds)
	f.Hardware = c.Hardware
	f.Log.Size, f.Log.Files, f.Log.Rate = size(c.Log.FileSize), c.Log.Files, size(c.Log.Rate)
	f.Flash.Daily = size(c.FlashDaily)
	f.State.Keys, f.State.Bytes = c.State.Keys, size(c.State.Bytes)
	return f
}

func (f *configFile) into(c *Config) {
	c.Name, c.DataDir, c.RunDir, c.SecretsDir, c.Containerd = f.Name, f.Data, f.Run, f.Secrets, f.Containerd
	c.MaxEvent, c.Hardware = int64(f.MaxEvent), f.Hardware
	c.MQTT = MQTTConfig{MQTTListener: f.MQTT.listener(), MQTTBounds: f.MQTT.bounds()}
	for _, l := range f.MQTT.Listeners {
		c.MQTT.Listeners = append(c.MQTT.Listeners, l.listener())
	}
	for name, b := range f.Brokers {
		b.Name = name
		f.Brokers[name] = b
	}
	c.Brokers = f.Brokers
	c.Store = StoreConfig{Endpoints: f.Store.Endpoints, CAFile: f.Store.TLS.CA, CertFile: f.Store.TLS.Cert, KeyFile: f.Store.TLS.Key}
	c.Log = logs.Config{FileSize: int64(f.Log.Size), Files: f.Log.Files, Rate: int64(f.Log.Rate)}
	c.FlashDaily = int64(f.Flash.Daily)
	c.State = settle.StateLimits{Keys: f.State.Keys, Bytes: int64(f.State.Bytes)}
}

// checkKeys reports every key that the type has no field for, with its line and
// the nearest key there is, and every key that is there twice.
func checkKeys(file, path string, n *yaml.Node, t reflect.Type) []error {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[yaml.Unmarshaler]()) {
		return nil
	}
	switch {
	case t.Kind() == reflect.Map && n.Kind == yaml.MappingNode:
		var faults []error
		for i := 0; i+1 < len(n.Content); i += 2 {
			faults = append(faults, checkKeys(file, path+n.Content[i].Value+".", n.Content[i+1], t.Elem())...)
		}
		return faults
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct && n.Kind == yaml.SequenceNode:
		var faults []error
		for i, e := range n.Content {
			faults = append(faults, checkKeys(file, fmt.Sprintf("%s[%d].", strings.TrimSuffix(path, "."), i), e, t.Elem())...)
		}
		return faults
	case t.Kind() != reflect.Struct && t.Kind() != reflect.Map:
		return nil // scalars and lists of them: Decode tells
	case n.Kind != yaml.MappingNode:
		if n.Tag == "!!null" {
			return nil
		}
		return []error{fmt.Errorf("%s:%d: %s: keys and values are expected here", file, n.Line, strings.TrimSuffix(path, "."))}
	}
	known := map[string]reflect.Type{}
	fieldsOf(t, known)
	var faults []error
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		ft, ok := known[k.Value]
		if !ok {
			faults = append(faults, fmt.Errorf("%s:%d: unknown key %q%s", file, k.Line, path+k.Value, nearest(k.Value, known)))
			continue
		}
		faults = append(faults, checkKeys(file, path+k.Value+".", n.Content[i+1], ft)...)
	}
	return faults
}

// fieldsOf collects the YAML keys of a struct.
func fieldsOf(t reflect.Type, into map[string]reflect.Type) {
	for f := range t.Fields() {
		name, opts, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case opts == "inline":
			fieldsOf(f.Type, into)
		case name != "" && name != "-":
			into[name] = f.Type
		}
	}
}

// nearest suggests the known key that is closest to an unknown one.
func nearest(key string, known map[string]reflect.Type) string {
	best, least := "", max(2, len(key)/2)+1
	names := make([]string, 0, len(known))
	for k := range known {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		if d := levenshtein.ComputeDistance(key, k); d < least {
			best, least = k, d
		}
	}
	if best == "" {
		return ": known are " + strings.Join(names, ", ")
	}
	return fmt.Sprintf(": do you mean %q?", best)
}

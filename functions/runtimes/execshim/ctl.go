package execshim

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/wire"
)

const usage = `edgefn-ctl asks the node on behalf of the running function.

  edgefn-ctl publish TOPIC [DATA|-] [-q QOS] [-r] [-b BROKER] [--response-topic TOPIC]
                     [--correlation BASE64] [and as for reply]
  edgefn-ctl reply [DATA|-] [-q QOS] [--content-type TYPE] [--expiry DURATION]
                     [--user NAME=VALUE ...]
  edgefn-ctl state get KEY              prints the value; status 4 if there is none
  edgefn-ctl state put KEY VALUE|-
  edgefn-ctl state delete KEY
  edgefn-ctl state list [PREFIX]        prints one key per line
  edgefn-ctl invoke FUNCTION [DATA|-] [--type TYPE] [--subject SUBJECT] [--id ID]
                                        prints the event's id
  edgefn-ctl line LINE set on|off
  edgefn-ctl line LINE pulse TIME       on for a time such as 200ms or 1s, then off
  edgefn-ctl line LINE release          gives the function's command up
  edgefn-ctl line LINE get              prints on or off
  edgefn-ctl sensor SENSOR read         prints JSON: {"temperature_C":25.1}
  edgefn-ctl log debug|info|warning|error TEXT...
  edgefn-ctl reject [TEXT...]           the event never again: to the dead letters
  edgefn-ctl retry DURATION [TEXT...]   the event again, no sooner than in DURATION,
                                        0s to 24h, such as 30s, 5m or 1h30m

-f FUNCTION with state is another function's state, which edgefn.yaml must grant.
-r asks the broker to retain the message; QOS is 0, 1 or 2, and 1 without -q.
Options that begin with -- are MQTT 5's, and left out where a receiver or a broker
speaks 3.1.1: after DURATION, such as 30s, nobody gets the message any more; --user
may be there several times. reply publishes to EDGEFN_EVENT_MQTTRESPONSETOPIC, with
the correlation of the event, at its broker; the sender chose that topic, and
edgefn.yaml must grant it as any other.
A single - reads standard input; -- ends the options, for data that begins with -.

Messages, writes, events and commands of lines take place together when the
program exits with status 0, and none of them if it fails. Reads see the writes
and commands of the same run.

After reject or retry the program fails with that text, however it exits; the
last of several counts. Neither ends the program: exit after it. A retry counts
as an attempt; behind the last one of edgefn.yaml the event goes to the dead
letters, and 0s leaves the time to edgefn.yaml too. A retry with a wrong DURATION
has status 2, and the program fails all the same and is tried again by edgefn.yaml.

Status: 0 done, 1 refused or failed, 2 wrong usage, 4 no such key.
`

// usageError is a wrong command line.
type usageError string

func (e usageError) Error() string { return string(e) }

var errNotFound = errors.New("no such key")

// Ctl is the command edgefn-ctl. It returns its exit status.
func Ctl(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 1 && (args[0] == "help" || args[0] == "-h" || args[0] == "--help") {
		fmt.Fprint(stdout, usage)
		return exOK
	}
	err := ctl(args, stdin, stdout)
	var wrong usageError
	switch {
	case err == nil:
		return exOK
	case errors.As(err, &wrong):
		fmt.Fprintf(stderr, "edgefn-ctl: %v; try edgefn-ctl help\n", err)
		return exUsage
	}
	fmt.Fprintf(stderr, "edgefn-ctl: %v\n", err)
	if errors.Is(err, errNotFound) {
		return exNotFound
	}
	return exFailed
}

func ctl(args []string, stdin io.Reader, stdout io.Writer) error {
	if ends(args) {
		return new(request).outcome(args)
	}
	words, options, err := parse(args)
	if err != nil {
		return err
	}
	if len(words) == 0 {
		return usageError("a command is missing")
	}
	r := &request{stdin: stdin, options: options}
	command := words[0]
	switch command {
	case "publish":
		err = r.publish(words[1:])
	case "reply":
		err = r.reply(words[1:])
	case "state":
		err = r.state(words[1:])
	case "invoke":
		err = r.invoke(words[1:])
	case "line":
		err = r.line(words[1:])
	case "sensor":
		err = r.sensor(words[1:])
	case "log":
		err = r.log(words[1:])
	default:
		return usageError(fmt.Sprintf("%q is no command", command))
	}
	if err != nil {
		return err
	}
	for name := range r.options {
		return usageError(fmt.Sprintf("option %s is not for %s", name, command))
	}
	reply, err := r.send()
	if err != nil {
		return fmt.Errorf("%s: %w", strings.Join(words[:min(2, len(words))], " "), err)
	}
	return r.print(stdout, reply)
}

// takesValue says which options there are, and which of them have a value.
var takesValue = map[string]bool{
	"-q": true, "-b": true, "-f": true, "-r": false, "--type": true, "--subject": true, "--id": true,
	"--content-type": true, "--response-topic": true, "--correlation": true, "--expiry": true, "--user": true,
}

// parse takes options from anywhere between the words.
func parse(args []string) (words []string, options map[string][]string, err error) {
	options = map[string][]string{}
	for i := 0; i < len(args); i++ {
		a := args[i]
		if a == "--" {
			return append(words, args[i+1:]...), options, nil
		}
		if a == "-" || !strings.HasPrefix(a, "-") {
			words = append(words, a)
			continue
		}
		name, value, has := strings.Cut(a, "=")
		takes, known := takesValue[name]
		switch {
		case !known:
			return nil, nil, usageError(fmt.Sprintf("%s is no option", name))
		case !takes && has:
			return nil, nil, usageError(fmt.Sprintf("option %s takes no value", name))
		case takes && !has:
			if i++; i == len(args) {
				return nil, nil, usageError(fmt.Sprintf("option %s has no value", name))
			}
			value = args[i]
		}
		options[name] = append(options[name], value)
	}
	return words, options, nil
}

// request is one call to be sent.
type request struct {
	stdin   io.Reader
	options map[string][]string // those that nobody took yet, with their values in order

	kind    wire.Kind
	call    wire.Call
	entry   wire.Log
	failure wire.Failure
}

// option takes an option; of several the last one counts.
func (r *request) option(name string) (string, bool) {
	values := r.options[name]
	delete(r.options, name)
	if len(values) == 0 {
		return "", false
	}
	return values[len(values)-1], true
}

// data returns the word at i, or standard input for a -.
func (r *request) data(words []string, i int) ([]byte, error) {
	switch {
	case len(words) > i+1:
		return nil, usageError("too many words: put data with spaces in quotes")
	case len(words) <= i:
		return nil, nil
	case words[i] != "-":
		return []byte(words[i]), nil
	}
	b, err := io.ReadAll(io.LimitReader(r.stdin, callLimit))
	if err != nil {
		return nil, fmt.Errorf("read standard input: %w", err)
	}
	return b, nil
}

func (r *request) publish(words []string) (err error) {
	if len(words) == 0 {
		return usageError("publish needs a topic")
	}
	r.call.Topic = words[0]
	_, r.call.Retain = r.option("-r")
	r.call.Broker, _ = r.option("-b")
	r.call.ResponseTopic, _ = r.option("--response-topic")
	if c, ok := r.option("--correlation"); ok {
		if r.call.Correlation, err = base64.StdEncoding.DecodeString(c); err != nil {
			return usageError(fmt.Sprintf("--correlation %s: write it in base64, as EDGEFN_EVENT_MQTTCORRELATION has it", c))
		}
	}
	return r.message(words[1:])
}

// reply publishes where the event asks for an answer.
func (r *request) reply(words []string) (err error) {
	r.call.Topic = os.Getenv("EDGEFN_EVENT_MQTTRESPONSETOPIC")
	if r.call.Topic == "" {
		return errors.New("reply: the event asks for no answer: it has no mqttresponsetopic, which only a message of MQTT 5 can have")
	}
	if r.call.Correlation, err = base64.StdEncoding.DecodeString(os.Getenv("EDGEFN_EVENT_MQTTCORRELATION")); err != nil {
		return fmt.Errorf("reply: EDGEFN_EVENT_MQTTCORRELATION: %w", err)
	}
	if broker, ok := strings.CutPrefix(os.Getenv("EDGEFN_EVENT_SOURCE"), "mqtt://"); ok {
		r.call.Broker = broker
	}
	return r.message(words)
}

// message takes what publish and reply have in common.
func (r *request) message(words []string) (err error) {
	r.kind, r.call.QoS = wire.KindPublish, 1
	if q, ok := r.option("-q"); ok {
		n, err := strconv.ParseUint(q, 10, 8)
		if err != nil || n > 2 {
			return usageError(fmt.Sprintf("-q %s: QoS is 0, 1 or 2", q))
		}
		r.call.QoS = uint8(n)
	}
	r.call.ContentType, _ = r.option("--content-type")
	if e, ok := r.option("--expiry"); ok {
		d, err := time.ParseDuration(e)
		if err != nil || d <= 0 || d > functions.MaxExpiry*time.Second {
			return usageError(fmt.Sprintf("--expiry %s: write a time such as 30s or 1h", e))
		}
		r.call.ExpiryS = int64((d + time.Second - 1) / time.Second)
	}
	for _, u := range r.options["--user"] {
		name, value, ok := strings.Cut(u, "=")
		if !ok {
			return usageError(fmt.Sprintf("--user %s: write NAME=VALUE", u))
		}
		r.call.User = append(r.call.User, functions.UserProperty{Name: name, Value: value})
	}
	delete(r.options, "--user")
	r.call.Data, err = r.data(words, 0)
	return err
}

func (r *request) state(words []string) (err error) {
	if len(words) == 0 {
		return usageError("state needs get, put, delete or list")
	}
	r.call.Function, _ = r.option("-f")
	most := 2
	switch words[0] {
	case "get":
		r.kind = wire.KindGet
	case "put":
		r.kind = wire.KindPut
		if len(words) < 3 {
			return usageError("state put needs a key and a value, or - for standard input")
		}
		r.call.Key = words[1]
		r.call.Value, err = r.data(words, 2)
		return err
	case "delete":
		r.kind = wire.KindDelete
	case "list":
		r.kind = wire.KindList
	default:
		return usageError(fmt.Sprintf("state %s is none of get, put, delete, list", words[0]))
	}
	if len(words) > most {
		return usageError("too many words")
	}
	switch {
	case r.kind == wire.KindList && len(words) == 2:
		r.call.Prefix = words[1]
	case r.kind == wire.KindList:
	case len(words) < 2:
		return usageError(fmt.Sprintf("state %s needs a key", words[0]))
	default:
		r.call.Key = words[1]
	}
	return nil
}

func (r *request) invoke(words []string) (err error) {
	if len(words) == 0 {
		return usageError("invoke needs a function")
	}
	r.kind, r.call.Function = wire.KindInvoke, words[0]
	r.call.Type, _ = r.option("--type")
	r.call.Subject, _ = r.option("--subject")
	r.call.ID, _ = r.option("--id")
	r.call.Data, err = r.data(words, 1)
	return err
}

func (r *request) line(words []string) error {
	if len(words) < 2 {
		return usageError("line needs a line and one of set, pulse, release, get")
	}
	r.call.Device = words[0]
	verb, values := words[1], words[2:]
	switch verb {
	case "set":
		r.kind = wire.KindSetLine
		if len(values) != 1 || values[0] != "on" && values[0] != "off" {
			return usageError("line set needs on or off")
		}
		r.call.On = values[0] == "on"
		return nil
	case "pulse":
		r.kind = wire.KindPulseLine
		if len(values) != 1 {
			return usageError("line pulse needs a time such as 200ms")
		}
		d, err := time.ParseDuration(values[0])
		if err != nil || d%time.Millisecond != 0 {
			return usageError(fmt.Sprintf("line pulse %s: write a time in whole milliseconds, such as 200ms or 1s", values[0]))
		}
		r.call.MS = d.Milliseconds()
		return nil
	case "release":
		r.kind = wire.KindReleaseLine
	case "get":
		r.kind = wire.KindReadLine
	default:
		return usageError(fmt.Sprintf("line %s is none of set, pulse, release, get", verb))
	}
	if len(values) > 0 {
		return usageError("too many words")
	}
	return nil
}

func (r *request) sensor(words []string) error {
	if len(words) != 2 || words[1] != "read" {
		return usageError("sensor needs a sensor and read")
	}
	r.kind, r.call.Device = wire.KindReadSensor, words[0]
	return nil
}

func (r *request) log(words []string) error {
	if len(words) < 2 {
		return usageError("log needs a level and a text")
	}
	switch words[0] {
	case "debug", "info", "warning", "error":
	case "warn":
		words[0] = "warning"
	default:
		return usageError(fmt.Sprintf("level %s is none of debug, info, warning, error", words[0]))
	}
	r.kind = wire.KindLog
	r.entry = wire.Log{Level: words[0], Text: strings.Join(words[1:], " ")}
	return nil
}

// send hands the call to the shim and returns the node's answer.
func (r *request) send() (wire.Reply, error) {
	var reply wire.Reply
	path := os.Getenv("EDGEFN_CTL")
	if path == "" {
		return reply, errors.New("EDGEFN_CTL is not set: this works in a function of the exec runtime only")
	}
	ctx, cancel := context.WithTimeout(context.Background(), ctlTimeout)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return reply, fmt.Errorf("reach the node: %w", err)
	}
	defer c.Close() //nolint:errcheck // the answer is all that counts
	conn := wire.NewConn(c, readLimit)
	var body any = r.call
	switch r.kind { //nolint:exhaustive // all others are calls
	case wire.KindLog:
		body = r.entry
	case wire.KindFailure:
		body = r.failure
	}
	if err := conn.Write(r.kind, 1, body); err != nil {
		return reply, fmt.Errorf("ask the node: %w", err)
	}
	f, err := conn.Read()
	if err != nil {
		return reply, fmt.Errorf("ask the node: %w", err)
	}
	if err := f.Into(&reply); err != nil {
		return reply, err
	}
	if f.Kind != wire.KindOK {
		return reply, errors.New(reply.Message)
	}
	return reply, nil
}

// print writes what the answer says.
func (r *request) print(w io.Writer, reply wire.Reply) error {
	var err error
	switch r.kind {
	case wire.KindGet:
		if !reply.Found {
			return fmt.Errorf("state get %s: %w", r.call.Key, errNotFound)
		}
		_, err = w.Write(reply.Value)
	case wire.KindList:
		for _, k := range reply.Keys {
			if _, err = fmt.Fprintln(w, k); err != nil {
				break
			}
		}
	case wire.KindInvoke:
		_, err = fmt.Fprintln(w, reply.ID)
	case wire.KindReadLine:
		state := "off"
		if reply.On {
			state = "on"
		}
		_, err = fmt.Fprintln(w, state)
	case wire.KindReadSensor:
		_, err = fmt.Fprintf(w, "%s\n", reply.Value)
	case wire.KindPut, wire.KindDelete, wire.KindPublish, wire.KindLog,
		wire.KindSetLine, wire.KindPulseLine, wire.KindReleaseLine,
		wire.KindHello, wire.KindEvent, wire.KindResult, wire.KindFailure, wire.KindOK, wire.KindError:
	}
	return err
}

package broker_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edgefn/edgefn/triggers/mqtt/broker"
	mqttpacket "github.com/edgefn/edgefn/triggers/mqtt/broker/packet"
)

// statement is one normative statement of the standard, and what shows that the
// broker keeps it: exactly one of steps, by, same and na.
type statement struct {
	n    string // its number, without "MQTT-"
	says string
	// steps are bytes that go to a broker over TCP and the bytes that come back.
	steps []step
	by    string // test functions of this package that show it
	same  string // statement whose steps show this one too
	na    string // why a server, or this one, has nothing to keep here
}

// Why a statement does not apply.
const (
	clients   = "the client's duty"
	optional  = "an optional feature that the broker does not have: "
	noReason  = "the broker sends no reason string"
	noUser    = "the broker sends no user property of its own"
	noAuth    = optional + "enhanced authentication"
	transport = "the transport's"
)

func TestStatementsOfMQTT5(t *testing.T) {
	checkStatements(t, "5.0", v5, slices.Concat(statements5Connect, statements5Publish, statements5Rest))
}

func TestStatementsOfMQTT311(t *testing.T) {
	checkStatements(t, "3.1.1", v4, statements311)
}

func checkStatements(t *testing.T, standard string, d dialect, table []statement) {
	t.Parallel()
	numbers := readNumbers(t, standard)
	tests := testNames(t)
	byNumber := map[string]*statement{}
	for i := range table {
		s := &table[i]
		if byNumber[s.n] != nil {
			t.Errorf("%s is there twice", s.n)
		}
		byNumber[s.n] = s
		if !slices.Contains(numbers, "MQTT-"+s.n) {
			t.Errorf("%s is no number of the standard", s.n)
		}
		if s.says == "" {
			t.Errorf("%s says nothing", s.n)
		}
	}
	sent, tested, inapplicable := 0, 0, 0
	for _, number := range numbers {
		s := byNumber[strings.TrimPrefix(number, "MQTT-")]
		if s == nil {
			t.Errorf("%s is missing", number)
			continue
		}
		ways := 0
		for _, there := range []bool{len(s.steps) > 0, s.by != "", s.same != "", s.na != ""} {
			if there {
				ways++
			}
		}
		if ways != 1 {
			t.Errorf("%s is shown in %d ways, want one of steps, by, same and na", s.n, ways)
		}
		switch {
		case s.na != "":
			inapplicable++
		case s.by != "":
			tested++
			for name := range strings.FieldsSeq(s.by) {
				if !tests[name] {
					t.Errorf("%s: there is no %s", s.n, name)
				}
			}
		case s.same != "":
			sent++
			if o := byNumber[s.same]; o == nil || len(o.steps) == 0 {
				t.Errorf("%s: %s has no steps", s.n, s.same)
			}
		default:
			sent++
			t.Run(s.n, func(t *testing.T) {
				t.Parallel()
				replaySteps(t, d, s.steps)
			})
		}
	}
	t.Logf("MQTT %s: %d statements; %d checked (%d by bytes sent here, %d by tests of their own), %d do not apply",
		standard, len(numbers), sent+tested, sent, tested, inapplicable)
}

// Every requirement that the broker checks on packets is a statement of the
// standard with bytes that break it, or one of those below.
func TestRequirementsHaveBytes(t *testing.T) {
	var tables [2]map[string]*statement
	for i, table := range [][]statement{slices.Concat(statements5Connect, statements5Publish, statements5Rest), statements311} {
		tables[i] = map[string]*statement{}
		for j := range table {
			tables[i]["MQTT-"+table[j].n] = &table[j]
		}
	}
	unnumbered := map[string]bool{}
	for _, u := range unnumbered5 {
		unnumbered[u.section+" "+u.what] = true
	}
	for _, r := range mqttpacket.Requirements() {
		for i, number := range []string{r.V5, r.V311} {
			switch {
			case number == "":
			case strings.HasPrefix(number, "MQTT-"):
				if s := tables[i][number]; s == nil || (len(s.steps) == 0 && s.by == "" && s.same == "") {
					t.Errorf("%s (%s) is not shown", number, r.What)
				}
			case i == 0 && !unnumbered[number+" "+r.What]:
				t.Errorf("section %s (%s) has no bytes", number, r.What)
			}
		}
	}
}

// What MQTT 5 asks for in sentences that have no number.
func TestUnnumberedRequirementsOfMQTT5(t *testing.T) {
	t.Parallel()
	for _, u := range unnumbered5 {
		t.Run(u.section+" "+u.what, func(t *testing.T) {
			t.Parallel()
			replaySteps(t, v5, u.steps)
		})
	}
}

func readNumbers(t *testing.T, standard string) (out []string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "statements-"+standard+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			out = append(out, line)
		}
	}
	return out
}

var testName = regexp.MustCompile(`(?m)^func (Test\w+)\(`)

// testNames are the test functions of this package.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range testName.FindAllSubmatch(data, -1) {
			out[string(m[1])] = true
		}
	}
	return out
}

// replay is an exchange of bytes with a broker.
type replay struct {
	*testing.T
	d       dialect
	s       *server
	clock   *fakeClock
	clients map[string]*client
}

type step func(r *replay)

func replaySteps(t *testing.T, d dialect, steps []step) {
	clock := &fakeClock{t: time.Unix(1_790_000_000, 0)}
	r := &replay{T: t, d: d, clock: clock, s: start(t, broker.Config{Clock: clock.now}), clients: map[string]*client{}}
	for _, do := range steps {
		if do(r); t.Failed() {
			return
		}
	}
}

func (r *replay) client(name string) *client {
	r.Helper()
	c := r.clients[name]
	if c == nil {
		r.Fatalf("client %s is not connected", name)
	}
	return c
}

// open connects a client; its name is its id.
func open(name string, o options) step {
	return func(r *replay) {
		r.Helper()
		r.clients[name] = r.open(name, o, false)
	}
}

// resume connects a client whose session is there.
func resume(name string, o options) step {
	return func(r *replay) {
		r.Helper()
		r.clients[name] = r.open(name, o, true)
	}
}

func (r *replay) open(name string, o options, want bool) *client {
	r.Helper()
	o.id, o.version = name, byte(r.d)
	c, present, code := connect(r.T, r.s.Addr(), o)
	if code != 0 || present != want {
		r.Fatalf("CONNECT of %s: code %#x, session present %v, want 0 and %v", name, code, present, want)
	}
	return c
}

func send(name string, pks ...[]byte) step {
	return func(r *replay) {
		r.Helper()
		r.client(name).write(bytes.Join(pks, nil))
	}
}

// want waits for packets, byte for byte.
func want(name string, pks ...[]byte) step {
	return func(r *replay) {
		r.Helper()
		for _, pk := range pks {
			p, ok := r.client(name).next()
			if !ok {
				r.Fatalf("%s: connection ended, want %x", name, pk)
			}
			if got := frame(p.head, p.body); !bytes.Equal(got, pk) {
				r.Fatalf("%s: got  %x\nwant %x", name, got, pk)
			}
		}
	}
}

// unordered waits for packets whose order is free.
func unordered(name string, pks ...[]byte) step {
	return func(r *replay) {
		r.Helper()
		open := slices.Clone(pks)
		for len(open) > 0 {
			p, ok := r.client(name).next()
			if !ok {
				r.Fatalf("%s: connection ended, want %x", name, open)
			}
			got := frame(p.head, p.body)
			i := slices.IndexFunc(open, func(pk []byte) bool { return bytes.Equal(pk, got) })
			if i < 0 {
				r.Fatalf("%s: got %x, want one of %x", name, got, open)
			}
			open = slices.Delete(open, i, i+1)
		}
	}
}

// exactlyOnce sends a PUBLISH of QoS 2 and follows it to its end.
func exactlyOnce(name string, pk []byte, pid uint16) []step {
	return each(send(name, pk), want(name, ack(pPubrec, pid)), send(name, ack(pPubrel, pid)), want(name, ack(pPubcomp, pid)))
}

// closed waits for the end of a connection. An MQTT 5 client is told the code
// before, in a DISCONNECT with nothing else in it; 0 is no DISCONNECT.
func closed(name string, code byte) step {
	return func(r *replay) {
		r.Helper()
		if code != 0 && r.d == v5 {
			want(name, []byte{0xe0, 2, code, 0})(r)
		}
		if p, ok := r.client(name).next(); ok {
			r.Fatalf("%s: got %x, want the end of the connection", name, frame(p.head, p.body))
		}
	}
}

func quiet(name string) step {
	return func(r *replay) { r.Helper(); r.client(name).nothing() }
}

// drop cuts a connection and waits until the broker knows.
func drop(name string) step {
	return func(r *replay) { r.Helper(); r.leave(name, (*client).close) }
}

// leave disconnects normally and waits until the broker knows.
func leave(name string) step {
	return func(r *replay) { r.Helper(); r.leave(name, (*client).goodbye) }
}

func (r *replay) leave(name string, how func(*client)) {
	r.Helper()
	n := r.s.Stats().Clients
	how(r.client(name))
	eventually(r.T, name+" is away", func() bool { return r.s.Stats().Clients < n })
}

func wait(d time.Duration) step { return func(r *replay) { r.clock.advance(d) } }

// sweeps gives the broker time to notice what time has brought.
func sweeps(*replay) { time.Sleep(twoSweeps) }

// first sends bytes as the first ones of a connection and wants all of the
// answer, and the end.
func first(data, answer []byte) step {
	return func(r *replay) {
		r.Helper()
		nc := dialRaw(r.T, r.s.Addr())
		_ = nc.SetDeadline(time.Now().Add(patience))
		if _, err := nc.Write(data); err != nil {
			r.Fatal(err)
		}
		got, err := io.ReadAll(nc)
		if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
			r.Fatalf("%x: the connection was kept", data)
		}
		if !bytes.Equal(got, answer) {
			r.Errorf("%x: got %x, want %x", data, got, answer)
		}
	}
}

// refused is a CONNECT that is answered with a code, in MQTT 5.
func refused(data []byte, code byte) step { return first(data, []byte{0x20, 3, 0, code, 0}) }

// bad are packets each of which ends its connection.
func bad(code byte, pks ...[]byte) (out []step) {
	for i, pk := range pks {
		name := fmt.Sprint("bad", i)
		out = append(out, open(name, options{}), send(name, pk), closed(name, code))
	}
	return out
}

// each joins steps and lists of steps.
func each(parts ...any) (out []step) {
	for _, p := range parts {
		switch p := p.(type) {
		case step:
			out = append(out, p)
		case func(*replay):
			out = append(out, p)
		case []step:
			out = append(out, p...)
		default:
			panic(fmt.Sprintf("%T is no step", p))
		}
	}
	return out
}

// dialect writes packets of one version of the protocol.
type dialect byte

const (
	v4 dialect = 4
	v5 dialect = 5
)

func (d dialect) props(p []byte) []byte {
	if d < v5 {
		return nil
	}
	return append([]byte{byte(len(p))}, p...)
}

func id16(pid uint16) []byte { return binary.BigEndian.AppendUint16(nil, pid) }

// connect is a CONNECT as raw as one wants it: fields follow the client id.
func (d dialect) connect(flags byte, id string, props []byte, fields ...[]byte) []byte {
	body := slices.Concat(str("MQTT"), []byte{byte(d), flags, 0, 0}, d.props(props), str(id))
	return frame(0x10, append(body, bytes.Join(fields, nil)...))
}

// pub is a PUBLISH; flags are those of its header.
func (d dialect) pub(flags byte, topic string, pid uint16, payload string, props ...byte) []byte {
	body := str(topic)
	if flags&6 != 0 {
		body = append(body, id16(pid)...)
	}
	return frame(0x30|flags, slices.Concat(body, d.props(props), []byte(payload)))
}

// filter is a topic filter and its options.
type filter struct {
	topic   string
	options byte
}

func (d dialect) sub(pid uint16, props []byte, filters ...filter) []byte {
	body := slices.Concat(id16(pid), d.props(props))
	for _, f := range filters {
		body = append(append(body, str(f.topic)...), f.options)
	}
	return frame(0x82, body)
}

func (d dialect) sub1(pid uint16, topic string, options byte) []byte {
	return d.sub(pid, nil, filter{topic, options})
}

func (d dialect) suback(pid uint16, codes ...byte) []byte {
	return frame(0x90, slices.Concat(id16(pid), d.props(nil), codes))
}

func (d dialect) unsub(pid uint16, topics ...string) []byte {
	body := slices.Concat(id16(pid), d.props(nil))
	for _, topic := range topics {
		body = append(body, str(topic)...)
	}
	return frame(0xa2, body)
}

func (d dialect) unsuback(pid uint16, codes ...byte) []byte {
	if d < v5 {
		codes = nil
	}
	return frame(0xb0, slices.Concat(id16(pid), d.props(nil), codes))
}

// ack is PUBACK, PUBREC, PUBREL or PUBCOMP.
func ack(kind byte, pid uint16, code ...byte) []byte {
	head := kind << 4
	if kind == pPubrel {
		head |= 2
	}
	return frame(head, append(id16(pid), code...))
}

var (
	pingreq  = []byte{0xc0, 0}
	pingresp = []byte{0xd0, 0}
)

// Flags of PUBLISH.
const (
	retained = 1
	qos1     = 2
	qos2     = 4
	again    = 8 // DUP
)

// keep asks MQTT 5 for a session of a minute, and 3.1.1 for one.
var keep = options{keep: true, props: []byte{17, 0, 0, 0, 60}}

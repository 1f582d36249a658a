package broker_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/gorilla/websocket"

	"github.com/edgefn/edgefn/triggers"
	"github.com/edgefn/edgefn/triggers/mqtt/broker"
	"github.com/edgefn/edgefn/triggers/mqtt/broker/access"
)

func startWebSocket(t *testing.T, change func(*broker.Config)) *server {
	t.Helper()
	cfg := broker.Config{Listeners: []broker.Listener{{Addr: "127.0.0.1:0", WebSocket: true}}}
	if change != nil {
		change(&cfg)
	}
	return start(t, cfg)
}

// upgrade asks for a WebSocket; status is that of the answer when there is none.
func upgrade(t *testing.T, s *server, header http.Header, protocols ...string) (ws *websocket.Conn, status int) {
	t.Helper()
	ws, resp, err := (&websocket.Dialer{Subprotocols: protocols}).Dial("ws://"+s.Addr()+"/any/path", header)
	if resp == nil {
		t.Fatal(err)
	}
	if err != nil {
		return nil, resp.StatusCode
	}
	t.Cleanup(func() { _ = ws.Close() })
	_ = ws.SetReadDeadline(time.Now().Add(patience))
	_ = ws.SetWriteDeadline(time.Now().Add(patience))
	return ws, resp.StatusCode
}

// wsFrames reads packets from a WebSocket, whatever messages they are in.
type wsFrames struct {
	ws  *websocket.Conn
	buf bytes.Buffer
}

func (f *wsFrames) next(t *testing.T) packet {
	t.Helper()
	for {
		data := f.buf.Bytes()
		if len(data) > 1 {
			if n, k := binary.Uvarint(data[1:]); k > 0 && len(data) >= 1+k+int(n) {
				f.buf.Next(1 + k + int(n))
				return packet{head: data[0], body: bytes.Clone(data[1+k : 1+k+int(n)])}
			}
		}
		kind, more, err := f.ws.ReadMessage()
		if err != nil || kind != websocket.BinaryMessage {
			t.Fatalf("message of kind %d, %v", kind, err)
		}
		f.buf.Write(more)
	}
}

func TestWebSocket(t *testing.T) {
	sk := newSink(nil)
	s := startWebSocket(t, func(c *broker.Config) { c.Sink = sk })
	s.Bind([]triggers.Binding{bind("f", "in", 1)})
	ws, _ := upgrade(t, s, nil, "other", "mqtt")
	if ws == nil || ws.Subprotocol() != "mqtt" {
		t.Fatal("no WebSocket with the subprotocol mqtt") // [MQTT-6.0.0-4]
	}
	send := func(data []byte) {
		t.Helper()
		if err := ws.WriteMessage(websocket.BinaryMessage, data); err != nil {
			t.Fatal(err)
		}
	}
	in := &wsFrames{ws: ws}
	// A packet in pieces, and empty messages between them [MQTT-6.0.0-2].
	for _, b := range connectPacket(options{id: "w", version: 5}) {
		send([]byte{b})
		send(nil)
	}
	if p := in.next(t); p.kind() != pConnack || p.body[1] != 0 {
		t.Fatalf("CONNACK %+v", p)
	}
	// Several packets in one message, the last one cut.
	c := &client{t: t, version: 5}
	all := append(c.subscribePacket("in", 1), c.publishPacket(publish{topic: "in", payload: strings.Repeat("x", 200_000), qos: 1, pid: 1})...)
	all = append(all, 0xc0, 0)
	send(all[:len(all)-1])
	send(all[len(all)-1:])
	got := map[byte]packet{}
	for range 4 {
		p := in.next(t)
		got[p.kind()] = p
	}
	if m := c.parse(got[pPublish]); len(got) != 4 || len(m.payload) != 200_000 {
		t.Errorf("packets %v", got)
	}
	if len(sk.wait(t, 1)[0].Event.Data) != 200_000 {
		t.Error("no event")
	}
	if i := s.Clients("", 9); len(i) != 1 || i[0].Remote != ws.LocalAddr().String() {
		t.Errorf("clients %+v", i)
	}
	// Text is no MQTT [MQTT-6.0.0-1].
	if err := ws.WriteMessage(websocket.TextMessage, []byte{0xc0, 0}); err != nil {
		t.Fatal(err)
	}
	for {
		if _, _, err := ws.ReadMessage(); err != nil {
			break
		}
	}
	eventually(t, "the client is gone", func() bool { return s.Stats().Clients == 0 })
}

func TestWebSocketUpgrades(t *testing.T) {
	origins := []string{"https://panel.example"}
	s := startWebSocket(t, func(c *broker.Config) { c.Listeners[0].Origins = origins })
	_, port, _ := strings.Cut(s.Addr(), ":")
	all := startWebSocket(t, func(c *broker.Config) { c.Listeners[0].Origins = []string{"*"} })
	lan := startWebSocket(t, func(c *broker.Config) {
		c.Listeners[0].Addr, c.Listeners[0].Anonymous = "0.0.0.0:0", true
		c.Listeners[0].Rules = []access.Rule{{User: access.Anonymous, Publish: []string{"x"}}}
	})
	for name, tc := range map[string]struct {
		s      *server
		header http.Header
		sub    []string
		status int
	}{
		"program":                       {s, nil, []string{"mqtt"}, 101},
		"of MQTT 3.1":                   {s, nil, []string{"mqttv3.1"}, 101},
		"no subprotocol":                {s, nil, nil, 400},
		"other subprotocol":             {s, nil, []string{"mqttv5"}, 400},
		"own page":                      {s, http.Header{"Origin": {"http://" + s.Addr()}}, []string{"mqtt"}, 101},
		"page that is named":            {s, http.Header{"Origin": {"https://panel.example"}}, []string{"mqtt"}, 101},
		"page of others":                {s, http.Header{"Origin": {"https://evil.example"}}, []string{"mqtt"}, 403},
		"sandboxed page":                {s, http.Header{"Origin": {"null"}}, []string{"mqtt"}, 403},
		"name made to lead here":        {s, http.Header{"Origin": {"http://evil.example:" + port}, "Host": {"evil.example:" + port}}, []string{"mqtt"}, 403},
		"any page":                      {all, http.Header{"Origin": {"https://evil.example"}}, []string{"mqtt"}, 101},
		"own name of a LAN listener":    {lan, http.Header{"Origin": {"http://gateway:1"}, "Host": {"gateway:1"}}, []string{"mqtt"}, 101},
		"other host at a LAN listener":  {lan, http.Header{"Origin": {"http://gateway:1"}, "Host": {"gateway:2"}}, []string{"mqtt"}, 403},
		"path of a page in its Origin":  {s, http.Header{"Origin": {"https://panel.example/x"}}, []string{"mqtt"}, 403},
		"capitals, as no browser sends": {s, http.Header{"Origin": {"HTTPS://PANEL.example"}}, []string{"mqtt"}, 101},
	} {
		t.Run(name, func(t *testing.T) {
			if _, status := upgrade(t, tc.s, tc.header, tc.sub...); status != tc.status {
				t.Errorf("status %d, want %d", status, tc.status)
			}
		})
	}
	resp, err := http.Get("http://" + s.Addr() + "/")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest && resp.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("a plain request: %s", resp.Status)
	}
}

func TestWebSocketBounds(t *testing.T) {
	s := startWebSocket(t, func(c *broker.Config) { c.MaxClients, c.ConnectTimeout = 1, 500*time.Millisecond })
	first, _ := upgrade(t, s, nil, "mqtt")
	_ = first.WriteMessage(websocket.BinaryMessage, connectPacket(options{id: "a", version: 4}))
	if p := (&wsFrames{ws: first}).next(t); p.body[1] != 0 {
		t.Fatalf("CONNACK %+v", p)
	}
	for version, want := range map[byte]byte{4: 3, 5: 0x97} {
		over, _ := upgrade(t, s, nil, "mqtt")
		_ = over.WriteMessage(websocket.BinaryMessage, connectPacket(options{id: "b", version: version}))
		if p := (&wsFrames{ws: over}).next(t); p.kind() != pConnack || p.body[1] != want {
			t.Errorf("v%d: %+v, want %#x", version, p, want)
		}
	}
	// Neither who asks for nothing nor who asks slowly or for much is kept.
	for name, text := range map[string]string{
		"silent": "", "slow": "GET / HTTP/1.1\r\n", "large header": "GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			nc := dialRaw(t, s.Addr())
			_ = nc.SetDeadline(time.Now().Add(patience))
			_, _ = io.WriteString(nc, text)
			begun := time.Now()
			_, _ = io.Copy(io.Discard, nc)
			if d := time.Since(begun); d > 5*time.Second {
				t.Errorf("kept for %v", d)
			}
		})
	}
	s.stop()
	if _, _, err := first.ReadMessage(); err == nil {
		t.Error("connected after the broker has stopped")
	}
}

func TestWebSocketOverTLSWithClientCertificate(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile, pool := certificate(t)
	ca := newAuthority(t, filepath.Join(dir, "ca.pem"))
	s := startWebSocket(t, func(c *broker.Config) {
		l := &c.Listeners[0]
		l.CertFile, l.KeyFile, l.ClientCA = certFile, keyFile, filepath.Join(dir, "ca.pem")
	})
	d := websocket.Dialer{Subprotocols: []string{"mqtt"}, TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: ca.issue(t, "pump"), MinVersion: tls.VersionTLS12}}
	ws, resp, err := d.Dial("wss://"+s.Addr(), nil)
	if err != nil {
		t.Fatal(err, resp)
	}
	defer func() { _ = ws.Close() }()
	_ = ws.WriteMessage(websocket.BinaryMessage, connectPacket(options{id: "a", version: 4}))
	if p := (&wsFrames{ws: ws}).next(t); p.body[1] != 0 {
		t.Errorf("CONNACK %+v", p)
	}
	if i := s.Clients("", 9); len(i) != 1 || i[0].User != "pump" {
		t.Errorf("clients %+v", i)
	}
}

func TestPahoOverWebSocket(t *testing.T) {
	s := startWebSocket(t, nil)
	c := paho.NewClient(paho.NewClientOptions().AddBroker("ws://" + s.Addr() + "/mqtt").SetClientID("paho"))
	if tok := c.Connect(); !tok.WaitTimeout(patience) || tok.Error() != nil {
		t.Fatal(tok.Error())
	}
	defer c.Disconnect(100)
	got := make(chan string, 100)
	if tok := c.Subscribe("x/+", 1, func(_ paho.Client, m paho.Message) { got <- string(m.Payload()) }); !tok.WaitTimeout(patience) || tok.Error() != nil {
		t.Fatal(tok.Error())
	}
	for i := range 100 {
		c.Publish(fmt.Sprint("x/", i), 1, false, numbered(i))
	}
	for i := range 100 {
		select {
		case m := <-got:
			if m != numbered(i) {
				t.Fatalf("message %d is %s", i, m)
			}
		case <-time.After(patience):
			t.Fatalf("%d messages came", i)
		}
	}
}

// FuzzWebSocket sends bytes in messages of any kind and cut. The broker must
// stay up and let go of the connection.
func FuzzWebSocket(f *testing.F) {
	f.Add(byte(2), byte(3), connectPacket(options{id: "f", version: 4}))
	f.Add(byte(1), byte(1), []byte("text"))
	f.Add(byte(9), byte(7), []byte{0xc0, 0})
	b, err := broker.New(broker.Config{Listeners: []broker.Listener{{Addr: "127.0.0.1:0", WebSocket: true}}, Dir: f.TempDir(), Sink: newSink(nil)})
	if err != nil {
		f.Fatal(err)
	}
	if err := b.Listen(); err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	f.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.Error(err)
		}
	})
	f.Fuzz(func(t *testing.T, kind, piece byte, data []byte) {
		ws, resp, err := (&websocket.Dialer{Subprotocols: []string{"mqtt"}}).Dial("ws://"+b.Addr(), nil)
		if err != nil {
			t.Fatal(err, resp)
		}
		nc := ws.NetConn()
		defer func() { _ = ws.Close() }()
		_ = nc.SetDeadline(time.Now().Add(6 * time.Second))
		for len(data) > 0 {
			n := min(len(data), 1+int(piece))
			if kind > 10 {
				_, _ = nc.Write(data[:n]) // no frame of WebSocket
			} else {
				_ = ws.WriteMessage(1+int(kind)%2, data[:n])
			}
			data = data[n:]
		}
		_ = nc.(interface{ CloseWrite() error }).CloseWrite()
		begun := time.Now()
		_, _ = io.Copy(io.Discard, bufio.NewReader(nc))
		if d := time.Since(begun); d > 5*time.Second {
			t.Errorf("the broker kept the connection for %v", d)
		}
	})
}

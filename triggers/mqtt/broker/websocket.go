package broker

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/net/netutil"
)

// subprotocols are those of MQTT over WebSocket [MQTT-6.0.0-4]; the second is
// what clients of MQTT 3.1 ask for.
var subprotocols = []string{"mqtt", "mqttv3.1"}

// maxHeader bounds the header of a request to upgrade, in bytes.
const maxHeader = 16 << 10

// limitWebSocket bounds the connections of a WebSocket listener: the clients,
// and as many that are on their way or turned away. At the bound none is
// accepted until one ends.
func (b *Broker) limitWebSocket(ln net.Listener) net.Listener {
	return netutil.LimitListener(ln, b.cfg.MaxClients+turnedAwayAtOnce)
}

// acceptWebSocket takes WebSocket connections until the listener is closed.
func (b *Broker) acceptWebSocket(l *listener) {
	srv := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { b.upgrade(l, w, r) }), //nolint:contextcheck // a client outlives its request; shutdown ends it
		ReadHeaderTimeout: b.cfg.ConnectTimeout,
		ReadTimeout:       b.cfg.ConnectTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(b.cfg.Logger.Handler(), slog.LevelDebug),
	}
	srv.SetKeepAlivesEnabled(false)
	if err := srv.Serve(l.ln); !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
		b.cfg.Logger.Error("mqtt broker serves a listener no more", "listen", l.Addr, keyErr, err)
	}
	_ = srv.Close() // requests that are not read yet; connections of clients are not its own any more
}

// upgrade makes a client's connection of a request, and serves it to its end.
func (b *Broker) upgrade(l *listener, w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	up := b.state == running
	if up {
		b.wg.Add(1) // shutdown waits for it
		defer b.wg.Done()
	}
	b.mu.Unlock()
	offered := websocket.Subprotocols(r)
	switch {
	case !up:
		http.Error(w, "the broker is stopping", http.StatusServiceUnavailable)
		return
	case websocket.IsWebSocketUpgrade(r) && !slices.ContainsFunc(subprotocols, func(p string) bool { return slices.Contains(offered, p) }):
		http.Error(w, "ask for the WebSocket subprotocol mqtt", http.StatusBadRequest) // [MQTT-6.0.0-3]
		return
	case !l.takesOrigin(r):
		b.stats.refused.Add(1)
		b.cfg.Logger.Warn("mqtt client refused: a page of another origin; if it may connect, name it in origins of the listener",
			"origin", r.Header.Get("Origin"), keyRemote, r.RemoteAddr)
		http.Error(w, "pages of this origin may not connect", http.StatusForbidden)
		return
	}
	u := websocket.Upgrader{
		HandshakeTimeout: b.cfg.ConnectTimeout, ReadBufferSize: 4096, WriteBufferSize: 4096, Subprotocols: subprotocols,
		CheckOrigin: func(*http.Request) bool { return true }, // takesOrigin has
	}
	ws, err := u.Upgrade(w, r, nil)
	if err != nil {
		return // it has its answer
	}
	nc := &wsConn{ws: ws}
	if r.TLS != nil {
		nc.certificate = commonName(*r.TLS)
	}
	c := newConn(b, l, nc)
	if !b.count(c) {
		b.stats.refused.Add(1)
		tellFull(nc)
		return
	}
	defer b.uncount(c)
	c.serve()
}

// takesOrigin reports whether a web page may connect: one of the listener's own
// host, or of an origin that is named. Programs have no origin. A page whose
// host's name was made to lead to this machine is not of its own host.
func (l *listener) takesOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	if slices.ContainsFunc(l.Origins, func(o string) bool { return o == "*" || strings.EqualFold(o, origin) }) {
		return true
	}
	u, err := url.Parse(origin)
	if err != nil || !strings.EqualFold(u.Host, r.Host) {
		return false
	}
	own, _, err := net.SplitHostPort(l.Addr)
	return err == nil && (!IsLoopback(own) || IsLoopback(u.Hostname()))
}

// CheckOrigin reports why a listener cannot have an origin, or nil.
func CheckOrigin(origin string) error {
	if origin == "*" {
		return nil
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.Scheme+"://"+u.Host != origin {
		return errors.New("write it as a browser sends it, such as https://panel.example:8443, or *")
	}
	return nil
}

// wsConn is a WebSocket connection as a stream of bytes: packets may share
// messages and may be spread over several [MQTT-6.0.0-2].
type wsConn struct {
	ws          *websocket.Conn
	certificate string // common name of the client's certificate; empty: none
	message     io.Reader

	mu       sync.Mutex
	deadline time.Time // of writing
}

var _ net.Conn = (*wsConn)(nil)

var errNoBinary = errors.New("WebSocket message is not binary") // [MQTT-6.0.0-1]

// Read implements net.Conn.
func (c *wsConn) Read(p []byte) (int, error) {
	for {
		if c.message == nil {
			kind, r, err := c.ws.NextReader()
			var closed *websocket.CloseError
			switch {
			case errors.As(err, &closed):
				return 0, io.EOF
			case err != nil:
				return 0, err
			case kind != websocket.BinaryMessage:
				return 0, errNoBinary
			}
			c.message = r
		}
		n, err := c.message.Read(p)
		if errors.Is(err, io.EOF) {
			c.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// Write implements net.Conn. One goroutine at a time may call it.
func (c *wsConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	err := c.ws.SetWriteDeadline(c.deadline)
	c.mu.Unlock()
	if err == nil {
		err = c.ws.WriteMessage(websocket.BinaryMessage, p)
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close implements net.Conn. The writer must have ended.
func (c *wsConn) Close() error {
	_ = c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(closeGrace))
	return c.ws.Close()
}

// LocalAddr implements net.Conn.
func (c *wsConn) LocalAddr() net.Addr { return c.ws.LocalAddr() }

// RemoteAddr implements net.Conn.
func (c *wsConn) RemoteAddr() net.Addr { return c.ws.RemoteAddr() }

// SetDeadline implements net.Conn.
func (c *wsConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *wsConn) SetReadDeadline(t time.Time) error { return c.ws.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn, for a Write under way, too.
func (c *wsConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	return c.ws.NetConn().SetWriteDeadline(t)
}

// certificateOf is the common name of the certificate that a connection's
// client has shown, if it was found good; empty: none.
func certificateOf(nc net.Conn) string {
	switch nc := nc.(type) {
	case *tls.Conn:
		return commonName(nc.ConnectionState())
	case *wsConn:
		return nc.certificate
	}
	return ""
}

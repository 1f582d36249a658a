package broker_test

import (
	"bufio"
	"bytes"
	"crypto/pbkdf2"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edgefn/edgefn/triggers/mqtt/broker"
	"github.com/edgefn/edgefn/triggers/mqtt/broker/access"
)

// dearFile is a password file in mosquitto's form with n users u0, u1, ...,
// whose passwords are their names, and what one comparison takes.
func dearFile(t *testing.T, n, iterations int) (path string, each time.Duration) {
	t.Helper()
	var lines []string
	begun := time.Now()
	for i := range n {
		name, salt := fmt.Sprint("u", i), fmt.Append(nil, "salt", i)
		sum, err := pbkdf2.Key(sha512.New, name, salt, iterations, sha512.Size)
		if err != nil {
			t.Fatal(err)
		}
		enc := base64.StdEncoding.EncodeToString
		lines = append(lines, fmt.Sprintf("%s:$7$%d$%s$%s", name, iterations, enc(salt), enc(sum)))
	}
	each = time.Since(begun) / time.Duration(n)
	path = filepath.Join(t.TempDir(), "passwords")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, each
}

// storm has all users log in at once, of both versions, and counts the codes.
func storm(t *testing.T, s *server, n int) map[byte]int {
	t.Helper()
	var mu sync.Mutex
	codes := map[byte]int{}
	var wg sync.WaitGroup
	for i := range n {
		nc := dialRaw(t, s.Addr())
		wg.Go(func() {
			name := fmt.Sprint("u", i)
			_ = nc.SetDeadline(time.Now().Add(3 * patience))
			_, _ = nc.Write(connectPacket(options{id: name, user: name, pass: name, version: byte(4 + i%2)}))
			p, err := readFrame(bufio.NewReader(nc))
			if err != nil || p.kind() != pConnack {
				t.Errorf("client %d: closed without a word: %v", i, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			codes[p.body[1]]++
		})
	}
	wg.Wait()
	return codes
}

// Everybody who waits for a comparison longer than a connection may take gets
// in, and the second time it costs nothing.
func TestLoginStorm(t *testing.T) {
	path, each := dearFile(t, 60, 20_000)
	timeout := 8 * each
	s := start(t, broker.Config{PasswordFile: path, ConnectTimeout: timeout, Logins: access.LoginsConfig{AtOnce: 1}})
	for _, round := range []string{"first", "second"} {
		begun := time.Now()
		if codes := storm(t, s, 60); codes[0] != 60 {
			t.Errorf("%s round: CONNACK codes %v, want 60 times 0", round, codes)
		}
		d := time.Since(begun)
		t.Logf("%s round: %v, %v each comparison", round, d, each)
		if round == "first" && d < timeout {
			t.Errorf("the storm was over in %v, before the connections' time-out of %v", d, timeout)
		}
	}
}

func TestFullQueueOfLoginsIsBusyAndNotWrong(t *testing.T) {
	path, _ := dearFile(t, 40, 50_000)
	s := start(t, broker.Config{PasswordFile: path, Logins: access.LoginsConfig{AtOnce: 1, MaxWaiting: 2}})
	codes := storm(t, s, 40)
	if codes[0] == 0 || codes[0]+codes[3]+codes[0x89] != 40 || codes[3] == 0 || codes[0x89] == 0 {
		t.Errorf("CONNACK codes %v, want 0, 3 and 0x89", codes)
	}
	eventually(t, "all get in who come again", func() bool { return storm(t, s, 40)[0] == 40 })
}

func TestFullBrokerTellsSoAndLogsOnce(t *testing.T) {
	var log syncBuffer
	s := start(t, broker.Config{MaxClients: 2, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	clients := []*client{dial(t, s.Addr(), options{id: "a"}), dial(t, s.Addr(), options{id: "b"})}
	for range 20 {
		for version, want := range map[byte]byte{3: 3, 4: 3, 5: 0x97} {
			nc := dialRaw(t, s.Addr())
			_ = nc.SetDeadline(time.Now().Add(patience))
			packet := connectPacket(options{id: "over", version: version})
			if version == 3 {
				packet = frame(0x10, append(append(str("MQIsdp"), 3, 2, 0, 0), str("over")...))
			}
			// What a client sends without waiting is no reason for it to miss the answer.
			_, _ = nc.Write(append(packet, (&client{version: version}).subscribePacket("x", 0)...))
			p, err := readFrame(bufio.NewReader(nc))
			if err != nil || p.kind() != pConnack || p.body[1] != want {
				t.Fatalf("version %d: %+v, %v, want CONNACK with %#x", version, p, err, want)
			}
			_ = nc.Close()
		}
	}
	if n := strings.Count(log.String(), "is full"); n != 1 {
		t.Errorf("logged %d times that the broker is full", n)
	}
	if n := s.Stats().Refused; n != 60 {
		t.Errorf("%d refused, want 60", n)
	}
	for _, c := range clients {
		c.ping()
		c.goodbye()
	}
	eventually(t, "there is room", func() bool {
		nc := dialRaw(t, s.Addr())
		defer func() { _ = nc.Close() }()
		_, _ = nc.Write(connectPacket(options{id: "over", version: 4}))
		p, err := readFrame(bufio.NewReader(nc))
		return err == nil && p.body[1] == 0
	})
}

// Connections over the bound that say nothing, or no CONNECT, neither stay nor
// keep others from being told.
func TestSilentConnectionsOverTheBound(t *testing.T) {
	s := start(t, broker.Config{MaxClients: 1})
	dial(t, s.Addr(), options{id: "a"})
	for i := range 100 {
		nc := dialRaw(t, s.Addr())
		_, _ = nc.Write([][]byte{nil, {0x10}, {0x10, 0xff, 0xff, 0xff, 0xff, 0xff}, {0x10, 9, 0xff, 0xff}, []byte("GET / HTTP/1.1\r\n\r\n")}[i%5])
	}
	nc := dialRaw(t, s.Addr())
	_ = nc.SetDeadline(time.Now().Add(patience))
	_, _ = nc.Write(connectPacket(options{id: "over", version: 5}))
	if p, err := readFrame(bufio.NewReader(nc)); err != nil || p.body[1] != 0x97 {
		t.Errorf("%+v, %v", p, err)
	}
}

// syncBuffer takes a log that several goroutines write.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

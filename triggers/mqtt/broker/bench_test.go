package broker_test

import (
	"bufio"
	"net"
	"testing"

	"github.com/edgefn/edgefn/triggers"
	"github.com/edgefn/edgefn/triggers/mqtt/broker"
)

// BenchmarkQoS1 publishes with up to 64 messages on the way, to a function that
// settles at once, to nobody, and to an offline session on disk.
func BenchmarkQoS1(b *testing.B) {
	for name, topic := range map[string]string{"function": "f", "nobody": "n", "disk": "d"} {
		b.Run(name, func(b *testing.B) {
			br, err := broker.New(broker.Config{Addr: "127.0.0.1:0", Dir: b.TempDir(), Sink: newSink(nil), MaxQueueBytes: 1 << 30})
			if err != nil {
				b.Fatal(err)
			}
			if err := br.Listen(); err != nil {
				b.Fatal(err)
			}
			ctx, cancel := contextOf(b)
			done := make(chan error, 1)
			go func() { done <- br.Run(ctx) }()
			defer func() { cancel(); <-done }()
			br.Bind([]triggers.Binding{bind("f", "f", 1)})
			open := func(id string, keep bool) (net.Conn, *bufio.Reader) {
				nc, err := net.Dial("tcp", br.Addr())
				if err != nil {
					b.Fatal(err)
				}
				_, _ = nc.Write(connectPacket(options{id: id, keep: keep, version: 4}))
				r := bufio.NewReader(nc)
				if _, err := readFrame(r); err != nil {
					b.Fatal(err)
				}
				return nc, r
			}
			c := &client{version: 4}
			sub, r := open("offline", true)
			_, _ = sub.Write(c.subscribePacket("d", 1))
			if _, err := readFrame(r); err != nil {
				b.Fatal(err)
			}
			_ = sub.Close()
			nc, r := open("pub", false)
			defer func() { _ = nc.Close() }()
			payload := string(make([]byte, 100))
			b.ReportAllocs()
			b.ResetTimer()
			for sent, acked := 0, 0; acked < b.N; acked++ {
				for sent < b.N && sent-acked < 64 {
					sent++
					_, _ = nc.Write(c.publishPacket(publish{topic: topic, payload: payload, qos: 1, pid: uint16(sent%60000 + 1)}))
				}
				if _, err := readFrame(r); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			st := br.Stats()
			b.ReportMetric(float64(st.DiskBytesWritten)/float64(b.N), "disk-B/op")
		})
	}
}

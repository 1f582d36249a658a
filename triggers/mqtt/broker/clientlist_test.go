package broker_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/edgefn/edgefn/triggers/mqtt/broker"
)

func TestClients(t *testing.T) {
	when := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	s := start(t, broker.Config{
		Listeners: []broker.Listener{{Addr: "127.0.0.1:0"}, {Addr: "127.0.0.1:0", PasswordFile: passwordFile(t, "anna:anna")}},
		Clock:     func() time.Time { return when },
	})
	if got := s.Clients("", 9); len(got) != 0 {
		t.Errorf("clients before any: %+v", got)
	}
	b := dial(t, s.Addrs()[1], options{id: "b", version: 5, user: "anna", pass: "anna"})
	b.subscribe("x", 1)
	a := dial(t, s.Addrs()[0], options{id: "a", user: "not checked", pass: "x"})
	gone := dial(t, s.Addrs()[0], options{id: "gone", keep: true})
	gone.subscribe("x", 1)
	gone.close()
	eventually(t, "it is gone", func() bool { return s.Stats().Clients == 2 })
	a.publish(publish{topic: "x", qos: 1, pid: 1})
	a.wantAck(pPuback, 1)
	b.wantPublish() // and no PUBACK: it waits still

	want := []broker.ClientInfo{
		{ID: "a", Listener: s.Addrs()[0], Remote: a.nc.LocalAddr().String(), Version: "3.1.1", Since: when},
		{ID: "b", User: "anna", Listener: s.Addrs()[1], Remote: b.nc.LocalAddr().String(), Version: "5", Since: when, Subscriptions: 1, Queued: 1},
	}
	for _, tc := range []struct {
		after string
		limit int
		want  []broker.ClientInfo
	}{{"", 9, want}, {"", 1, want[:1]}, {"a", 9, want[1:]}, {"aa", 9, want[1:]}, {"b", 9, nil}, {"", 0, nil}} {
		if got := s.Clients(tc.after, tc.limit); fmt.Sprint(got) != fmt.Sprint(tc.want) {
			t.Errorf("after %q, %d: got %+v, want %+v", tc.after, tc.limit, got, tc.want)
		}
	}
}

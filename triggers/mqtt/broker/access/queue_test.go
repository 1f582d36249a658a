package access

import (
	"net/netip"
	"strings"
	"testing"
)

func addr(n byte) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, n}) }

// jobOf makes one of "1a": address 1, user a; "1a!" is suspect.
func jobOf(s string) *job {
	name, suspect := strings.CutSuffix(s, "!")
	return &job{source: addr(name[0] - '0'), user: name[1:], suspect: suspect}
}

func nameOf(j *job) string {
	if j == nil {
		return "-"
	}
	s := string(rune('0'+j.source.As4()[3])) + j.user
	if j.suspect {
		s += "!"
	}
	return s
}

func TestQueue(t *testing.T) {
	for name, tc := range map[string]struct {
		max  int
		push string
		out  string // who had to go, in order
		pop  string
	}{
		"in order":                            {9, "1a 1a 1a", "", "1a 1a 1a"},
		"addresses in turn":                   {9, "1a 1a 1a 2a 3a", "", "1a 2a 3a 1a 1a"},
		"users in turn":                       {9, "1a 1a 1b 1c 1c", "", "1a 1b 1c 1a 1c"},
		"many users are one address":          {9, "1a 1b 1c 1d 2a 2a", "", "1a 2a 1b 2a 1c 1d"},
		"suspects each fourth time":           {9, "1a! 1a! 2a 2a 2a 2a 2a", "", "2a 2a 2a 1a! 2a 2a 1a!"},
		"suspects alone":                      {9, "1a! 1a!", "", "1a! 1a!"},
		"full of oneself":                     {2, "1a 1a 1a", "1a", "1a 1a"},
		"who has most gives way":              {3, "1a 1a 1a 2a", "1a", "1a 2a 1a"},
		"equal shares stay":                   {4, "1a 1a 2a 2a 2a", "2a", "1a 2a 1a 2a"},
		"among the users of one address":      {3, "1a 1a 1a 1b", "1a", "1a 1b 1a"},
		"suspects give way":                   {2, "1a! 2a 2a", "1a!", "2a 2a"},
		"suspects take no one's place":        {2, "2a 2a 1a!", "1a!", "2a 2a"},
		"suspects give way among themselves":  {3, "1a! 1a! 1a! 2a!", "1a!", "1a! 2a! 1a!"},
		"a fresh one is taken before its own": {2, "1a! 2a 2b 2c", "1a! 2c", "2a 2b"},
	} {
		t.Run(name, func(t *testing.T) {
			q := queue{max: tc.max}
			var out []string
			for s := range strings.FieldsSeq(tc.push) {
				if j := q.push(jobOf(s)); j != nil {
					out = append(out, nameOf(j))
					if j.queued {
						t.Errorf("%s is in the queue still", nameOf(j))
					}
				}
				if q.len > q.max {
					t.Fatalf("%d in a queue of %d", q.len, q.max)
				}
			}
			if got := strings.Join(out, " "); got != tc.out {
				t.Errorf("had to go: %q, want %q", got, tc.out)
			}
			var order []string
			for j := q.pop(); j != nil; j = q.pop() {
				order = append(order, nameOf(j))
			}
			if got := strings.Join(order, " "); got != tc.pop {
				t.Errorf("order %q, want %q", got, tc.pop)
			}
			if q.len != 0 || q.fresh.n != 0 || q.suspects.n != 0 || len(q.fresh.by)+len(q.suspects.by)+len(q.fresh.order)+len(q.suspects.order) != 0 {
				t.Errorf("something is left: %+v", q)
			}
		})
	}
}

func TestNetwork(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::", "fe80::1%eth0": "fe80::",
	} {
		if got := network(netip.MustParseAddr(in)).String(); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	_ = network(netip.Addr{})
}

package access

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// slow is a hash that takes a second of a test's clock.
type slow struct {
	password string
	n        *atomic.Int64 // comparisons
	most     *atomic.Int64 // at the same time
	now      *atomic.Int64
}

func (s slow) matches(password []byte) bool {
	s.n.Add(1)
	s.most.Store(max(s.most.Load(), s.now.Add(1)))
	time.Sleep(time.Second)
	s.now.Add(-1)
	return string(password) == s.password
}

func (slow) cost() int { return 1 }

// slowUsers are n users u0, u1, ... whose passwords are their names.
func slowUsers(n int) (*generation, slow) {
	h := slow{n: new(atomic.Int64), most: new(atomic.Int64), now: new(atomic.Int64)}
	u := &users{byName: map[string]hash{}, dummy: h}
	for i := range n {
		x := h
		x.password = fmt.Sprint("u", i)
		u.byName[x.password] = x
	}
	return newGeneration(u), h
}

// verdict says an answer in a word.
func verdict(ok bool, err error) string {
	switch {
	case errors.Is(err, ErrBusy):
		return "busy"
	case err != nil:
		return err.Error()
	case ok:
		return "right"
	}
	return "wrong"
}

// After a power cut: all are back at once, all get in, and when they come again
// it costs nothing.
func TestLoginStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLogins(LoginsConfig{Wait: 2 * time.Minute})
		defer l.Close()
		g, h := slowUsers(150)
		storm := func() time.Duration {
			begun := time.Now()
			var wg sync.WaitGroup
			for i := range 300 { // each user twice
				wg.Go(func() {
					name := fmt.Sprint("u", i%150)
					if got := verdict(l.check(t.Context(), g, addr(byte(i%150)), name, []byte(name))); got != "right" {
						t.Errorf("%s: %s", name, got)
					}
				})
			}
			wg.Wait()
			return time.Since(begun)
		}
		if d := storm(); d != 75*time.Second {
			t.Errorf("150 passwords of a second, two at a time, took %v", d)
		}
		if n := h.n.Load(); n != 150 {
			t.Errorf("%d comparisons of 150 passwords", n)
		}
		if n := h.most.Load(); n != 2 {
			t.Errorf("%d comparisons at the same time, want 2", n)
		}
		if d := storm(); d != 0 || h.n.Load() != 150 {
			t.Errorf("coming back took %v and %d comparisons", d, h.n.Load()-150)
		}
	})
}

func TestLoginsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLogins(LoginsConfig{AtOnce: 1, MaxWaiting: 3, Wait: 2500 * time.Millisecond})
		defer l.Close()
		g, _ := slowUsers(9)
		var mu sync.Mutex
		got := map[string]int{}
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				name := fmt.Sprint("u", i)
				v := verdict(l.check(t.Context(), g, addr(1), name, []byte(name)))
				mu.Lock()
				defer mu.Unlock()
				got[v+" after "+time.Since(epoch).String()]++
			})
			synctest.Wait()
		}
		wg.Wait()
		// One is compared and three wait, the last of them too long.
		want := map[string]int{"right after 1s": 1, "right after 2s": 1, "busy after 0s": 2, "busy after 2.5s": 2}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if l.Waiting() != 0 {
			t.Errorf("%d wait", l.Waiting())
		}
	})
}

// epoch is when each bubble of synctest begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// Wrong guesses, from the same address and from others, neither keep right
// passwords out nor make them wait for long.
func TestGuessesStarveNobody(t *testing.T) {
	for name, source := range map[string]func(i int) netip.Addr{
		"one other address":    func(int) netip.Addr { return addr(66) },
		"many other addresses": func(i int) netip.Addr { return addr(byte(100 + i%50)) },
		"the same address":     func(int) netip.Addr { return addr(1) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := NewLogins(LoginsConfig{MaxWaiting: 50, Wait: time.Hour})
				g, _ := slowUsers(10)
				ctx, cancel := context.WithCancel(t.Context())
				var guessing sync.WaitGroup
				for i := range 200 {
					guessing.Go(func() {
						for n := 0; ctx.Err() == nil; n++ {
							_, err := l.check(ctx, g, source(i), "u0", fmt.Appendf(nil, "guess %d %d", i, n))
							if err != nil {
								time.Sleep(time.Second)
							}
						}
					})
				}
				time.Sleep(time.Minute)
				begun := time.Now()
				if got := verdict(l.check(t.Context(), g, addr(1), "u1", []byte("u1"))); got != "right" {
					t.Errorf("right password: %s", got)
				}
				if d := time.Since(begun); d > 10*time.Second {
					t.Errorf("a right password waited %v", d)
				}
				cancel()
				guessing.Wait()
				l.Close()
			})
		})
	}
}

// A device with an old password asks for ever.
func TestSameWrongPasswordIsComparedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLogins(LoginsConfig{})
		defer l.Close()
		g, h := slowUsers(1)
		for range 1000 {
			for _, user := range []string{"u0", "nobody"} {
				if got := verdict(l.check(t.Context(), g, addr(1), user, []byte("old"))); got != "wrong" {
					t.Fatal(got)
				}
			}
		}
		if n := h.n.Load(); n != 2 {
			t.Errorf("%d comparisons", n)
		}
	})
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	b := bounded[int, int]{max: 3}
	for i := range 10 {
		b.put(i, i)
		b.put(i, i+1)
	}
	if _, had := b.get(6); had || len(b.by) != 3 || len(b.order) != 3 {
		t.Errorf("%+v", b)
	}
	if v, had := b.get(7); !had || v != 8 {
		t.Errorf("%d, %v", v, had)
	}
}

func TestCloseLetsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLogins(LoginsConfig{AtOnce: 1})
		g, _ := slowUsers(3)
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				name := fmt.Sprint("u", i)
				got := verdict(l.check(t.Context(), g, addr(1), name, []byte(name)))
				if (got == "busy") != (i > 0) {
					t.Errorf("%s: %s", name, got)
				}
			})
			synctest.Wait()
		}
		l.Close()
		wg.Wait()
		if got := verdict(l.check(t.Context(), g, addr(1), "u2", []byte("u2"))); got != "busy" {
			t.Errorf("after Close: %s", got)
		}
	})
}

func policy(t *testing.T, cfg Config) *Policy {
	t.Helper()
	l := NewLogins(LoginsConfig{})
	t.Cleanup(l.Close)
	p, err := NewPolicy(cfg, l)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Load(); err != nil {
		t.Fatal(err)
	}
	return p
}

func write(t *testing.T, path string, lines ...string) {
	t.Helper()
	// As an editor does it: the file is another one then.
	if err := os.WriteFile(path+".new", []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func TestLogin(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	write(t, path, linePBKDF2)
	for name, tc := range map[string]struct {
		cfg  Config
		in   Login
		user string
		err  error
	}{
		"right":                         {Config{PasswordFile: path}, Login{User: "dev", Password: []byte("secret")}, "dev", nil},
		"wrong":                         {Config{PasswordFile: path}, Login{User: "dev", Password: []byte("x")}, "", ErrWrong},
		"no password":                   {Config{PasswordFile: path}, Login{User: "dev"}, "", ErrWrong},
		"unknown":                       {Config{PasswordFile: path}, Login{User: "x", Password: []byte("secret")}, "", ErrWrong},
		"no name":                       {Config{PasswordFile: path}, Login{Password: []byte("secret")}, "", ErrWrong},
		"anonymous":                     {Config{PasswordFile: path, Anonymous: true}, Login{}, "", nil},
		"anonymous does not mean wrong": {Config{PasswordFile: path, Anonymous: true}, Login{User: "dev", Password: []byte("x")}, "", ErrWrong},
		"open: a name counts not":       {Config{Anonymous: true}, Login{User: "dev", Password: []byte("x")}, "", nil},
		"local":                         {Config{Local: true}, Login{}, "", nil},
		"local, a function":             {Config{Local: true}, Login{OfFunction: true, User: "dev"}, "", ErrFunction},
		"anonymous, a function":         {Config{Local: true, Anonymous: true}, Login{OfFunction: true}, "", nil},
		"a function with its password":  {Config{PasswordFile: path}, Login{OfFunction: true, User: "dev", Password: []byte("secret")}, "dev", nil},
		"nothing set":                   {Config{}, Login{User: "dev", Password: []byte("x")}, "", ErrWrong},
		"certificate":                   {Config{}, Login{Certificate: "pump"}, "pump", nil},
		"certificate before password":   {Config{PasswordFile: path}, Login{Certificate: "pump", User: "dev", Password: []byte("x")}, "pump", nil},
		"certificate with a bad name":   {Config{}, Login{Certificate: "a\nb"}, "", ErrWrong},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := policy(t, tc.cfg).Login(t.Context(), tc.in)
			if !errors.Is(err, tc.err) || (err == nil) != (c != nil) || (c != nil && c.User != tc.user) {
				t.Errorf("got %+v, %v", c, err)
			}
		})
	}
}

// What was right and what was wrong is forgotten when the file changes; a file
// with a fault changes nothing.
func TestChangedPasswordFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	write(t, path, linePBKDF2)
	p := policy(t, Config{PasswordFile: path})
	try := func(step, user, password, want string) {
		t.Helper()
		_, err := p.Login(t.Context(), Login{User: user, Password: []byte(password)})
		if errors.Is(err, ErrWrong) {
			err = nil
			if got := verdict(false, err); got != want {
				t.Errorf("%s: %s, want %s", step, got, want)
			}
			return
		}
		if got := verdict(true, err); got != want {
			t.Errorf("%s: %s, want %s", step, got, want)
		}
	}
	try("at first", "dev", "secret", "right")
	try("at first", "anna", "new", "wrong")
	line, err := PasswordLine("anna", "new")
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, line)
	try("taken out", "dev", "secret", "wrong")
	try("put in", "anna", "new", "right")
	write(t, path, line, "broken")
	try("broken", "anna", "new", "right")
	try("broken", "anna", "old", "wrong")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	try("removed", "anna", "new", "right")
	write(t, path, linePBKDF2)
	try("back", "anna", "new", "wrong")
	try("back", "dev", "secret", "right")
}

func TestChangedRulesFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "acl")
	write(t, path, "- {user: dev, publish: [a], subscribe: [a]}")
	p := policy(t, Config{Anonymous: true, RulesFile: path})
	c := &Client{User: "dev", ID: "c", policy: p}
	want := func(step, topic string, ok bool) {
		t.Helper()
		p.Refresh()
		if c.MayPublish(topic) != ok || c.MaySubscribe(topic) != ok || c.MayReceive(topic) != ok {
			t.Errorf("%s: %s is not %v", step, topic, ok)
		}
	}
	want("at first", "a", true)
	want("at first", "b", false)
	write(t, path, "- {user: dev, publish: [b], subscribe: [b]}")
	want("changed", "a", false)
	want("changed", "b", true)
	write(t, path, "- {user: dev, publsh: [a]}")
	want("broken", "b", true)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	want("removed", "a", false)
	want("removed", "b", true)
}

func TestPolicyFaults(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "broken")
	write(t, broken, "dev:x")
	for name, tc := range map[string]struct {
		cfg  Config
		want string
	}{
		"both":           {Config{Rules: testRules, RulesFile: "x"}, "use one"},
		"empty rules":    {Config{Rules: []Rule{}}, "has no rule"},
		"no users":       {Config{PasswordFile: "/nowhere"}, "/nowhere"},
		"no rules":       {Config{RulesFile: "/nowhere"}, "/nowhere"},
		"broken users":   {Config{PasswordFile: broken}, broken + ":1:"},
		"broken rules":   {Config{RulesFile: broken}, broken + ":1:"},
		"a folder":       {Config{PasswordFile: t.TempDir()}, "is not a file"},
		"a device":       {Config{RulesFile: "/dev/zero"}, "is not a file"},
		"folder of none": {Config{RulesFile: broken + "/x"}, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := NewPolicy(tc.cfg, NewLogins(LoginsConfig{}))
			if err == nil {
				err = p.Load()
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v, want %q in it", err, tc.want)
			}
		})
	}
}

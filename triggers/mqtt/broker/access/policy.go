package access

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
)

// Config says what a listener allows.
type Config struct {
	// PasswordFile has lines USER:HASH; empty: there are no passwords. It is
	// read again when it changes.
	PasswordFile string
	// Anonymous lets in clients that give no user name, and where there is no
	// PasswordFile all others too, whose names then count for nothing.
	Anonymous bool
	// Local does so for programs of this machine, which alone reach the listener,
	// and not for functions of the node.
	Local bool
	// Rules, or those of RulesFile, say what clients may publish and subscribe
	// to; with neither they may do everything. The file is read again when it
	// changes.
	Rules     []Rule
	RulesFile string

	Logger *slog.Logger // nil discards
}

// Policy is what one listener allows. Its methods are safe for use by several
// goroutines.
type Policy struct {
	cfg    Config
	logins *Logins
	users  atomic.Pointer[generation]
	rules  atomic.Pointer[ruleset] // holds nil: everything is allowed

	mu        sync.Mutex // of reading the files
	passwords watched
	ruleFile  watched
	faults    map[string]string // what was logged last of a file
}

type ruleset struct{ rules []Rule }

// generations numbers what password files had, over all policies.
var generations atomic.Uint64

// NewPolicy checks the configuration and reads no file. Nobody is let in, and
// nothing is allowed where a RulesFile is named, before Load.
func NewPolicy(cfg Config, logins *Logins) (*Policy, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Rules != nil && cfg.RulesFile != "" {
		return nil, errors.New("both acl and acl_file are set: use one")
	}
	p := &Policy{cfg: cfg, logins: logins, passwords: watched{path: cfg.PasswordFile}, ruleFile: watched{path: cfg.RulesFile}, faults: map[string]string{}}
	p.users.Store(newGeneration(noUsers))
	switch {
	case cfg.Rules != nil:
		if faults := CheckRules(cfg.Rules); len(faults) > 0 {
			return nil, fmt.Errorf("acl: %w", errors.Join(faults...))
		}
		p.rules.Store(&ruleset{slices.Clone(cfg.Rules)})
	case cfg.RulesFile != "":
		p.rules.Store(&ruleset{})
	}
	return p, nil
}

func newGeneration(u *users) *generation {
	return &generation{number: generations.Add(1), users: u, right: map[string]mac{}}
}

// Ruled reports whether there are topic rules.
func (p *Policy) Ruled() bool { return p.rules.Load() != nil }

// Load reads the files for the first time.
func (p *Policy) Load() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(p.readPasswords(), p.readRules())
}

// Refresh reads the files that changed. Of one that has a fault, what it had
// before stays in force, and the fault is logged once.
func (p *Policy) Refresh() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tell(p.cfg.PasswordFile, "mqtt password file not taken; the users known before stay", p.readPasswords())
	p.tell(p.cfg.RulesFile, "mqtt rules file not taken; the rules known before stay", p.readRules())
}

// refreshPasswords is Refresh for the password file.
func (p *Policy) refreshPasswords() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tell(p.cfg.PasswordFile, "mqtt password file not taken; the users known before stay", p.readPasswords())
}

// tell logs what is new about the fault of a file; p.mu is held.
func (p *Policy) tell(file, msg string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if p.faults[file] == text {
		return
	}
	p.faults[file] = text
	if err != nil {
		p.cfg.Logger.Error(msg, "err", err) //nolint:sloglint // of two constants
	}
}

func (p *Policy) readPasswords() error {
	if p.passwords.path == "" {
		return nil
	}
	text, changed, err := p.passwords.read()
	if err != nil {
		return fmt.Errorf("read password file: %w", err)
	}
	if !changed {
		return p.passwords.fault
	}
	u, err := parseUsers(p.passwords.path, text)
	if p.passwords.fault = err; err != nil {
		return err
	}
	p.users.Store(newGeneration(u))
	return nil
}

func (p *Policy) readRules() error {
	if p.ruleFile.path == "" {
		return nil
	}
	text, changed, err := p.ruleFile.read()
	if err != nil {
		return fmt.Errorf("read rules file: %w", err)
	}
	if !changed {
		return p.ruleFile.fault
	}
	rules, err := parseRules(p.ruleFile.path, text)
	if p.ruleFile.fault = err; err != nil {
		return err
	}
	p.rules.Store(&ruleset{rules})
	return nil
}

// Login is what a client says of itself.
type Login struct {
	ClientID string
	User     string // empty: none
	Password []byte
	// Certificate is the common name of the certificate that the client has
	// shown and that was found good; empty: none. It is the user name then, and
	// User and Password count for nothing.
	Certificate string
	Source      netip.Addr
	OfFunction  bool // it is a function of the node, through its connect grant
}

// Login decides whether a client is let in. It may wait for its turn among
// others whose passwords are compared. The error is ErrWrong, ErrBusy or
// ErrFunction.
func (p *Policy) Login(ctx context.Context, in Login) (*Client, error) {
	c := &Client{ID: in.ClientID, policy: p}
	switch {
	case in.Certificate != "":
		if checkUser(in.Certificate) != nil {
			return nil, ErrWrong
		}
		c.User = in.Certificate
		return c, nil
	case p.cfg.PasswordFile != "" && in.User != "":
		p.refreshPasswords()
		right, err := p.logins.check(ctx, p.users.Load(), in.Source, in.User, in.Password)
		switch {
		case err != nil:
			return nil, err
		case !right:
			return nil, ErrWrong
		}
		c.User = in.User
		return c, nil
	case p.cfg.Anonymous, p.cfg.Local && !in.OfFunction:
		return c, nil
	case p.cfg.Local:
		return nil, ErrFunction
	}
	return nil, ErrWrong
}

// Client is a client that was let in. Its methods are safe for use by several
// goroutines, take the rules of now, and allow everything where there are none.
type Client struct {
	ID   string
	User string // empty: anonymous

	policy  *Policy
	current atomic.Pointer[granted]
}

// granted is what a client has by a set of rules.
type granted struct {
	of     *ruleset
	grants *grants
}

// grants returns what the client has now, nil for everything.
func (c *Client) grants() *grants {
	rules := c.policy.rules.Load()
	if rules == nil {
		return nil
	}
	g := c.current.Load()
	if g == nil || g.of != rules {
		g = &granted{of: rules, grants: grantsOf(rules.rules, c.User, c.ID)}
		c.current.Store(g)
	}
	return g.grants
}

// MayPublish reports whether the client may publish to a topic.
func (c *Client) MayPublish(topic string) bool {
	g := c.grants()
	return g == nil || matchesAny(g.publish, topic)
}

// MaySubscribe reports whether the client may have all that a valid topic
// filter matches. Of a shared subscription it is given the filter alone.
func (c *Client) MaySubscribe(filter string) bool {
	g := c.grants()
	return g == nil || covers(g.subscribe, filter)
}

// MayReceive reports whether a message of that topic may be delivered to the
// client: the rules may have changed since it subscribed, or its session may be
// that of another user.
func (c *Client) MayReceive(topic string) bool {
	g := c.grants()
	return g == nil || matchesAny(g.subscribe, topic)
}

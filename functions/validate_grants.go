package functions

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A host name as in RFC 1123, section 2.1; an underscore is common on plants' networks.
var hostForm = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*$`)

// What ends in a number is meant as an IPv4 address.
var numericEnd = regexp.MustCompile(`(^|\.)[0-9]+$`)

func (c *check) grants(f *Function) {
	g := &f.Grants
	c.count("grants.publish", len(g.Publish))
	for i, filter := range g.Publish {
		if err := CheckFilter(filter); err != nil {
			c.add(fmt.Sprintf("grants.publish[%d]", i), "write a topic filter such as greenhouse/#", "%v", err)
		}
	}
	c.count("grants.state", len(g.State))
	for i, s := range g.State {
		name, prefix, _ := strings.Cut(s, "/")
		if !ValidName(name) || len(prefix) > MaxKey || !utf8.ValidString(prefix) {
			c.add(fmt.Sprintf("grants.state[%d]", i), "write NAME or NAME/PREFIX, such as weather or weather/today/",
				"%q names no function's state", s)
		}
	}
	c.count("grants.connect", len(g.Connect))
	for i, s := range g.Connect {
		if _, _, err := SplitConnect(s); err != nil {
			c.add(fmt.Sprintf("grants.connect[%d]", i), "write HOST:PORT, such as db.lan:5432", "%v", err)
		}
	}
	c.count("grants.invoke", len(g.Invoke))
	for i, s := range g.Invoke {
		if !ValidName(s) {
			c.add(fmt.Sprintf("grants.invoke[%d]", i), "name a function", "%q is no function name", s)
		}
	}
	c.devices(g)
}

// SplitConnect splits a connect grant into its host, a name or an IP address,
// and its port. A grant names one destination: wildcards are refused.
func SplitConnect(s string) (host string, port uint16, err error) {
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		var ae *net.AddrError
		if errors.As(err, &ae) {
			return "", 0, fmt.Errorf("%q is no destination: %s", s, ae.Err)
		}
		return "", 0, fmt.Errorf("%q is no destination", s)
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil || n == 0 || p[0] == '+' {
		return "", 0, fmt.Errorf("%q: port %q is not between 1 and 65535", s, p)
	}
	if a, err := netip.ParseAddr(host); err == nil && a.Zone() == "" {
		return host, uint16(n), nil
	}
	switch {
	case strings.Contains(host, "*"):
		return "", 0, fmt.Errorf("%q has a wildcard: each destination is granted by its name", s)
	case len(host) > 253 || !hostForm.MatchString(host) || numericEnd.MatchString(host):
		return "", 0, fmt.Errorf("%q: %q is no host name or IP address", s, host)
	}
	return host, uint16(n), nil
}

package broker

import (
	"time"

	"github.com/edgefn/edgefn/functions"
)

// properties are the message's properties as a function's event has them.
func (m *message) properties(now time.Time, at instant) functions.Properties {
	p := functions.Properties{
		ContentType: m.ContentType, ResponseTopic: m.Response, Correlation: m.Correlation, Expires: m.deadline(now, at),
	}
	for _, u := range m.User {
		p.User = append(p.User, functions.UserProperty{Name: u.Key, Value: u.Val})
	}
	return p
}

// deadline is when the message expires, by the time that passes and not by the
// clock; zero: never. at is now as the broker counts it.
func (m *message) deadline(now time.Time, at instant) time.Time {
	if m.Expiry == 0 {
		return time.Time{}
	}
	return now.Add(time.Duration(m.Expiry - at))
}

// takeProperties takes over what a function says of its message. at is now as the
// broker counts it.
func (m *message) takeProperties(p functions.Properties, now time.Time, at instant) {
	m.ContentType, m.Response, m.Correlation = p.ContentType, p.ResponseTopic, p.Correlation
	for _, u := range p.User {
		m.User = append(m.User, property{Key: u.Name, Val: u.Value})
	}
	if left := p.Interval(now); left > 0 {
		m.Expiry = at.after(int64(left))
	}
}

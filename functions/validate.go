package functions

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Fault is one thing that is wrong with a function.
type Fault struct {
	Field   string `json:"field"`          // path of the field, such as "triggers[1].mqtt.topic"
	Message string `json:"message"`        // what is wrong
	Hint    string `json:"hint,omitempty"` // what to do about it; may be empty
}

// String is the fault as one line for people.
func (f Fault) String() string {
	s := f.Message
	if f.Field != "" {
		s = f.Field + ": " + s
	}
	if f.Hint != "" {
		s += "; " + f.Hint
	}
	return s
}

// Bounds on what a manifest may ask for.
const (
	MinMemory   = 8 << 20 // bytes; below it no runtime starts
	MaxMemory   = 4 << 30 // bytes
	MinTimeout  = time.Millisecond
	MaxTimeout  = time.Hour
	MaxHold     = time.Hour
	MaxIdle     = 24 * time.Hour
	MaxScale    = 256    // instances on one node
	MaxQueue    = 100000 // events waiting on one node
	MaxAttempts = 1000
	MaxBackoff  = 24 * time.Hour
	MaxDead     = 1000000  // dead letters
	MinDeadSize = 64 << 10 // bytes
	MaxDeadSize = 16 << 30 // bytes
	MinDeadAge  = time.Minute
	MaxDeadAge  = 10 * 365 * 24 * time.Hour
	MaxSpread   = 100      // nodes
	MaxList     = 64       // entries of any one list: triggers, secrets, each grant, argv, labels
	MaxEnv      = 256      // variables
	MaxText     = 32 << 10 // bytes of one value of env or argv
)

// LoopAllow is what Loop says when a function may trigger itself.
const LoopAllow = "allow"

var (
	nameForm   = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)
	brokerForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	envForm    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
	secretForm = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$`)
	labelForm  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$`)
	versionOne = regexp.MustCompile(`^(=|!=|>|<|>=|<=|~|\^)? ?\d{1,9}(\.\d{1,9}){0,2}$`)
)

// ValidName reports whether s can name a function.
func ValidName(s string) bool { return nameForm.MatchString(s) }

// Validate returns everything that is wrong with the function, in the order
// of the manifest's keys; nothing if it can be deployed.
func (f *Function) Validate() []Fault {
	var c check
	c.identity(f)
	c.limits(f)
	c.environment(f)
	c.triggers(f)
	c.output(f)
	c.delivery(f)
	c.grants(f)
	c.place(f)
	c.loop(f)
	return c.faults
}

// check collects faults.
type check struct{ faults []Fault }

func (c *check) add(field, hint, format string, args ...any) {
	c.faults = append(c.faults, Fault{Field: field, Message: fmt.Sprintf(format, args...), Hint: hint})
}

func (c *check) count(field string, n int) {
	if n > MaxList {
		c.add(field, "", "has %d entries, at most %d are allowed", n, MaxList)
	}
}

// oneOf checks a value of a closed set.
func oneOf[T ~string](c *check, field string, got T, allowed ...T) {
	if slices.Contains(allowed, got) {
		return
	}
	names := make([]string, len(allowed))
	for i, a := range allowed {
		names[i] = string(a)
	}
	hint := "use " + strings.Join(names[:len(names)-1], ", ")
	if len(names) > 1 {
		hint += " or "
	}
	hint += names[len(names)-1]
	if got == "" {
		c.add(field, hint, "is missing")
		return
	}
	c.add(field, hint, "%q is not known", string(got))
}

func (c *check) integer(field string, got, least, most int) {
	if got < least || got > most {
		c.add(field, "", "%d is out of bounds: %d to %d", got, least, most)
	}
}

func (c *check) size(field string, got, least, most int64) {
	if got < least || got > most {
		c.add(field, "", "%s is out of bounds: %s to %s", FormatSize(got), FormatSize(least), FormatSize(most))
	}
}

func (c *check) duration(field string, got, least, most time.Duration) {
	if got < least || got > most {
		c.add(field, "", "%v is out of bounds: %v to %v", got, least, most)
	}
}

func (c *check) identity(f *Function) {
	switch {
	case f.Name == "":
		c.add("name", "add a line such as name: fan", "is missing")
	case !ValidName(f.Name):
		c.add("name", "use 1 to 63 lower-case letters, digits and hyphens", "%q is no function name", f.Name)
	}
	oneOf(c, "runtime", f.Runtime, Runtimes...)
	if f.RuntimeVersion != "" && !validConstraint(f.RuntimeVersion) {
		c.add("runtime_version", `write it as ">=3.9" or ">=3.9, <4"`, "%q is no version constraint", f.RuntimeVersion)
	}
	c.handler(f)
	if strings.ContainsAny(f.Image, " \t\r\n\x00") || len(f.Image) > 1024 {
		c.add("image", "name an OCI layout folder, a tar of one, or a reference such as docker.io/library/debian:12", "%q is no image", f.Image)
	}
}

// validConstraint accepts comparisons separated by commas.
func validConstraint(s string) bool {
	if len(s) > 128 {
		return false
	}
	for part := range strings.SplitSeq(s, ",") {
		if !versionOne.MatchString(strings.TrimSpace(part)) {
			return false
		}
	}
	return true
}

func (c *check) limits(f *Function) {
	c.size("memory", f.Memory, MinMemory, MaxMemory)
	c.duration("timeout", f.Timeout, MinTimeout, MaxTimeout)
	oneOf(c, "isolation", f.Isolation, PerInvocation, PerInstance)
	c.integer("scale.max", f.Scale.Max, 1, MaxScale)
	c.integer("scale.min", f.Scale.Min, 0, MaxScale)
	if f.Scale.Min > f.Scale.Max {
		c.add("scale.min", "raise max or lower min", "%d is more than max, which is %d", f.Scale.Min, f.Scale.Max)
	}
	c.duration("scale.idle", f.Scale.Idle, 0, MaxIdle)
	c.integer("scale.queue", f.Scale.Queue, 1, MaxQueue)
}

func (c *check) environment(f *Function) {
	if len(f.Env) > MaxEnv {
		c.add("env", "", "has %d variables, at most %d are allowed", len(f.Env), MaxEnv)
	}
	for _, k := range slices.Sorted(maps.Keys(f.Env)) {
		field := "env." + k
		switch {
		case !envForm.MatchString(k):
			c.add(field, "use letters, digits and underscores, no digit first", "%q is no name of a variable", k)
		case strings.HasPrefix(k, "EDGEFN_"):
			c.add(field, "choose another name", "names that begin with EDGEFN_ are the node's")
		}
		c.text(field, f.Env[k])
	}
	c.count("secrets", len(f.Secrets))
	for i, s := range f.Secrets {
		field := fmt.Sprintf("secrets[%d]", i)
		switch {
		case !secretForm.MatchString(s):
			c.add(field, "name a file in /etc/edgefn/secrets: letters, digits, _ - and ., no dot first", "%q is no name of a secret", s)
		case slices.Contains(f.Secrets[:i], s):
			c.add(field, "remove one", "%q is named twice", s)
		}
	}
}

func (c *check) text(field, s string) {
	switch {
	case strings.ContainsRune(s, 0):
		c.add(field, "", "has a NUL character")
	case len(s) > MaxText:
		c.add(field, "", "is %d bytes long, at most %d are allowed", len(s), MaxText)
	}
}

func (c *check) delivery(f *Function) {
	c.duration("hold", f.Hold, 0, MaxHold)
	c.integer("retry.attempts", f.Retry.Attempts, 1, MaxAttempts)
	c.duration("retry.first", f.Retry.First, time.Millisecond, MaxBackoff)
	c.duration("retry.max", f.Retry.Max, time.Millisecond, MaxBackoff)
	if f.Retry.First > f.Retry.Max {
		c.add("retry.first", "raise max or lower first", "%v is more than max, which is %v", f.Retry.First, f.Retry.Max)
	}
	c.integer("dead.count", f.Dead.Count, 1, MaxDead)
	c.size("dead.bytes", f.Dead.Bytes, MinDeadSize, MaxDeadSize)
	c.duration("dead.age", f.Dead.Age, MinDeadAge, MaxDeadAge)
	oneOf(c, "dead.full", f.Dead.Full, FullStop, FullDropOldest)
}

func (c *check) place(f *Function) {
	c.integer("place.spread", f.Place.Spread, 1, MaxSpread)
	c.count("place.where", len(f.Place.Where))
	for _, k := range slices.Sorted(maps.Keys(f.Place.Where)) {
		if !labelForm.MatchString(k) {
			c.add("place.where."+k, "use letters, digits, . _ / and -", "%q is no name of a label", k)
		}
		c.text("place.where."+k, f.Place.Where[k])
	}
}

// FormatSize writes a number of bytes as a manifest does: 64Mi.
func FormatSize(n int64) string {
	for _, u := range []struct {
		name string
		size int64
	}{{"Gi", 1 << 30}, {"Mi", 1 << 20}, {"Ki", 1 << 10}} {
		if n != 0 && n%u.size == 0 {
			return fmt.Sprintf("%d%s", n/u.size, u.name)
		}
	}
	return fmt.Sprintf("%d", n)
}

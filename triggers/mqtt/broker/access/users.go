package access

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/bcrypt"
)

// maxUser bounds the name of a user, in bytes.
const maxUser = 1024

// checkUser reports why a password file cannot have a user of that name, or nil.
func checkUser(user string) error {
	switch {
	case user == "":
		return errors.New("user name is empty")
	case len(user) > maxUser:
		return fmt.Errorf("user name is %d bytes long, at most %d are possible", len(user), maxUser)
	case !utf8.ValidString(user):
		return fmt.Errorf("user name %q is not UTF-8", user)
	case strings.HasPrefix(user, "#"), strings.ContainsAny(user, ":\r\n\x00"), strings.TrimSpace(user) != user:
		return fmt.Errorf("user name %q: it must not begin with #, have a colon or line break, or begin or end with a space", user)
	}
	return nil
}

// PasswordLine makes a line of a password file, with no newline: the user's
// name and the bcrypt hash of the password.
func PasswordLine(user, password string) (string, error) {
	if err := checkUser(user); err != nil {
		return "", err
	}
	sum, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	if err != nil {
		return "", fmt.Errorf("hash password of user %q: %w", user, err)
	}
	return user + ":" + string(sum), nil
}

// users are the hashes of a password file.
type users struct {
	byName map[string]hash
	dummy  hash // compared for names that are not there, so that their refusal takes as long
}

// noUsers has nobody. Its dummy is the hash of a password that is thrown away,
// of the cost that PasswordLine takes.
var noUsers = &users{dummy: bcryptHash("$2b$10$xcuzzlZu0Wuk/zwAx0Ov/upTqZLSmIcJ9cMkoZVuice0J6Wn0tw/K")}

// find returns the hash that a password of that user is compared with; known
// is false when the answer is no, whatever the comparison says.
func (u *users) find(name string) (h hash, known bool) {
	if h, known = u.byName[name]; known {
		return h, true
	}
	return u.dummy, false
}

// parseUsers reads the text of a password file: lines USER:HASH, empty lines,
// and comments after #. Every fault is reported, with the file and the line.
func parseUsers(file string, text []byte) (*users, error) {
	u := &users{byName: map[string]hash{}, dummy: noUsers.dummy}
	at := map[string]int{}
	var faults []error
	dearest := 0
	sc := bufio.NewScanner(bytes.NewReader(text))
	sc.Buffer(nil, 64<<10)
	n := 0
	for sc.Scan() {
		n++
		line := strings.TrimSpace(sc.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fault := func(format string, args ...any) {
			if len(faults) < maxFaults {
				faults = append(faults, fmt.Errorf("password file %s:%d: %w", file, n, fmt.Errorf(format, args...)))
			}
		}
		name, rest, ok := strings.Cut(line, ":")
		if !ok {
			fault(`want USER:HASH, as "edgefn mqtt passwd" writes it`)
			continue
		}
		if err := checkUser(name); err != nil {
			fault("%w", err)
			continue
		}
		if first, twice := at[name]; twice {
			fault("user %q is in line %d already: remove one of them", name, first)
			continue
		}
		at[name] = n
		h, err := parseHash(rest)
		if err != nil {
			fault("hash of user %q %w", name, err)
			continue
		}
		u.byName[name] = h
		if c := h.cost(); c > dearest {
			dearest, u.dummy = c, h
		}
	}
	if err := sc.Err(); err != nil {
		faults = append(faults, fmt.Errorf("password file %s:%d: %w", file, n+1, err))
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return u, nil
}

// maxFaults bounds how many faults of one file are told.
const maxFaults = 20

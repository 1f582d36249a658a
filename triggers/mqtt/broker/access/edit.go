package access

import (
	"fmt"
	"strings"
)

// SetPassword returns the text of a password file in which a user has that
// password: in place of the line that the user had, or in a new one at the end.
// All other lines stay as they are. A file with a fault is not changed.
func SetPassword(file string, text []byte, user, password string) ([]byte, error) {
	line, err := PasswordLine(user, password)
	if err != nil {
		return nil, err
	}
	return edit(file, text, user, line+"\n")
}

// RemoveUser returns the text of a password file without a user; found tells
// that it had one of that name.
func RemoveUser(file string, text []byte, user string) (out []byte, found bool, err error) {
	if err := checkUser(user); err != nil {
		return nil, false, err
	}
	out, err = edit(file, text, user, "")
	return out, len(out) != len(text), err
}

// edit puts line, or nothing, where the line of a user is.
func edit(file string, text []byte, user, line string) ([]byte, error) {
	if _, err := parseUsers(file, text); err != nil {
		return nil, fmt.Errorf("%w (correct the file first)", err)
	}
	var out strings.Builder
	set := line == ""
	for l := range strings.Lines(string(text)) {
		if name, _, ok := strings.Cut(strings.TrimSpace(l), ":"); ok && name == user {
			out.WriteString(line)
			set = true
			continue
		}
		out.WriteString(l)
	}
	if !set {
		if out.Len() > 0 && !strings.HasSuffix(out.String(), "\n") {
			out.WriteString("\n")
		}
		out.WriteString(line)
	}
	return []byte(out.String()), nil
}

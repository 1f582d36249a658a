package access

import (
	"strings"
	"testing"
)

func TestSetPassword(t *testing.T) {
	const head = "# people\n\n"
	other := strings.Replace(lineSHA512, "dev:", "anna:", 1)
	for name, tc := range map[string]struct {
		text, before, after string // of the new line
	}{
		"new file":        {"", "", ""},
		"new user":        {head + other + "\n", head + other + "\n", ""},
		"no line end":     {other, other + "\n", ""},
		"in its place":    {head + linePBKDF2 + "\n" + other + "\n", head, other + "\n"},
		"with CR":         {other + "\r\n" + linePBKDF2 + "\r\n", other + "\r\n", ""},
		"not in comments": {"#dev:x\n", "#dev:x\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := SetPassword("users", []byte(tc.text), "dev", "new")
			if err != nil {
				t.Fatal(err)
			}
			line, ok := strings.CutPrefix(string(got), tc.before)
			line, ok2 := strings.CutSuffix(line, tc.after)
			if !ok || !ok2 || strings.Count(line, "\n") != 1 {
				t.Errorf("got %q", got)
			}
			u, err := parseUsers("users", got)
			if err != nil {
				t.Fatal(err)
			}
			if h, known := u.find("dev"); !known || !h.matches([]byte("new")) {
				t.Error("the new password is not taken")
			}
			gone, found, err := RemoveUser("users", got, "dev")
			if err != nil || !found || string(gone) != tc.before+tc.after {
				t.Errorf("removed: %q, %v, %v", gone, found, err)
			}
		})
	}
	for name, tc := range map[string]struct{ text, user, password, want string }{
		"broken file":   {"x", "dev", "p", "users:1:"},
		"no user":       {"", "", "p", "user name is empty"},
		"long password": {"", "dev", strings.Repeat("p", 73), "72"},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := SetPassword("users", []byte(tc.text), tc.user, tc.password); got != nil || err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	if _, found, err := RemoveUser("users", []byte(linePBKDF2), "anna"); found || err != nil {
		t.Errorf("found a user who is not there: %v", err)
	}
	if _, _, err := RemoveUser("users", []byte("x"), "anna"); err == nil {
		t.Error("a broken file was changed")
	}
}

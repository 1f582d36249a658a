package access

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Lines of mosquitto_passwd 2.0 with the password "secret", of both kinds that
// it makes, and of crypt(3).
const (
	linePBKDF2 = "dev:$7$101$reTcgBMm055JgQI4$m1I6KLLBDtVJ+z075ovZ7FytIfwy4jDXBxWxUoRhfIKvHJQ+147ZZKGC8xysZj+q9I0mdC0bLI5Y+WN6jMRc9w=="
	lineSHA512 = "dev:$6$JPNZWNlMYkBxvFKK$TYiHfGNULWb4Y9YfaVuSxY78xCNwgWVLw1nl4j2M6QOItOrWC1SBLkd28FngqAHp52OoDAXdRQ8kwXKSvmvc4w=="
	lineBcrypt = "dev:$2b$04$6xAdn1iVV7AcqpUT4T8NNuRKEzyJa4jZjBh9aPmY1s61fCjYuWtxW"
)

func TestPasswordFileLines(t *testing.T) {
	for name, line := range map[string]string{"pbkdf2": linePBKDF2, "sha512": lineSHA512, "bcrypt": lineBcrypt} {
		t.Run(name, func(t *testing.T) {
			u, err := parseUsers("users", []byte("# people\r\n\r\n"+line+"\r\n"))
			if err != nil {
				t.Fatal(err)
			}
			h, known := u.find("dev")
			if !known || !h.matches([]byte("secret")) {
				t.Error("the right password was not taken")
			}
			for _, wrong := range []string{"Secret", "", "secret ", "secret\x00"} {
				if h.matches([]byte(wrong)) {
					t.Errorf("password %q was taken", wrong)
				}
			}
			if _, known := u.find("Dev"); known {
				t.Error("a user who is not there is known")
			}
			if h.cost() < 1 {
				t.Errorf("cost %d", h.cost())
			}
		})
	}
}

func TestPasswordFileFaults(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		want []string
	}{
		"no hash":          {"dev\n", []string{"users:1:", "USER:HASH"}},
		"password as text": {"# x\ndev:secret", []string{"users:2:", `user "dev"`, "never kept as it is", "edgefn mqtt passwd"}},
		"empty hash":       {"dev:", []string{"users:1:", "is missing"}},
		"no user":          {":" + lineBcrypt, []string{"users:1:", "empty"}},
		"user twice":       {lineBcrypt + "\n" + linePBKDF2, []string{"users:2:", "line 1 already"}},
		"argon2":           {"dev:$argon2id$v=19$m=47104,t=1,p=1$AAAA$BBBB", []string{"users:1:", "argon2", "sha512-pbkdf2"}},
		"crypt(3)":         {"dev:$5$salt$hash", []string{"users:1:", "kind that is not read"}},
		"endless bcrypt":   {"dev:$2b$31$" + strings.Repeat("a", 53), []string{"users:1:", "cost 31", "at most 16"}},
		"short bcrypt":     {"dev:$2b$10$" + strings.Repeat("a", 52), []string{"users:1:", "60 characters"}},
		"bcrypt alphabet":  {"dev:$2b$10$" + strings.Repeat("a", 52) + "!", []string{"users:1:", "./A-Za-z0-9"}},
		"endless pbkdf2":   {"dev:$7$2000000000$AAAA$" + strings.Repeat("A", 86) + "==", []string{"users:1:", "iterations"}},
		"no iterations":    {"dev:$7$0$AAAA$" + strings.Repeat("A", 86) + "==", []string{"users:1:", "iterations"}},
		"pbkdf2 fields":    {"dev:$7$101$AAAA", []string{"users:1:", "$7$ITERATIONS$SALT$HASH"}},
		"salt":             {"dev:$7$101$!$" + strings.Repeat("A", 86) + "==", []string{"users:1:", "salt"}},
		"no salt":          {"dev:$6$$" + strings.Repeat("A", 86) + "==", []string{"users:1:", "salt"}},
		"short sum":        {"dev:$6$AAAA$AAAA", []string{"users:1:", "64 bytes"}},
		"sha512 fields":    {"dev:$6$AAAA", []string{"users:1:", "$6$SALT$HASH"}},
		"user with NUL":    {"a\x00b:" + lineBcrypt, []string{"users:1:", "user name"}},
		"not UTF-8":        {"a\xff:" + lineBcrypt, []string{"users:1:", "UTF-8"}},
		"long line":        {strings.Repeat("x", 70<<10), []string{"users:1:", "too long"}},
		"two faults":       {"a\nb", []string{"users:1:", "users:2:"}},
	} {
		t.Run(name, func(t *testing.T) {
			u, err := parseUsers("users", []byte(tc.text))
			if u != nil || err == nil {
				t.Fatalf("got users %v and error %v", u, err)
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q has no %q", err, w)
				}
			}
		})
	}
}

// The refusal of a name that is not there takes as long as that of the dearest
// one that is.
func TestUnknownUserCostsTheSame(t *testing.T) {
	u, err := parseUsers("users", []byte(lineSHA512+"\nother"+linePBKDF2))
	if err != nil {
		t.Fatal(err)
	}
	if h, known := u.find("nobody"); known || h.cost() != 101 {
		t.Errorf("known %v, cost %d, want that of PBKDF2", known, h.cost())
	}
	if h, known := noUsers.find("nobody"); known || h.cost() != 50<<10 {
		t.Errorf("known %v, cost %d", known, h.cost())
	}
	if _, err := parseHash(string(noUsers.dummy.(bcryptHash))); err != nil {
		t.Errorf("the dummy is no hash: %v", err)
	}
}

func TestPasswordLine(t *testing.T) {
	line, err := PasswordLine("anna", "secret: $x")
	if err != nil {
		t.Fatal(err)
	}
	u, err := parseUsers("users", []byte(line))
	if err != nil {
		t.Fatal(err)
	}
	if h, known := u.find("anna"); !known || !h.matches([]byte("secret: $x")) {
		t.Error("its own line is not taken")
	}
	for _, user := range []string{"", "a:b", "#a", "a\nb", " a", "a\xff", strings.Repeat("x", 1025)} {
		if _, err := PasswordLine(user, "x"); err == nil {
			t.Errorf("user %q was taken", user)
		}
	}
	if _, err := PasswordLine("anna", strings.Repeat("x", 73)); err == nil || !strings.Contains(err.Error(), "72") {
		t.Errorf("a password that bcrypt cuts off was taken: %v", err)
	}
}

// What the mosquitto_passwd of this machine writes is read.
func TestMosquittoPasswd(t *testing.T) {
	for _, kind := range []string{"sha512-pbkdf2", "sha512"} {
		path := filepath.Join(t.TempDir(), "users")
		out, err := exec.CommandContext(t.Context(), "mosquitto_passwd", "-H", kind, "-b", "-c", path, "dev", "päss wörd").CombinedOutput()
		if err != nil {
			t.Skipf("mosquitto_passwd: %v %s", err, out)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		u, err := parseUsers(path, text)
		if err != nil {
			t.Fatal(err)
		}
		if h, known := u.find("dev"); !known || !h.matches([]byte("päss wörd")) {
			t.Errorf("%s: password not taken", kind)
		}
	}
}

// Whatever a file has, it is taken or refused with its place; what is taken can
// be compared in bounded time.
func FuzzPasswordFile(f *testing.F) {
	for _, s := range []string{linePBKDF2, lineSHA512, lineBcrypt, "# x\n\na:b", "a:$2b$99$", "a:$7$1$AA==$", "a:$6$" + strings.Repeat("$", 9), ":\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := parseUsers("F", []byte(text))
		if err != nil {
			for l := range strings.Lines(err.Error()) {
				if u != nil || !strings.HasPrefix(l, "password file F:") {
					t.Fatalf("error %q", l)
				}
			}
			return
		}
		for name, h := range u.byName {
			if checkUser(name) != nil {
				t.Fatalf("user %q was taken", name)
			}
			if c := h.cost(); c < 1 || c > 50<<maxBcryptCost {
				t.Fatalf("cost %d", c)
			}
			if h.cost() < 1000 {
				_ = h.matches([]byte(text))
			}
		}
	})
}

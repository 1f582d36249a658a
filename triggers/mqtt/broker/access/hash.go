package access

import (
	"bytes"
	"crypto/pbkdf2"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

// Bounds on what one comparison costs: a line of a file must not occupy the
// CPU for minutes.
const (
	maxBcryptCost = 16        // 2 s on a fast machine
	maxIterations = 5_000_000 // of PBKDF2-SHA512; about as much
	maxSalt       = 1024      // bytes
)

// The form of a bcrypt hash: $2a$, two digits of cost, $, 22 characters of salt
// and 31 of sum.
const (
	bcryptLen      = 60
	bcryptAlphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
)

// hash is a password as a file keeps it.
type hash interface {
	// matches reports whether the password is the one. It may take a second.
	matches(password []byte) bool
	// cost compares hashes by the time that matches takes; the unit is one
	// iteration of PBKDF2, about a microsecond.
	cost() int
}

// parseHash reads the part of a line after the user's name: bcrypt, or one of
// the two forms of mosquitto_passwd.
func parseHash(text string) (hash, error) {
	switch {
	case strings.HasPrefix(text, "$2"):
		cost, err := bcrypt.Cost([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("is no bcrypt hash: %w", err)
		}
		if cost > maxBcryptCost {
			return nil, fmt.Errorf("has bcrypt cost %d: at most %d is taken, as more keeps a gateway busy for minutes", cost, maxBcryptCost)
		}
		// The library looks at the rest only when it compares.
		if len(text) != bcryptLen || strings.Trim(text[len("$2a$10$"):], bcryptAlphabet) != "" {
			return nil, fmt.Errorf("is no bcrypt hash: %d characters of %q are wanted, with 53 of ./A-Za-z0-9 at their end", bcryptLen, "$2a$10$...")
		}
		return bcryptHash(text), nil
	case strings.HasPrefix(text, "$7$"):
		return parsePBKDF2(text)
	case strings.HasPrefix(text, "$6$"):
		return parseSHA512(text)
	case strings.HasPrefix(text, "$argon2"):
		return nil, errors.New(`is argon2, which is not read: make the line with "edgefn mqtt passwd", or with mosquitto_passwd -H sha512-pbkdf2`)
	case text == "":
		return nil, errors.New(`is missing: make the line with "edgefn mqtt passwd"`)
	case strings.HasPrefix(text, "$"):
		return nil, errors.New(`is of a kind that is not read: bcrypt ($2), and $6 and $7 of mosquitto_passwd are; make the line with "edgefn mqtt passwd"`)
	}
	return nil, errors.New(`is none; a password is never kept as it is: make the line with "edgefn mqtt passwd"`)
}

type bcryptHash string

func (h bcryptHash) matches(password []byte) bool {
	return bcrypt.CompareHashAndPassword([]byte(h), password) == nil
}

func (h bcryptHash) cost() int {
	c, err := bcrypt.Cost([]byte(h))
	if err != nil {
		return 0 // not of parseHash
	}
	return 50 << c
}

// pbkdf2Hash is "$7$ITERATIONS$SALT$HASH" of mosquitto_passwd: PBKDF2 with
// HMAC-SHA512, salt and hash in base64.
type pbkdf2Hash struct {
	iterations int
	salt, sum  []byte
}

func parsePBKDF2(text string) (hash, error) {
	parts := strings.Split(text, "$")
	if len(parts) != 5 {
		return nil, errors.New("is not $7$ITERATIONS$SALT$HASH")
	}
	n, err := strconv.Atoi(parts[2])
	if err != nil || n < 1 || n > maxIterations {
		return nil, fmt.Errorf("has %q iterations: 1 to %d are possible", parts[2], maxIterations)
	}
	salt, sum, err := saltAndSum(parts[3], parts[4])
	if err != nil {
		return nil, err
	}
	return pbkdf2Hash{iterations: n, salt: salt, sum: sum}, nil
}

func (h pbkdf2Hash) matches(password []byte) bool {
	if bytes.HasSuffix(password, []byte{0}) {
		return false // HMAC fills its key up with zeros, so that they make no difference
	}
	got, err := pbkdf2.Key(sha512.New, string(password), h.salt, h.iterations, len(h.sum))
	return err == nil && subtle.ConstantTimeCompare(got, h.sum) == 1
}

func (h pbkdf2Hash) cost() int { return h.iterations }

// sha512Hash is "$6$SALT$HASH" of mosquitto_passwd up to 1.6: SHA-512 of the
// password and then the salt.
type sha512Hash struct{ salt, sum []byte }

func parseSHA512(text string) (hash, error) {
	parts := strings.Split(text, "$")
	if len(parts) != 4 {
		return nil, errors.New("is not $6$SALT$HASH")
	}
	salt, sum, err := saltAndSum(parts[2], parts[3])
	if err != nil {
		return nil, err
	}
	return sha512Hash{salt: salt, sum: sum}, nil
}

func (h sha512Hash) matches(password []byte) bool {
	d := sha512.New()
	_, _ = d.Write(password)
	_, _ = d.Write(h.salt)
	return subtle.ConstantTimeCompare(d.Sum(nil), h.sum) == 1
}

func (h sha512Hash) cost() int { return 1 }

func saltAndSum(salt64, sum64 string) (salt, sum []byte, err error) {
	salt, err = base64.StdEncoding.Strict().DecodeString(salt64)
	if err != nil || len(salt) == 0 || len(salt) > maxSalt {
		return nil, nil, errors.New("has a salt that is not base64")
	}
	sum, err = base64.StdEncoding.Strict().DecodeString(sum64)
	if err != nil || len(sum) != sha512.Size {
		return nil, nil, fmt.Errorf("has a sum that is not %d bytes in base64", sha512.Size)
	}
	return salt, sum, nil
}

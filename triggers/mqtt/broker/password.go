package broker

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// bcryptAtOnce bounds the password checks that run at the same time: each
// takes a good part of a second of a small gateway's CPU.
const bcryptAtOnce = 2

// PasswordLine makes a line of a password file, with no newline: the user's
// name and the bcrypt hash of the password.
func PasswordLine(user, password string) (string, error) {
	if user == "" || strings.ContainsAny(user, ":\r\n") || strings.HasPrefix(user, "#") {
		return "", fmt.Errorf("user name %q: it must not be empty, begin with # or have a colon or line break", user)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	if err != nil {
		return "", fmt.Errorf("hash password of user %q: %w", user, err)
	}
	return user + ":" + string(hash), nil
}

// passwords are the users of a password file.
type passwords struct {
	path  string
	sem   chan struct{}
	dummy []byte // compared for unknown users, so that their refusal takes as long

	mu    sync.Mutex
	users map[string][]byte
	mtime time.Time
	size  int64
}

func loadPasswords(path string) (*passwords, error) {
	dummy, err := bcrypt.GenerateFromPassword([]byte("nobody"), bcrypt.DefaultCost)
	if err != nil {
		return nil, fmt.Errorf("hash password: %w", err)
	}
	p := &passwords{path: path, sem: make(chan struct{}, bcryptAtOnce), dummy: dummy}
	if err := p.reload(); err != nil {
		return nil, err
	}
	return p, nil
}

// reload reads the file if it changed since it was last read. The old users
// stay when it cannot be read or has a fault.
func (p *passwords) reload() error {
	info, err := os.Stat(p.path)
	if err != nil {
		return fmt.Errorf("read password file: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.users != nil && info.ModTime().Equal(p.mtime) && info.Size() == p.size {
		return nil
	}
	data, err := os.ReadFile(p.path)
	if err != nil {
		return fmt.Errorf("read password file: %w", err)
	}
	users := map[string][]byte{}
	sc := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		user, hash, ok := strings.Cut(line, ":")
		if !ok || user == "" {
			return fmt.Errorf("password file %s:%d: want user:hash", p.path, n)
		}
		if _, err := bcrypt.Cost([]byte(hash)); err != nil {
			return fmt.Errorf("password file %s:%d: hash of user %q is not bcrypt: %w", p.path, n, user, err)
		}
		users[user] = []byte(hash)
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("read password file %s: %w", p.path, err)
	}
	p.users, p.mtime, p.size = users, info.ModTime(), info.Size()
	return nil
}

// check reports whether the user has that password. It gives up when ctx is
// done. The error is one of reading the file; the answer then counts all the
// same, by the users known before.
func (p *passwords) check(ctx context.Context, user string, password []byte) (bool, error) {
	err := p.reload()
	select {
	case p.sem <- struct{}{}:
		defer func() { <-p.sem }()
	case <-ctx.Done():
		return false, err
	}
	p.mu.Lock()
	hash, known := p.users[user]
	p.mu.Unlock()
	if !known {
		hash = p.dummy
	}
	return bcrypt.CompareHashAndPassword(hash, password) == nil && known, err
}

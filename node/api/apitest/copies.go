package apitest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/edgefn/edgefn/node/api"
)

// Backup implements api.Backend. It writes Copy, and then fails if it is told to.
func (b *Backend) Backup(_ context.Context, o api.BackupOptions, w io.Writer) error {
	b.mu.Lock()
	data, err := b.Copy, b.Fail["Backup"]
	b.mu.Unlock()
	if o.NoImages {
		data = b.CopyNoImages
	}
	if _, werr := w.Write(data); werr != nil {
		return fmt.Errorf("write: %w", werr)
	}
	return err
}

// Restore implements api.Backend. It keeps what it reads in Copy.
func (b *Backend) Restore(_ context.Context, r io.Reader) (api.Restoring, error) {
	unlock, err := b.begin("Restore", "")
	defer unlock()
	if err != nil {
		return api.Restoring{}, err
	}
	if b.Copy, err = io.ReadAll(r); err != nil {
		return api.Restoring{}, fmt.Errorf("read backup: %w", err)
	}
	out := api.Restoring{Node: b.Node.Node, Time: b.Node.Started, Functions: len(b.Details)}
	if b.OnRestored != nil {
		b.OnRestored()
	}
	return out, nil
}

// StateExport implements api.Backend.
func (b *Backend) StateExport(_ context.Context, name, prefix string, f func(api.StateEntry) error) error {
	unlock, err := b.begin("StateExport", name)
	defer unlock()
	if err != nil {
		return err
	}
	space := name + "\x00"
	for _, k := range slices.Sorted(maps.Keys(b.state)) {
		if !strings.HasPrefix(k, space+prefix) {
			continue
		}
		if err := f(api.StateEntry{Key: strings.TrimPrefix(k, space), Value: b.state[k]}); err != nil {
			return err
		}
	}
	return b.Fail["StateExport end"]
}

// StateImport implements api.Backend.
func (b *Backend) StateImport(_ context.Context, name string, r io.Reader, replace bool) (out api.StateImported, err error) {
	unlock, err := b.begin("StateImport", name)
	defer unlock()
	if err != nil {
		return out, err
	}
	state := map[string][]byte{}
	for dec := json.NewDecoder(r); ; {
		var e api.StateEntry
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return out, fmt.Errorf("line %d: %w: %w", out.Written+1, err, api.ErrInvalid)
		}
		state[name+"\x00"+e.Key] = e.Value
		out.Written++
		out.Bytes += int64(len(e.Value))
	}
	for k, v := range b.state {
		if _, ok := state[k]; ok {
			continue
		}
		if replace && strings.HasPrefix(k, name+"\x00") {
			out.Deleted++
		} else {
			state[k] = v
		}
	}
	b.state = state
	return out, nil
}

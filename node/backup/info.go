package backup

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// Errors of reading a backup.
var (
	// ErrDamaged: it is no backup, or not as it was written.
	ErrDamaged = errors.New("not a whole backup")
	// ErrNewer: it was written by an edgefn that is newer than this one.
	ErrNewer = errors.New("backup is of a newer edgefn")
)

// Format is the version of the format that this package writes. It reads those
// up to it.
const Format = 1

// Info is what is in a backup.
type Info struct {
	Format     int        `json:"format"`
	Node       string     `json:"node"`   // that it is a copy of
	Edgefn     string     `json:"edgefn"` // version of the program that wrote it
	Time       time.Time  `json:"time"`
	Revision   int64      `json:"revision"`    // of the store; it may have some later commits too
	StoreBytes int64      `json:"store_bytes"` // of the store's copy
	ImageBytes int64      `json:"image_bytes"` // of all blobs, each counted once
	Functions  []Function `json:"functions"`   // by name
}

// Function is a function in a backup.
type Function struct {
	Name     string    `json:"name"`
	Version  string    `json:"version"`  // the active one
	Versions []Version `json:"versions"` // all that are kept, by digest
}

// Version is a version of a function in a backup.
type Version struct {
	Version string `json:"version"`
	// Missing is why its image is not in the backup; empty: it is.
	Missing string           `json:"missing,omitempty"`
	Bytes   int64            `json:"bytes"`           // of its image
	Blobs   map[string]int64 `json:"blobs,omitempty"` // bytes by digest; versions share some
}

// Missing lists the versions of which the image is not in the backup, as lines
// for people.
func (i *Info) Missing() []string {
	var out []string
	for _, f := range i.Functions {
		for _, v := range f.Versions {
			if v.Missing != "" {
				out = append(out, fmt.Sprintf("function %q, version %s: %s", f.Name, v.Version, v.Missing))
			}
		}
	}
	return out
}

// blobs are those of all versions, with their sizes.
func (i *Info) blobs() map[string]int64 {
	all := map[string]int64{}
	for _, f := range i.Functions {
		for _, v := range f.Versions {
			maps.Copy(all, v.Blobs)
		}
	}
	return all
}

// validate checks what Info says of itself.
func (i *Info) validate() error {
	if i.Format > Format {
		return fmt.Errorf("%w: its format is %d, this edgefn reads up to %d: restore it with edgefn %s or a later one", ErrNewer, i.Format, Format, i.Edgefn)
	}
	if i.Format < 1 || i.StoreBytes <= 0 || i.StoreBytes > maxMember {
		return fmt.Errorf("%w: %s: format %d and a store of %d bytes make no sense", ErrDamaged, infoName, i.Format, i.StoreBytes)
	}
	sizes := map[string]int64{}
	for _, f := range i.Functions {
		for _, v := range f.Versions {
			if !isDigest(v.Version) {
				return fmt.Errorf("%w: %s: %q is no version", ErrDamaged, infoName, v.Version)
			}
			if _, ok := v.Blobs[v.Version]; !ok && v.Missing == "" {
				return fmt.Errorf("%w: %s: version %s lacks its own index", ErrDamaged, infoName, v.Version)
			}
			for d, size := range v.Blobs {
				if other, known := sizes[d]; !isDigest(d) || size < 0 || size > maxMember || (known && other != size) {
					return fmt.Errorf("%w: %s: blob %q of %d bytes makes no sense", ErrDamaged, infoName, d, size)
				}
				sizes[d] = size
			}
		}
	}
	return nil
}

// isDigest reports whether s is a SHA-256 digest as OCI writes it.
func isDigest(s string) bool {
	digits, ok := strings.CutPrefix(s, "sha256:")
	b, err := hex.DecodeString(digits)
	return ok && err == nil && len(b) == 32 && strings.ToLower(digits) == digits
}

// Keys in the store of what a node keeps of its functions, see package deploy.
const (
	functionsPrefix = durable.Root + "functions/" // NAME
	versionsPrefix  = durable.Root + "versions/"  // NAME/DIGEST
)

// functionsIn lists the functions of a store with their versions, at one revision.
func functionsIn(ctx context.Context, st store.Store) ([]Function, error) {
	all := map[string]*Function{}
	r := store.Read{Limit: 1000}
	err := durable.EachEntry(ctx, st, functionsPrefix, r, func(e store.Entry) error {
		var record struct {
			Version  string `json:"version"`
			Removing bool   `json:"removing"` // the node that starts from it goes on with that
		}
		if err := json.Unmarshal(e.Value, &record); err != nil {
			return fmt.Errorf("read %s: %w", e.Key, err)
		}
		name := e.Key[len(functionsPrefix):]
		if !record.Removing {
			all[name] = &Function{Name: name, Version: record.Version}
		}
		return nil
	})
	if err != nil {
		return nil, err //nolint:wrapcheck // it says what was read
	}
	err = durable.EachKey(ctx, st, versionsPrefix, func(key string) {
		name, version, ok := strings.Cut(key[len(versionsPrefix):], "/")
		if f := all[name]; ok && f != nil && isDigest(version) {
			f.Versions = append(f.Versions, Version{Version: version})
		}
	})
	if err != nil {
		return nil, err //nolint:wrapcheck // it says what was read
	}
	out := make([]Function, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		out = append(out, *all[name])
	}
	return out, nil
}

// merge adds to fs what is in more alone: functions and versions.
func merge(fs, more []Function) []Function {
	for _, m := range more {
		i := slices.IndexFunc(fs, func(f Function) bool { return f.Name == m.Name })
		if i < 0 {
			fs = append(fs, m)
			continue
		}
		for _, v := range m.Versions {
			if !slices.ContainsFunc(fs[i].Versions, func(o Version) bool { return o.Version == v.Version }) {
				fs[i].Versions = append(fs[i].Versions, v)
			}
		}
	}
	slices.SortFunc(fs, func(a, b Function) int { return strings.Compare(a.Name, b.Name) })
	return fs
}

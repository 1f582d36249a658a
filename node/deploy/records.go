package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// Keys of this package in the store, beside those of settling.
const (
	keyFunctions = durable.Root + "functions/" // NAME: functionRecord
	keyVersions  = durable.Root + "versions/"  // NAME/DIGEST: versionRecord
	keyEnding    = durable.Root + "ending/"    // BROKER/CLIENT ID: a session to be ended
	keyMemory    = durable.Root + "memory/"    // FUNCTION/TRIGGER/PAGE: what the trigger's source remembers
)

// functionRecord is a function in the store: which version is active. Every
// change of it is guarded by the revision that it was read at, and every change
// of the function's versions goes with one of it.
type functionRecord struct {
	Version  string    `json:"version"`
	Deployed time.Time `json:"deployed"`           // for people: nothing is ordered by it
	Removing bool      `json:"removing,omitempty"` // its removal is to be finished
	// KeepState, with Removing: its state stays, for the next function of its name.
	KeepState bool `json:"keep_state,omitempty"`
	pause
}

// versionRecord is a version that is kept.
type versionRecord struct {
	Version  string             `json:"version"`
	Deployed time.Time          `json:"deployed"` // for people
	Function functions.Function `json:"function"`

	revision int64 // of the store, at which it was deployed last
}

// desired is what the store says of a function.
type desired struct {
	functionRecord
	revision int64           // that last changed the function's record; 0: there is none
	versions []versionRecord // newest first
	at       int64           // revision of the store at which all this was read
}

// there reports whether the function is deployed and not being removed.
func (w *desired) there() bool { return w.revision != 0 && !w.Removing }

// find returns a version that is kept.
func (w *desired) find(digest string) (versionRecord, bool) {
	i := slices.IndexFunc(w.versions, func(v versionRecord) bool { return v.Version == digest })
	if i < 0 {
		return versionRecord{Version: digest}, false
	}
	return w.versions[i], true
}

// addVersion adds a version as it is in the store.
func (w *desired) addVersion(e store.Entry) error {
	v := versionRecord{revision: e.Version}
	if err := json.Unmarshal(e.Value, &v); err != nil {
		return fmt.Errorf("read %s: %w", e.Key, err)
	}
	w.versions = append(w.versions, v)
	return nil
}

// setRecord sets the function's record as it is in the store, after its
// versions were added.
func (w *desired) setRecord(e store.Entry, at int64) error {
	w.revision, w.at = e.Version, at
	slices.SortFunc(w.versions, func(a, b versionRecord) int { return int(b.revision - a.revision) })
	if e.Version == 0 {
		return nil
	}
	if err := json.Unmarshal(e.Value, &w.functionRecord); err != nil {
		return fmt.Errorf("read %s: %w", e.Key, err)
	}
	return nil
}

// read reads what the store says of a function.
func (d *Deployer) read(ctx context.Context, name string) (desired, error) {
	ctx, cancel := context.WithTimeout(ctx, durable.StoreTime)
	defer cancel()
	for {
		var w desired
		e, at, err := d.cfg.Store.Get(ctx, keyFunctions+name, store.Read{})
		if err != nil {
			return w, fmt.Errorf("read function %q: %w", name, err)
		}
		es, _, err := d.cfg.Store.List(ctx, keyVersions+name+"/", store.Read{Revision: at})
		if errors.Is(err, store.ErrCompacted) {
			continue // in between
		}
		if err != nil {
			return w, fmt.Errorf("read versions of function %q: %w", name, err)
		}
		for _, e := range es {
			if err := w.addVersion(e); err != nil {
				return w, err
			}
		}
		return w, w.setRecord(e, at)
	}
}

// readAll reads what the store says of every function, and at which revision.
func (d *Deployer) readAll(ctx context.Context) (all map[string]*desired, at int64, err error) {
	_, at, err = d.cfg.Store.Get(ctx, keyFunctions, store.Read{})
	if err != nil {
		return nil, 0, fmt.Errorf("read functions: %w", err)
	}
	versions := map[string]*desired{}
	err = durable.EachEntry(ctx, d.cfg.Store, keyVersions, store.Read{Limit: 100, Revision: at}, func(e store.Entry) error {
		name, _, _ := strings.Cut(strings.TrimPrefix(e.Key, keyVersions), "/")
		if versions[name] == nil {
			versions[name] = &desired{}
		}
		return versions[name].addVersion(e)
	})
	if err != nil {
		return nil, 0, err
	}
	all = map[string]*desired{}
	err = durable.EachEntry(ctx, d.cfg.Store, keyFunctions, store.Read{Limit: 500, Revision: at}, func(e store.Entry) error {
		name := strings.TrimPrefix(e.Key, keyFunctions)
		w := versions[name]
		if w == nil {
			w = &desired{}
		}
		all[name] = w
		return w.setRecord(e, at)
	})
	return all, at, err
}

// write makes v the active version of a function, and the newest if it is not
// kept yet or if newest is set, and forgets versions that are not kept any more:
// in one transaction, that takes place only if the function's record is still the
// one that was read.
func (d *Deployer) write(ctx context.Context, name string, read *desired, v versionRecord, newest bool) (revision int64, err error) {
	ops := make([]store.Op, 0, 3)
	versions := slices.Clone(read.versions)
	i := slices.IndexFunc(versions, func(o versionRecord) bool { return o.Version == v.Version })
	if i < 0 || newest {
		if i >= 0 {
			versions = slices.Delete(versions, i, i+1)
		}
		versions = slices.Insert(versions, 0, v)
		text, err := json.Marshal(v)
		if err != nil {
			return 0, err
		}
		ops = append(ops, store.Op{Key: keyVersions + name + "/" + v.Version, Value: text})
	}
	for _, digest := range surplus(versions, v.Version) {
		ops = append(ops, store.Op{Key: keyVersions + name + "/" + digest, Delete: true})
	}
	r := read.functionRecord
	r.Version, r.Deployed = v.Version, v.Deployed
	return d.writeRecord(ctx, name, read, r, ops...)
}

// writeRecord writes the record of a function, and what goes with it, if it is
// still the one that was read. The error is store.ErrConflict if it is not. An
// answer that was lost is looked for.
func (d *Deployer) writeRecord(ctx context.Context, name string, read *desired, r functionRecord, ops ...store.Op) (revision int64, err error) {
	text, err := json.Marshal(r)
	if err != nil {
		return 0, err
	}
	ops = append(ops, store.Op{Key: keyFunctions + name, Value: text})
	guards := []store.Guard{{Key: keyFunctions + name, Version: read.revision}}
	cctx, cancel := context.WithTimeout(ctx, durable.StoreTime)
	defer cancel()
	revision, err = d.cfg.Store.Commit(cctx, guards, ops)
	if err == nil || answered(err) {
		return revision, err
	}
	e, _, rerr := d.cfg.Store.Get(ctx, keyFunctions+name, store.Read{})
	if rerr == nil && e.Version > read.revision && string(e.Value) == string(text) {
		return e.Version, nil
	}
	return 0, err
}

// answered reports whether an error of a commit means that nothing was changed.
func answered(err error) bool {
	for _, e := range []error{store.ErrConflict, store.ErrFull, store.ErrTooLarge, store.ErrCompacted, store.ErrLeaseGone, store.ErrInvalid} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// surplus returns which of some versions, newest first, are not kept any more.
func surplus(versions []versionRecord, active string) (drop []string) {
	room := keepVersions - 1 // beside the active one
	for _, v := range versions {
		switch {
		case v.Version == active:
		case room > 0:
			room--
		default:
			drop = append(drop, v.Version)
		}
	}
	return drop
}

// pickVersion finds what to roll back to among versions, newest first.
func pickVersion(name string, versions []versionRecord, active, to string) (versionRecord, error) {
	var found []versionRecord
	for i, v := range versions {
		switch {
		case to == "" && i > 0 && versions[i-1].Version == active:
			return v, nil
		case to != "" && (strings.HasPrefix(v.Version, to) || strings.HasPrefix(v.Version, "sha256:"+to)):
			found = append(found, v)
		}
	}
	hint := fmt.Sprintf("edgefn describe %s lists the versions that are kept, %d at most", name, keepVersions)
	switch {
	case to == "":
		return versionRecord{}, &api.Error{Err: api.ErrRefused, Message: fmt.Sprintf("function %q has no version before the active one", name), Hint: hint}
	case len(found) == 0:
		return versionRecord{}, &api.Error{Err: api.ErrNotFound, Message: fmt.Sprintf("function %q has no version %q", name, to), Hint: hint}
	case len(found) > 1:
		return versionRecord{}, &api.Error{Err: api.ErrInvalid, Message: fmt.Sprintf("%d versions of function %q begin with %q", len(found), name, to), Hint: hint}
	}
	return found[0], nil
}

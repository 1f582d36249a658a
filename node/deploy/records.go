package deploy

import (
	"context"
	"encoding/json"
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
)

// functionRecord is a function in the store: which version is active.
type functionRecord struct {
	Version  string    `json:"version"`
	Deployed time.Time `json:"deployed"`
	Removing bool      `json:"removing,omitempty"` // its removal is to be finished
}

// versionRecord is a version that is kept.
type versionRecord struct {
	Version  string             `json:"version"`
	Deployed time.Time          `json:"deployed"`
	Function functions.Function `json:"function"`
}

// loadFunctions reads what is deployed. Functions whose removal was begun are
// returned for it to be finished.
func (d *Deployer) loadFunctions(ctx context.Context) (removing []string, err error) {
	versions := map[string][]versionRecord{}
	err = durable.EachEntry(ctx, d.cfg.Store, keyVersions, store.Read{Limit: 100}, func(e store.Entry) error {
		name, _, _ := strings.Cut(strings.TrimPrefix(e.Key, keyVersions), "/")
		var v versionRecord
		if err := json.Unmarshal(e.Value, &v); err != nil {
			return fmt.Errorf("read %s: %w", e.Key, err)
		}
		versions[name] = append(versions[name], v)
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = durable.EachEntry(ctx, d.cfg.Store, keyFunctions, store.Read{Limit: 500}, func(e store.Entry) error {
		name := strings.TrimPrefix(e.Key, keyFunctions)
		var r functionRecord
		if err := json.Unmarshal(e.Value, &r); err != nil {
			return fmt.Errorf("read %s: %w", e.Key, err)
		}
		if r.Removing {
			removing = append(removing, name)
			return nil
		}
		fn := functions.Defaults()
		fn.Name = name // in case that its version's record is lost
		for _, v := range versions[name] {
			if v.Version == r.Version {
				fn = v.Function
			}
		}
		d.functions[name] = d.newDeployment(r, versions[name], &fn)
		return nil
	})
	return removing, err
}

// record writes a version and makes it the active one, in one transaction that
// also forgets versions that are not kept any more.
func (d *Deployer) record(ctx context.Context, f *Deployment, fn *functions.Function, r functionRecord, newest bool) (versions []versionRecord, drop []string, err error) {
	v := versionRecord{Version: r.Version, Deployed: r.Deployed, Function: *fn}
	if f != nil {
		f.mu.Lock()
		versions = slices.Clone(f.versions)
		f.mu.Unlock()
	}
	i := slices.IndexFunc(versions, func(o versionRecord) bool { return o.Version == v.Version })
	if i >= 0 && !newest {
		v.Deployed = versions[i].Deployed
		versions[i] = v
	} else {
		if i >= 0 {
			versions = slices.Delete(versions, i, i+1)
		}
		versions = slices.Insert(versions, 0, v)
	}
	versions, drop = keepNewest(versions, r.Version)
	vtext, err := json.Marshal(v)
	if err != nil {
		return nil, nil, err
	}
	rtext, err := json.Marshal(r)
	if err != nil {
		return nil, nil, err
	}
	ops := []store.Op{{Key: keyFunctions + fn.Name, Value: rtext}, {Key: keyVersions + fn.Name + "/" + v.Version, Value: vtext}}
	for _, digest := range drop {
		ops = append(ops, store.Op{Key: keyVersions + fn.Name + "/" + digest, Delete: true})
	}
	_, err = d.cfg.Store.Commit(ctx, nil, ops)
	return versions, drop, err
}

// keepNewest splits versions, newest first, into those that are kept, the
// active one among them, and the names of the others.
func keepNewest(versions []versionRecord, active string) (keep []versionRecord, drop []string) {
	room := keepVersions
	if slices.ContainsFunc(versions, func(v versionRecord) bool { return v.Version == active }) {
		room--
	}
	for _, v := range versions {
		switch {
		case v.Version == active:
			keep = append(keep, v)
		case room > 0:
			keep = append(keep, v)
			room--
		default:
			drop = append(drop, v.Version)
		}
	}
	return keep, drop
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

package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/backup"
	"github.com/edgefn/edgefn/node/settle"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// exportPage is how many keys are read at once: with the largest values they are 8 MiB.
const exportPage = 16

// StateExport implements api.Backend.
func (n *Node) StateExport(ctx context.Context, name, prefix string, f func(api.StateEntry) error) error {
	done, err := n.enter()
	if err != nil {
		return err
	}
	defer done()
	if _, err := n.deployer.Find(name); err != nil {
		return err
	}
	space := settle.StateKey(name, "")
	err = durable.EachEntry(ctx, n.st, space+prefix, store.Read{Limit: exportPage}, func(e store.Entry) error {
		return f(api.StateEntry{Key: e.Key[len(space):], Value: e.Value})
	})
	if errors.Is(err, store.ErrCompacted) {
		return &api.Error{
			Err: errors.Join(api.ErrTimeout, err), Message: fmt.Sprintf("export the state of function %q: it took so long that the store has forgotten how the state was when it began", name),
			Hint: "take what is exported faster, or export it in parts with --prefix",
		}
	}
	return storeErrorOrNil(err)
}

// StateImport implements api.Backend.
func (n *Node) StateImport(ctx context.Context, name string, r io.Reader, replace bool) (out api.StateImported, err error) {
	done, err := n.enter()
	if err != nil {
		return out, err
	}
	defer done()
	if _, err := n.deployer.Find(name); err != nil {
		return out, err
	}
	f, err := n.spoolState(name, r)
	if err != nil {
		return out, err
	}
	defer f.Close() //nolint:errcheck // it has no name
	c := stateChange{n: n, name: name, out: &out}
	if replace {
		// First, so that it makes room. What is in the file stays meanwhile.
		if err = c.deleteOthers(ctx, f.keys); err == nil {
			err = c.flush(ctx)
		}
	}
	if err == nil {
		err = backup.ReadState(f, func(_ int, e api.StateEntry) error { return c.put(ctx, e) })
	}
	if err == nil {
		err = c.flush(ctx)
	}
	if err != nil {
		return out, importError(err, name, out, len(f.keys))
	}
	return out, nil
}

// importError says how far an import came.
func importError(err error, name string, out api.StateImported, keys int) error {
	var full *functions.Failure
	class := err
	if errors.As(err, &full) {
		class = errors.Join(api.ErrFull, err)
		err = errors.New(full.Message)
	} else {
		class = storeError(class)
	}
	return &api.Error{
		Err:     class,
		Message: fmt.Sprintf("import the state of function %q: %d of %d keys are written, %d deleted: %v", name, out.Written, keys, out.Deleted, err),
		Hint:    "import it again: what is written already is then written as it is",
	}
}

// stateChange changes the state of a function in transactions of many keys.
type stateChange struct {
	n    *Node
	name string
	out  *api.StateImported // what is committed

	puts    map[string][]byte
	deletes []string
	bytes   int
}

func (c *stateChange) put(ctx context.Context, e api.StateEntry) error {
	if c.bytes+len(e.Value) > settle.MaxChangeBytes || len(c.puts) == settle.MaxChangeKeys {
		if err := c.flush(ctx); err != nil {
			return err
		}
	}
	if c.puts == nil {
		c.puts = map[string][]byte{}
	}
	c.puts[e.Key] = e.Value
	c.bytes += len(e.Value)
	return nil
}

// deleteOthers deletes the keys that are not in keep.
func (c *stateChange) deleteOthers(ctx context.Context, keep map[string]bool) error {
	space := settle.StateKey(c.name, "")
	var others []string
	err := durable.EachKey(ctx, c.n.st, space, func(key string) {
		if key = key[len(space):]; !keep[key] {
			others = append(others, key)
		}
	})
	if err != nil {
		return err //nolint:wrapcheck // it says what was read
	}
	for _, key := range others {
		if len(c.deletes) == settle.MaxChangeKeys {
			if err := c.flush(ctx); err != nil {
				return err
			}
		}
		c.deletes = append(c.deletes, key)
	}
	return nil
}

// flush commits what has gathered.
func (c *stateChange) flush(ctx context.Context) error {
	if len(c.puts)+len(c.deletes) == 0 {
		return nil
	}
	if _, err := c.n.deployer.Find(c.name); err != nil { // it may have been removed meanwhile
		return err
	}
	if err := c.n.settler.ChangeState(ctx, c.name, c.puts, c.deletes); err != nil {
		return err //nolint:wrapcheck // it is said by importError
	}
	c.out.Written += len(c.puts)
	c.out.Bytes += int64(c.bytes)
	c.out.Deleted += len(c.deletes)
	c.puts, c.deletes, c.bytes = nil, nil, 0
	return nil
}

// stateFile is a copy of a state that was checked.
type stateFile struct {
	*os.File
	keys  map[string]bool
	bytes int64
}

// spoolState brings the lines of a state to the disk and checks all of them.
func (n *Node) spoolState(name string, r io.Reader) (_ *stateFile, err error) {
	f, err := os.CreateTemp(n.cfg.DataDir, "import-*")
	if err != nil {
		return nil, fmt.Errorf("make a file for the state: %w", err)
	}
	s := &stateFile{File: f, keys: map[string]bool{}}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	if err := os.Remove(f.Name()); err != nil {
		return nil, fmt.Errorf("make a file for the state: %w", err)
	}
	err = backup.ReadState(io.TeeReader(r, f), func(line int, e api.StateEntry) error {
		if s.keys[e.Key] {
			return fmt.Errorf("line %d: key %q is there twice: %w", line, e.Key, api.ErrInvalid)
		}
		s.keys[e.Key] = true
		s.bytes += int64(len(e.Key) + len(e.Value))
		if l := n.cfg.State; len(s.keys) > l.Keys || s.bytes > l.Bytes {
			return &api.Error{
				Err: api.ErrFull, Message: fmt.Sprintf("line %d: the state of function %q cannot have more than %d keys and %d bytes", line, name, l.Keys, l.Bytes),
				Hint: "nothing was changed; raise state.keys or state.bytes in the node's config",
			}
		}
		return nil
	})
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		if api.Hint(err) == "" {
			err = &api.Error{Err: err, Message: fmt.Sprintf("import the state of function %q: %v", name, err), Hint: "nothing was changed"}
		}
		return nil, copyError(err)
	}
	return s, nil
}

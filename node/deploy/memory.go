package deploy

import (
	"context"
	"fmt"
	"strings"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/node/settle/durable"
)

// Memory is what the source of a trigger keeps in the store beyond a restart, in
// pages that it names. It goes with the trigger.
type Memory struct {
	st     store.Store
	prefix string
}

func memoryKey(function, trigger string) string { return keyMemory + function + "/" + trigger + "/" }

// Load returns all pages.
func (m *Memory) Load(ctx context.Context) (map[string][]byte, error) {
	entries, _, err := m.st.List(ctx, m.prefix, store.Read{})
	if err != nil {
		return nil, fmt.Errorf("read what a source remembers: %w", err)
	}
	pages := make(map[string][]byte, len(entries))
	for _, e := range entries {
		pages[strings.TrimPrefix(e.Key, m.prefix)] = e.Value
	}
	return pages, nil
}

// Save writes pages, all or none of them. An empty page is deleted.
func (m *Memory) Save(ctx context.Context, pages map[string][]byte) error {
	ops := make([]store.Op, 0, len(pages))
	for name, p := range pages {
		ops = append(ops, store.Op{Key: m.prefix + name, Value: p, Delete: len(p) == 0})
	}
	if _, err := m.st.Commit(ctx, nil, ops); err != nil {
		return fmt.Errorf("save what a source remembers: %w", err)
	}
	return nil
}

// forgetMemory deletes what the source of a trigger remembers.
func (d *Deployer) forgetMemory(ctx context.Context, function, trigger string) error {
	ctx, cancel := context.WithTimeout(ctx, durable.StoreTime)
	defer cancel()
	_, err := d.cfg.Store.Commit(ctx, nil, []store.Op{{Key: memoryKey(function, trigger), Delete: true, Prefix: true}})
	return err
}

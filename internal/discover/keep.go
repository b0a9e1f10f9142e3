package discover

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/internal/atomicfile"
	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

// stamp names an inventory's file by its time; names sort by age.
const stamp = "20060102T150405.000Z"

// Keep writes an inventory into the store's directory for them, and returns its path. The
// newest maxKept stay.
func Keep(store string, e *inventory.Estate) (string, error) {
	dir := filepath.Join(store, "inventory")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("keep inventory: %w", err)
	}
	b, err := json.MarshalIndent(e, "", " ")
	if err != nil {
		return "", fmt.Errorf("keep inventory: %w", err)
	}
	path := filepath.Join(dir, e.At.UTC().Format(stamp)+".json")
	if err := atomicfile.Write(path, append(b, '\n'), 0o600); err != nil {
		return "", fmt.Errorf("keep inventory: %w", err)
	}
	return path, forget(store)
}

// maxKept is how many inventories stay; a run each night makes that three months.
const maxKept = 100

// forget removes the oldest inventories beyond those that stay.
func forget(store string) error {
	all, err := Kept(store)
	if err != nil {
		return err
	}
	for _, old := range all[:max(0, len(all)-maxKept)] {
		if err := os.Remove(old); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("remove an old inventory: %w", err)
		}
	}
	return nil
}

// Kept lists the inventories in a store, the newest last.
func Kept(store string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(store, "inventory"))
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("list inventories: %w", err)
	}
	var out []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), "Z.json") {
			out = append(out, filepath.Join(store, "inventory", e.Name()))
		}
	}
	slices.Sort(out)
	return out, nil
}

// Load reads an inventory.
func Load(path string) (*inventory.Estate, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read inventory: %w", err)
	}
	e := &inventory.Estate{}
	if err := json.Unmarshal(b, e); err != nil {
		return nil, fmt.Errorf("read inventory %s: %w", path, err)
	}
	if e.Version != inventory.Version {
		return nil, fmt.Errorf("read inventory %s: it has form %d, this Leeward knows %d", path, e.Version, inventory.Version)
	}
	for i := range e.Entries {
		if s := e.Entries[i].Server; s != nil && s.Version != inventory.Version {
			return nil, fmt.Errorf("read inventory %s: server %s has form %d, this Leeward knows %d", path, e.Entries[i].Name, s.Version, inventory.Version)
		}
	}
	return e, nil
}

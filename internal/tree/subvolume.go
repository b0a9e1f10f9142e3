package tree

import (
	"fmt"
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/btrfs"
)

// UnlockSubvolumes lets a pass write into all subvolumes of the replica whose root is
// open as root.
func UnlockSubvolumes(root int) error {
	all, err := replicaSubvolumes(root)
	if err != nil {
		return err
	}
	for _, s := range all {
		if !s.ReadOnly {
			continue
		}
		if err := markSubvolume(root, s.Path, false); err != nil {
			return err
		}
	}
	return nil
}

// MarkSubvolumes gives the replica's subvolumes what the source's have beside their
// content: which is the default, and which are read-only. Those the replica has not
// are passed over.
func MarkSubvolumes(root int, source []*agentpb.Subvolume) error {
	all, err := replicaSubvolumes(root)
	if err != nil {
		return err
	}
	at := map[string]btrfs.Subvolume{}
	var now, want uint64
	for _, s := range all {
		at[s.Path] = s
		if s.Default {
			now = s.ID
		}
	}
	for _, s := range source {
		own, ok := at[string(s.Path)]
		if ok && s.Default {
			want = own.ID
		}
		if ok && own.ReadOnly != s.ReadOnly {
			if err := markSubvolume(root, own.Path, s.ReadOnly); err != nil {
				return err
			}
		}
	}
	if now == want {
		return nil
	}
	return btrfs.SetDefault(root, want)
}

// CompareSubvolumes tells where the replica's subvolumes are not marked as the
// source's. Those that only one side has are differences of the trees.
func CompareSubvolumes(root int, source []*agentpb.Subvolume) ([]Difference, error) {
	all, err := replicaSubvolumes(root)
	if err != nil {
		return nil, err
	}
	marks := map[string]string{}
	for _, s := range source {
		marks[string(s.Path)] = marksOf(s.ReadOnly, s.Default)
	}
	var out []Difference
	for _, s := range all {
		if there, ok := marks[s.Path]; ok && there != marksOf(s.ReadOnly, s.Default) {
			out = append(out, Difference{Path: s.Path, Kinds: []string{fmt.Sprintf("subvolume %s, at the source %s", marksOf(s.ReadOnly, s.Default), there)}})
		}
	}
	return out, nil
}

func marksOf(readOnly, isDefault bool) string {
	s := "writable"
	if readOnly {
		s = "read-only"
	}
	if isDefault {
		s += " and the default"
	}
	return s
}

func replicaSubvolumes(root int) ([]btrfs.Subvolume, error) {
	all, err := btrfs.Subvolumes(fmt.Sprintf("/proc/self/fd/%d", root))
	if err != nil {
		return nil, fmt.Errorf("list subvolumes of the replica: %w", err)
	}
	return all, nil
}

func markSubvolume(root int, path string, readOnly bool) error {
	fd, err := openDir(root, path)
	if err == nil {
		err = btrfs.SetReadOnly(fd, readOnly)
		unix.Close(fd)
	}
	if err != nil {
		return fmt.Errorf("mark subvolume %q of the replica: %w", path, err)
	}
	return nil
}

// snapshotDirs are where programs keep the snapshots they take of a system now and
// then: snapper and its like, Timeshift.
var snapshotDirs = [...]string{".snapshots", "@snapshots", "@.snapshots", ".btrfs-snapshots", "timeshift-btrfs"}

// KeptSnapshots returns the paths of those subvolumes that are snapshots kept of
// others: what they share with them would be carried, and take room at the target,
// once for each. One that is mounted or the default, or holds one that is, is no
// such snapshot but a system in use.
func KeptSnapshots(f *agentpb.Filesystem) (paths []string) {
	var used []string
	for _, m := range f.Mounts {
		used = append(used, strings.Trim(m.Root, "/"))
	}
	for _, s := range f.Subvolumes {
		if s.Default {
			used = append(used, string(s.Path))
		}
	}
	for _, s := range f.Subvolumes {
		path := string(s.Path)
		if !s.Snapshot || !inSnapshotDir(path) {
			continue
		}
		inUse := false
		for _, u := range used {
			inUse = inUse || u == path || strings.HasPrefix(u, path+"/")
		}
		if !inUse {
			paths = append(paths, path)
		}
	}
	sort.Strings(paths)
	return paths
}

func inSnapshotDir(path string) bool {
	parts := strings.Split(path, "/")
	for _, part := range parts[:len(parts)-1] {
		for _, dir := range snapshotDirs {
			if part == dir {
				return true
			}
		}
	}
	return false
}

var globEscapes = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)

// Literal returns the pattern that matches just the path, which begins at the
// filesystem's root.
func Literal(path string) string { return "/" + globEscapes.Replace(path) }

package tree

import (
	"fmt"
	"path"
	"strings"
)

// DefaultExcludes are left out of every filesystem's copy: what only lives while
// the system runs, and what must not exist twice. Patterns are relative to the
// root of the whole system; see Excludes. The directories themselves are carried.
// After boot.md's list: /proc, /sys and the like are mounts and fall out by their
// type; what lies under those mounts on the root filesystem is carried.
var DefaultExcludes = []string{
	"/var/lib/systemd/random-seed",
	"/var/lib/urandom/*",
	"/var/lib/docker/overlay2/*/merged/**",
	"/var/lib/docker/containers/*/mounts/shm/**",
	"/var/lib/containers/storage/overlay/*/merged/**",
	"/var/cache/leeward/**",
	"/run/leeward/**",
}

// Excludes is a set of patterns of one filesystem. A pattern is a path of glob
// parts (as path.Match); a part ** stands for any number of parts, and at the end
// for everything below. The zero value excludes nothing.
type Excludes struct{ patterns [][]string }

// NewExcludes compiles patterns, which must begin with a slash and are relative to
// the filesystem's root.
func NewExcludes(patterns []string) (*Excludes, error) {
	e := &Excludes{}
	for _, p := range patterns {
		if !strings.HasPrefix(p, "/") || p == "/" {
			return nil, fmt.Errorf("exclude %q: want a path that begins with /", p)
		}
		parts := strings.Split(strings.Trim(p, "/"), "/")
		for _, part := range parts {
			if _, err := path.Match(part, ""); err != nil {
				return nil, fmt.Errorf("exclude %q: %w", p, err)
			}
		}
		e.patterns = append(e.patterns, parts)
	}
	return e, nil
}

// Shown is a place where part of a filesystem is mounted: Root is the path within
// the filesystem, "/" for all of it.
type Shown struct{ MountPoint, Root string }

// ForFilesystem turns patterns of the whole system into those of one filesystem,
// which is mounted at the places shown.
func ForFilesystem(shown []Shown, patterns []string) (out []string) {
	for _, s := range shown {
		at := strings.TrimSuffix(s.MountPoint, "/")
		root := strings.TrimSuffix(s.Root, "/")
		for _, p := range patterns {
			if rest, ok := strings.CutPrefix(p, at+"/"); ok && rest != "" {
				out = append(out, root+"/"+rest)
			} else if strings.HasPrefix(p, "/**/") {
				out = append(out, root+p)
			}
		}
	}
	return append(out, "/lost+found") // mkfs makes it where it belongs
}

// in returns a test for the names in directory dir, or nil if nothing there can
// be excluded: the common case costs nothing per name.
func (e *Excludes) in(dir string) func(name string) bool {
	if e == nil || len(e.patterns) == 0 {
		return nil
	}
	var parts []string
	if dir != "" {
		parts = strings.Split(dir, "/")
	}
	var last []string
	for _, p := range e.patterns {
		last = lastParts(p, parts, last)
	}
	if len(last) == 0 {
		return nil
	}
	return func(name string) bool {
		for _, p := range last {
			if ok, _ := path.Match(p, name); ok || p == "**" {
				return true
			}
		}
		return false
	}
}

// lastParts appends the part that an entry of the directory at parts has to match
// to be excluded by pattern, for each way in which the directory matches what is
// before it. It follows all ways at once: their number grows with the depth.
func lastParts(pattern, parts, out []string) []string {
	at := make([]bool, len(pattern)+1) // at[i]: parts so far match pattern[:i]
	next := make([]bool, len(pattern)+1)
	at[0] = true
	skip := func(at []bool) { // ** also stands for no part
		for i, p := range pattern {
			at[i+1] = at[i+1] || at[i] && p == "**"
		}
	}
	skip(at)
	for _, part := range parts {
		clear(next)
		for i, p := range pattern {
			if !at[i] {
				continue
			}
			if p == "**" {
				next[i] = true
			} else if ok, _ := path.Match(p, part); ok {
				next[i+1] = true
			}
		}
		skip(next)
		at, next = next, at
	}
	if n := len(pattern) - 1; n >= 0 && at[n] {
		out = append(out, pattern[n])
	}
	return out
}

// Covers reports whether path, or a directory above it, is excluded.
func (e *Excludes) Covers(path string) bool {
	for path != "" {
		dir, name := split(path)
		if excluded := e.in(dir); excluded != nil && excluded(name) {
			return true
		}
		path = dir
	}
	return false
}

package tree

import (
	"strings"
	"testing"
	"time"
)

func TestExcludePatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		want          bool
	}{
		{"/a", "a", true}, {"/a", "a/b", true}, {"/a", "b/a", false}, {"/a/*", "a", false}, {"/a/*", "a/b/c", true},
		{"/a/**", "a", false}, {"/a/**", "a/b/c", true}, {"/**/core", "core", true}, {"/**/core", "x/y/core", true},
		{"/**/core", "x/corer", false}, {"/a/**/z", "a/z", true}, {"/a/**/z", "a/b/c/z", true}, {"/a/**/z", "b/z", false},
		{"/**/m/**", "x/m", false}, {"/**/m/**", "x/m/y/z", true}, {"/**/**", "a", true}, {"/a/**/b/**/c", "a/1/b/2/3/c", true},
		{"/a/**/b/**/c", "a/1/2/3/c", false}, {"/[ab]x?", "bxy", true}, {"/\\*", "*", true}, {"/\\*", "a", false},
	} {
		ex, err := NewExcludes([]string{c.pattern})
		if err != nil {
			t.Fatal(err)
		}
		if got := ex.Covers(c.path); got != c.want {
			t.Errorf("%s covers %s: %v", c.pattern, c.path, got)
		}
	}
}

// A deep path must not make patterns with several ** go through all their ways.
func TestExcludesOfDeepPaths(t *testing.T) {
	ex, err := NewExcludes([]string{"/**/a/**/a/**/a/**/b"})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	ex.in(strings.TrimSuffix(strings.Repeat("a/", 2000), "/"))
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("took %v", d)
	}
}

func FuzzExcludes(f *testing.F) {
	f.Add("/a/**/b*", "a/x/bc")
	f.Add("/**", "x")
	f.Add("/[", "[")
	f.Add("///", "")
	f.Fuzz(func(t *testing.T, pattern, path string) {
		ex, err := NewExcludes([]string{pattern})
		if err != nil || checkPath(path) != nil {
			return
		}
		if ex.Covers(path) && path != "" && !ex.Covers(path+"/below") {
			t.Errorf("%q covers %q but not what is below it", pattern, path)
		}
		ForFilesystem([]Shown{{"/", "/"}, {"/srv", "/x"}}, []string{pattern})
	})
}

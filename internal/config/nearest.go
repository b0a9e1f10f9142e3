package config

import (
	"fmt"
	"strings"
)

// suggest helps a person who wrote name where one of valid was meant.
func suggest(name string, valid []string) string {
	if near := nearest(name, valid); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return "want one of: " + strings.Join(valid, ", ")
}

// nearest returns the valid name that name is most likely a slip of, or "" if
// none is close enough to be offered.
func nearest(name string, valid []string) string {
	best, least := "", len(name)/3+2
	for _, v := range valid {
		d := distance(strings.ToLower(name), strings.ToLower(v))
		if d < least && d < len(v) {
			best, least = v, d
		}
	}
	return best
}

// distance counts the letters to insert, delete, replace or swap with their
// neighbour to turn a into b.
func distance(a, b string) int {
	const longest = 64 // names are short; what is longer is no slip of one
	if len(a) > longest || len(b) > longest {
		return max(len(a), len(b))
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

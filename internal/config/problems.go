package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing wrong with the file.
type Problem struct {
	Line int // 0 where no line is to blame
	Text string
}

// Problems is everything wrong with a file, sorted by line.
type Problems struct {
	File string
	List []Problem
}

// Error has one problem a line, each with file and line as compilers print
// them.
func (p *Problems) Error() string {
	lines := make([]string, len(p.List))
	for i, one := range p.List {
		lines[i] = fmt.Sprintf("%s:%d: %s", p.File, one.Line, one.Text)
		if one.Line == 0 {
			lines[i] = fmt.Sprintf("%s: %s", p.File, one.Text)
		}
	}
	return strings.Join(lines, "\n")
}

func (p *Problems) add(line int, format string, args ...any) {
	p.List = append(p.List, Problem{Line: line, Text: fmt.Sprintf(format, args...)})
}

// err sorts what was found and returns it, nil if that is nothing. A problem
// met by two paths, as through an alias, is told once.
func (p *Problems) err() error {
	if len(p.List) == 0 {
		return nil
	}
	slices.SortStableFunc(p.List, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	p.List = slices.Compact(p.List)
	return p
}

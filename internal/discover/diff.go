package discover

import (
	"fmt"
	"strings"
)

// maxDiffLines bounds the files that Diff compares; a leeward.yaml is far below.
const maxDiffLines = 4_000

// Diff is the unified diff from a to b, empty where they are equal.
func Diff(nameA, nameB, a, b string) string {
	if a == b {
		return ""
	}
	x, y := splitLines(a), splitLines(b)
	if len(x) > maxDiffLines || len(y) > maxDiffLines {
		return fmt.Sprintf("--- %s\n+++ %s\nThey differ, and are too long to be compared line by line.\n", nameA, nameB)
	}
	ops := edits(x, y)
	var out strings.Builder
	fmt.Fprintf(&out, "--- %s\n+++ %s\n", nameA, nameB)
	const around = 3
	for i := 0; i < len(ops); {
		if ops[i].kind == ' ' {
			i++
			continue
		}
		from, to := max(0, i-around), i
		for quiet := 0; to < len(ops) && quiet <= 2*around; to++ {
			if ops[to].kind == ' ' {
				quiet++
			} else {
				quiet = 0
			}
		}
		for to > i && ops[to-1].kind == ' ' {
			to--
		}
		end := min(len(ops), to+around)
		hunk(&out, ops[from:end])
		i = end
	}
	return out.String()
}

func splitLines(s string) []string {
	lines := strings.SplitAfter(s, "\n")
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return lines
}

type edit struct {
	kind byte // ' ', - or +
	text string
	a, b int // line numbers, from 1, before it
}

// edits aligns two files by their longest common part, after what they share at both ends.
func edits(x, y []string) (out []edit) {
	head := 0
	for head < len(x) && head < len(y) && x[head] == y[head] {
		head++
	}
	tail := 0
	for tail < len(x)-head && tail < len(y)-head && x[len(x)-1-tail] == y[len(y)-1-tail] {
		tail++
	}
	mx, my := x[head:len(x)-tail], y[head:len(y)-tail]
	lcs := make([][]int32, len(mx)+1)
	for i := range lcs {
		lcs[i] = make([]int32, len(my)+1)
	}
	for i := len(mx) - 1; i >= 0; i-- {
		for j := len(my) - 1; j >= 0; j-- {
			if mx[i] == my[j] {
				lcs[i][j] = lcs[i+1][j+1] + 1
			} else {
				lcs[i][j] = max(lcs[i+1][j], lcs[i][j+1])
			}
		}
	}
	a, b := 1, 1
	add := func(kind byte, text string) {
		out = append(out, edit{kind, text, a, b})
		if kind != '+' {
			a++
		}
		if kind != '-' {
			b++
		}
	}
	for _, l := range x[:head] {
		add(' ', l)
	}
	i, j := 0, 0
	for i < len(mx) || j < len(my) {
		switch {
		case i < len(mx) && j < len(my) && mx[i] == my[j]:
			add(' ', mx[i])
			i, j = i+1, j+1
		case j == len(my) || i < len(mx) && lcs[i+1][j] >= lcs[i][j+1]:
			add('-', mx[i])
			i++
		default:
			add('+', my[j])
			j++
		}
	}
	for _, l := range x[len(x)-tail:] {
		add(' ', l)
	}
	return out
}

func hunk(out *strings.Builder, ops []edit) {
	na, nb := 0, 0
	for _, o := range ops {
		if o.kind != '+' {
			na++
		}
		if o.kind != '-' {
			nb++
		}
	}
	a, b := ops[0].a, ops[0].b
	if na == 0 {
		a--
	}
	if nb == 0 {
		b--
	}
	fmt.Fprintf(out, "@@ -%d,%d +%d,%d @@\n", a, na, b, nb)
	for _, o := range ops {
		out.WriteByte(o.kind)
		out.WriteString(o.text)
		if !strings.HasSuffix(o.text, "\n") {
			out.WriteString("\n\\ No newline at end of file\n")
		}
	}
}

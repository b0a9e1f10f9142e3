package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// size writes bytes in decimal units with three digits, as disks and links are
// sold: 999 B, 1.20 MB, 38.4 GB.
func size(n int64) string {
	if n < 0 {
		return "-" + size(-n)
	}
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n), ""
	for _, u := range []string{"kB", "MB", "GB", "TB", "PB", "EB"} {
		f, unit = f/1000, u
		if f < 999.5 {
			break
		}
	}
	switch {
	case f < 9.995:
		return fmt.Sprintf("%.2f %s", f, unit)
	case f < 99.95:
		return fmt.Sprintf("%.1f %s", f, unit)
	}
	return fmt.Sprintf("%.0f %s", f, unit)
}

// number writes n with a comma every three digits.
func number(n int64) string {
	s := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// span writes a duration in its two largest units: 0.4s, 42s, 3m07s, 2h05m, 4d03h.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + span(-d)
	case d < 10*time.Second:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + "s"
	}
	s := int64(d.Round(time.Second) / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 48*3600:
		return fmt.Sprintf("%dh%02dm", s/3600, s%3600/60)
	}
	return fmt.Sprintf("%dd%02dh", s/86400, s%86400/3600)
}

// rough writes an estimate no finer than it deserves: about 40s, 3 min, 2h10m.
func rough(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return "<10s"
	case d < 55*time.Second:
		return fmt.Sprintf("%ds", d.Round(10*time.Second)/time.Second)
	case d < 10*time.Minute:
		return fmt.Sprintf("%dm%02ds", d.Round(10*time.Second)/time.Minute, d.Round(10*time.Second)%time.Minute/time.Second)
	}
	return strings.TrimSuffix(span(d.Round(time.Minute)), "00s")
}

// clean makes text from outside fit for a terminal: no control characters, and
// nothing that is no UTF-8.
func clean(s string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsControl(c) || c == utf8.RuneError || unicode.Is(unicode.Bidi_Control, c) {
			return '·'
		}
		return c
	}, strings.ReplaceAll(s, "\n", "; "))
}

// fit cuts s to width characters, or fills it up with blanks.
func fit(s string, width int) string {
	n := utf8.RuneCountInString(s)
	if n <= width {
		return s + strings.Repeat(" ", width-n)
	}
	return cut(s, width)
}

// cut shortens s to at most width characters and marks that it did.
func cut(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	if width < 1 {
		return ""
	}
	return string([]rune(s)[:width-1]) + "…"
}

// table lays out rows in columns; the last column is not filled up.
type table struct {
	rows  [][]string
	right map[int]bool // columns that stand to the right
}

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

// print writes the rows, each behind in.
func (t *table) print(w io.Writer, in string) {
	for _, l := range t.lines() {
		fmt.Fprintln(w, in+l)
	}
}

func (t *table) lines() []string {
	var width []int
	for _, r := range t.rows {
		for i, c := range r {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	out := make([]string, len(t.rows))
	for k, r := range t.rows {
		var b strings.Builder
		for i, c := range r {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c))
			if t.right[i] {
				c = pad + c
			} else {
				c += pad
			}
			b.WriteString(c + "  ")
		}
		out[k] = strings.TrimRight(b.String(), " ")
	}
	return out
}

package document

import (
	"html"
	"strings"
	"unicode"
)

// A text is a run of spans. What comes from servers is only ever a span: both writers
// escape it, and neither knows another way to put text in.
type text []span

type span struct {
	text string
	code bool
	link string // an anchor of this document, or mailto: and tel:
}

// t is plain text, c is text to be typed, and to is a link to a section.
func t(s string) text          { return text{{text: s}} }
func c(s string) text          { return text{{text: s, code: true}} }
func to(s, anchor string) text { return text{{text: s, link: anchor}} }
func join(parts ...text) (all text) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// list joins texts by commas.
func list(parts []text) (all text) {
	for i, p := range parts {
		if i > 0 {
			all = append(all, span{text: ", "})
		}
		all = append(all, p...)
	}
	return all
}

// block is a part of a section. One of its fields is set.
type block struct {
	para   text
	alarm  text
	items  []text
	checks []text
	head   []string // of rows
	rows   [][]text
	code   string
	figure *figure
}

type figure struct {
	file, title string
	svg         string
}

// section is a heading and what is below it. Those with a page are files of their own in
// Markdown.
type section struct {
	id, title string
	level     int
	page      string
	blocks    []block
}

func (s *section) add(b ...block)     { s.blocks = append(s.blocks, b...) }
func (s *section) para(parts ...text) { s.add(block{para: join(parts...)}) }
func (s *section) table(head []string, rows [][]text) {
	if len(rows) > 0 {
		s.add(block{head: head, rows: rows})
	}
}

// plainText makes text fit for a line of a page: no control characters, nothing that turns
// the direction of writing, and whole characters alone.
func plainText(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == unicode.ReplacementChar || r == '\u2028' || r == '\u2029' || r == '\ufeff':
			return '·'
		}
		return r
	}, strings.ToValidUTF8(s, "·"))
}

// plainCode is plainText with line ends and tabs kept.
func plainCode(s string) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	for i, l := range lines {
		lines[i] = plainText(l)
	}
	return strings.Join(lines, "\n")
}

func escape(s string) string { return html.EscapeString(plainText(s)) }

// anchor makes an id of a name that dr.ValidName knows, or of anything else.
func anchor(kind, name string) string {
	return kind + "-" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, strings.ToLower(name))
}

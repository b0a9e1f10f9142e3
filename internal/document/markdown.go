package document

import (
	"bytes"
	"fmt"
	"path"
	"strings"
)

// markdownPage is where what has no page of its own is.
const markdownPage = "runbook.md"

// writeMarkdown writes the pages, by file name.
func writeMarkdown(sections []*section) map[string][]byte {
	m := &markdown{pages: map[string]*bytes.Buffer{}, at: map[string]string{}}
	for _, s := range sections {
		m.at[s.id] = pageOf(s)
	}
	for _, s := range sections {
		m.section(s)
	}
	out := map[string][]byte{}
	for name, b := range m.pages {
		out[name] = b.Bytes()
	}
	return out
}

func pageOf(s *section) string {
	if s.page != "" {
		return s.page
	}
	return markdownPage
}

type markdown struct {
	pages map[string]*bytes.Buffer
	at    map[string]string // page of an anchor
	page  string            // the one that is written
}

func (m *markdown) section(s *section) {
	m.page = pageOf(s)
	b := m.pages[m.page]
	level := s.level
	if b == nil {
		b = &bytes.Buffer{}
		m.pages[m.page] = b
		if s.page != "" {
			level = 1
		}
	}
	fmt.Fprintf(b, "<a id=\"%s\"></a>\n\n%s %s\n\n", s.id, strings.Repeat("#", level), markdownEscape(s.title))
	for _, x := range s.blocks {
		m.block(b, x)
		b.WriteString("\n")
	}
}

func (m *markdown) block(b *bytes.Buffer, x block) {
	switch {
	case x.para != nil:
		fmt.Fprintf(b, "%s\n", m.text(x.para))
	case x.alarm != nil:
		fmt.Fprintf(b, "> **%s**\n", m.text(x.alarm))
	case x.items != nil:
		for _, i := range x.items {
			fmt.Fprintf(b, "- %s\n", m.text(i))
		}
	case x.checks != nil:
		for _, i := range x.checks {
			fmt.Fprintf(b, "- [ ] %s\n", m.text(i))
		}
	case x.rows != nil:
		m.table(b, x)
	case x.code != "":
		for line := range strings.SplitSeq(plainCode(x.code), "\n") {
			fmt.Fprintf(b, "    %s\n", line)
		}
	case x.figure != nil:
		fmt.Fprintf(b, "![%s](%s)\n", markdownEscape(x.figure.title), x.figure.file)
	}
}

func (m *markdown) table(b *bytes.Buffer, x block) {
	heads := make([]string, len(x.head))
	for i, h := range x.head {
		heads[i] = markdownEscape(h)
	}
	fmt.Fprintf(b, "| %s |\n|%s\n", strings.Join(heads, " | "), strings.Repeat("---|", len(heads)))
	for _, r := range x.rows {
		cells := make([]string, len(r))
		for i, cell := range r {
			cells[i] = m.text(cell)
		}
		fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
	}
}

func (m *markdown) text(x text) string {
	var b strings.Builder
	for _, s := range x {
		switch {
		case s.link != "":
			fmt.Fprintf(&b, "[%s](%s)", markdownEscape(s.text), m.link(s.link))
		case s.code && strings.TrimSpace(s.text) != "":
			// HTML's own element: no run of backticks, and no bar of a table, ends it.
			fmt.Fprintf(&b, "<code>%s</code>", markdownEscape(s.text))
		default:
			b.WriteString(markdownEscape(s.text))
		}
	}
	return b.String()
}

func isOutside(link string) bool {
	return strings.HasPrefix(link, "mailto:") || strings.HasPrefix(link, "tel:")
}

// link leads from the page that is written to an anchor.
func (m *markdown) link(id string) string {
	if isOutside(id) {
		return id
	}
	page := m.at[id]
	if page == m.page {
		return "#" + id
	}
	if up := path.Dir(m.page); up != "." {
		page = strings.Repeat("../", strings.Count(up, "/")+1) + page
	}
	return page + "#" + id
}

// special are the characters that mean something to some reader of Markdown.
const special = "\\`*_{}[]()#+-.!|~>:\"'=^$@"

// markdownEscape makes text mean only itself.
func markdownEscape(s string) string {
	var b strings.Builder
	for i, r := range plainText(s) {
		switch {
		case r == '<':
			b.WriteString("&lt;")
		case r == '&':
			b.WriteString("&amp;")
		case strings.ContainsRune("\\`*_{}[]|~#^$<>", r), i == 0 && strings.ContainsRune(special, r):
			b.WriteByte('\\')
			b.WriteRune(r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

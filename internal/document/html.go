package document

import (
	"bytes"
	_ "embed"
	"fmt"
	"html"
)

//go:embed style.css
var style string

// writeHTML writes one page that needs nothing beside it: no script, no other file, and no
// network.
func writeHTML(title string, sections []*section) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"+
		"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n<title>%s</title>\n<style>\n%s</style>\n</head>\n<body>\n", escape(title), style)
	for i, s := range sections {
		if i == 1 {
			writeContents(&b, sections)
		}
		fmt.Fprintf(&b, "<section class=\"level%d\" id=\"%s\">\n<h%d>%s</h%d>\n", s.level, html.EscapeString(s.id), s.level, escape(s.title), s.level)
		for _, x := range s.blocks {
			writeBlock(&b, x)
		}
		b.WriteString("</section>\n")
	}
	b.WriteString("</body>\n</html>\n")
	return b.Bytes()
}

func writeContents(b *bytes.Buffer, sections []*section) {
	b.WriteString("<nav>\n<ol>\n")
	for _, s := range sections[1:] {
		if s.level == 2 {
			fmt.Fprintf(b, "<li><a href=\"#%s\">%s</a></li>\n", html.EscapeString(s.id), escape(s.title))
		}
	}
	b.WriteString("</ol>\n</nav>\n")
}

func htmlText(b *bytes.Buffer, x text) {
	for _, s := range x {
		switch {
		case s.link != "":
			href := s.link
			if !isOutside(href) {
				href = "#" + href
			}
			fmt.Fprintf(b, "<a href=\"%s\">%s</a>", html.EscapeString(href), escape(s.text))
		case s.code:
			fmt.Fprintf(b, "<code>%s</code>", escape(s.text))
		default:
			b.WriteString(escape(s.text))
		}
	}
}

func writeBlock(b *bytes.Buffer, x block) {
	switch {
	case x.para != nil:
		htmlElement(b, "p", "", x.para)
	case x.alarm != nil:
		htmlElement(b, "p", " class=\"alarm\"", x.alarm)
	case x.items != nil:
		htmlList(b, "", x.items)
	case x.checks != nil:
		htmlList(b, " class=\"checks\"", x.checks)
	case x.rows != nil:
		htmlTable(b, x)
	case x.code != "":
		fmt.Fprintf(b, "<pre>%s</pre>\n", html.EscapeString(plainCode(x.code)))
	case x.figure != nil:
		fmt.Fprintf(b, "<figure>\n%s</figure>\n", x.figure.svg)
	}
}

func htmlElement(b *bytes.Buffer, tag, attributes string, x text) {
	fmt.Fprintf(b, "<%s%s>", tag, attributes)
	htmlText(b, x)
	fmt.Fprintf(b, "</%s>\n", tag)
}

func htmlList(b *bytes.Buffer, attributes string, items []text) {
	fmt.Fprintf(b, "<ul%s>\n", attributes)
	for _, i := range items {
		htmlElement(b, "li", "", i)
	}
	b.WriteString("</ul>\n")
}

func htmlTable(b *bytes.Buffer, x block) {
	b.WriteString("<table>\n<thead><tr>")
	for _, h := range x.head {
		fmt.Fprintf(b, "<th>%s</th>", escape(h))
	}
	b.WriteString("</tr></thead>\n<tbody>\n")
	for _, r := range x.rows {
		b.WriteString("<tr>")
		for _, cell := range r {
			b.WriteString("<td>")
			htmlText(b, cell)
			b.WriteString("</td>")
		}
		b.WriteString("</tr>\n")
	}
	b.WriteString("</tbody>\n</table>\n")
}

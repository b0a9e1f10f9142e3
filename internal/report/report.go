// Package report writes what a drill or a run came to as pages for people: one HTML file
// that needs nothing beside it, and the same as Markdown. It knows nothing of either:
// who has something to report fills a Page.
package report

import (
	"bytes"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/atomicfile"
)

//go:embed page.html
var pageHTML string

//go:embed style.css
var styleCSS string

// Style is how all pages look; a page may add to it.
func Style() template.CSS { return template.CSS(styleCSS) }

// Mood is how something is shown: what is not well stands out.
type Mood string

// Moods.
const (
	Good    Mood = "good"
	Bad     Mood = "bad"
	Unclear Mood = "unclear"
	Neutral Mood = ""
)

// Page is a report.
type Page struct {
	Title    string // the verdict, in a sentence
	Mood     Mood
	Intro    string // who, when
	Tiles    []Tile
	Tables   []Table
	Sections []Section
	Notes    []string
}

// Tile is a figure that is seen first.
type Tile struct{ Figure, Label string }

// Table has a row a thing; Moods colour the verdict, which is the second column.
type Table struct {
	Title string
	Head  []string
	Rows  [][]string
	Moods []Mood
}

// Section is one server of a drill, or one phase of a run.
type Section struct {
	Title, Verdict string
	Mood           Mood
	Trouble, Hint  string
	Bars           []Bar  // how its time went, in order
	Picture        string // file of a PNG; shown where it is there
	Steps          []Step
}

// Bar is a stretch of time.
type Bar struct {
	Name string
	From time.Duration // since the page's beginning
	Took time.Duration
}

// Step is a line of a section.
type Step struct {
	Name, State string
	Mood        Mood
	Took        time.Duration // 0: not told
	Details     []string
}

// Files of a report, beside each other in its directory.
const (
	HTMLFile     = "report.html"
	MarkdownFile = "report.md"
	JSONFile     = "report.json"
)

// Write puts the page into dir, which exists, as HTML, as Markdown, and value as JSON.
// Each file is whole or as it was.
func Write(dir string, p *Page, value any, mode os.FileMode) error {
	var page bytes.Buffer
	if err := p.HTML(&page); err != nil {
		return err
	}
	b, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	for name, content := range map[string][]byte{HTMLFile: page.Bytes(), MarkdownFile: []byte(p.Markdown()), JSONFile: append(b, '\n')} {
		if err := atomicfile.Write(filepath.Join(dir, name), content, mode); err != nil {
			return fmt.Errorf("write report: %w", err)
		}
	}
	return nil
}

// HTML writes the page, pictures included.
func (p *Page) HTML(w io.Writer) error {
	t, err := template.New("page").Funcs(template.FuncMap{
		"style": Style, "span": Span, "picture": Picture,
		"share": func(d time.Duration) string { return fmt.Sprintf("%.2f%%", 100*float64(d)/float64(p.end())) },
	}).Parse(pageHTML)
	if err != nil {
		return fmt.Errorf("read template of the report: %w", err)
	}
	if err := t.Execute(w, p); err != nil {
		return fmt.Errorf("render report: %w", err)
	}
	return nil
}

// end is how far the bars reach.
func (p *Page) end() time.Duration {
	end := time.Duration(1)
	for _, s := range p.Sections {
		for _, b := range s.Bars {
			end = max(end, b.From+b.Took)
		}
	}
	return end
}

// Span writes a duration as people read one.
func Span(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.0fs", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}

// maxPicture bounds the pictures that become part of the page.
const maxPicture = 2 << 20

// Picture returns the PNG file at path as a URL that holds it, "" if it is not there or
// is something else.
func Picture(path string) template.URL {
	if path == "" {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPicture+1))
	if err != nil || len(b) > maxPicture || !bytes.HasPrefix(b, []byte("\x89PNG\r\n")) {
		return ""
	}
	return template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(b))
}

// Markdown returns the page as text. Pictures are named, not shown.
func (p *Page) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n%s\n", line(p.Title), line(p.Intro))
	for _, t := range p.Tiles {
		fmt.Fprintf(&b, "\n- %s: **%s**", line(t.Label), line(t.Figure))
	}
	b.WriteString("\n")
	for _, t := range p.Tables {
		fmt.Fprintf(&b, "\n## %s\n\n| %s |\n|%s\n", line(t.Title), strings.Join(cells(t.Head), " | "), strings.Repeat("---|", len(t.Head)))
		for _, r := range t.Rows {
			fmt.Fprintf(&b, "| %s |\n", strings.Join(cells(r), " | "))
		}
	}
	for _, s := range p.Sections {
		s.markdown(&b)
	}
	if len(p.Notes) > 0 {
		b.WriteString("\n## Notes\n\n")
	}
	for _, n := range p.Notes {
		fmt.Fprintf(&b, "- %s\n", line(n))
	}
	return b.String()
}

func (s *Section) markdown(b *strings.Builder) {
	fmt.Fprintf(b, "\n## %s: %s\n\n", line(s.Title), line(s.Verdict))
	if s.Trouble != "" {
		fmt.Fprintf(b, "**%s**\n\n", line(s.Trouble))
	}
	if s.Hint != "" {
		fmt.Fprintf(b, "What to do: %s\n\n", line(s.Hint))
	}
	for _, bar := range s.Bars {
		fmt.Fprintf(b, "- %s: %s\n", line(bar.Name), Span(bar.Took))
	}
	for _, st := range s.Steps {
		fmt.Fprintf(b, "- %s: **%s**", line(st.Name), line(st.State))
		if st.Took > 0 {
			fmt.Fprintf(b, ", %s", Span(st.Took))
		}
		b.WriteString("\n")
		for _, d := range st.Details {
			fmt.Fprintf(b, "  - %s\n", line(d))
		}
	}
	if s.Picture != "" {
		fmt.Fprintf(b, "- screen: %s\n", line(filepath.Base(s.Picture)))
	}
}

// line makes text of any bytes one line that Markdown and HTML read as text.
func line(s string) string {
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(s, "?"))
	return strings.NewReplacer("<", "&lt;", "|", "\\|", "*", "\\*", "[", "\\[", "`", "\\`").Replace(s)
}

func cells(row []string) (out []string) {
	for _, c := range row {
		out = append(out, line(c))
	}
	return out
}

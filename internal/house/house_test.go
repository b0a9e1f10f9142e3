// Package house holds no code, only tests of how the code is laid out: what may
// import what, that every package says what it is, and what is done nowhere
// below main.
package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	module   = "github.com/leeward-dr/leeward/"
	maxFile  = 500 // lines
	maxFunc  = 60
	smallest = 20 // packages there are at the least; fewer means the test looks in the wrong place
)

// order lists every package; each may import only what stands below it. See
// docs/design.md, "The house".
var order = []string{
	"bench/db",
	"bench/drill",
	"bench/servers",
	"lab/e2e",
	"cmd/leeward",
	"internal/cli",
	"lab",
	"internal/document",
	"internal/switchover",
	"internal/drill",
	"internal/drill/bubble",
	"internal/protect",
	"internal/config",
	"internal/runbook",
	"internal/forecast",
	"internal/discover",
	"internal/discover/look",
	"internal/discover/inventory",
	"internal/vm",
	"internal/adapt",
	"internal/replica",
	"internal/rowsync",
	"internal/rowsync/selftest",
	"internal/rowsync/engine/enginetest",
	"internal/rowsync/engine/mssql",
	"internal/rowsync/engine/postgres",
	"internal/rowsync/engine/mariadb",
	"internal/rowsync/engine",
	"internal/tree",
	"internal/chunk",
	"internal/agent",
	"internal/remote",
	"internal/agent/agentpb",
	"internal/agent/procfs",
	"internal/report",
	"internal/pipe",
	"internal/btrfs",
	"internal/fsinfo",
	"internal/lvm",
	"internal/mountns",
	"internal/atomicfile",
	"internal/retry",
	"internal/dr",
}

// only narrows what a package may import of this module further.
var only = map[string][]string{
	"internal/config":                  {"internal/dr"},
	"lab":                              {"internal/pipe", "internal/fsinfo", "internal/mountns", "internal/atomicfile", "internal/retry"},
	"internal/report":                  {"internal/atomicfile"},
	"internal/runbook":                 {"internal/atomicfile", "internal/dr"},
	"internal/forecast":                {},
	"internal/discover/inventory":      {},
	"internal/vm":                      {"internal/mountns", "internal/atomicfile", "internal/retry", "internal/dr"},
	"internal/agent/agentpb":           {},
	"internal/rowsync/engine/mssql":    {"internal/rowsync/engine", "internal/retry", "internal/dr"},
	"internal/rowsync/engine/postgres": {"internal/rowsync/engine", "internal/retry", "internal/dr"},
	"internal/rowsync/engine/mariadb":  {"internal/rowsync/engine", "internal/retry", "internal/dr"},
	"internal/rowsync/engine":          {},
	"internal/agent/procfs":            {},
	"internal/pipe":                    {},
	"internal/btrfs":                   {},
	"internal/fsinfo":                  {},
	"internal/lvm":                     {},
	"internal/mountns":                 {},
	"internal/atomicfile":              {},
	"internal/retry":                   {},
}

// source is one file of Go.
type source struct {
	name      string // relative to the module's root
	pkg       string // its directory
	test      bool
	generated bool
	lines     int
	fset      *token.FileSet
	ast       *ast.File
}

// sources parses every file of the module, except what belongs to tests alone.
func sources(t *testing.T) []source {
	t.Helper()
	var out []source
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() || filepath.Ext(name) != ".go" {
			return nil
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, name, b, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel := filepath.ToSlash(strings.TrimPrefix(name, root+string(filepath.Separator)))
		out = append(out, source{
			name: rel, pkg: path.Dir(rel), test: strings.HasSuffix(rel, "_test.go"), generated: ast.IsGenerated(f),
			lines: strings.Count(string(b), "\n"), fset: fset, ast: f,
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestImportsPointDown(t *testing.T) {
	packages := map[string]bool{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		packages[s.pkg] = true
		rank := slices.Index(order, s.pkg)
		if rank < 0 {
			t.Errorf("%s: package %s has no place in the house: give it one in the list of this test and in docs/design.md", s.name, s.pkg)
			continue
		}
		for _, i := range s.ast.Imports {
			checkImport(t, s, rank, i)
		}
	}
	if len(packages) < smallest {
		t.Errorf("found only %d packages", len(packages))
	}
}

func checkImport(t *testing.T, s source, rank int, i *ast.ImportSpec) {
	t.Helper()
	name, err := strconv.Unquote(i.Path.Value)
	if err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
	own, ours := strings.CutPrefix(name, module)
	first, _, _ := strings.Cut(name, "/")
	switch {
	case !ours && s.pkg == "internal/dr" && strings.Contains(first, "."):
		t.Errorf("%s imports %s: dr uses the standard library only", s.name, name)
	case !ours:
	case slices.Index(order, own) <= rank:
		t.Errorf("%s imports %s, which is not below it", s.name, own)
	case only[s.pkg] != nil && !slices.Contains(only[s.pkg], own):
		t.Errorf("%s imports %s: package %s may import only %q of this module", s.name, own, s.pkg, only[s.pkg])
	case own == "lab" && s.pkg != "internal/cli" && !strings.HasPrefix(s.pkg, "bench/"):
		t.Errorf("%s imports the lab", s.name)
	}
}

func TestPackageDocs(t *testing.T) {
	docs, files := map[string]string{}, map[string]string{}
	for _, s := range sources(t) {
		if s.test && s.pkg != "internal/house" {
			continue
		}
		files[s.pkg] = s.ast.Name.Name
		if s.ast.Doc != nil {
			docs[s.pkg] += s.ast.Doc.Text()
		}
	}
	for pkg, name := range files {
		doc := docs[pkg]
		switch {
		case doc == "":
			t.Errorf("package %s has no comment that says what it is", pkg)
		case name != "main" && !strings.HasPrefix(doc, "Package "+name+" "):
			t.Errorf("package %s: its comment begins %.40q, want \"Package %s …\"", pkg, doc, name)
		}
	}
}

func TestSizes(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || s.generated {
			continue
		}
		if s.lines > maxFile {
			t.Errorf("%s has %d lines, want at most %d", s.name, s.lines, maxFile)
		}
		for _, d := range s.ast.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			from := s.fset.Position(f.Pos()).Line
			if n := s.fset.Position(f.End()).Line - from + 1; n > maxFunc {
				t.Errorf("%s:%d: %s has %d lines, want at most %d", s.name, from, f.Name.Name, n, maxFunc)
			}
		}
	}
}

// TestNobodyExits holds that only main ends the process, nothing runs at import,
// and nothing panics.
func TestNobodyExits(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || s.generated {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			word := ""
			switch n := n.(type) {
			case *ast.CallExpr:
				word = ending(n)
			case *ast.FuncDecl:
				if n.Recv == nil && n.Name.Name == "init" {
					word = "init"
				}
			}
			if word != "" && (s.ast.Name.Name != "main" || word != "os.Exit") {
				t.Errorf("%s: %s", s.fset.Position(n.Pos()), word)
			}
			return true
		})
	}
}

// ending names a call that ends the process, "" for any other.
func ending(c *ast.CallExpr) string {
	switch f := c.Fun.(type) {
	case *ast.Ident:
		if f.Name == "panic" {
			return "panic"
		}
	case *ast.SelectorExpr:
		x, ok := f.X.(*ast.Ident)
		if !ok {
			return ""
		}
		if name := x.Name + "." + f.Sel.Name; name == "os.Exit" || strings.HasPrefix(name, "log.Fatal") || strings.HasPrefix(name, "log.Panic") {
			return name
		}
	}
	return ""
}

// TestMainIsShort keeps main from becoming a second command line.
func TestMainIsShort(t *testing.T) {
	for _, s := range sources(t) {
		if s.pkg == "cmd/leeward" && s.lines > 40 {
			t.Errorf("%s has %d lines, want at most 40", s.name, s.lines)
		}
	}
}

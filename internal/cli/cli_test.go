package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/internal/dr"
)

// run executes a command line and returns what it left.
func run(t *testing.T, ctx context.Context, args ...string) (code int, out, errw string) {
	t.Helper()
	var o, e bytes.Buffer
	code = Run(ctx, Streams{In: strings.NewReader(""), Out: &o, Err: &e, Getenv: func(string) string { return "" }, Version: "v1.2.3"}, args)
	return code, o.String(), e.String()
}

func writeEstate(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "leeward.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const small = "estate: a\ntarget: {store: no-such-store}\nservers: [{name: web1}, {name: db1, capture: qemu}]\n"

// A database alone is no choice for commands that are of servers: they would take it
// for all of them.
func TestNeedServers(t *testing.T) {
	file := writeEstate(t, small+"databases: [{name: shop, engine: postgres, source: {dsn: a}, target: {dsn: b}}]\n")
	for _, command := range []string{"clean", "drill"} {
		code, out, errw := run(t, t.Context(), command, "shop", "-c", file)
		if code != 2 || out != "" || !strings.Contains(errw, command+" is of servers, and none is chosen") {
			t.Errorf("%s shop: code %d, %q, %q", command, code, out, errw)
		}
	}
}

func TestUsage(t *testing.T) {
	file := writeEstate(t, small)
	broken := writeEstate(t, small+"sever: 1\nsevers: 2\n")
	for _, c := range []struct {
		args []string
		code int
		err  string // contained in what standard error gets
	}{
		{nil, 2, "leeward: no command given"},
		{[]string{"replicat"}, 2, "plan, replicate, status"},
		{[]string{"plan", "--frob"}, 2, "what to do: see: leeward help plan"},
		{[]string{"plan", "-c", filepath.Join(t.TempDir(), "none.yaml")}, 2, "what to do: name the file with -c FILE"},
		{[]string{"plan", "-c", broken}, 2, broken + ":4: unknown key \"sever\"; did you mean \"servers\"?\n"},
		{[]string{"plan", "-c", broken}, 2, "leeward: 2 problems in " + broken + "; nothing was done\n"},
		{[]string{"plan", "-c", file, "wbe1"}, 2, "what to do: did you mean \"web1\"?"},
		{[]string{"plan", "-c", file}, 2, file + ":3: server db1: capture: qemu comes with block capture"},
		{[]string{"replicate", "-c", file, "db1"}, 2, "what to do: write capture: files"},
		{[]string{"plan", "-c", file, "web1", "--simulate", "link=50"}, 2, "the unit is missing"},
		{[]string{"plan", "-c", file, "web1", "--simulate", "servers=0"}, 2, "want how many more"},
		{[]string{"plan", "-c", file, "web1", "--simulate", "lnk=1"}, 2, "want link=RATE"},
		{[]string{"plan", "-c", file, "web1", "--deadline", "soon"}, 2, `deadline "soon": want a time`},
		{[]string{"drill", "-c", file, "--firmware", "openboot"}, 2, `firmware "openboot": want bios or uefi`},
		{[]string{"version", "now"}, 2, `unexpected argument "now"`},
		{[]string{"report"}, 2, "no records given"},
		{[]string{"help", "nothing"}, 2, `unknown command "nothing"`},
		{[]string{"version"}, 0, ""},
		{[]string{"--version"}, 0, ""},
		{[]string{"help"}, 0, ""},
		{[]string{"--help"}, 0, ""},
		{[]string{"help", "drill"}, 0, ""},
		{[]string{"plan", "-h"}, 0, ""},
		{[]string{"lab", "--help"}, 0, ""},
		{[]string{"points", "-c", file}, 0, ""},
		{[]string{"points", "diff", "a", "-c", file}, 2, "points diff: want two recovery points"},
		{[]string{"points", "pin", "-c", file}, 2, "no recovery point named"},
		{[]string{"points", "lock", "x", "-c", file}, 2, "points lock needs --until"},
		{[]string{"points", "pin", "x", "--until", "2026-12-31", "-c", file}, 2, "--until is of points lock"},
		{[]string{"points", "mount", "x", "-c", file}, 2, "want a recovery point and a directory"},
		{[]string{"points", "umount", "-c", file}, 2, "want the directory"},
		{[]string{"points", "pin", "x", "-c", file}, 1, "it is not there yet"},
		{[]string{"status", "-c", file}, 1, ""},
	} {
		code, _, errw := run(t, t.Context(), c.args...)
		if code != c.code || !strings.Contains(errw, c.err) || c.err == "" && errw != "" {
			t.Errorf("%q: code %d, want %d; standard error:\n%s\nwant %s", c.args, code, c.code, errw, c.err)
		}
	}
}

func TestHelpNamesEveryCommand(t *testing.T) {
	_, out, _ := run(t, t.Context(), "help")
	for _, c := range commands() {
		if got := strings.Contains(out, "\n  "+c.name+" "); got == c.hidden {
			t.Errorf("help lists %s: %v", c.name, got)
		}
		if c.hidden && c.name != "report" {
			continue
		}
		if code, text, _ := run(t, t.Context(), "help", c.name); code != 0 || !strings.Contains(text, "leeward "+c.name) {
			t.Errorf("help %s: code %d, %q", c.name, code, text)
		}
	}
}

// TestResultObject holds the envelope that docs/json.md promises.
func TestResultObject(t *testing.T) {
	file := writeEstate(t, small)
	record := filepath.Join(t.TempDir(), "record.json")
	for _, args := range [][]string{
		{"--json", "-c", file, "status", "--record", record, "web1"},
		{"status", "web1", "-c", file, "--json", "--record", record},
	} {
		code, out, errw := run(t, t.Context(), args...)
		lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
		var got map[string]any
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &got); err != nil {
			t.Fatalf("%q: last line: %v", args, err)
		}
		if code != 1 || errw != "" || got["leeward"] != 1.0 || got["command"] != "status" || got["outcome"] != "failed" ||
			got["exit_code"] != 1.0 || got["version"] != "v1.2.3" || got["error"] != nil {
			t.Errorf("%q: code %d, %s %s", args, code, out, errw)
		}
		servers := got["result"].(map[string]any)["servers"].([]any)
		if len(servers) != 1 || servers[0].(map[string]any)["outcome"] != "not done" {
			t.Errorf("result: %v", servers)
		}
		if b, err := os.ReadFile(record); err != nil || string(b) != out {
			t.Errorf("record is %q, %v; want %q", b, err, out)
		}
	}
}

func TestErrorObject(t *testing.T) {
	broken := writeEstate(t, small+"sever: 1\n")
	code, out, errw := run(t, t.Context(), "plan", "--json", "-c", broken)
	var got envelope
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if code != 2 || errw != "" || got.Outcome != "usage" || got.Error == nil || len(got.Error.Problems) != 1 ||
		got.Error.Problems[0] != (jsonProblem{broken, 4, `unknown key "sever"; did you mean "servers"?`}) {
		t.Errorf("code %d, %s%s", code, out, errw)
	}
	if code, out, _ := run(t, t.Context(), "plan", "--json", "--frob"); code != 2 || !strings.Contains(out, `"hint":"see: leeward help plan"`) {
		t.Errorf("unknown flag with --json: code %d, %s", code, out)
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := &call{Streams: Streams{Out: &bytes.Buffer{}, Err: &bytes.Buffer{}}}
	code := exitCode(ctx, fmt.Errorf("reach web1: %w", context.Canceled))
	if err := c.finish(code, context.Canceled); err != nil || code != 130 {
		t.Errorf("code %d, %v", code, err)
	}
	if got := c.Err.(*bytes.Buffer).String(); !strings.HasPrefix(got, "leeward: interrupted\n  what to do: run the same command again") {
		t.Errorf("told %q", got)
	}
	if code := exitCode(ctx, nil); code != 0 {
		t.Errorf("done in spite of the interrupt: code %d", code)
	}
}

func TestOutcomeCode(t *testing.T) {
	for _, c := range []struct {
		parts []dr.Outcome
		want  int
	}{
		{nil, 0}, {[]dr.Outcome{dr.Done, dr.Done}, 0}, {[]dr.Outcome{dr.NotDone}, 1}, {[]dr.Outcome{dr.Done, dr.NotDone}, 3},
		{[]dr.Outcome{dr.NotDone, dr.Unknown, dr.Done}, 4}, {[]dr.Outcome{dr.Unknown}, 4},
	} {
		if got := outcomeCode(c.parts); got != c.want {
			t.Errorf("%v: code %d, want %d", c.parts, got, c.want)
		}
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestUnwritableOutput(t *testing.T) {
	var errw bytes.Buffer
	code := Run(t.Context(), Streams{Out: brokenWriter{}, Err: &errw, Getenv: func(string) string { return "" }}, []string{"version"})
	if code != 1 || !strings.Contains(errw.String(), "write the result: no space left on device") {
		t.Errorf("code %d, %q", code, errw.String())
	}
}

func TestDetect(t *testing.T) {
	if term := detect(&bytes.Buffer{}, os.Getenv); term.animate {
		t.Error("a buffer passes for a terminal")
	}
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if term := detect(f, os.Getenv); term.animate {
		t.Error("/dev/null passes for a terminal")
	}
	for lang, want := range map[string]bool{"C.UTF-8": true, "en_US.utf8": true, "C": false, "": true} {
		if got := speaksUTF8(func(string) string { return lang }); got != want {
			t.Errorf("LANG=%s speaks UTF-8: %v", lang, got)
		}
	}
}

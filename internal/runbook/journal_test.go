package runbook

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
)

// aJournal is a whole run, as it stands on disk.
func aJournal(t testing.TB) []byte {
	t.Helper()
	w := newWorld("a", "b", "c")
	dir := t.TempDir()
	r, err := Begin(dir, w.plan(), w.options())
	if err != nil {
		t.Fatal(err)
	}
	if rep, err := r.Execute(t.Context()); err != nil || rep.Outcome != dr.Done {
		t.Fatalf("%+v, %v", rep, err)
	}
	data, err := os.ReadFile(filepath.Join(dir, r.ID(), journalFile))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestParseTornTail(t *testing.T) {
	data := aJournal(t)
	whole, intact, _, err := Parse(data)
	if err != nil || intact != len(data) || len(whole) != 1+2*3+1 {
		t.Fatalf("%d records, %d of %d bytes, %v", len(whole), intact, len(data), err)
	}
	lines := bytes.SplitAfter(data, []byte("\n"))
	last := len(data) - len(lines[len(lines)-2])
	for cut := last; cut < len(data); cut++ {
		records, intact, _, err := Parse(data[:cut])
		if err != nil || intact != last || len(records) != len(whole)-1 {
			t.Fatalf("cut at byte %d: %d records, %d bytes, %v", cut, len(records), intact, err)
		}
	}
	// A disk may also keep the length of a line and lose its content.
	torn := append(bytes.Clone(data[:last+10]), make([]byte, len(data)-last-11)...)
	if records, _, _, err := Parse(append(torn, '\n')); err != nil || len(records) != len(whole)-1 {
		t.Fatalf("%d records, %v", len(records), err)
	}
}

func TestParseDamage(t *testing.T) {
	data := aJournal(t)
	lines := strings.SplitAfter(strings.TrimSuffix(string(data), "\n"), "\n")
	for name, changed := range map[string]string{
		"a byte":            strings.Replace(string(data), `"done"`, `"dome"`, 1),
		"a line missing":    strings.Join(append([]string{lines[0]}, lines[2:]...), ""),
		"two lines swapped": lines[0] + lines[2] + lines[1] + strings.Join(lines[3:], ""),
		"a line twice":      lines[0] + lines[1] + lines[1] + strings.Join(lines[2:], ""),
	} {
		var damage *DamageError
		if _, _, _, err := Parse([]byte(changed)); !errors.As(err, &damage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	later := strings.Replace(lines[0], `{"v":1`, `{"v":2`, 1)
	body := later[:strings.LastIndex(later, sumMark)]
	later = body + sumMark + chain("", []byte(body)) + "\"}\n" + lines[1]
	if _, _, _, err := Parse([]byte(later)); err == nil || !strings.Contains(err.Error(), "format 2") {
		t.Errorf("a later format: %v", err)
	}
}

func TestJournalIsReadByPeople(t *testing.T) {
	for line := range bytes.Lines(aJournal(t)) {
		var m map[string]any
		if err := json.Unmarshal(line, &m); err != nil || m["v"] != 1.0 || m["sum"] == "" {
			t.Errorf("%s: %v", line, err)
		}
	}
}

func TestNoisyFactsAreBounded(t *testing.T) {
	f := bounded(append(make([]string, 500), strings.Repeat("x", 1<<20)))
	if len(f) != maxFacts+1 || len(bounded([]string{strings.Repeat("é", 1<<20)})[0]) > maxText+4 {
		t.Errorf("%d facts are kept", len(f))
	}
}

func FuzzParse(f *testing.F) {
	data := aJournal(f)
	f.Add(data)
	f.Add(data[:len(data)-9])
	f.Add([]byte("{}\n{}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		records, intact, sum, err := Parse(data)
		if err != nil {
			return
		}
		if intact > len(data) {
			t.Fatalf("%d of %d bytes", intact, len(data))
		}
		again, n, sum2, err := Parse(data[:intact])
		if err != nil || n != intact || len(again) != len(records) || sum != sum2 {
			t.Fatalf("what is intact reads otherwise: %d records then %d, %v", len(records), len(again), err)
		}
		Summarize("x", records)
	})
}

func TestBetweenIgnoresTheWallClock(t *testing.T) {
	now := time.Now()
	a := Record{At: now, Boot: "b1", Up: time.Hour}
	for _, c := range []struct {
		b    Record
		want time.Duration
	}{
		{Record{At: now.Add(-time.Hour), Boot: "b1", Up: time.Hour + time.Second}, time.Second},
		{Record{At: now.Add(100 * time.Hour), Boot: "b1", Up: time.Hour + time.Second}, time.Second},
		{Record{At: now.Add(time.Minute), Boot: "b2", Up: time.Second}, time.Minute},
		{Record{At: now.Add(-time.Minute), Boot: "b2", Up: time.Second}, 0},
	} {
		if got := between(a, c.b); got != c.want {
			t.Errorf("to %+v it is %v, want %v", c.b, got, c.want)
		}
	}
}

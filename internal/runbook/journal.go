package runbook

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/atomicfile"
	"github.com/leeward-dr/leeward/internal/dr"
)

// Event is what a record of the journal tells.
type Event string

// A run begins once and is resumed any number of times. A step that has begun and
// not ended was cut: whether it happened is not known. Told is a person's word on a
// step. Over ends the run for good.
const (
	EventBegin  Event = "begin"
	EventResume Event = "resume"
	EventStep   Event = "step"
	EventEnd    Event = "end"
	EventTold   Event = "told"
	EventOver   Event = "over"
)

// Record is one line of the journal. Its place among the others is Seq; At is for
// people alone, whose clocks may jump.
type Record struct {
	Format  int           `json:"v"`
	Seq     int64         `json:"seq"`
	At      time.Time     `json:"at"`
	Boot    string        `json:"boot,omitempty"` // which start of the machine Up counts from
	Up      time.Duration `json:"up_ns"`
	Event   Event         `json:"event"`
	Step    string        `json:"step,omitempty"`
	Attempt int           `json:"attempt,omitempty"`
	// Outcome is of steps and runs that ended; How is "did", "observed" or "told".
	Outcome *dr.Outcome       `json:"outcome,omitempty"`
	How     string            `json:"how,omitempty"`
	Took    time.Duration     `json:"took_ns,omitempty"`
	Facts   []string          `json:"facts,omitempty"`
	Values  map[string]string `json:"values,omitempty"`
	Err     string            `json:"error,omitempty"`
	Hint    string            `json:"hint,omitempty"`
	Actor   *Actor            `json:"actor,omitempty"`
	Plan    *Plan             `json:"plan,omitempty"` // of begin
	Serial  string            `json:"serial,omitempty"`
}

const (
	journalFile = "journal.jsonl"
	sumMark     = `,"sum":"`
	sumLen      = 16 // hexadecimal digits
	// A line is bounded so that one noisy command cannot fill the disk a run needs.
	maxFacts = 200
	maxText  = 4 << 10
)

// DamageError says that a journal was changed by something else than a cut.
type DamageError struct {
	Line  int
	Cause string
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("read journal: line %d is damaged: %s", e.Line, e.Cause)
}

// encode makes the line of a record. Every line's sum covers the one before, so that
// none can go missing unseen.
func encode(r Record, before string) (line []byte, sum string, err error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, "", fmt.Errorf("encode record: %w", err)
	}
	body := b[:len(b)-1] // without the last brace
	sum = chain(before, body)
	line = append(bytes.Clone(body), sumMark+sum+"\"}\n"...)
	return line, sum, nil
}

func chain(before string, body []byte) string {
	h := sha256.New()
	h.Write([]byte(before))
	h.Write(body)
	return hex.EncodeToString(h.Sum(nil)[:sumLen/2])
}

// decode reads one line without its end.
func decode(line []byte, before string) (r Record, sum string, err error) {
	tail := len(sumMark) + sumLen + len(`"}`)
	if len(line) < tail+2 || !bytes.HasPrefix(line[len(line)-tail:], []byte(sumMark)) {
		return r, "", errors.New("it has no checksum")
	}
	body := line[:len(line)-tail]
	sum = string(line[len(line)-tail+len(sumMark) : len(line)-2])
	if chain(before, body) != sum {
		return r, "", errors.New("its checksum does not fit")
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return r, "", err
	}
	return r, sum, nil
}

// Parse reads a journal. A last line that was torn by a cut is left out; intact is
// how many bytes are before it, and sum the checksum the next line builds on. An
// error is a *DamageError, or of a format this version does not know.
func Parse(data []byte) (records []Record, intact int, sum string, err error) {
	for n := 1; intact < len(data); n++ {
		rest := data[intact:]
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			return records, intact, sum, nil // never finished
		}
		r, next, err := decode(rest[:end], sum)
		if err != nil && end+1 == len(rest) {
			return records, intact, sum, nil // the disk tore it
		}
		if err != nil {
			return nil, 0, "", &DamageError{n, err.Error()}
		}
		if r.Format != Format {
			return nil, 0, "", fmt.Errorf("read journal: line %d is of format %d, this version knows %d", n, r.Format, Format)
		}
		if r.Seq != int64(n) {
			return nil, 0, "", &DamageError{n, fmt.Sprintf("it is record %d", r.Seq)}
		}
		records, sum, intact = append(records, r), next, intact+end+1
	}
	return records, intact, sum, nil
}

// journal is the open file of a run. One goroutine uses it at a time.
type journal struct {
	f     *os.File
	seq   int64
	sum   string
	clock Clock
	cut   func(r Record, durable bool) error // see Options.Cut; nil: never
	err   error                              // of the first write that failed: nothing is written after it
}

// createJournal makes the directory dir with an empty journal in it.
func createJournal(dir string) (*journal, error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return nil, fmt.Errorf("make run: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make run: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, journalFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make journal: %w", err)
	}
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := atomicfile.SyncDir(d); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return &journal{f: f}, nil
}

// readJournal reads the records of a run.
func readJournal(dir string) (records []Record, intact int, sum string, err error) {
	data, err := os.ReadFile(filepath.Join(dir, journalFile))
	if err != nil {
		return nil, 0, "", fmt.Errorf("read journal: %w", err)
	}
	records, intact, sum, err = Parse(data)
	if err != nil {
		return nil, 0, "", dr.WithHint(fmt.Errorf("%s: %w", filepath.Join(dir, journalFile), err),
			"do not go on with this run; look at each step of its plan by hand, then make a new plan")
	}
	return records, intact, sum, nil
}

// openJournal opens a run's journal to go on after its last intact record.
func openJournal(dir string) (*journal, []Record, error) {
	records, intact, sum, err := readJournal(dir)
	if err != nil {
		return nil, nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, journalFile), os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("open journal: %w", err)
	}
	if err = f.Truncate(int64(intact)); err == nil {
		_, err = f.Seek(int64(intact), 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open journal: %w", err), f.Close())
	}
	return &journal{f: f, seq: int64(len(records)), sum: sum}, records, nil
}

// append writes a record and makes it durable. Once it failed it fails for ever: a
// line after a torn one would read as damage.
func (j *journal) append(r Record) (Record, error) {
	if j.err != nil {
		return r, j.err
	}
	r.Format, r.Seq = Format, j.seq+1
	r.At, r.Boot, r.Up = j.clock()
	r.Facts, r.Err = bounded(r.Facts), cutText(r.Err)
	if j.err = j.mayCut(r, false); j.err != nil {
		return r, j.err
	}
	line, sum, err := encode(r, j.sum)
	if err == nil {
		_, err = j.f.Write(line)
	}
	if err == nil {
		err = j.f.Sync()
	}
	if err != nil {
		j.err = fmt.Errorf("write journal: %w", err)
		return r, j.err
	}
	j.seq, j.sum = r.Seq, sum
	j.err = j.mayCut(r, true)
	return r, j.err
}

func (j *journal) mayCut(r Record, durable bool) error {
	if j.cut == nil {
		return nil
	}
	return j.cut(r, durable)
}

func (j *journal) close() error { return j.f.Close() }

func bounded(facts []string) []string {
	var out []string
	for i, f := range facts {
		if i == maxFacts {
			return append(out, fmt.Sprintf("and %d more", len(facts)-i))
		}
		out = append(out, cutText(f))
	}
	return out
}

func cutText(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText], "") + "…"
}

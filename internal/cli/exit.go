package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/mountns"
)

// Exit codes. They are a promise to scripts.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitIncomplete  = 3 // some parts failed, and are named
	exitUnknown     = 4 // a person must look
	exitInterrupted = 130
)

// ended is the end of a command whose result tells what went wrong.
type ended struct{ code int }

func (e *ended) Error() string { return "" }

// usageError is a mistake in the arguments.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// configError is a mistake in leeward.yaml.
type configError struct{ err error }

func (e *configError) Error() string { return e.err.Error() }
func (e *configError) Unwrap() error { return e.err }

// exitCode is the code for a command that ended with err. One that was done
// before it noticed an interrupt is done.
func exitCode(ctx context.Context, err error) int {
	var end *ended
	var usage *usageError
	var conf *configError
	switch {
	case err == nil:
		return exitDone
	case ctx.Err() != nil:
		return exitInterrupted
	case errors.As(err, &end):
		return end.code
	case errors.As(err, &usage), errors.As(err, &conf):
		return exitUsage
	}
	return exitFailed
}

// outcomeCode sums up parts: one that is unknown makes the whole unknown, since a
// person must look before anything else is done.
func outcomeCode(parts []dr.Outcome) int {
	done, not := 0, 0
	for _, o := range parts {
		switch o {
		case dr.Done:
			done++
		case dr.NotDone:
			not++
		default:
			return exitUnknown
		}
	}
	switch {
	case not == 0:
		return exitDone
	case done == 0:
		return exitFailed
	}
	return exitIncomplete
}

// outcomeWord is how the result object calls an exit code.
func outcomeWord(code int) string {
	switch code {
	case exitDone:
		return "done"
	case exitUsage:
		return "usage"
	case exitIncomplete:
		return "incomplete"
	case exitUnknown:
		return "unknown"
	case exitInterrupted:
		return "interrupted"
	}
	return "failed"
}

// printError tells a person what went wrong and what to do.
func printError(w io.Writer, code int, err error) {
	text, hint := explain(code, err)
	if text == "" {
		return
	}
	var problems *config.Problems
	if errors.As(err, &problems) {
		// Each line begins with file and line number, as editors expect it.
		fmt.Fprintln(w, text)
		fmt.Fprintf(w, "leeward: %s in %s; nothing was done\n", count(len(problems.List), "problem"), problems.File)
		return
	}
	fmt.Fprintln(w, "leeward:", text)
	if hint != "" {
		fmt.Fprintln(w, "  what to do:", hint)
	}
}

// explain splits err into what a person reads: the text and the advice, either of
// which may be empty.
func explain(code int, err error) (text, hint string) {
	var end *ended
	var hinted *dr.Hinted
	switch {
	case code == exitInterrupted:
		return "interrupted", "run the same command again; what is done is not done twice"
	case err == nil, errors.As(err, &end):
		return "", ""
	case errors.As(err, &hinted):
		hint = hinted.Hint
	case errors.Is(err, mountns.ErrNotPermitted):
		hint = "run Leeward as root: it mounts the replicas' filesystems"
	}
	return strings.TrimSpace(err.Error()), hint
}

// count is "1 problem", "2 problems".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%s %ss", number(int64(n)), noun)
}

// resultFormat is the version of the result object.
const resultFormat = 1

// envelope is the result object, one line of JSON. docs/json.md describes it.
type envelope struct {
	Format   int        `json:"leeward"` // resultFormat
	Command  string     `json:"command"`
	Version  string     `json:"version"`
	Outcome  string     `json:"outcome"`
	ExitCode int        `json:"exit_code"`
	Started  string     `json:"started"`
	Duration int64      `json:"duration_ns"`
	Error    *jsonError `json:"error,omitempty"`
	Result   any        `json:"result,omitempty"`
}

type jsonError struct {
	Text     string        `json:"text"`
	Hint     string        `json:"hint,omitempty"`
	Problems []jsonProblem `json:"problems,omitempty"`
}

type jsonProblem struct {
	File string `json:"file"`
	Line int    `json:"line,omitempty"`
	Text string `json:"text"`
}

func (c *call) envelope(code int, err error) ([]byte, error) {
	e := envelope{
		Format: resultFormat, Version: c.Version, Outcome: outcomeWord(code), ExitCode: code,
		Started: c.started.UTC().Format("2006-01-02T15:04:05.000Z"), Duration: int64(time.Since(c.started)), Result: c.result,
	}
	if c.command != nil {
		e.Command = c.command.name
	}
	if text, hint := explain(code, err); text != "" {
		e.Error = &jsonError{Text: text, Hint: hint}
		var problems *config.Problems
		if errors.As(err, &problems) {
			for _, p := range problems.List {
				e.Error.Problems = append(e.Error.Problems, jsonProblem{problems.File, p.Line, p.Text})
			}
		}
	}
	b, encodeErr := json.Marshal(e)
	if encodeErr != nil {
		return nil, fmt.Errorf("encode the result: %w", encodeErr)
	}
	return append(b, '\n'), nil
}

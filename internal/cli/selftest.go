package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/rowsync/engine"
	"github.com/leeward-dr/leeward/internal/rowsync/engine/enginetest"
	"github.com/leeward-dr/leeward/internal/rowsync/selftest"
)

// selftestResult is what the suite found at a user's servers.
type selftestResult struct {
	Engine string         `json:"engine"`
	Cases  []selftestCase `json:"cases"`
	// LeftOut are tables of the suite that the server cannot make, and why.
	LeftOut []string `json:"left_out,omitempty"`
}

// selftestCase is one check: done, not done, or unknown where it does not apply.
type selftestCase struct {
	Name     string        `json:"name"`
	Outcome  dr.Outcome    `json:"outcome"`
	Text     string        `json:"text,omitempty"`
	Duration time.Duration `json:"duration_ns"`
}

// caseLimit is how long one case of the suite may take.
const caseLimit = 5 * time.Minute

func runSelftest(ctx context.Context, c *call) error {
	var source, target engine.Options
	c.flags.StringVar(&source.DSN, "dsn", "", "the source `DSN`, such as sqlserver://sa@host")
	c.flags.StringVar(&target.DSN, "target", "", "the target `DSN`; the source's server by default")
	c.flags.StringVar(&source.Capture, "capture", "auto", "how changes are captured: auto, change-tracking or triggers")
	file := c.flags.String("password-file", "", "read the password of both from `FILE`")
	if err := c.parseNone(); err != nil {
		return err
	}
	if !strings.HasPrefix(source.DSN, "sqlserver://") {
		return dr.WithHint(usagef("selftest: want --dsn sqlserver://USER@HOST"), "PostgreSQL and MariaDB were proven on real servers: see docs/databases.md")
	}
	if target.DSN == "" {
		target.DSN = source.DSN
	}
	if *file != "" {
		b, err := os.ReadFile(*file)
		if err != nil {
			return fmt.Errorf("read password: %w", err)
		}
		source.Password = strings.TrimRight(string(b), "\r\n")
		target.Password = source.Password
	}
	f, lacking, err := selftest.MSSQL(ctx, source, target)
	if err != nil {
		return err
	}
	res := &selftestResult{Engine: "mssql", LeftOut: lacking}
	var parts []dr.Outcome
	for _, k := range enginetest.Cases(f) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		one := selftestOne(ctx, f, k)
		res.Cases = append(res.Cases, one)
		if one.Outcome != dr.Unknown {
			parts = append(parts, one.Outcome)
		}
		fmt.Fprintln(c.Err, selftestLine(one))
	}
	return c.done(outcomeCode(parts), res, func(w io.Writer) { renderSelftest(w, res) })
}

func selftestOne(ctx context.Context, f enginetest.Factory, k enginetest.Case) selftestCase {
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, caseLimit)
	defer cancel()
	err := k.Check(ctx, f)
	one := selftestCase{Name: k.Name, Outcome: dr.Done, Duration: time.Since(begun)}
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		one.Outcome, one.Text = dr.Unknown, err.Error()
	case err != nil:
		one.Outcome, one.Text = dr.NotDone, err.Error()
	}
	return one
}

func selftestLine(s selftestCase) string {
	word := map[dr.Outcome]string{dr.Done: "proven", dr.NotDone: "FAILED", dr.Unknown: "left out"}[s.Outcome]
	line := fmt.Sprintf("%-8s  %-24s  %s", word, s.Name, span(s.Duration))
	if s.Text != "" {
		line += "  " + clean(s.Text)
	}
	return line
}

func renderSelftest(w io.Writer, res *selftestResult) {
	n := map[dr.Outcome]int{}
	for _, s := range res.Cases {
		n[s.Outcome]++
		if s.Outcome != dr.Done {
			fmt.Fprintln(w, selftestLine(s))
		}
	}
	for _, l := range res.LeftOut {
		fmt.Fprintf(w, "left out, as this server cannot make it: %s\n", clean(l))
	}
	fmt.Fprintf(w, "%s proven on this server, %d failed, %d left out\n", count(n[dr.Done], "case"), n[dr.NotDone], n[dr.Unknown])
}

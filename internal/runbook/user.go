package runbook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
)

// The kinds of steps that need no knowledge of the estate.
const (
	ActionApproval = "approval"
	ActionManual   = "manual"
	ActionCommand  = "command"
	ActionHTTP     = "http"
)

// Arguments of these steps.
const (
	ArgText    = "text"    // approval, manual: what is asked or to be done
	ArgHost    = "host"    // command: where it runs; empty: here
	ArgCommand = "command" // a line for sh
	ArgCheck   = "check"   // command, http: a line for sh that succeeds if the step is done, and exits with 1 if not
	ArgRepeat  = "repeat"  // "yes" where doing it twice does no harm
	ArgMethod  = "method"
	ArgURL     = "url"
	ArgExpect  = "expect"  // http: the status, "" is any of 2xx
	ArgContain = "contain" // http: text the answer must have
)

// Question is what a person is asked.
type Question struct {
	Step Step
	Plan *Plan
	Text string
}

// Answer is a person's word. Outcome is Done for yes, NotDone for no.
type Answer struct {
	Outcome dr.Outcome
	Actor   Actor
	At      time.Time
	Word    string // what was said beside it
}

// Asker asks people.
type Asker interface {
	// Ask returns a person's answer. When ctx ends, or nobody can be asked, it returns
	// an error.
	Ask(ctx context.Context, q Question) (Answer, error)
}

// Ran is how a command ended.
type Ran struct {
	Started bool // as far as is known; false is certain
	Exited  bool // by itself: Code says how
	Code    int
	Output  string // the end of what it wrote
}

// Shell runs commands on hosts.
type Shell interface {
	// Run gives line to a POSIX shell on host; "" is this machine. An error tells why
	// the command did not start, or what cut it.
	Run(ctx context.Context, host, line string) (Ran, error)
}

// People are the actions that ask: approval and manual.
func People(ask Asker) Actions {
	return Actions{ActionApproval: &asking{ask, false}, ActionManual: &asking{ask, true}}
}

type asking struct {
	ask    Asker
	manual bool
}

// Observe finds nothing: a word that is not in the journal was not given. That a
// person did something by hand is asked again.
func (a *asking) Observe(context.Context, *Call) (Result, error) { return notDone(), nil }

func (a *asking) Do(ctx context.Context, c *Call) (Result, error) {
	c.Say("waiting for a person")
	ans, err := a.ask.Ask(ctx, Question{Step: c.Step, Plan: c.Plan, Text: c.Step.Args[ArgText]})
	switch {
	case err != nil && ctx.Err() != nil:
		return notDone(), fmt.Errorf("wait for an answer: nobody gave one: %w", err)
	case err != nil:
		return notDone(), err
	}
	at := ans.At.UTC().Format(time.RFC3339)
	values := map[string]string{"by": ans.Actor.String(), "at": at, "word": ans.Word}
	switch {
	case ans.Outcome == dr.Done:
		verb := "approved"
		if a.manual {
			verb = "confirmed"
		}
		return Result{dr.Done, []string{fmt.Sprintf("%s by %s at %s", verb, ans.Actor, at)}, values}, nil
	case ans.Outcome == dr.NotDone:
		return Result{Outcome: dr.NotDone, Values: values}, fmt.Errorf("refused by %s at %s %s", ans.Actor, at, ans.Word)
	}
	return notDone(), errors.New("no answer was given")
}

// Commands are the user's own steps that no person does: command and http.
func Commands(sh Shell, client *http.Client) Actions {
	return Actions{ActionCommand: &commanding{sh}, ActionHTTP: &requesting{sh, client}}
}

type commanding struct{ sh Shell }

func (a *commanding) Observe(ctx context.Context, c *Call) (Result, error) {
	return Checked(ctx, a.sh, c.Step.Args)
}

// Checked looks by the step's check whether it is done. Without one it is not known,
// unless it may be repeated.
func Checked(ctx context.Context, sh Shell, args map[string]string) (Result, error) {
	if args[ArgCheck] == "" {
		if args[ArgRepeat] == "yes" {
			return notDone(), nil
		}
		return Result{Facts: []string{"it has no check, and is not said to be repeatable"}}, nil
	}
	ran, err := sh.Run(ctx, args[ArgHost], args[ArgCheck])
	switch {
	case err != nil:
		return Result{}, fmt.Errorf("check: %w", err)
	case ran.Exited && ran.Code == 0:
		return done("the check says it is done"), nil
	case ran.Exited && ran.Code == 1:
		return notDone("the check says it is not done"), nil
	}
	return Result{}, fmt.Errorf("check: it ended with %d, neither 0 (done) nor 1 (not done): %s", ran.Code, ran.Output)
}

func (a *commanding) Do(ctx context.Context, c *Call) (Result, error) {
	ran, err := a.sh.Run(ctx, c.Step.Args[ArgHost], c.Step.Args[ArgCommand])
	switch {
	case !ran.Started:
		return notDone(), fmt.Errorf("run the command: %w", errors.Join(err, errNotStarted(err)))
	case err != nil || !ran.Exited:
		return Result{}, fmt.Errorf("run the command: it was cut: %w", errors.Join(err, ctx.Err()))
	case ran.Code != 0:
		return notDone(), fmt.Errorf("run the command: it ended with %d: %s", ran.Code, ran.Output)
	}
	if c.Step.Args[ArgCheck] == "" {
		return done("the command ended with 0"), nil
	}
	res, err := Checked(ctx, a.sh, c.Step.Args)
	res.Facts = append([]string{"the command ended with 0"}, res.Facts...)
	return res, err
}

// errNotStarted stands in where a shell gives no reason.
func errNotStarted(err error) error {
	if err != nil {
		return nil
	}
	return errors.New("it did not start")
}

type requesting struct {
	sh     Shell
	client *http.Client
}

// Observe may ask anew what only reads.
func (a *requesting) Observe(ctx context.Context, c *Call) (Result, error) {
	if reads(c.Step.Args[ArgMethod]) {
		return notDone(), nil
	}
	return Checked(ctx, a.sh, c.Step.Args)
}

func reads(method string) bool { return method == http.MethodGet || method == http.MethodHead }

const answerKept = 64 << 10

func (a *requesting) Do(ctx context.Context, c *Call) (Result, error) {
	args := c.Step.Args
	req, err := http.NewRequestWithContext(ctx, args[ArgMethod], args[ArgURL], nil)
	if err != nil {
		return notDone(), fmt.Errorf("make the request: %w", err)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			return notDone(), err
		}
		return Result{}, err // it may have been heard
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, answerKept))
	if err != nil {
		return Result{}, fmt.Errorf("read the answer: %w", err)
	}
	want := args[ArgExpect]
	good := want == strconv.Itoa(resp.StatusCode) || want == "" && resp.StatusCode/100 == 2
	if !good && resp.StatusCode >= 500 && !reads(args[ArgMethod]) {
		return Result{}, fmt.Errorf("%s %s: the answer is %s: what it did before that is not known", args[ArgMethod], args[ArgURL], resp.Status)
	}
	if !good {
		return notDone(), fmt.Errorf("%s %s: the answer is %s, not %s", args[ArgMethod], args[ArgURL], resp.Status, orAny(want))
	}
	if text := args[ArgContain]; text != "" && !strings.Contains(string(body), text) {
		return notDone(), fmt.Errorf("%s %s: the answer does not have %q", args[ArgMethod], args[ArgURL], text)
	}
	return done("the answer was " + resp.Status), nil
}

func orAny(status string) string {
	if status == "" {
		return "2xx"
	}
	return status
}

// Package cli is the command line: one file a command, each of which parses its
// arguments, calls what does the work, and renders the result for a person or as
// JSON. Exit codes and the shape of --json are promises; docs/json.md has them.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/atomicfile"
	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
)

// Streams are a process's ends, and what its environment says.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	Getenv   func(string) string
	Version  string // of this program, as `leeward version` tells it
}

// command is one line of the command table.
type command struct {
	name   string
	args   string // in the words of the usage text; the list of commands has its first line only
	short  string
	hidden bool
	run    func(ctx context.Context, c *call) error
}

// commands is the table of all commands, in the order help lists them.
func commands() []command {
	return []command{
		{"init", "[USER@]HOST…", "look at servers and propose a leeward.yaml", false, runInit},
		{"discover", "[NAME…] | --diff [A.json B.json]", "look at the servers again: what they are, who needs whom, what changed", false, runDiscover},
		{"plan", "[--deadline T] [NAME…]", "what, how much, how long, and what is missing", false, runPlan},
		{"replicate", "[NAME…]", "one pass of everything, in parallel", false, runReplicate},
		{"status", "[NAME…]", "how old each server's newest recovery point is", false, runStatus},
		{"points", pointsArgs, "list, compare, keep and look into recovery points", false, runPoints},
		{"verify", "[NAME…]", "compare source and replica, whole", false, runVerify},
		{"drill", "[NAME…]", "boot recovery points in isolation and prove them", false, runDrill},
		{"runbook", "[-o DIR]", "write the documentation: what there is, and how to recover it", false, runRunbook},
		{"cutover", "plan|apply|resume|list [NAME…]", "move to the target as planned, with nothing lost", false, runCutover},
		{"rollback", "plan|apply|resume|list [NAME…]", "take a cutover back, with nothing lost", false, runRollback},
		{"failover", "plan|apply|resume|list|quarantine [NAME…]", "go on at the target without the source, and say what is lost", false, runFailover},
		{"failback", "plan|apply|resume|list [NAME…]", "bring home what runs at the target, with nothing lost", false, runFailback},
		{"clean", "[NAME…]", "remove the agent from the sources, without trace", false, runClean},
		{"selftest", "--dsn DSN [--target DSN]", "prove row replication on your own SQL Server, in scratch databases", false, runSelftest},
		{"lab", "up|down|status|…", "the Miami of the story on this machine", false, runLab},
		{"version", "", "say what this is", false, runVersion},
		{"help", "[COMMAND]", "explain a command", false, runHelp},
		{"report", "-o FILE RECORD…", "make a page of recorded results", true, runReport},
		{"machine", "ready|running|boot|start|probe|halt|put-away NAME", "work on one machine that runs from its replica here", true, runMachine},
		{"agent", "", "serve as the agent on standard input and output", true, runAgent},
		{"guest-report", "", "tell the state of this guest", true, runGuestReport},
	}
}

func find(name string) *command {
	all := commands()
	i := slices.IndexFunc(all, func(c command) bool { return c.name == name })
	if i < 0 {
		return nil
	}
	return &all[i]
}

// Run executes the command line args, which begins after the program's name, and
// returns the exit code. When ctx ends the command ends soon after, with 130.
func Run(ctx context.Context, s Streams, args []string) int {
	c := &call{Streams: s, config: config.DefaultFile, started: time.Now()}
	name, rest := c.split(args)
	c.command, c.rest = find(name), rest
	var err error
	switch {
	case name == "":
		err = usagef("no command given")
		printHelp(s.Err)
	case c.command == nil:
		err = unknownCommand(name)
	default:
		c.flags = flag.NewFlagSet(name, flag.ContinueOnError)
		c.flags.SetOutput(io.Discard)
		err = c.command.run(ctx, c)
	}
	if errors.Is(err, flag.ErrHelp) {
		return exitDone
	}
	code := exitCode(ctx, err)
	if finishErr := c.finish(code, err); finishErr != nil {
		fmt.Fprintln(s.Err, "leeward:", finishErr)
		code = max(code, exitFailed)
	}
	return code
}

func unknownCommand(name string) error {
	var names []string
	for _, c := range commands() {
		if !c.hidden {
			names = append(names, c.name)
		}
	}
	return dr.WithHint(usagef("unknown command %q", name), "want one of: "+strings.Join(names, ", "))
}

// call is one run of a command.
type call struct {
	Streams
	command   *command
	rest      []string // arguments after the command's name
	flags     *flag.FlagSet
	config    string
	databases []string // that were selected, beside servers
	json      bool
	record    string // file that gets the result object too
	started   time.Time

	result any             // for the result object
	render func(io.Writer) // the result for a person
}

// split takes the command's name from args; global flags may stand before it.
func (c *call) split(args []string) (name string, rest []string) {
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case a == "-h" || a == "--help" || a == "-help":
			return "help", nil
		case a == "--version":
			return "version", nil
		case (a == "-c" || a == "--c" || a == "--record") && i+1 < len(args):
			rest = append(rest, a, args[i+1])
			i++
		case strings.HasPrefix(a, "-"):
			rest = append(rest, a)
		default:
			return a, append(rest, args[i+1:]...)
		}
	}
	return "", nil
}

// parse reads flags, which may stand between names, and returns the names.
func (c *call) parse() (names []string, err error) {
	c.flags.StringVar(&c.config, "c", c.config, "read the estate from `FILE`")
	c.flags.BoolVar(&c.json, "json", false, "print the result as one line of JSON")
	c.flags.StringVar(&c.record, "record", "", "write the result object to `FILE` as well")
	args := c.rest
	for {
		if err := c.flags.Parse(args); errors.Is(err, flag.ErrHelp) {
			c.printCommandHelp(c.Out)
			return nil, err
		} else if err != nil {
			// Of --json before the mistake nothing is known otherwise.
			c.json = c.json || slices.Contains(c.rest, "--json") || slices.Contains(c.rest, "-json")
			return nil, dr.WithHint(usagef("%w", err), "see: leeward help "+c.command.name)
		}
		if c.flags.NArg() == 0 {
			return names, nil
		}
		names, args = append(names, c.flags.Arg(0)), c.flags.Args()[1:]
	}
}

// parseNone is parse for a command that takes no names.
func (c *call) parseNone() error {
	names, err := c.parse()
	if err == nil && len(names) > 0 {
		err = dr.WithHint(usagef("unexpected argument %q", names[0]), "see: leeward help "+c.command.name)
	}
	return err
}

// estate reads the configuration and the servers that names select in it; c.databases
// are the databases.
func (c *call) estate(names []string) (*config.Estate, []dr.ServerName, error) {
	e, err := config.Load(c.config)
	if err != nil {
		return nil, nil, &configError{err}
	}
	selected, databases, err := e.Select(names)
	if err != nil {
		return nil, nil, &configError{err}
	}
	c.databases = databases
	return e, selected, nil
}

// needServers refuses a choice without a server, for commands that know nothing of
// databases: to those below them no server would mean all.
func (c *call) needServers(selected []dr.ServerName) error {
	if len(selected) > 0 {
		return nil
	}
	return &configError{dr.WithHint(fmt.Errorf("%s is of servers, and none is chosen", c.command.name),
		"name servers, or groups with servers in them; a database has no part in this")}
}

// carried is estate for commands that read the sources: it refuses servers that
// this version cannot read.
func (c *call) carried(names []string) (*config.Estate, []dr.ServerName, error) {
	e, selected, err := c.estate(names)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range selected {
		if s := e.Server(name); s.Capture == config.QEMU {
			err := fmt.Errorf("%s:%d: server %s: capture: qemu comes with block capture, which this version does not have", e.File, s.Line, name)
			return nil, nil, &configError{dr.WithHint(err, "write capture: files, or name the other servers on the command line")}
		}
	}
	return e, selected, nil
}

// carriedInStore parses the command line of a command that reads sources into the
// store, and puts the process where the store can be used.
func (c *call) carriedInStore(ctx context.Context) (*config.Estate, []dr.ServerName, error) {
	names, err := c.parse()
	if err != nil {
		return nil, nil, err
	}
	e, selected, err := c.carried(names)
	if err != nil {
		return nil, nil, err
	}
	return e, selected, enterStore(ctx, e)
}

// done takes the result of a command and how it ended.
func (c *call) done(code int, result any, render func(io.Writer)) error {
	c.result, c.render = result, render
	if code == exitDone {
		return nil
	}
	return &ended{code}
}

// finish tells the result and the error that the command came to.
func (c *call) finish(code int, err error) error {
	object, encodeErr := c.envelope(code, err)
	if encodeErr != nil {
		return encodeErr
	}
	if c.record != "" {
		if err := atomicfile.Write(c.record, object, 0o644); err != nil {
			return fmt.Errorf("record the result: %w", err)
		}
	}
	var writeErr error
	switch {
	case c.json:
		_, writeErr = c.Out.Write(object)
	case c.render != nil:
		w := &stickyWriter{w: c.Out}
		c.render(w)
		writeErr = w.err
	}
	if !c.json {
		printError(c.Err, code, err)
	}
	if writeErr != nil && !errors.Is(writeErr, os.ErrClosed) {
		return fmt.Errorf("write the result: %w", writeErr)
	}
	return nil
}

// stickyWriter remembers the first error, so that renderers need not look.
type stickyWriter struct {
	w   io.Writer
	err error
}

func (s *stickyWriter) Write(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.w.Write(p)
	s.err = err
	return n, err
}

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/leeward-dr/leeward/lab"
)

const labUsage = `usage: leeward lab up [--light] [--guests A,B] [--servers A,B] [--rate 200mbit|0] [--quiet] [--dir DIR] [--cache DIR]
       leeward lab down|status|cut|heal|stop [--dir DIR]
       leeward lab rate 100mbit|0 [--dir DIR]

up      raise Miami (six servers, two minions), Dallas and the link between them
down    remove everything of the lab
status  servers, addresses, what is up, the state of the link
cut     take the link down        heal  bring it back
rate    change the link's rate
stop    Miami goes dark: switch all its servers off and take the link down`

// labFlags are the flags of all lab commands; each uses some.
type labFlags struct {
	dir, cache, rate, guests, servers string
	light, quiet, json                bool
}

// labCommand is `leeward lab`. It returns flag.ErrHelp after it has printed its
// usage because that was asked for.
func labCommand(ctx context.Context, args []string, out, errw io.Writer) error {
	if len(args) == 0 {
		return usagef("no lab command given\n%s", labUsage)
	}
	verb, args := args[0], args[1:]
	operations := map[string]func(context.Context, labFlags, []string, io.Writer, io.Writer) error{
		"up": labUp, "down": labDown, "status": labStatus, "cut": labCut, "heal": labHeal, "rate": labRate, "stop": labStop,
	}
	op := operations[verb]
	if op == nil {
		if slices.Contains([]string{"help", "-h", "--help"}, verb) {
			fmt.Fprintln(out, labUsage)
			return flag.ErrHelp
		}
		return usagef("unknown lab command %q\n%s", verb, labUsage)
	}
	var f labFlags
	rest, err := f.parse(verb, args, errw)
	if err != nil {
		return err
	}
	return op(ctx, f, rest, out, errw)
}

func (f *labFlags) parse(verb string, args []string, errw io.Writer) ([]string, error) {
	fs := flag.NewFlagSet("lab "+verb, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() { fmt.Fprintln(errw, labUsage) }
	fs.StringVar(&f.dir, "dir", lab.DefaultDir, "the lab's directory")
	fs.BoolVar(&f.json, "json", false, "print the result as JSON")
	if verb == "up" {
		fs.StringVar(&f.cache, "cache", lab.DefaultCache, "where built servers are kept")
		fs.StringVar(&f.rate, "rate", lab.DefaultRate, "rate of the link, 0 for unshaped")
		fs.StringVar(&f.guests, "guests", strings.Join(lab.DefaultGuests(), ","), "servers that run as QEMU guests")
		fs.StringVar(&f.servers, "servers", "", "servers to raise; all by default")
		fs.BoolVar(&f.light, "light", false, "run no server as a QEMU guest")
		fs.BoolVar(&f.quiet, "quiet", false, "start no writers")
	}
	// Flags may stand before and after the operand.
	var rest []string
	for {
		if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
			return nil, err
		} else if err != nil {
			return nil, usagef("%w", err)
		}
		if fs.NArg() == 0 {
			break
		}
		rest = append(rest, fs.Arg(0))
		args = fs.Args()[1:]
	}
	if verb != "rate" && len(rest) > 0 {
		return nil, usagef("unexpected argument %q of lab %s", rest[0], verb)
	}
	return rest, nil
}

func labUp(ctx context.Context, f labFlags, _ []string, out, errw io.Writer) error {
	begin := time.Now()
	o := lab.Options{
		Dir: f.dir, Cache: f.cache, Rate: f.rate, Quiet: f.quiet, Servers: splitNames(f.servers),
		Log: func(format string, args ...any) { fmt.Fprintf(errw, format+"\n", args...) },
	}
	if !f.light {
		o.Guests = splitNames(f.guests)
		if f.guests == strings.Join(lab.DefaultGuests(), ",") && len(o.Servers) > 0 {
			o.Guests = slices.DeleteFunc(o.Guests, func(g string) bool { return !slices.Contains(o.Servers, g) })
		}
	}
	if err := o.Check(); err != nil {
		return usagef("%w", err)
	}
	l, err := lab.Up(ctx, o)
	if err != nil {
		return err
	}
	if !f.json {
		fmt.Fprintf(out, "the lab is up after %.0fs; try: ip netns exec lw-dallas ssh -F %s %s\n",
			time.Since(begin).Seconds(), l.SSHConfig(), cmpOr(o.Servers, "web1"))
	}
	return printLab(ctx, l, f, out)
}

func cmpOr(names []string, otherwise string) string {
	if len(names) > 0 {
		return names[0]
	}
	return otherwise
}

func labDown(ctx context.Context, f labFlags, _ []string, out, _ io.Writer) error {
	if err := lab.Remove(ctx, f.dir); err != nil {
		return err
	}
	if f.json {
		return json.NewEncoder(out).Encode(map[string]any{"dir": f.dir, "down": true})
	}
	fmt.Fprintln(out, "the lab is down")
	return nil
}

func labStatus(ctx context.Context, f labFlags, _ []string, out, _ io.Writer) error {
	l, err := lab.Open(f.dir)
	if err != nil {
		return err
	}
	return printLab(ctx, l, f, out)
}

func labCut(ctx context.Context, f labFlags, _ []string, out, _ io.Writer) error {
	return changeLink(ctx, f, out, (*lab.Lab).Cut)
}

func labHeal(ctx context.Context, f labFlags, _ []string, out, _ io.Writer) error {
	return changeLink(ctx, f, out, (*lab.Lab).Heal)
}

func labRate(ctx context.Context, f labFlags, rest []string, out, _ io.Writer) error {
	if len(rest) != 1 {
		return usagef("want one rate, such as 100mbit or 0")
	}
	if err := (lab.Options{Rate: rest[0]}).Check(); err != nil {
		return usagef("%w", err)
	}
	return changeLink(ctx, f, out, func(l *lab.Lab, ctx context.Context) error { return l.SetRate(ctx, rest[0]) })
}

func labStop(ctx context.Context, f labFlags, _ []string, out, _ io.Writer) error {
	l, err := lab.Open(f.dir)
	if err != nil {
		return err
	}
	if err := l.Stop(ctx); err != nil {
		return err
	}
	if f.json {
		return printLab(ctx, l, f, out)
	}
	fmt.Fprintln(out, "Miami is dark: its servers are off and the link is cut")
	return nil
}

func changeLink(ctx context.Context, f labFlags, out io.Writer, change func(*lab.Lab, context.Context) error) error {
	l, err := lab.Open(f.dir)
	if err != nil {
		return err
	}
	if err := change(l, ctx); err != nil {
		return err
	}
	st, err := l.Status(ctx)
	if err != nil {
		return err
	}
	if f.json {
		return json.NewEncoder(out).Encode(st)
	}
	fmt.Fprintf(out, "the link is %s at %s\n", st.Link, rateWords(st.Rate))
	return nil
}

func rateWords(rate string) string {
	if rate == "0" {
		return "full rate"
	}
	return rate + "/s"
}

func printLab(ctx context.Context, l *lab.Lab, f labFlags, out io.Writer) error {
	st, err := l.Status(ctx)
	if err != nil {
		return err
	}
	if f.json {
		return json.NewEncoder(out).Encode(st)
	}
	fmt.Fprintf(out, "lab in %s, link %s at %s\n", st.Dir, st.Link, rateWords(st.Rate))
	if !st.Ready {
		fmt.Fprintln(out, "it is still being raised, or that was cut short")
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "SERVER\tFORM\tADDRESS\tUSER\tSTATE\tFILESYSTEMS")
	for _, s := range st.Servers {
		word := "down"
		if s.Up {
			word = "up"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, s.Form, s.Address, s.User, word, strings.Join(s.Mounts, " "))
	}
	return w.Flush()
}

// splitNames reads a comma-separated list; empty parts are dropped.
func splitNames(s string) []string {
	return slices.DeleteFunc(strings.Split(s, ","), func(n string) bool { return n == "" })
}

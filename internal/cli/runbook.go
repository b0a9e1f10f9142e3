package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/atomicfile"
	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/discover"
	"github.com/leeward-dr/leeward/internal/discover/inventory"
	"github.com/leeward-dr/leeward/internal/document"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/drill"
	"github.com/leeward-dr/leeward/internal/replica"
	"github.com/leeward-dr/leeward/internal/runbook"
	"github.com/leeward-dr/leeward/internal/switchover"
	"github.com/leeward-dr/leeward/internal/tree"
)

// runbookResult is the result of runbook.
type runbookResult struct {
	Dir       string            `json:"dir"`
	Files     []string          `json:"files"`
	Inventory string            `json:"inventory,omitempty"`
	Alarms    []string          `json:"alarms,omitempty"` // where reality is not what was last proven
	Changes   []discover.Change `json:"changes,omitempty"`
}

// editionFile is what an edition leaves for the next one to compare itself with.
const (
	editionFile    = "edition.json"
	editionVersion = 1
)

type editionRecord struct {
	Version   int       `json:"version"`
	At        time.Time `json:"at"`
	Inventory string    `json:"inventory,omitempty"`
	Files     []string  `json:"files"`
}

func runRunbook(ctx context.Context, c *call) error {
	dir := c.flags.String("o", "runbook", "write the documentation to `DIR`")
	if err := c.parseNone(); err != nil {
		return err
	}
	e, selected, err := c.estate(nil)
	if err != nil {
		return err
	}
	out, err := filepath.Abs(*dir)
	if err != nil {
		return fmt.Errorf("find %s: %w", *dir, err)
	}
	w := &writer{call: c, e: e, dir: out}
	if err := w.gather(ctx, selected); err != nil {
		return err
	}
	res, err := w.write()
	if err != nil {
		return err
	}
	return c.done(exitDone, res, func(w io.Writer) { renderRunbook(w, res) })
}

func renderRunbook(w io.Writer, r *runbookResult) {
	for _, a := range r.Alarms {
		fmt.Fprintf(w, "warning: %s\n", clean(a))
	}
	fmt.Fprintf(w, "Wrote %s to %s: runbook.html is all of it in one file, runbook.md and the pages beside it the same as Markdown\n", count(len(r.Files), "file"), clean(r.Dir))
	if n := len(r.Changes); n > 0 {
		fmt.Fprintf(w, "%s since the last edition\n", count(n, "change"))
	}
}

// writer gathers an edition and writes it.
type writer struct {
	*call
	e   *config.Estate
	dir string
	ed  document.Edition

	inventories []string // files, the newest last
	last        *editionRecord
}

// gather takes its steps one after the other; the source is not asked for anything but
// how its databases stand, which plans need.
func (w *writer) gather(ctx context.Context, selected []dr.ServerName) error {
	e := w.e
	w.ed = document.Edition{Estate: e.Name, Source: e.Source.Name, Target: e.Target.Name, Store: e.Target.Store, File: e.File,
		Version: w.Version, At: time.Now().UTC(), NotCopied: tree.DefaultExcludes}
	for _, n := range e.Target.Network {
		w.ed.Networks = append(w.ed.Networks, [2]string{n.From.String(), n.To.String()})
	}
	for _, c := range e.Contacts {
		w.ed.Contacts = append(w.ed.Contacts, document.Contact(c))
	}
	for _, g := range e.Groups {
		w.ed.Groups = append(w.ed.Groups, document.Group{Name: g.Name, Order: g.Order, RPO: g.Objective.RPO, RTO: g.Objective.RTO})
	}
	w.redirects()
	w.secrets()
	if err := w.servers(ctx, selected); err != nil {
		return err
	}
	w.databases()
	if err := w.discovered(); err != nil {
		return err
	}
	w.procedures(ctx, selected)
	w.alarms()
	return nil
}

func (w *writer) redirects() {
	for _, r := range w.e.Switchover.Redirect {
		switch {
		case r.DNS != nil:
			w.ed.Redirects = append(w.ed.Redirects, fmt.Sprintf("%s: the record %s at %s, from %v to %v", r.Name, r.DNS.Record, r.DNS.Server, r.DNS.Source, r.DNS.Target))
		case r.To != nil:
			w.ed.Redirects = append(w.ed.Redirects, fmt.Sprintf("%s: the command %s", r.Name, r.To.Command))
		}
	}
}

// secrets lists where secrets are kept.
func (w *writer) secrets() {
	ssh := w.e.Source.SSH.Config
	if ssh == "" {
		ssh = "~/.ssh/config, and the keys it names"
	}
	w.ed.Credentials = append(w.ed.Credentials, document.Credential{For: "ssh to the servers", Where: ssh})
	for _, d := range w.e.Databases {
		for _, x := range []struct {
			at string
			e  config.Endpoint
		}{{w.e.Source.Name, d.Source}, {w.e.Target.Name, d.Target}} {
			if where := secretPlace(x.e); where != "" {
				w.ed.Credentials = append(w.ed.Credentials, document.Credential{For: fmt.Sprintf("database %s at %s", d.Name, x.at), Where: where})
			}
		}
	}
}

func secretPlace(e config.Endpoint) string {
	switch {
	case e.PasswordFile != "":
		return "file " + e.PasswordFile
	case e.PasswordEnv != "":
		return "environment variable " + e.PasswordEnv
	case len(e.PasswordCommand) > 0:
		return "command " + e.PasswordCommand[0]
	}
	return ""
}

// servers takes what the store has of them.
func (w *writer) servers(ctx context.Context, selected []dr.ServerName) error {
	stored, dir, err := readStore(ctx, w.e, selected)
	if err != nil {
		return err
	}
	drills, times := lastDrills(dir), drillTimes(dir)
	for _, s := range stored {
		cfg := w.e.Server(s.name)
		x := document.Server{Name: string(s.name), Host: cfg.Host, Excludes: cfg.Exclude}
		for _, a := range cfg.After {
			x.After = append(x.After, string(a))
		}
		if len(s.points) > 0 {
			p := summarize(s.points[0])
			x.Point, x.PointAt, x.Consistent = string(s.points[0].ID), p.Started, string(p.Consistency)
		}
		if d, ok := drills[s.name]; ok {
			x.Drilled, x.Proven, x.DrillPoint, x.Proof, x.Cause = true, d.Outcome == dr.Done, string(d.Point), d.TimeToProof, d.Cause
			x.DrillAt = times[s.name]
			for _, h := range d.HeldBack {
				x.HeldBack = append(x.HeldBack, h.What)
			}
		}
		w.ed.Servers = append(w.ed.Servers, x)
	}
	return nil
}

// drillTimes tells when each server was last drilled.
func drillTimes(dir string) map[dr.ServerName]time.Time {
	out := map[dr.ServerName]time.Time{}
	files, _ := filepath.Glob(filepath.Join(dir, drillsDir, "*", drillFile)) // the pattern is well formed
	slices.Sort(files)
	for _, f := range files {
		var res struct {
			Servers []drill.Result `json:"servers"`
		}
		b, err := os.ReadFile(f)
		at, err2 := dr.PointID(filepath.Base(filepath.Dir(f))).Time()
		if err != nil || err2 != nil || json.Unmarshal(b, &res) != nil {
			continue // lastDrills takes it for none either
		}
		for _, r := range res.Servers {
			if r.Point != "" {
				out[r.Server] = at
			}
		}
	}
	return out
}

func (w *writer) databases() {
	hosted := w.e.HostedBy()
	for _, d := range w.e.Databases {
		x := document.Database{Name: d.Name, Engine: d.Engine, Mode: d.Mode, Source: d.Source.DSN, Target: d.Target.DSN}
		for _, e := range []config.Endpoint{d.Source, d.Target} {
			if s := secretPlace(e); s != "" && !slices.Contains(x.Secrets, s) {
				x.Secrets = append(x.Secrets, s)
			}
		}
		if h := hosted[d.Name]; len(h) > 0 {
			x.Server = string(h[0])
		}
		w.ed.Databases = append(w.ed.Databases, x)
	}
}

// discovered takes the newest inventory, and what changed since the last edition and since
// each server's last drill.
func (w *writer) discovered() (err error) {
	if w.inventories, err = discover.Kept(w.e.Target.Store); err != nil || len(w.inventories) == 0 {
		return err
	}
	newest := w.inventories[len(w.inventories)-1]
	found, err := discover.Load(newest)
	if err != nil {
		return err
	}
	w.ed.Looked, w.ed.Graph = found.At, discover.Build(found, ownAddresses()...)
	w.ed.Needs = w.ed.Graph.Order()
	for i := range w.ed.Servers {
		s := &w.ed.Servers[i]
		j := slices.IndexFunc(found.Entries, func(x inventory.Entry) bool { return x.Name == s.Name })
		if j < 0 {
			continue
		}
		s.Inventory, s.Err = found.Entries[j].Server, found.Entries[j].Err
		s.Address = w.addressesAt(s.Inventory)
		s.Drift = w.drift(s, found)
	}
	return w.sinceLast(found)
}

// addressesAt are a server's addresses at the target, empty where they stay.
func (w *writer) addressesAt(s *inventory.Server) (out []string) {
	if s == nil {
		return nil
	}
	for _, i := range s.Network.Interfaces {
		for _, a := range i.Addresses {
			p, err := netip.ParsePrefix(a)
			if err != nil || i.Virtual {
				continue
			}
			if to := config.Mapped(w.e.Target.Network, p.Addr()); to != p.Addr() {
				out = append(out, to.String())
			}
		}
	}
	return out
}

// drift is what changed since a server was last proven: since the newest inventory that is
// no younger than that drill.
func (w *writer) drift(s *document.Server, now *inventory.Estate) []discover.Change {
	if !s.Proven || s.DrillAt.IsZero() {
		return nil
	}
	for _, f := range slices.Backward(w.inventories) {
		old, err := discover.Load(f)
		if err != nil || old.At.After(s.DrillAt) {
			continue // one that cannot be read proves nothing
		}
		of := func(e *inventory.Estate) *inventory.Estate {
			return &inventory.Estate{Entries: slices.DeleteFunc(slices.Clone(e.Entries), func(x inventory.Entry) bool { return x.Name != s.Name })}
		}
		a, b := of(old), of(now)
		if len(a.Entries) == 0 || a.Entries[0].Server == nil || len(b.Entries) == 0 || b.Entries[0].Server == nil {
			return nil
		}
		return slices.DeleteFunc(discover.Drift(a, b), func(x discover.Change) bool { return x.Area == "dependency" || x.What == "unknown" })
	}
	return nil
}

// sinceLast compares with the edition that is in the directory.
func (w *writer) sinceLast(found *inventory.Estate) error {
	b, err := os.ReadFile(filepath.Join(w.dir, editionFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the last edition: %w", err)
	}
	var last editionRecord
	if err := json.Unmarshal(b, &last); err != nil || last.Version != editionVersion {
		return dr.WithHint(fmt.Errorf("read the last edition: %s is none that this version knows", filepath.Join(w.dir, editionFile)), "write to another directory with -o")
	}
	w.last, w.ed.Previous = &last, last.At
	if last.Inventory == "" {
		return nil
	}
	old, err := discover.Load(last.Inventory)
	if err != nil {
		w.ed.Alarms = append(w.ed.Alarms, "what changed since the last edition is not known: "+err.Error())
		return nil
	}
	w.ed.Changes = discover.Drift(old, found)
	return nil
}

// procedures are the runbooks as they would be carried out now.
func (w *writer) procedures(ctx context.Context, selected []dr.ServerName) {
	for _, kind := range []string{switchover.Cutover, switchover.Failover, switchover.Failback} {
		x := document.Procedure{Kind: kind}
		var err error
		if x.Plan, x.Last, err = w.planOf(ctx, kind, selected); err != nil {
			x.Err = err.Error()
			var hinted *dr.Hinted
			if errors.As(err, &hinted) {
				x.Err += "; " + hinted.Hint
			}
		}
		w.ed.Procedures = append(w.ed.Procedures, x)
	}
}

func (w *writer) planOf(ctx context.Context, kind string, selected []dr.ServerName) (*runbook.Plan, []document.Measured, error) {
	s := &switchCall{call: w.call, kind: kind, e: w.e}
	for _, n := range w.everything(selected) {
		s.params.Members = append(s.params.Members, string(n))
	}
	if kind == switchover.Failover {
		s.params.Force = true // the plan is for the day on which the source does not answer
	}
	s.supposed = kind == switchover.Failback
	if _, err := os.Stat(w.e.Target.Store); err != nil {
		return nil, nil, dr.WithHint(errors.New("there is no store yet"), "leeward replicate makes it")
	}
	st, err := replica.Open(ctx, w.e.Target.Store)
	if err != nil {
		return nil, nil, err
	}
	s.dir = st.Dir()
	if err := st.Close(); err != nil {
		return nil, nil, err
	}
	s.world = switchover.NewWorld(w.e, s.dir, filepath.Join(s.dir, switchDir))
	p, err := s.newPlan(ctx)
	if err != nil {
		return nil, nil, err
	}
	reports, err := runbook.List(s.runs())
	if err != nil {
		return p, nil, nil // a journal that cannot be read has no times to tell
	}
	var last []document.Measured
	for _, r := range reports {
		for _, step := range r.Steps {
			if r.Kind == kind && step.State == runbook.StepDone && step.Took > 0 {
				last = append(last, document.Measured{Step: step.ID, Took: step.Took, At: step.Began})
			}
		}
	}
	return p, last, nil
}

// alarms say at the top where reality is not what was last proven.
func (w *writer) alarms() {
	put := func(format string, args ...any) { w.ed.Alarms = append(w.ed.Alarms, fmt.Sprintf(format, args...)) }
	if w.ed.Looked.IsZero() {
		put("There is no inventory: nobody has looked at the servers. leeward discover does.")
	}
	var never, failed, drifted, none []string
	for _, s := range w.ed.Servers {
		switch {
		case s.Point == "":
			none = append(none, s.Name)
		case !s.Drilled:
			never = append(never, s.Name)
		case !s.Proven:
			failed = append(failed, s.Name)
		case len(s.Drift) > 0:
			drifted = append(drifted, fmt.Sprintf("%s (%d)", s.Name, len(s.Drift)))
		}
	}
	for _, x := range []struct {
		text  string
		names []string
	}{{"Servers without any recovery point", none}, {"Copies that were never booted", never}, {"Copies whose last drill failed", failed}, {"Servers that changed since their copy was last proven, and how often", drifted}} {
		if len(x.names) > 0 {
			put("%s: %s.", x.text, strings.Join(x.names, ", "))
		}
	}
}

// write puts the files into the directory, the record of the edition last. Pages of
// servers that are no more in leeward.yaml go, if an edition of ours has made them.
func (w *writer) write() (*runbookResult, error) {
	files := document.Write(&w.ed)
	res := &runbookResult{Dir: w.dir, Alarms: w.ed.Alarms, Changes: w.ed.Changes}
	for name, b := range files {
		path := filepath.Join(w.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, fmt.Errorf("write documentation: %w", err)
		}
		if err := atomicfile.Write(path, b, 0o640); err != nil {
			return nil, fmt.Errorf("write documentation: %w", err)
		}
		res.Files = append(res.Files, name)
	}
	slices.Sort(res.Files)
	if n := len(w.inventories); n > 0 {
		res.Inventory = w.inventories[n-1]
	}
	if w.last != nil {
		for _, name := range w.last.Files {
			if _, still := files[name]; !still && filepath.IsLocal(name) && strings.HasSuffix(name, ".md") {
				if err := os.Remove(filepath.Join(w.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
					return nil, fmt.Errorf("remove a page of the last edition: %w", err)
				}
			}
		}
	}
	b, err := json.MarshalIndent(editionRecord{editionVersion, w.ed.At, res.Inventory, res.Files}, "", " ")
	if err != nil {
		return nil, fmt.Errorf("write documentation: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(w.dir, editionFile), append(b, '\n'), 0o640); err != nil {
		return nil, fmt.Errorf("write documentation: %w", err)
	}
	return res, nil
}

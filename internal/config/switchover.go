package config

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Switchover says how applications move from one site to the other.
type Switchover struct {
	Window   time.Duration // in which a rollback is offered; a day by default
	Grace    time.Duration // that open transactions get before they are ended; 10 s by default
	Approval time.Duration // how long a person may take; an hour by default
	Compare  bool          // compare every row behind the fence, before anything is promoted
	Redirect []Redirect
	Steps    []UserStep
	Failback *Failback // nil: servers cannot come back
}

// Redirect leads clients to a site. Exactly one of DNS and To is set.
type Redirect struct {
	Name string
	DNS  *DNS
	// To and Back lead clients to the target and to the source.
	To, Back *Work
}

// DNS is a record that is changed by dynamic update (RFC 2136).
type DNS struct {
	Server string // host:port
	Zone   string // absolute, with its last dot
	Record string // absolute, with its last dot
	TTL    time.Duration
	Source []netip.Addr // what it says while the source is primary
	Target []netip.Addr
	Key    TSIG // zero: updates are not signed
}

// TSIG is a key that signs updates.
type TSIG struct {
	Name      string // absolute, with its last dot
	Algorithm string // hmac-sha256 …
	Secret    Secret
}

// Secret is the place of a secret. Exactly one field is set; none in the zero value.
type Secret struct {
	File    string
	Env     string
	Command []string
}

// Work is something that the user's own command does.
type Work struct {
	Host    string // server it runs on; empty: where Leeward runs
	Command string // a line for sh
	Check   string // a line that ends with 0 if it is done, and with 1 if not
	Repeat  bool   // doing it twice does no harm
	Undo    string // of a server's fence: a line that lifts it; empty: a person does
}

// Quiesce says what makes a server's applications stand still, before databases are
// fenced.
type Quiesce struct {
	Stop []string // units of systemd, in this order
	Work *Work    // instead
	Undo *Work    // lets them go on; with Stop they are started again
}

// UserStep is a step of the user's own in a runbook. Exactly one of Manual, Work and
// URL is set.
type UserStep struct {
	Name    string
	Of      []string // kinds of runbooks; all where empty
	Before  bool     // before the phase, else after it
	Phase   string
	Timeout time.Duration

	Manual  string // what a person does and confirms
	Work    *Work
	Method  string
	URL     string
	Expect  int    // status of the answer; 0: any of 2xx
	Contain string // text the answer has
}

const (
	defaultWindow   = 24 * time.Hour
	defaultGrace    = 10 * time.Second
	defaultApproval = time.Hour
	defaultTTL      = 30 * time.Second
	defaultStep     = 10 * time.Minute
)

func defaultSwitchover() Switchover {
	return Switchover{Window: defaultWindow, Grace: defaultGrace, Approval: defaultApproval}
}

func (r *reader) switchover(where string, n *yaml.Node, s *Switchover, from SSH) {
	r.mapping(where, n, []field{
		{"window", false, func(w string, n *yaml.Node) { s.Window = r.duration(w, n) }},
		{"grace", false, func(w string, n *yaml.Node) { s.Grace = r.duration(w, n) }},
		{"approval", false, func(w string, n *yaml.Node) { s.Approval = r.duration(w, n) }},
		{"compare", false, func(w string, n *yaml.Node) { s.Compare = r.choice(w, n, "rows", "position") == "rows" }},
		{"redirect", false, func(w string, n *yaml.Node) {
			r.each(w, n, func(i int, n *yaml.Node) { s.Redirect = append(s.Redirect, r.redirect(label("redirect", i, n), n)) })
		}},
		{"failback", false, func(w string, n *yaml.Node) { s.Failback = r.failback(w, n, from) }},
		{"steps", false, func(w string, n *yaml.Node) {
			r.each(w, n, func(i int, n *yaml.Node) { s.Steps = append(s.Steps, r.userStep(label("step", i, n), n)) })
		}},
	})
	seen := map[string]bool{}
	for _, x := range s.Redirect {
		r.once(n, where, seen, x.Name)
	}
	for _, x := range s.Steps {
		r.once(n, where, seen, x.Name)
	}
}

func (r *reader) once(n *yaml.Node, where string, seen map[string]bool, name string) {
	if name != "" && seen[name] {
		r.fault(n, where, "there are two steps or redirects named %s", name)
	}
	seen[name] = true
}

func (r *reader) redirect(where string, n *yaml.Node) (d Redirect) {
	r.mapping(where, n, []field{
		{"name", true, func(w string, n *yaml.Node) { d.Name = r.name(w, n) }},
		{"dns", false, func(w string, n *yaml.Node) { d.DNS = r.dns(w, n) }},
		{"to", false, func(w string, n *yaml.Node) { d.To = r.work(w, n) }},
		{"back", false, func(w string, n *yaml.Node) { d.Back = r.work(w, n) }},
	})
	if n.Kind == yaml.MappingNode && (d.DNS == nil) == (d.To == nil) || d.DNS != nil && d.Back != nil {
		r.fault(n, where, "want either dns, or to with back: commands that lead clients to the target and back")
	}
	if d.To != nil && d.Back == nil {
		r.fault(n, where, "back is missing: the command that leads clients to the source again")
	}
	return d
}

func (r *reader) dns(where string, n *yaml.Node) *DNS {
	d := &DNS{TTL: defaultTTL}
	r.mapping(where, n, []field{
		{"server", true, func(w string, n *yaml.Node) { d.Server = r.hostPort(w, n, "53") }},
		{"zone", true, func(w string, n *yaml.Node) { d.Zone = r.domain(w, n) }},
		{"record", true, func(w string, n *yaml.Node) { d.Record = r.domain(w, n) }},
		{"ttl", false, func(w string, n *yaml.Node) { d.TTL = r.duration(w, n) }},
		{"source", true, func(w string, n *yaml.Node) { d.Source = r.addresses(w, n) }},
		{"target", true, func(w string, n *yaml.Node) { d.Target = r.addresses(w, n) }},
		{"key", false, func(w string, n *yaml.Node) { d.Key = r.tsig(w, n) }},
	})
	if d.Zone != "" && d.Record != "" && d.Record != d.Zone && !strings.HasSuffix(d.Record, "."+d.Zone) {
		r.fault(n, where, "record %s is not in zone %s", d.Record, d.Zone)
	}
	if d.TTL < time.Second || d.TTL > 24*time.Hour || d.TTL%time.Second != 0 {
		r.fault(n, where, "ttl: want whole seconds, from 1s to 24h")
	}
	return d
}

// hostPort reads host:port; without a port it is the given one.
func (r *reader) hostPort(where string, n *yaml.Node, port string) string {
	s := r.word(where, n)
	if s == "" {
		return ""
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a, 0).Addr().String() + ":" + port
	}
	if a, err := netip.ParseAddrPort(s); err == nil {
		return a.String()
	}
	host, p, found := strings.Cut(s, ":")
	if !found {
		return s + ":" + port
	}
	if v, err := strconv.Atoi(p); err != nil || v < 1 || v > 65535 || host == "" {
		r.fault(n, where, "%q: want an address or a name, with a port where it is not %s", s, port)
		return ""
	}
	return s
}

// domain reads a name of DNS and makes it absolute.
func (r *reader) domain(where string, n *yaml.Node) string {
	s, ok := r.text(where, n)
	if !ok {
		return ""
	}
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	bad := len(s) > 250 || s == ""
	for l := range strings.SplitSeq(s, ".") {
		bad = bad || l == "" || len(l) > 63 || strings.ContainsFunc(l, func(c rune) bool {
			return !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_')
		})
	}
	if bad {
		r.fault(n, where, "%q is no name of DNS; want one as in db.example.com", s)
		return ""
	}
	return s + "."
}

// addresses reads one address or a list of them.
func (r *reader) addresses(where string, n *yaml.Node) (out []netip.Addr) {
	one := func(n *yaml.Node) {
		s, ok := r.text(where, n)
		if !ok {
			return
		}
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			r.fault(n, where, "%q is no IP address", s)
			return
		}
		out = append(out, a.Unmap())
	}
	if f := r.follow(n); f != nil && f.Kind == yaml.SequenceNode {
		r.each(where, n, func(_ int, n *yaml.Node) { one(n) })
		if len(out) == 0 && len(f.Content) == 0 {
			r.fault(n, where, "want at least one address")
		}
		return out
	}
	one(n)
	return out
}

func (r *reader) tsig(where string, n *yaml.Node) TSIG {
	k := TSIG{Algorithm: "hmac-sha256"}
	places := 0
	r.mapping(where, n, []field{
		{"name", true, func(w string, n *yaml.Node) { k.Name = r.domain(w, n) }},
		{"algorithm", false, func(w string, n *yaml.Node) {
			k.Algorithm = r.choice(w, n, "hmac-sha1", "hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512")
		}},
		{"secret_file", false, func(w string, n *yaml.Node) { k.Secret.File = r.path(w, n); places++ }},
		{"secret_env", false, func(w string, n *yaml.Node) { k.Secret.Env = r.variable(w, n); places++ }},
		{"secret_command", false, func(w string, n *yaml.Node) { k.Secret.Command = r.texts(w, n); places++ }},
	})
	if places != 1 && n.Kind == yaml.MappingNode {
		r.fault(n, where, "want one of secret_file, secret_env and secret_command: the place of the key's secret, in base64")
	}
	return k
}

func (r *reader) work(where string, n *yaml.Node) *Work {
	w := &Work{}
	r.mapping(where, n, r.workFields(w))
	return w
}

func (r *reader) workFields(w *Work) []field {
	return []field{
		{"command", true, func(at string, n *yaml.Node) { w.Command, _ = r.text(at, n) }},
		{"check", false, func(at string, n *yaml.Node) { w.Check, _ = r.text(at, n) }},
		{"host", false, func(at string, n *yaml.Node) { w.Host = r.serverName(at, n) }},
		{"repeat", false, func(at string, n *yaml.Node) { w.Repeat = r.yes(at, n) }},
	}
}

// serverName reads the name of one server.
func (r *reader) serverName(where string, n *yaml.Node) string {
	s, ok := r.text(where, n)
	if ok {
		r.refs = append(r.refs, reference{line: n.Line, where: where, name: s})
	}
	return s
}

// fence reads the command that makes a member unable to write, wherever it is, and more
// keys.
func (r *reader) fence(where string, n *yaml.Node, w *Work, more ...field) *Work {
	r.mapping(where, n, append(r.workFields(w), more...))
	if w.Check == "" {
		r.fault(n, where, "check is missing: a fence that cannot be looked at is none")
	}
	return w
}

func (r *reader) quiesce(where string, n *yaml.Node) *Quiesce {
	q := &Quiesce{}
	r.mapping(where, n, []field{
		{"stop", false, func(w string, n *yaml.Node) { q.Stop = r.units(w, n) }},
		{"run", false, func(w string, n *yaml.Node) { q.Work = r.work(w, n) }},
		{"undo", false, func(w string, n *yaml.Node) { q.Undo = r.work(w, n) }},
	})
	if n.Kind == yaml.MappingNode && (len(q.Stop) > 0) == (q.Work != nil) {
		r.fault(n, where, "want either stop, a list of units, or run, a command")
	}
	if q.Work != nil && q.Undo == nil {
		r.fault(n, where, "undo is missing: the command that lets the applications go on after a rollback")
	}
	return q
}

// units reads names of systemd's units.
func (r *reader) units(where string, n *yaml.Node) (out []string) {
	r.each(where, n, func(_ int, n *yaml.Node) {
		s := r.word(where, n)
		if s == "" {
			return
		}
		if strings.Contains(s, "/") {
			r.fault(n, where, "%q is no unit", s)
			return
		}
		if !strings.Contains(s, ".") {
			s += ".service"
		}
		out = append(out, s)
	})
	return out
}

// Phases are where steps of the user's own may stand, in the order of a cutover.
func Phases() []string { return []string{"quiesce", "fence", "promote", "boot", "redirect"} }

func (r *reader) userStep(where string, n *yaml.Node) (s UserStep) {
	s.Timeout, s.Method = defaultStep, "GET"
	kinds, places := 0, 0
	phase := func(before bool) func(string, *yaml.Node) {
		return func(w string, n *yaml.Node) { s.Phase, s.Before = r.choice(w, n, Phases()...), before; places++ }
	}
	r.mapping(where, n, []field{
		{"name", true, func(w string, n *yaml.Node) { s.Name = r.name(w, n) }},
		{"of", false, func(w string, n *yaml.Node) {
			r.each(w, n, func(_ int, n *yaml.Node) {
				s.Of = append(s.Of, r.choice(w, n, "cutover", "failover", "rollback", "failback"))
			})
		}},
		{"before", false, phase(true)},
		{"after", false, phase(false)},
		{"timeout", false, func(w string, n *yaml.Node) { s.Timeout = r.duration(w, n) }},
		{"manual", false, func(w string, n *yaml.Node) { s.Manual, _ = r.text(w, n); kinds++ }},
		{"run", false, func(w string, n *yaml.Node) { s.Work = r.work(w, n); kinds++ }},
		{"http", false, func(w string, n *yaml.Node) { r.httpStep(w, n, &s); kinds++ }},
	})
	if n.Kind == yaml.MappingNode && kinds != 1 {
		r.fault(n, where, "want one of manual, run and http")
	}
	if n.Kind == yaml.MappingNode && places != 1 {
		r.fault(n, where, "want one of before and after, with a phase: %s", strings.Join(Phases(), ", "))
	}
	return s
}

func (r *reader) httpStep(where string, n *yaml.Node, s *UserStep) {
	r.mapping(where, n, []field{
		{"url", true, func(w string, n *yaml.Node) {
			s.URL = r.address(w, n)
			if u, err := url.Parse(s.URL); err == nil && s.URL != "" && u.Hostname() == "" {
				r.fault(n, w, "%q: the host is missing", s.URL)
			}
		}},
		{"method", false, func(w string, n *yaml.Node) { s.Method = r.choice(w, n, "GET", "HEAD", "POST", "PUT", "DELETE") }},
		{"expect", false, func(w string, n *yaml.Node) { s.Expect = r.integer(w, n, 100, 599) }},
		{"contain", false, func(w string, n *yaml.Node) { s.Contain, _ = r.text(w, n) }},
		{"check", false, func(w string, n *yaml.Node) {
			check, _ := r.text(w, n)
			s.Work = &Work{Check: check}
		}},
	})
}

// yes reads a yes or no as YAML has had it over the years.
func (r *reader) yes(where string, n *yaml.Node) bool {
	s := r.choice(where, n, "true", "false", "yes", "no")
	return s == "true" || s == "yes"
}

package switchover

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/runbook"
)

const (
	dnsTimeout = 5 * time.Second
	// tsigFudge is how far the clocks of both ends may be apart, in seconds; what
	// RFC 8945 recommends.
	tsigFudge = 300
)

// Redirects is the Names of a configuration: dynamic updates of DNS (RFC 2136) and the
// user's commands.
type Redirects struct {
	Redirects []config.Redirect
	Shell     runbook.Shell
	// Secret fetches a secret from its place.
	Secret func(ctx context.Context, s config.Secret) (string, error)
}

func (r *Redirects) find(name string) (*config.Redirect, error) {
	i := slices.IndexFunc(r.Redirects, func(x config.Redirect) bool { return x.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("redirect %s: the configuration has none of that name now", name)
	}
	return &r.Redirects[i], nil
}

// Lead implements Names.
func (r *Redirects) Lead(ctx context.Context, name string, to Site) ([]string, error) {
	x, err := r.find(name)
	if err != nil {
		return nil, err
	}
	if x.DNS == nil {
		return r.run(ctx, x, to)
	}
	if err := r.update(ctx, x.DNS, to); err != nil {
		return nil, fmt.Errorf("update %s at %s: %w", x.DNS.Record, x.DNS.Server, err)
	}
	got, err := resolve(ctx, x.DNS)
	if err != nil {
		return nil, fmt.Errorf("look at what %s says of %s: %w", x.DNS.Server, x.DNS.Record, err)
	}
	if leads(x.DNS, got) != to {
		return nil, fmt.Errorf("update %s at %s: it was accepted, and the server still says %s", x.DNS.Record, x.DNS.Server, addresses(got))
	}
	return []string{fmt.Sprintf("%s says that %s is %s", x.DNS.Server, x.DNS.Record, addresses(got)),
		fmt.Sprintf("who asked before may keep the old answer for %s", x.DNS.TTL)}, nil
}

// run is Lead by the user's commands.
func (r *Redirects) run(ctx context.Context, x *config.Redirect, to Site) ([]string, error) {
	w := x.To
	if to == Source {
		w = x.Back
	}
	ran, err := r.Shell.Run(ctx, w.Host, w.Command)
	if err != nil {
		return nil, err
	}
	if !ran.Exited || ran.Code != 0 {
		return nil, fmt.Errorf("run %q: it ended with %d: %s", w.Command, ran.Code, ran.Output)
	}
	if w.Check == "" {
		return []string{"the command ended with 0"}, nil
	}
	res, err := runbook.Checked(ctx, r.Shell, workArgs(w))
	if err == nil && res.Outcome != dr.Done {
		err = errors.New("the command ended with 0, and its check says that clients are not led there")
	}
	return res.Facts, err
}

// Leads implements Names.
func (r *Redirects) Leads(ctx context.Context, name string) (Site, []string, error) {
	x, err := r.find(name)
	if err != nil {
		return "", nil, err
	}
	if x.DNS != nil {
		got, err := resolve(ctx, x.DNS)
		if err != nil {
			return "", nil, fmt.Errorf("look at what %s says of %s: %w", x.DNS.Server, x.DNS.Record, err)
		}
		return leads(x.DNS, got), []string{fmt.Sprintf("%s says that %s is %s", x.DNS.Server, x.DNS.Record, orNone(addresses(got)))}, nil
	}
	for site, w := range map[Site]*config.Work{Target: x.To, Source: x.Back} {
		if w.Check == "" {
			continue
		}
		res, err := runbook.Checked(ctx, r.Shell, workArgs(w))
		if err != nil {
			return "", nil, err
		}
		if res.Outcome == dr.Done {
			return site, res.Facts, nil
		}
	}
	return "", nil, nil
}

func orNone(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// leads tells whose addresses these are, all of them and no others.
func leads(d *config.DNS, got []netip.Addr) Site {
	same := func(want []netip.Addr) bool {
		a, b := slices.Clone(got), slices.Clone(want)
		slices.SortFunc(a, netip.Addr.Compare)
		slices.SortFunc(b, netip.Addr.Compare)
		return len(a) > 0 && slices.Equal(slices.Compact(a), slices.Compact(b))
	}
	switch {
	case same(d.Target):
		return Target
	case same(d.Source):
		return Source
	}
	return ""
}

// Ready implements Names: the server is sent an update of nothing under the key.
func (r *Redirects) Ready(ctx context.Context, name string) ([]string, error) {
	x, err := r.find(name)
	if err != nil || x.DNS == nil {
		return nil, err
	}
	m := new(dns.Msg)
	m.SetUpdate(x.DNS.Zone)
	if err := r.send(ctx, x.DNS, m); err != nil {
		return nil, fmt.Errorf("make sure that %s lets %s be changed: %w", x.DNS.Server, x.DNS.Record, err)
	}
	return []string{fmt.Sprintf("%s takes updates of %s", x.DNS.Server, x.DNS.Zone)}, nil
}

// update replaces the record's addresses in one transaction of the server.
func (r *Redirects) update(ctx context.Context, d *config.DNS, to Site) error {
	as := d.Target
	if to == Source {
		as = d.Source
	}
	m := new(dns.Msg)
	m.SetUpdate(d.Zone)
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		m.RemoveRRset([]dns.RR{&dns.ANY{Hdr: dns.RR_Header{Name: d.Record, Rrtype: kind, Class: dns.ClassINET}}})
	}
	for _, a := range as {
		m.Insert([]dns.RR{record(d, a)})
	}
	return r.send(ctx, d, m)
}

// send signs an update, where there is a key, and insists on success.
func (r *Redirects) send(ctx context.Context, d *config.DNS, m *dns.Msg) error {
	c := &dns.Client{Net: "tcp", Timeout: dnsTimeout}
	if d.Key.Name != "" {
		secret, err := r.Secret(ctx, d.Key.Secret)
		if err != nil {
			return fmt.Errorf("read key %s: %w", d.Key.Name, err)
		}
		if _, err := base64.StdEncoding.DecodeString(secret); err != nil || secret == "" {
			return fmt.Errorf("read key %s: it is no base64 (its text is not shown)", d.Key.Name)
		}
		c.TsigSecret = map[string]string{d.Key.Name: secret}
		m.SetTsig(d.Key.Name, dns.Fqdn(d.Key.Algorithm), tsigFudge, time.Now().Unix())
	}
	answer, _, err := c.ExchangeContext(ctx, m, d.Server)
	if err != nil {
		return refusal(err)
	}
	if answer.Rcode != dns.RcodeSuccess {
		return rcodeError(answer, d)
	}
	return nil
}

// refusal explains what checking a signature came to.
func refusal(err error) error {
	switch {
	case errors.Is(err, dns.ErrTime):
		return dr.WithHint(err, "the clocks of this machine and of the DNS server are too far apart: set them")
	case errors.Is(err, dns.ErrAuth), errors.Is(err, dns.ErrSig), errors.Is(err, dns.ErrSecret), errors.Is(err, dns.ErrKeyAlg):
		return dr.WithHint(err, "compare the key's name, algorithm and secret with the DNS server's")
	}
	return err
}

func rcodeError(answer *dns.Msg, d *config.DNS) error {
	name := dns.RcodeToString[answer.Rcode]
	if t := answer.IsTsig(); t != nil && t.Error != 0 {
		name += ", " + dns.RcodeToString[int(t.Error)]
	}
	hint := fmt.Sprintf("see the log of %s", d.Server)
	switch answer.Rcode {
	case dns.RcodeRefused:
		hint = fmt.Sprintf("let %s be updated by key %s at %s", d.Zone, d.Key.Name, d.Server)
	case dns.RcodeNotAuth:
		hint = fmt.Sprintf("compare the key with that of %s, and its clock; is zone %s there", d.Server, d.Zone)
	case dns.RcodeNotZone, dns.RcodeNameError:
		hint = fmt.Sprintf("is zone %s on %s", d.Zone, d.Server)
	}
	return dr.WithHint(fmt.Errorf("the server refused: %s", name), hint)
}

func record(d *config.DNS, a netip.Addr) dns.RR {
	h := dns.RR_Header{Name: d.Record, Class: dns.ClassINET, Ttl: uint32(d.TTL / time.Second), Rrtype: dns.TypeA}
	if a.Is4() {
		return &dns.A{Hdr: h, A: a.AsSlice()}
	}
	h.Rrtype = dns.TypeAAAA
	return &dns.AAAA{Hdr: h, AAAA: a.AsSlice()}
}

// resolve asks the very server that is updated, past every cache.
func resolve(ctx context.Context, d *config.DNS) (out []netip.Addr, err error) {
	c := &dns.Client{Net: "tcp", Timeout: dnsTimeout}
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		m := new(dns.Msg)
		m.SetQuestion(d.Record, kind)
		m.RecursionDesired = false
		answer, _, err := c.ExchangeContext(ctx, m, d.Server)
		if err != nil {
			return nil, err
		}
		if answer.Rcode == dns.RcodeNameError {
			return nil, nil
		}
		if answer.Rcode != dns.RcodeSuccess {
			return nil, fmt.Errorf("the server refused: %s", dns.RcodeToString[answer.Rcode])
		}
		for _, rr := range answer.Answer {
			if a, ok := addressOf(rr, d.Record); ok {
				out = append(out, a)
			}
		}
	}
	return out, nil
}

func addressOf(rr dns.RR, name string) (netip.Addr, bool) {
	if !strings.EqualFold(rr.Header().Name, name) {
		return netip.Addr{}, false
	}
	var a netip.Addr
	ok := false
	switch rr := rr.(type) {
	case *dns.A:
		a, ok = netip.AddrFromSlice(rr.A)
	case *dns.AAAA:
		a, ok = netip.AddrFromSlice(rr.AAAA)
	}
	return a.Unmap(), ok
}

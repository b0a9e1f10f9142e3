package look

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"

	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

// network adds names, resolvers and the packet filter to what the facts have.
func (l *looker) network(ctx context.Context) {
	n := &l.inv.Network
	n.Hosts = l.hostsFile()
	resolv, _ := l.config("resolvers", "etc/resolv.conf")
	l.resolvers(resolv)
	if len(n.Resolvers) == 1 && n.Resolvers[0] == "127.0.0.53" {
		// systemd-resolved stands between; it keeps a file with the real ones.
		if b, err := read(l.path("run/systemd/resolve/resolv.conf"), maxConfig); err == nil {
			l.resolvers(b)
		}
	}
	l.firewall(ctx)
}

func (l *looker) resolvers(b []byte) {
	n := &l.inv.Network
	n.Resolvers, n.Search = nil, nil
	lines(b, func(_ int, line string) {
		switch f := strings.Fields(line); {
		case len(f) < 2:
		case f[0] == "nameserver":
			n.Resolvers = append(n.Resolvers, f[1])
		case f[0] == "search" || f[0] == "domain":
			n.Search = f[1:]
		}
	})
}

// firewall asks for the rules in force, and where that cannot be, reads those that are
// kept in files.
func (l *looker) firewall(ctx context.Context) {
	n := &l.inv.Network
	asked := false
	if l.root == "/" && os.Geteuid() == 0 {
		asked = l.nftables(ctx)
		if !asked {
			asked = l.iptables(ctx, "iptables") // nft shows what iptables-nft has made, not the old tables
			l.iptables(ctx, "ip6tables")
		}
	}
	for kind, paths := range map[string][]string{
		"firewalld": {"etc/firewalld/zones/*.xml"}, "ufw": {"etc/ufw/user.rules"},
		"nftables (file)": {"etc/nftables.conf", "etc/sysconfig/nftables.conf"},
		"iptables (file)": {"etc/iptables/rules.v4", "etc/sysconfig/iptables", "etc/iptables/rules-save"},
	} {
		for _, p := range l.glob(paths...) {
			if b, ok := l.config("firewall rules in "+p, p); ok {
				if rules := countRules(kind, b); rules > 0 {
					n.Firewall = append(n.Firewall, inventory.Firewall{Kind: kind + " " + p, Rules: rules, Digest: digest(b)})
				}
			}
		}
	}
	if !asked {
		l.unknown("firewall rules in force", "neither nft nor iptables-save could be asked; only rules kept in files are listed")
	}
}

func (l *looker) nftables(ctx context.Context) bool {
	out, err := l.run(ctx, "nft", "-j", "-s", "list", "ruleset")
	if err != nil {
		return false
	}
	rules, ok := nftRules(out)
	if ok && rules > 0 {
		l.inv.Network.Firewall = append(l.inv.Network.Firewall, inventory.Firewall{Kind: "nftables", Rules: rules, Digest: digest(out)})
	}
	return ok
}

// nftRules counts the rules in the JSON of nft (libnftables-json(5)).
func nftRules(b []byte) (rules int, ok bool) {
	var set struct {
		Nftables []map[string]json.RawMessage `json:"nftables"`
	}
	if json.Unmarshal(b, &set) != nil {
		return 0, false
	}
	for _, o := range set.Nftables {
		if o["rule"] != nil {
			rules++
		}
	}
	return rules, true
}

func (l *looker) iptables(ctx context.Context, name string) bool {
	out, err := l.run(ctx, name+"-save")
	if err != nil {
		return false
	}
	rules, keep := 0, []byte(nil)
	for line := range bytes.Lines(out) {
		if bytes.HasPrefix(line, []byte("-A ")) {
			rules, keep = rules+1, append(keep, line...)
		}
	}
	if rules > 0 {
		l.inv.Network.Firewall = append(l.inv.Network.Firewall, inventory.Firewall{Kind: name, Rules: rules, Digest: digest(keep)})
	}
	return true
}

// countRules counts what looks like a rule in a file of the given kind.
func countRules(kind string, b []byte) (n int) {
	if kind == "firewalld" {
		return bytes.Count(b, []byte("<service ")) + bytes.Count(b, []byte("<port ")) + bytes.Count(b, []byte("<rule"))
	}
	lines(b, func(_ int, line string) {
		if strings.HasPrefix(line, "-A ") || kind == "nftables (file)" && strings.ContainsAny(line, "=<@") || strings.HasSuffix(line, "accept") || strings.HasSuffix(line, "drop") || strings.HasSuffix(line, "reject") {
			n++
		}
	})
	return n
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

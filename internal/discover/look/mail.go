package look

import (
	"context"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

// maxQueue bounds how many messages are counted.
const maxQueue = 100_000

// mail counts the messages that wait in queues.
func (l *looker) mail(context.Context) {
	if l.exists("var/spool/postfix/active") {
		q := inventory.MailQueue{Server: "postfix"}
		for _, dir := range []string{"incoming", "active", "hold", "maildrop"} {
			q.Messages += l.countFiles("var/spool/postfix/"+dir, nil)
		}
		q.Deferred = l.countFiles("var/spool/postfix/deferred", nil)
		q.Messages += q.Deferred
		l.inv.Mail = append(l.inv.Mail, q)
	}
	if l.exists("var/spool/exim4/input") {
		n := l.countFiles("var/spool/exim4/input", func(name string) bool { return strings.HasSuffix(name, "-H") })
		l.inv.Mail = append(l.inv.Mail, inventory.MailQueue{Server: "exim", Messages: n})
	}
	if l.exists("var/spool/mqueue") {
		n := l.countFiles("var/spool/mqueue", func(name string) bool { return strings.HasPrefix(name, "qf") })
		l.inv.Mail = append(l.inv.Mail, inventory.MailQueue{Server: "sendmail", Messages: n})
	}
}

func (l *looker) countFiles(dir string, want func(name string) bool) (n int) {
	err := filepath.WalkDir(l.path(dir), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			if path == l.path(dir) {
				return err
			}
			return nil // a message that was sent meanwhile
		}
		if e.Type().IsRegular() && (want == nil || want(e.Name())) {
			n++
		}
		if n >= maxQueue {
			return fs.SkipAll
		}
		return nil
	})
	if err != nil {
		l.unknown("mail in /"+dir, err)
	}
	return n
}

// bound are signs of software whose licence asks for this very hardware.
var bound = []struct{ pattern, why string }{
	{"usr/lib/flexlm*", "FlexLM: its licences name the host's hardware address (lmhostid)"},
	{"opt/flexlm*", "FlexLM: its licences name the host's hardware address (lmhostid)"},
	{"opt/*/flexlm*", "FlexLM: its licences name the host's hardware address (lmhostid)"},
	{"usr/tmp/.flexlm", "FlexLM: its licences name the host's hardware address (lmhostid)"},
	{"etc/hasplm", "Sentinel HASP: its licences ask for a dongle or this machine"},
	{"var/hasplm", "Sentinel HASP: its licences ask for a dongle or this machine"},
	{"usr/sbin/hasplmd*", "Sentinel HASP: its licences ask for a dongle or this machine"},
	{"etc/init.d/aksusbd", "Sentinel HASP: its licences ask for a dongle or this machine"},
	{"usr/sbin/aksusbd*", "Sentinel HASP: its licences ask for a dongle or this machine"},
	{"var/lib/CodeMeter", "CodeMeter: its licences are bound to a dongle or this machine"},
	{"etc/pki/consumer/cert.pem", "Red Hat's subscription: the copy has the identity of the original; register it anew if both run"},
	{"etc/zypp/credentials.d/SCCcredentials", "SUSE's subscription: the copy has the identity of the original"},
	{"var/lib/ubuntu-advantage/private/machine-token.json", "Ubuntu Pro: its token is of this machine-id"},
	{"usr/local/cpanel/cpanel", "cPanel: its licence is bound to the server's public address"},
	{"usr/local/psa/version", "Plesk: its licence is bound to the server's address"},
}

// licences looks for them, and for licence files that name a hardware address.
func (l *looker) licences(context.Context) {
	for _, b := range bound {
		for _, f := range l.glob(b.pattern) {
			l.inv.Licences = append(l.inv.Licences, inventory.Licence{File: f, Why: b.why})
		}
	}
	var ids []string
	for _, i := range l.inv.Network.Interfaces {
		if i.MAC != "" && i.MAC != "00:00:00:00:00:00" {
			ids = append(ids, i.MAC, strings.ReplaceAll(i.MAC, ":", ""))
		}
	}
	if id := l.inv.System.ProductID; id != "" {
		ids = append(ids, strings.ToLower(id))
	}
	for _, f := range l.glob("etc/*.lic", "etc/*/*.lic", "opt/*/*.lic", "opt/*/*/*.lic", "usr/local/*/*.lic", "usr/local/*/*/*.lic", "etc/*license*", "opt/*/*license*", "opt/*/license/*") {
		b, err := read(l.path(f), maxConfig)
		if err != nil {
			continue // a directory, mostly
		}
		text := strings.ToLower(string(b))
		for _, id := range ids {
			if strings.Contains(text, id) {
				l.inv.Licences = append(l.inv.Licences, inventory.Licence{File: f, Why: "it names this machine's hardware id " + id})
				break
			}
		}
	}
}

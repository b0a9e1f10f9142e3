package look

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

// certificates reads those that services are set to show.
func (l *looker) certificates(context.Context) {
	used := map[string][]string{}
	add := func(file, by string) {
		if file = strings.Trim(file, `"'`); filepath.IsAbs(file) && !slices.Contains(used[file], by) {
			used[file] = append(used[file], by)
		}
	}
	for _, s := range l.inv.Sites {
		add(s.Cert, s.Server)
	}
	for _, d := range l.inv.Databases {
		for _, key := range []string{"ssl_cert_file", "ssl_cert", "network.tlscert"} {
			add(d.Settings[key], d.Engine)
		}
	}
	for _, k := range []struct{ file, key, by string }{
		{"etc/postfix/main.cf", "smtpd_tls_cert_file", "postfix"}, {"etc/postfix/main.cf", "smtpd_tls_chain_files", "postfix"},
		{"etc/dovecot/conf.d/10-ssl.conf", "ssl_cert", "dovecot"}, {"etc/dovecot/dovecot.conf", "ssl_cert", "dovecot"},
		{"etc/vsftpd.conf", "rsa_cert_file", "vsftpd"}, {"etc/cockpit/cockpit.conf", "certificate", "cockpit"},
	} {
		b, _ := l.config("certificates named in /"+k.file, k.file)
		lines(b, func(_ int, line string) {
			if key, value, ok := strings.Cut(line, "="); ok && strings.TrimSpace(key) == k.key {
				for _, f := range strings.Split(value, ",") {
					add(strings.TrimPrefix(strings.TrimSpace(f), "<"), k.by)
				}
			}
		})
	}
	for _, f := range l.glob("etc/letsencrypt/live/*/cert.pem", "etc/openvpn/*.crt", "etc/openvpn/server/*.crt", "etc/ipsec.d/certs/*", "etc/ldap/*.crt") {
		add(f, filepath.Base(filepath.Dir(f)))
	}
	var files []string
	for f := range used {
		files = append(files, f)
	}
	slices.Sort(files)
	for _, f := range files {
		l.certificate(f, used[f])
	}
}

func (l *looker) certificate(file string, by []string) {
	b, err := read(l.path(file), maxConfig)
	if err != nil {
		l.unknown("certificate "+file+" of "+strings.Join(by, ", "), err)
		return
	}
	c, err := parseCertificate(b)
	if err != nil {
		l.unknown("certificate "+file+" of "+strings.Join(by, ", "), err)
		return
	}
	c.File, c.UsedBy = file, by
	l.inv.Certs = append(l.inv.Certs, c)
}

// parseCertificate reads the first certificate of a PEM file, or one in DER. Private keys
// beside it are passed over.
func parseCertificate(b []byte) (c inventory.Certificate, err error) {
	der := b
	for rest := b; ; {
		block, more := pem.Decode(rest)
		if block == nil {
			break
		}
		if block.Type == "CERTIFICATE" || block.Type == "TRUSTED CERTIFICATE" {
			der = block.Bytes
			break
		}
		rest = more
	}
	x, err := x509.ParseCertificate(der)
	if err != nil {
		return c, fmt.Errorf("read it: %w", err)
	}
	c = inventory.Certificate{Subject: x.Subject.String(), Issuer: x.Issuer.String(), Names: x.DNSNames, From: x.NotBefore.UTC(), Until: x.NotAfter.UTC()}
	for _, ip := range x.IPAddresses {
		c.Addresses = append(c.Addresses, ip.String())
	}
	return c, nil
}

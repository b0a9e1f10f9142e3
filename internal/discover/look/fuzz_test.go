package look

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

func mkfifo(path string) error { return unix.Mkfifo(path, 0o644) }

// FuzzParsers gives every parser of foreign files the same bytes: none may panic or hang.
func FuzzParsers(f *testing.F) {
	f.Add(certificate(f, time.Now()))
	for _, s := range []string{"server { listen 80; include x; ${a} \"q\\\" }", "a { b { c", "Package: x\nStatus: install ok installed\n\n",
		"P:x\nF:a\nR:b\n", "x\t1\ty\n", "* * * * * root x", "@daily", "0 0 * * *", "<VirtualHost *:80>\nServerName x\n</VirtualHost>", "frontend x\nuse_backend y\nbackend y\nserver a b",
		`{"report":[{"vg":[{"vg_name":"a","vg_size":"1","vg_free":"x"}]}]}`, `[{"id":"1","metadata":"{}"}]`, `{"nftables":[{"rule":{}}]}`, "[Service]\nExecStart=\n=x\n[",
		"0::/a.service", "key='a''b\\", "a ALL=(ALL) ALL\n\\\n", "8 0 sda 1 2 3 4 5 6 7 8", "Id=a\n\nId=b", "10.0.0.1:5432,10.0.0.2/32 port=\"99999\""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		s := string(b)
		parseDpkg(b)
		parseApk(b)
		parseRpm(b)
		parseCrontab("f", b, "")
		parseCrontab("f", b, "u")
		parseSudoers("f", b)
		parseApache("f", b)
		parseHAProxy("f", b)
		parseNginx(nginxTokens(b), "f", 0)
		parseUnit(b, map[string][]string{})
		parseShow(b)
		unitOf(s)
		postgresSetting(s)
		_, _ = parseVgs(b)
		_, _ = parsePodman(b)
		_, _ = parseDocker(b)
		parseDockerHost(b)
		nftRules(b)
		_, _ = parseCertificate(b)
		parseDiskstats(b, func(uint32, uint32, string) bool { return true })
		driversIn(b)
		redact(s)
		l := &looker{root: "/nonexistent", inv: &inventory.Server{}}
		l.resolvers(b)
		m := &mentionScan{words: []string{"db", "10.0.0.1"}}
		m.file("f", b)
	})
}

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
	f.Fuzz(func(t *testing.T, b []byte) {
		s := string(b)
		l := &looker{root: "/nonexistent", inv: &inventory.Server{}}
		for name, parse := range map[string]func(){
			"dpkg": func() { parseDpkg(b) }, "apk": func() { parseApk(b) }, "rpm": func() { parseRpm(b) },
			"crontab": func() { parseCrontab("f", b, ""); parseCrontab("f", b, "u") }, "sudoers": func() { parseSudoers("f", b) },
			"apache": func() { parseApache("f", b) }, "haproxy": func() { parseHAProxy("f", b) },
			"nginx": func() { parseNginx(nginxTokens(b), "f", 0) }, "unit": func() { parseUnit(b, map[string][]string{}) },
			"show": func() { parseShow(b) }, "cgroup": func() { unitOf(s) }, "postgresql.conf": func() { postgresSetting(s) },
			"vgs": func() { _, _ = parseVgs(b) }, "podman": func() { _, _ = parsePodman(b) }, "docker": func() { _, _ = parseDocker(b); parseDockerHost(b) },
			"nft": func() { nftRules(b) }, "certificate": func() { _, _ = parseCertificate(b) },
			"diskstats": func() { parseDiskstats(b, func(uint32, uint32, string) bool { return true }) },
			"modules":   func() { driversIn(b) }, "redact": func() { redact(s) }, "resolv.conf": func() { l.resolvers(b) },
			"mentions": func() { (&mentionScan{words: []string{"db", "10.0.0.1"}}).file("f", b) },
		} {
			begin := time.Now()
			parse()
			if took := time.Since(begin); took > 2*time.Second {
				t.Errorf("%s takes %v for %d bytes", name, took, len(b))
			}
		}
	})
}

package look

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

// tree makes the files of testdata/NAME.txtar: "-- path --", "-- path -> target --" for a
// link, "-- run: command --" for what a command prints, and an error where that begins
// with "!".
func tree(t *testing.T, name string) *looker {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".txtar"))
	if err != nil {
		t.Fatal(err)
	}
	root, commands := t.TempDir(), map[string]string{}
	var file string
	var content []string
	flush := func() {
		text := strings.Join(content, "\n")
		content = nil
		path, target, link := strings.Cut(file, " -> ")
		switch command, run := strings.CutPrefix(file, "run: "); {
		case file == "":
		case run:
			commands[command] = text
		case link:
			plant(t, root, path, "", target)
		default:
			plant(t, root, path, text, "")
		}
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if head, ok := strings.CutPrefix(line, "-- "); ok && strings.HasSuffix(head, " --") {
			flush()
			file = strings.TrimSuffix(head, " --")
			continue
		}
		content = append(content, line)
	}
	flush()
	host, _ := os.ReadFile(filepath.Join(root, "etc/hostname"))
	return &looker{root: root, facts: func(context.Context) (*agentpb.Facts, error) {
		return factsOf(root, strings.TrimSpace(string(host))), nil
	}, run: func(_ context.Context, name string, args ...string) ([]byte, error) {
		asked := name + " " + strings.Join(args, " ")
		best := ""
		for c := range commands {
			words := strings.Fields(c)
			if strings.HasPrefix(asked, strings.Join(words[:2], " ")) && (len(words) == 2 || strings.HasSuffix(asked, words[2])) && len(c) > len(best) {
				best = c
			}
		}
		text, ok := commands[best]
		if !ok {
			return nil, errors.New("it is not installed")
		}
		if why, bad := strings.CutPrefix(text, "!"); bad {
			return nil, errors.New(why)
		}
		return []byte(text), nil
	}}
}

func plant(t *testing.T, root, path, text, target string) {
	t.Helper()
	at := filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	if target != "" {
		err = os.Symlink(target, at)
	} else {
		err = os.WriteFile(at, []byte(text), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// factsOf is what the agent would tell of the tree.
func factsOf(root, host string) *agentpb.Facts {
	f := &agentpb.Facts{Host: &agentpb.Hello{Hostname: host, Arch: "amd64"}, Os: &agentpb.OS{}, Kernel: "5.15.0-100-generic",
		Interfaces: []*agentpb.Interface{{Name: "eth0", Mac: "52:54:00:aa:bb:cc", Addresses: []string{"10.1.0.10/24"}, Up: true}}}
	for _, p := range []string{"etc/os-release", "usr/lib/os-release"} {
		b, err := os.ReadFile(filepath.Join(root, p))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
			switch v = strings.Trim(v, `"`); k {
			case "PRETTY_NAME":
				f.Os.PrettyName = v
			case "ID":
				f.Os.Id = v
			case "VERSION_ID":
				f.Os.VersionId = v
			}
		}
	}
	return f
}

func lookAt(t *testing.T, name string) *inventory.Server {
	t.Helper()
	l := tree(t, name)
	inv, err := l.look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if inv.Mentions, err = l.findMentions(t.Context(), []string{"db.example.com", "db"}); err != nil {
		t.Fatal(err)
	}
	return inv
}

// same insists that what was found is what was expected, as JSON.
func same(t *testing.T, what string, got any, want string) {
	t.Helper()
	b, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	var x, y any
	if err := errors.Join(json.Unmarshal(b, &x), json.Unmarshal([]byte(want), &y)); err != nil {
		t.Fatal(what, err)
	}
	if !reflect.DeepEqual(x, y) {
		t.Errorf("%s:\n got %s\nwant %s", what, b, want)
	}
}

func unknown(s *inventory.Server, what string) string {
	for _, u := range s.Unknown {
		if strings.Contains(u.What, what) {
			return u.Why
		}
	}
	return ""
}

func TestUbuntu(t *testing.T) {
	s := lookAt(t, "ubuntu")
	same(t, "system", []string{s.System.OS, s.System.OSID, s.System.OSVersion, s.System.Hostname, s.System.Domain, s.System.TimeZone},
		`["Ubuntu 22.04.4 LTS","ubuntu","22.04","shop-web","example.com","Europe/Berlin"]`)
	same(t, "resolvers", s.Network.Resolvers, `["10.1.0.2","10.1.0.3"]`)
	same(t, "hosts", s.Network.Hosts, `[{"address":"127.0.0.1","names":["localhost"]},{"address":"127.0.1.1","names":["shop-web.example.com","shop-web"]},{"address":"10.1.0.20","names":["db.example.com","db"]}]`)
	same(t, "users", s.Users, `[{"name":"root","uid":0,"shell":"/bin/bash","home":"/root","ssh_keys":0,"password":"locked"},{"name":"deploy","uid":1000,"shell":"/usr/bin/fish","home":"/home/deploy","ssh_keys":2,"password":"set"}]`)
	same(t, "sudo", s.Sudo, `[{"who":"root","what":"ALL=(ALL:ALL) ALL","file":"/etc/sudoers"},{"who":"%admin","what":"ALL=(ALL) ALL","file":"/etc/sudoers"},{"who":"deploy","what":"ALL=(ALL) NOPASSWD: /bin/systemctl restart shop, /bin/journalctl","file":"/etc/sudoers.d/90-deploy"}]`)
	same(t, "packages", s.Packages, `[{"name":"nginx","version":"1.18.0-6ubuntu14","arch":"amd64"},{"name":"libc6","version":"2.35-0ubuntu3","arch":"amd64"}]`)
	same(t, "units", s.Units, `[{"name":"nginx.service","enabled":true,"command":"/usr/sbin/nginx -g 'daemon on; master_process on;'","file":"/lib/systemd/system/nginx.service","after":["network-online.target","remote-fs.target"]},
		{"name":"shop.service","enabled":true,"command":"/opt/shop/bin/shop --listen 127.0.0.1:9000     --password=***","file":"/etc/systemd/system/shop.service","after":["nginx.service"],"own":true}]`)
	same(t, "timers", s.Timers, `[{"name":"report.timer","when":["OnCalendar=Mon *-*-* 04:00:00"],"starts":"report.service","enabled":true,"own":true}]`)
	same(t, "cron", s.Cron, `[{"file":"/etc/crontab","line":2,"when":"17 * * * *","user":"root","command":"cd / && run-parts --report /etc/cron.hourly"},
		{"file":"/etc/cron.d/backup","line":2,"when":"30 2 * * *","user":"backup","command":"mysqldump -h db -u dump -p*** shop | ssh vault cat","own":true},
		{"file":"/var/spool/cron/crontabs/deploy","line":1,"when":"@reboot","user":"deploy","command":"/opt/shop/bin/warm","own":true},
		{"file":"/var/spool/cron/crontabs/deploy","line":2,"when":"*/5 * * * *","user":"deploy","command":"/opt/shop/bin/poll","own":true}]`)
	same(t, "sites", s.Sites, `[{"server":"nginx","names":["shop.example.com","www.shop.example.com"],"listen":["443 ssl http2"],"root":"/srv/shop","passes":["10.1.0.30:8000","10.1.0.31:8000","10.1.0.40:9000"],"certificate":"/etc/ssl/shop.pem","file":"/etc/nginx/sites-enabled/shop"}]`)
	same(t, "mentions", s.Mentions, `[{"file":"/etc/nginx/nginx.conf","line":2,"what":"10.1.0.30","port":8000},{"file":"/etc/nginx/nginx.conf","line":2,"what":"10.1.0.31","port":8000},{"file":"/etc/nginx/sites-enabled/shop","line":7,"what":"10.1.0.40","port":9000},{"file":"/etc/shop/settings.ini","line":3,"what":"db.example.com"},{"file":"/etc/shop/settings.ini","line":5,"what":"10.1.0.50","port":6379}]`)
	same(t, "containers", s.Containers, `[{"name":"redis","id":"abcdef012345","engine":"docker","image":"redis:7","state":"running","ports":["127.0.0.1:6379->6379/tcp"],"volumes":["/srv/redis:/data"],"restart":"always"}]`)
	same(t, "licences", s.Licences, `[{"file":"/etc/shop/shop.lic","why":"it names this machine's hardware id 525400aabbcc"}]`)
	same(t, "firewall", []any{s.Network.Firewall[0].Kind, s.Network.Firewall[0].Rules}, `["ufw /etc/ufw/user.rules",2]`)
	same(t, "kernels", s.System.Kernels, `[{"version":"5.15.0-100-generic","read":false,"builtin":["virtio_blk","virtio_net"],"loadable":["virtio_scsi"]}]`)
	for _, what := range []string{"certificate /etc/ssl/shop.pem", "container in /var/lib/docker/containers/bad", "disks"} {
		if unknown(s, what) == "" {
			t.Errorf("it is not said that %q is unknown: %+v", what, s.Unknown)
		}
	}
}

func TestAlma(t *testing.T) {
	s := lookAt(t, "alma")
	same(t, "packages", s.Packages, `[{"name":"bash","version":"5.1.8-6.el9","arch":"x86_64"},{"name":"kernel-core","version":"5.14.0-362.8.1.el9_3","arch":"x86_64"},{"name":"mariadb-server","version":"3:10.5.22-1.el9","arch":"x86_64"}]`)
	same(t, "units", s.Units, `[{"name":"httpd.service","enabled":true,"command":"/usr/sbin/httpd $OPTIONS -DFOREGROUND","file":"/usr/lib/systemd/system/httpd.service"}]`)
	same(t, "sites", s.Sites, `[{"server":"apache","names":["erp.corp.example","erp","www.erp.corp.example"],"listen":["*:443"],"root":"/srv/erp","passes":["10.9.0.12:8080"],"certificate":"/etc/pki/tls/certs/erp.crt","file":"/etc/httpd/conf.d/erp.conf"},
		{"server":"haproxy","names":["web"],"listen":["10.9.0.5:80",":443"],"passes":["10.9.0.21:8080","10.9.0.22:8080"],"certificate":"/etc/haproxy/site.pem","file":"/etc/haproxy/haproxy.cfg"}]`)
	same(t, "cron", s.Cron, `[{"file":"/var/spool/cron/root","line":1,"when":"15 1 * * *","user":"root","command":"/usr/local/bin/nightly --token ***","own":true}]`)
	same(t, "firewall", []any{s.Network.Firewall[0].Kind, s.Network.Firewall[0].Rules}, `["firewalld /etc/firewalld/zones/public.xml",3]`)
	if len(s.Licences) != 1 || !strings.Contains(s.Licences[0].Why, "subscription") {
		t.Errorf("licences: %+v", s.Licences)
	}
	l := tree(t, "alma")
	l.inv = &inventory.Server{}
	d := inventory.Database{Engine: "mariadb", Dir: "/var/lib/mysql", Settings: map[string]string{}}
	l.mysql(t.Context(), &d)
	same(t, "settings", d.Settings, `{"log_bin":"/var/lib/mysql/bin","server_id":"7","innodb_flush_log_at_trx_commit":"2"}`)
}

func TestSUSE(t *testing.T) {
	s := lookAt(t, "suse")
	same(t, "system", []string{s.System.OS, s.System.OSID}, `["SUSE Linux Enterprise Server 15 SP5","sles"]`)
	same(t, "packages", s.Packages, `[{"name":"samba","version":"4.17.9-150500.3","arch":"x86_64"}]`)
	same(t, "cron", s.Cron, `[{"file":"/var/spool/cron/tabs/root","line":1,"when":"0 3 * * 0","user":"root","command":"/usr/sbin/btrfsmaintenance","own":true}]`)
	same(t, "mounts", s.Storage.Mounts, `[{"at":"/","device":"/dev/sda2","type":"btrfs","options":"rw,relatime"},{"at":"/home","device":"nas.example.com:/home","type":"nfs4","options":"rw"},{"at":"/pub","device":"//10.3.0.9/pub","type":"cifs","options":"rw"}]`)
	if s.Units[0].Name != "smb.service" || !s.Units[0].Own {
		t.Errorf("units: %+v", s.Units)
	}
}

func TestAmazon(t *testing.T) {
	s := lookAt(t, "amazon")
	same(t, "units", s.Units, `[{"name":"worker@2.service","enabled":true,"command":"/opt/worker %i","file":"/etc/systemd/system/worker@.service"}]`)
	same(t, "containers", s.Containers, `[{"name":"worker","id":"0123456789ab","engine":"podman","image":"registry/worker:1"}]`)
	if why := unknown(s, "packages"); !strings.Contains(why, "locked") || s.Packages != nil {
		t.Errorf("packages: %v, unknown because %q", s.Packages, why)
	}
}

func TestAlpine(t *testing.T) {
	s := lookAt(t, "alpine")
	same(t, "packages", s.Packages, `[{"name":"busybox","version":"1.36.1-r15","arch":"x86_64"},{"name":"nginx","version":"1.24.0-r15","arch":"x86_64"}]`)
	same(t, "units", s.Units, `[{"name":"networking","enabled":true,"file":"/etc/init.d/networking"},{"name":"nginx","enabled":true,"state":"active","file":"/etc/init.d/nginx"}]`)
	same(t, "cron", s.Cron, `[{"file":"/etc/crontabs/root","line":1,"when":"*/15 * * * *","user":"root","command":"run-parts /etc/periodic/15min"},{"file":"/etc/periodic/daily/rotate","when":"@daily","user":"root","command":"/etc/periodic/daily/rotate","own":true}]`)
	same(t, "mail", s.Mail, `[{"server":"exim","messages":1,"deferred":0}]`)
	same(t, "init", s.System.Init, `"openrc"`)
	l := tree(t, "alpine")
	l.inv = &inventory.Server{}
	l.packages(t.Context())
	same(t, "owner", l.owners(t.Context(), []string{"/usr/sbin/nginx", "/opt/x"}), `{"/usr/sbin/nginx":"nginx"}`)
}

func TestPostgresSettings(t *testing.T) {
	for line, want := range map[string][2]string{
		"wal_level = logical   # why":           {"wal_level", "logical"},
		"port 5433":                             {"port", "5433"},
		"archive_command = 'cp ''%p'' /x/%f' #": {"archive_command", "cp '%p' /x/%f"},
		"Listen_Addresses='*'":                  {"listen_addresses", "*"},
		"bare":                                  {"", ""},
	} {
		if k, v := postgresSetting(line); k != want[0] || v != want[1] {
			t.Errorf("%q: %q, %q", line, k, v)
		}
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"mysqldump -u root -pS3cret db":                   "mysqldump -u root -p*** db",
		"PGPASSWORD=abc pg_dump":                          "PGPASSWORD=*** pg_dump",
		"curl -u me:pw https://x/":                        "curl -u me:*** https://x/",
		"rsync a ftp://u:p@ss/":                           "rsync a ftp://u:***@ss/",
		"tool --password 'a b' --verbose":                 "tool --password *** --verbose",
		"host=10.0.0.1 user=r password=x connect=1":       "host=10.0.0.1 user=r password=*** connect=1",
		"ssh -p 2222 host":                                "ssh -p 2222 host",
		`wget --header "Authorization: Bearer abc.def" x`: `wget --header "Authorization: Bearer ***" x`,
	} {
		if got := redact(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

func TestUnitOf(t *testing.T) {
	for in, want := range map[string]string{
		"0::/system.slice/nginx.service":                                        "nginx.service",
		"1:name=systemd:/system.slice/system-pg.slice/pg@1.service\n":           "pg@1.service",
		"0::/user.slice/user-0.slice/session-1.scope":                           "",
		"0::/system.slice/docker-abc.scope":                                     "docker-abc.scope",
		"4:cpu:/system.slice/x.service\n1:name=systemd:/system.slice/y.service": "y.service",
		"0::/user.slice/user@1000.service/app.slice/foo.service":                "foo.service",
	} {
		if got := unitOf(in); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}

func certificate(t testing.TB, until time.Time) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "shop"},
		NotBefore: until.Add(-time.Hour), NotAfter: until, DNSNames: []string{"shop.example.com"}, IPAddresses: []net.IP{net.IPv4(10, 1, 0, 10)}},
		&x509.Certificate{Subject: pkix.Name{CommonName: "shop"}}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("not shown")}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
}

func TestCertificate(t *testing.T) {
	until := time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)
	c, err := parseCertificate(certificate(t, until))
	if err != nil || !c.Until.Equal(until) || c.Names[0] != "shop.example.com" || c.Addresses[0] != "10.1.0.10" || c.Subject != "CN=shop" {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := parseCertificate([]byte("nothing of the kind")); err == nil {
		t.Error("text is taken for a certificate")
	}
}

// TestNothingBlocks has pipes and devices where files should be: nobody may wait for them.
func TestNothingBlocks(t *testing.T) {
	l := tree(t, "ubuntu")
	for _, p := range []string{"etc/cron.d/pipe", "etc/sudoers.d/pipe", "etc/shop/pipe.conf", "etc/systemd/system/pipe.timer"} {
		if err := mkfifo(l.path(p)); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan error, 1)
	go func() {
		_, err := l.look(t.Context())
		if err == nil {
			_, err = l.findMentions(t.Context(), nil)
		}
		ended <- err
	}()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it waits for a pipe")
	}
}

func TestThousandContainers(t *testing.T) {
	l := tree(t, "ubuntu")
	for i := range 1000 {
		id := big.NewInt(int64(i)).String()
		plant(t, l.root, "var/lib/docker/containers/c"+id+"/config.v2.json", `{"ID":"c`+id+`","Name":"/n`+id+`"}`, "")
	}
	inv, err := l.look(t.Context())
	if err != nil || len(inv.Containers) != 1001 {
		t.Errorf("%d containers, %v", len(inv.Containers), err)
	}
}

// TestThisHost looks at the machine the test runs on.
func TestThisHost(t *testing.T) {
	inv, err := Host(t.Context(), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if inv.System.Kernel == "" || inv.System.Memory == 0 || len(inv.Network.Interfaces) == 0 || inv.Took > time.Minute {
		t.Errorf("%+v", inv.System)
	}
}

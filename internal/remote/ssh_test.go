package remote

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
)

const someCiphers = "chacha20-poly1305@openssh.com,aes128-ctr,aes128-gcm@openssh.com"

func TestSettings(t *testing.T) {
	e := parseEffective([]byte("ciphers " + someCiphers + "\nremotecommand none\nconnecttimeout none\nserveraliveinterval 0\nloglevel INFO\nidentityfile a\nidentityfile b\n"))
	if e["identityfile"] != "a" {
		t.Errorf("of several values %q was taken, want the first", e["identityfile"])
	}
	got := strings.Join(settings(e, e, true), " ")
	has(t, got, "BatchMode=yes", "ControlPath=none", "ControlMaster=no", "ConnectTimeout=20", "ServerAliveInterval=15",
		"Ciphers=aes128-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr")
	for _, w := range []string{"RemoteCommand", "SessionType", "LogLevel", "StdinNull"} {
		if strings.Contains(got, w) {
			t.Errorf("%s is set without need in %q", w, got)
		}
	}

	e = effective{"ciphers": "aes256-ctr", "remotecommand": "tmux", "connecttimeout": "5", "serveraliveinterval": "60",
		"loglevel": "QUIET", "sessiontype": "none", "stdinnull": "yes", "forkafterauthentication": "yes"}
	got = strings.Join(settings(e, effective{"ciphers": someCiphers}, true), " ")
	has(t, got, "RemoteCommand=none", "SessionType=default", "LogLevel=INFO", "StdinNull=no", "ForkAfterAuthentication=no")
	for _, w := range []string{"ConnectTimeout", "ServerAlive", "Ciphers"} {
		if strings.Contains(got, w) {
			t.Errorf("the user's %s is overridden in %q", w, got)
		}
	}
}

func TestCiphers(t *testing.T) {
	for _, tt := range []struct{ have, byDefault, want string }{
		{someCiphers, someCiphers, "aes128-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr"},
		{someCiphers, someCiphers + ",other", ""},
		{"aes128-gcm@openssh.com,x", "aes128-gcm@openssh.com,x", ""},
		{"x,y", "x,y", ""},
		{"", "", ""},
	} {
		if got := ciphers(tt.have, tt.byDefault); got != tt.want {
			t.Errorf("ciphers(%q, %q) = %q, want %q", tt.have, tt.byDefault, got, tt.want)
		}
	}
}

// TestArgumentsAreKnownToSSH has the real ssh judge what we would give it.
func TestArgumentsAreKnownToSSH(t *testing.T) {
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip("no ssh here")
	}
	conf := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(conf, []byte("Host web1\n HostName 192.0.2.1\n RemoteCommand tmux\n RequestTTY yes\n ControlMaster auto\n ControlPath /tmp/x\n SessionType none\n LogLevel QUIET\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	target := Target{Host: "web1", User: "joe", Port: 2222, SSHConfig: conf, ExtraArgs: []string{"-o", "Compression=yes"}}
	args, err := arguments(t.Context(), ssh, target, "the command")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(args[len(args)-3:], []string{"--", "web1", "the command"}) {
		t.Errorf("arguments end in %q", args[len(args)-3:])
	}
	out, err := exec.Command(ssh, slices.Insert(slices.Clone(args[:len(args)-1]), 0, "-G")...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	e := parseEffective(out)
	for key, want := range map[string]string{"user": "joe", "port": "2222", "hostname": "192.0.2.1", "batchmode": "yes",
		"controlmaster": "false", "requesttty": "false", "loglevel": "INFO", "sessiontype": "default", "serveraliveinterval": "15"} {
		if e[key] != want {
			t.Errorf("%s is %q, want %q", key, e[key], want)
		}
	}
	for _, gone := range []string{"remotecommand", "controlpath"} {
		if e[gone] != "" && e[gone] != "none" {
			t.Errorf("%s is %q", gone, e[gone])
		}
	}
}

func TestTargetRefusesWhatIsNoHost(t *testing.T) {
	for _, target := range []Target{{}, {Host: "-oProxyCommand=reboot"}, {Host: "a b"}, {Host: "h", Port: 70000}} {
		if _, err := Dial(t.Context(), target, Options{Binary: theBinary}); err == nil {
			t.Errorf("%+v was accepted", target)
		}
	}
}

func TestNoSSHHere(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := Dial(t.Context(), Target{Host: "h"}, Options{Binary: theBinary})
	if err == nil || !strings.Contains(err.Error(), "no ssh client") {
		t.Errorf("err %v", err)
	}
}

// TestScriptsSurviveLoginShells keeps out what some shell would read differently
// inside single quotes.
func TestScriptsSurviveLoginShells(t *testing.T) {
	hash := strings.Repeat("ab", 32)
	start, err := startScript("LW-1", hash, "amd64", 1000, nil)
	if err != nil {
		t.Fatal(err)
	}
	erase, err := eraseScript("LW-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{start, erase, elevate, asUser} {
		if i := strings.IndexAny(s, "'!\\\n\r"); i >= 0 {
			t.Errorf("%q in %q", s[i], s[max(0, i-20):min(len(s), i+20)])
		}
	}
	for _, dir := range []string{"relative", "/it's", "/a\"b", "/$HOME", "/a\nb", "/a!b"} {
		if _, err := startScript("LW-1", hash, "amd64", 1000, []string{dir}); err == nil {
			t.Errorf("cache directory %q was accepted", dir)
		}
	}
	if _, err := startScript("LW-1", hash, "pdp11", 1000, nil); err == nil {
		t.Error("an unknown architecture was accepted")
	}
}

func TestMarkersDiffer(t *testing.T) {
	if a, b := newMarker(), newMarker(); a == b || len(a) < 10 {
		t.Errorf("markers %q and %q", a, b)
	}
}

func TestAgree(t *testing.T) {
	us := &agentpb.Hello{Protocol: 1, Version: "v1"}
	for _, tt := range []struct {
		ours, theirs *agentpb.Hello
		ok           bool
	}{
		{us, &agentpb.Hello{Protocol: 1, Version: "v1"}, true},
		{us, &agentpb.Hello{Protocol: 2, Version: "v1"}, false},
		{us, &agentpb.Hello{Protocol: 1, Version: "v2"}, false},
		{&agentpb.Hello{Protocol: 1}, &agentpb.Hello{Protocol: 1, Version: "v2"}, true},
	} {
		if err := agree(tt.ours, tt.theirs); (err == nil) != tt.ok {
			t.Errorf("agree(%v, %v) = %v", tt.ours, tt.theirs, err)
		}
	}
}

func TestStreamsFor(t *testing.T) {
	const mbit = 1_000_000 / 8
	for _, tt := range []struct {
		rtt  time.Duration
		rate int64
		want int
	}{
		{0, 1000 * mbit, 1},
		{30 * time.Millisecond, 100 * mbit, 1},
		{30 * time.Millisecond, 1000 * mbit, 2},
		{100 * time.Millisecond, 1000 * mbit, 6},
		{300 * time.Millisecond, 10000 * mbit, 8},
		{time.Hour, 1 << 62, 8},
		{time.Second, 0, 1},
		{time.Second, channelWindow, 1},
		{time.Second, channelWindow + 1, 2},
	} {
		if got := StreamsFor(tt.rtt, tt.rate); got != tt.want {
			t.Errorf("StreamsFor(%v, %d) = %d, want %d", tt.rtt, tt.rate, got, tt.want)
		}
	}
}

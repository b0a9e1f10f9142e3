package remote

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/internal/dr"
)

// What OpenSSH 8 and 9 write, word for word.
const (
	keyChanged = "@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@\r\n" +
		"@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r\n" +
		"@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@\r\n" +
		"IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!\r\n" +
		"Add correct host key in /home/joe/.ssh/known_hosts to get rid of this message.\r\n" +
		"Offending ED25519 key in /home/joe/.ssh/known_hosts:3\r\n"
	keyChangedDebian = keyChanged + "  remove with:\r\n" +
		"  ssh-keygen -f \"/home/joe/.ssh/known_hosts\" -R \"[10.0.0.1]:2222\"\r\n" +
		"Host key for [10.0.0.1]:2222 has changed and you have requested strict checking.\r\nHost key verification failed.\r\n"
)

func TestClassify(t *testing.T) {
	tests := []struct {
		stderr, want, hint string
		temporary          bool
	}{
		{keyChanged + "Host key verification failed.\r\n", "the host key has changed", "ssh-keygen -R 10.0.0.1 -f /home/joe/.ssh/known_hosts", false},
		{keyChangedDebian, "the host key has changed", `ssh-keygen -f "/home/joe/.ssh/known_hosts" -R "[10.0.0.1]:2222"`, false},
		{"No ED25519 host key is known for 10.0.0.1 and you have requested strict checking.\r\nHost key verification failed.\r\n", "the host key is unknown", "accept it once by: ssh 10.0.0.1", false},
		{"joe@10.0.0.1: Permission denied (publickey,password).\r\n", "the host refuses the login (it takes: publickey,password)", "without a question: ssh 10.0.0.1", false},
		{"Received disconnect from 10.0.0.1 port 22:2: Too many authentication failures\r\nDisconnected from 10.0.0.1 port 22\r\n", "the host refuses us: too many keys were tried", "IdentitiesOnly", false},
		{"Unable to negotiate with 10.0.0.1 port 22: no matching host key type found. Their offer: ssh-rsa,ssh-dss\r\n", "ssh and the host have no algorithm in common: no matching host key type found. Their offer: ssh-rsa,ssh-dss", "", false},
		{"Bad owner or permissions on /home/joe/.ssh/config\r\n", "ssh refuses its own configuration: Bad owner or permissions on /home/joe/.ssh/config", "owner and mode", false},
		{"ssh: Could not resolve hostname web9: Name or service not known\r\n", "no such host: web9", "check the name", false},
		{"ssh: Could not resolve hostname web9: Temporary failure in name resolution\r\n", "the name service does not answer", "", true},
		{"ssh: connect to host 10.0.0.1 port 22: Connection refused\r\n", "the host is there but refuses connections on the ssh port", "is sshd running", true},
		{"ssh: connect to host 10.0.0.1 port 22: No route to host\r\n", "the host cannot be reached: No route to host", "is the host up", true},
		{"ssh: connect to host 10.0.0.1 port 22: Network is unreachable\r\n", "the host cannot be reached: Network is unreachable", "", true},
		{"ssh: connect to host 10.0.0.1 port 22: Connection timed out\r\n", "the host does not answer", "firewall", true},
		{"Connection timed out during banner exchange\r\nConnection to 10.0.0.1 port 22 timed out\r\n", "the host does not answer", "", true},
		{"Timeout, server 10.0.0.1 not responding.\r\n", "the link to the host is dead", "", true},
		{"kex_exchange_identification: Connection closed by remote host\r\nConnection closed by 10.0.0.1 port 22\r\n", "the connection was cut", "", true},
		{"kex_exchange_identification: read: Connection reset by peer\r\nConnection reset by 10.0.0.1 port 22\r\n", "the connection was cut", "", true},
		{"client_loop: send disconnect: Broken pipe\r\n", "the connection was cut", "", true},
		{"channel 0: open failed: connect failed: Connection refused\r\nstdio forwarding failed\r\n", "the host is there but refuses", "", true},
		{"channel 0: open failed: administratively prohibited: open failed\r\nstdio forwarding failed\r\n", "the jump host does not get through", "", true},
		{"Not allowed at this time\r\n", "the host accepts no more connections at the moment", "", true},
	}
	for _, tt := range tests {
		err := classify(Target{Host: "10.0.0.1"}, tt.stderr)
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%q: got %v, want %q", tt.stderr, err, tt.want)
			continue
		}
		if errors.Is(err, dr.ErrTemporary) != tt.temporary {
			t.Errorf("%q: temporary is not %v", tt.stderr, tt.temporary)
		}
		var hinted *dr.Hinted
		if tt.hint != "" && (!errors.As(err, &hinted) || !strings.Contains(hinted.Hint, tt.hint)) {
			t.Errorf("%q: no hint with %q in %#v", tt.stderr, tt.hint, err)
		}
	}
	if err := classify(Target{}, "Warning: Permanently added '10.0.0.1' to the list of known hosts.\r\nhello\r\n"); err != nil {
		t.Errorf("harmless text is taken for %v", err)
	}
}

func TestBroken(t *testing.T) {
	tests := []struct {
		stderr string
		code   int
		want   string
		temp   bool
	}{
		{"", 255, "the connection was cut: EOF", true},
		{"something odd\n", 255, "the connection was cut: something odd", true},
		{"panic: oops\ngoroutine 1\n", 2, "the agent ended (status 2): panic: oops; goroutine 1", true},
		{"", 0, "the agent ended (status 0): EOF", true},
		{"sh: 1: /var/cache/leeward/leeward-1: Operation not permitted\n", 126, "the host does not let the agent run", false},
		{"sh: 1: /x: Exec format error\n", 126, "the host cannot run this program", false},
		{"/x: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.34' not found (required by /x)\n", 1, "the host's C library cannot run this program", false},
	}
	for _, tt := range tests {
		err := broken(Target{Host: "h"}, tt.stderr, tt.code, io.EOF)
		if !strings.HasPrefix(err.Error(), tt.want) || errors.Is(err, dr.ErrTemporary) != tt.temp {
			t.Errorf("%q, %d: got %v (temporary %v), want %q (%v)", tt.stderr, tt.code, err, !tt.temp, tt.want, tt.temp)
		}
	}
}

func TestTailKeepsBothEnds(t *testing.T) {
	var s tail
	for range 5000 {
		if n, err := s.Write([]byte("0123456789")); n != 10 || err != nil {
			t.Fatal(n, err)
		}
	}
	s.Write([]byte("the end \xff"))
	got := s.String()
	if len(got) > 2*tailSize+100 || !strings.HasPrefix(got, "01234") || !strings.HasSuffix(got, "the end ?") || !strings.Contains(got, "[…]") {
		t.Errorf("%d bytes: %.20q … %q", len(got), got, got[len(got)-20:])
	}
}

func FuzzClassify(f *testing.F) {
	f.Add(keyChangedDebian)
	f.Add("joe@h: Permission denied (publickey).")
	f.Fuzz(func(t *testing.T, stderr string) {
		if err := broken(Target{Host: "h"}, stderr, 255, io.EOF); err == nil || err.Error() == "" {
			t.Error("nothing is said")
		}
	})
}

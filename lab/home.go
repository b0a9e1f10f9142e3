package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Miami's own host for machines: servers that moved to Dallas come back to it.
const (
	homeName    = "kvm1"
	homeAddress = "10.99.0.1"
)

// homeKeys makes the host's key and returns its public half.
func (l *Lab) homeKeys(ctx context.Context) (string, error) {
	dir := l.place.path("miami")
	if err := os.MkdirAll(filepath.Join(dir, "store"), 0o755); err != nil {
		return "", fmt.Errorf("make directory of %s: %w", homeName, err)
	}
	key := filepath.Join(dir, "host_key")
	if _, err := run(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", homeName, "-f", key); err != nil {
		return "", err
	}
	pub, err := os.ReadFile(key + ".pub")
	if err != nil {
		return "", fmt.Errorf("read the key of %s: %w", homeName, err)
	}
	return strings.Join(strings.Fields(string(pub))[:2], " "), nil
}

// homeScript is the host's first process. Everything that is started over ssh, machines
// too, ends with it.
const homeScript = `set -eu
read -r go || exit 1
exec < /dev/null
mount --make-rprivate /
mount -t proc proc /proc
hostname ` + homeName + `
mkdir -p /run/sshd
/usr/sbin/sshd -D -e -f "$1/sshd_config" &
echo started > "$1/started"
wait $!
`

// startHome starts the host's ssh server: this machine's own, in Miami's network, in
// namespaces of its own.
func (l *Lab) startHome(ctx context.Context, pubkey string) error {
	begin := time.Now()
	dir := l.place.path("miami")
	files := map[string]string{
		"home.sh": homeScript, "authorized_keys": pubkey + "\n",
		"sshd_config": strings.Join([]string{"ListenAddress " + homeAddress, "HostKey " + dir + "/host_key", "AuthorizedKeysFile " + dir + "/authorized_keys",
			"PidFile none", "UsePAM no", "PasswordAuthentication no", "StrictModes no", "PermitRootLogin prohibit-password", "MaxStartups 100", ""}, "\n"),
	}
	if err := writeFiles(dir, files); err != nil {
		return err
	}
	argv := []string{"ip", "netns", "exec", miami, "/bin/bash", filepath.Join(dir, "home.sh"), dir}
	err := l.startSite(ctx, homeName, time.Minute, dir, "home.log", argv, func(st *state, p process) { st.Home = p })
	if err != nil {
		return err
	}
	l.log("%s is up after %.1fs", homeName, time.Since(begin).Seconds())
	return nil
}

// port is the port of a server on Miami's bridge.
func (s *server) port() string {
	if s.Form == Guest {
		return "lwt" + s.Name
	}
	return "lw" + s.Name
}

// fence is what leeward.yaml says of taking a server from Miami's network.
func (s *server) fence() string {
	const link = "ip -n " + miami
	return fmt.Sprintf(`{command: %q, check: %q, undo: %q}`, link+" link set "+s.port()+" down",
		"! "+link+" -br link show "+s.port()+" | grep -qw UP", link+" link set "+s.port()+" up")
}

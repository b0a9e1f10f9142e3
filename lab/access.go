package lab

import (
	"context"
	"fmt"
	"os"
	"strings"
)

// writeAccess puts into the lab's directory what reaches the servers from
// Dallas: the key, known_hosts, ssh_config and an estate file for Leeward.
func (l *Lab) writeAccess(ctx context.Context, cache string, images map[string]*image) error {
	key, err := os.ReadFile(cache + "/key")
	if err != nil {
		return fmt.Errorf("read the lab's key: %w", err)
	}
	homeKey, err := l.homeKeys(ctx)
	if err != nil {
		return err
	}
	var known, config strings.Builder
	fmt.Fprintf(&known, "%s,%s %s\n", homeName, homeAddress, homeKey)
	fmt.Fprintf(&config, "Host %s %s\n\tHostName %s\n\tUser root\n\n", homeName, homeAddress, homeAddress)
	for _, s := range l.place.Servers {
		for _, k := range images[s.Name].HostKey {
			fmt.Fprintf(&known, "%s,%s %s\n", s.Name, s.Address, k)
		}
		fmt.Fprintf(&config, "Host %s %s\n\tHostName %s\n\tUser %s\n\n", s.Name, s.Address, s.Address, s.User)
	}
	fmt.Fprintf(&config, `Host *
	IdentityFile %s
	IdentitiesOnly yes
	UserKnownHostsFile %s
	GlobalKnownHostsFile /dev/null
	StrictHostKeyChecking yes
	BatchMode yes
	ConnectTimeout 20
`, l.place.path("key"), l.place.path("known_hosts"))
	for _, f := range []struct {
		name, text string
		mode       os.FileMode
	}{
		{"key", string(key), 0o600},
		{"known_hosts", known.String(), 0o644},
		{"ssh_config", config.String(), 0o644},
		{"leeward.yaml", l.estate(), 0o644},
		{"database.pass", databasePassword + "\n", 0o600},
	} {
		if err := os.WriteFile(l.place.path(f.name), []byte(f.text), f.mode); err != nil {
			return fmt.Errorf("write access: %w", err)
		}
	}
	if err := os.MkdirAll(l.place.path("dallas", "store"), 0o755); err != nil {
		return fmt.Errorf("make store: %w", err)
	}
	return nil
}

// estate is what Leeward protects of the lab, as leeward.yaml.
func (l *Lab) estate() string {
	var b strings.Builder
	fmt.Fprintf(&b, `estate: lab
source:
  name: miami
  ssh: {config: %s}
target:
  name: dallas
  store: %s
  hypervisor: qemu
  accelerator: tcg
  network: {map: {%s0/24: 10.20.0.0/24}, bridge: %s}
servers:
`, l.place.path("ssh_config"), l.place.path("dallas", "store"), networkPrefix, dallasBridge)
	for _, s := range l.place.Servers {
		fmt.Fprintf(&b, "  - name: %s\n    host: %s\n    capture: files\n    fence: %s\n", s.Name, s.Address, s.fence())
	}
	if len(l.place.Databases) > 0 {
		b.WriteString("databases:\n")
	}
	for _, d := range l.place.Databases {
		fmt.Fprintf(&b, "  - name: %s\n    engine: %s\n    source: {dsn: %q, password_file: database.pass}\n    target: {dsn: %q, password_file: database.pass}\n",
			d.Name, d.Engine, d.Source, d.Target)
	}
	fmt.Fprintf(&b, "switchover:\n  failback: {host: %s, store: %s, bridge: %s, accelerator: tcg, reach: {config: %s}}\n",
		homeName, l.place.path("miami", "store"), bridge, l.place.path("ssh_config"))
	return b.String()
}

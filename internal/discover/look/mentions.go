package look

import (
	"bytes"
	"context"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

const (
	maxMentionFile = 512 << 10
	maxMentionRead = 64 << 20 // of all files together
	maxMentions    = 5_000
)

// configDirs are where configuration lies.
var configDirs = []string{"etc", "usr/local/etc", "opt", "srv", "var/www"}

// notConfig are directories in /etc that name addresses and names of no meaning here.
var notConfig = []string{"/etc/ssl", "/etc/ca-certificates", "/etc/services", "/etc/selinux", "/etc/alternatives", "/etc/mime.types",
	"/etc/ssh/moduli", "/etc/protocols", "/etc/udev/hwdb.d", "/etc/pki/ca-trust", "/etc/brltty", "/etc/ld.so.cache", "/etc/hosts",
	"/etc/resolv.conf", "/etc/network", "/etc/netplan", "/etc/systemd/network", "/etc/systemd/resolved.conf", "/etc/sysconfig/network-scripts", "/etc/sysconfig/network",
	"/etc/NetworkManager", "/etc/hostname", "/etc/mailname"}

// configEnds are the ends of names of configuration files outside of /etc.
var configEnds = []string{".conf", ".cfg", ".cnf", ".ini", ".yaml", ".yml", ".json", ".toml", ".properties", ".xml", ".env", ".php", ".config", ".rb", ".py"}

// Mentions finds where this host's configuration names one of the words, host names or
// addresses, or any other private address. Nothing else of a line leaves the host.
func Mentions(ctx context.Context, words []string, pace func(context.Context)) ([]inventory.Mention, error) {
	l := &looker{root: "/", pace: pace, inv: &inventory.Server{}}
	return l.findMentions(ctx, words)
}

func (l *looker) findMentions(ctx context.Context, words []string) ([]inventory.Mention, error) {
	s := &mentionScan{}
	for _, w := range words {
		if len(w) > 1 {
			s.words = append(s.words, strings.ToLower(w))
		}
	}
	budget := int64(maxMentionRead)
	for _, dir := range configDirs {
		err := filepath.WalkDir(l.path(dir), func(path string, e fs.DirEntry, err error) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				return nil // not ours to read, or gone
			}
			l.rest(ctx)
			return l.mentionsIn(s, dir, path, e, &budget)
		})
		if err != nil {
			return nil, err
		}
	}
	return s.out, nil
}

func (l *looker) mentionsIn(s *mentionScan, dir, path string, e fs.DirEntry, budget *int64) error {
	name := l.host(path)
	if slices.Contains(notConfig, name) || e.IsDir() && strings.Count(name, "/") > 6 || e.IsDir() && (e.Name() == ".git" || e.Name() == "node_modules") {
		if e.IsDir() {
			return filepath.SkipDir
		}
		return nil
	}
	if !e.Type().IsRegular() || dir != "etc" && !slices.Contains(configEnds, filepath.Ext(name)) {
		return nil
	}
	st, err := e.Info()
	if err != nil || st.Size() > maxMentionFile || st.Size() == 0 {
		return nil
	}
	if *budget -= st.Size(); *budget < 0 || len(s.out) >= maxMentions {
		return fs.SkipAll
	}
	b, err := read(path, maxMentionFile)
	if err != nil || bytes.IndexByte(b, 0) >= 0 {
		return nil
	}
	s.file(name, b)
	return nil
}

// mentionScan looks for words and addresses in text.
type mentionScan struct {
	words []string // in lower case
	out   []inventory.Mention
}

// file looks through one file; lines that are comments do not count.
func (s *mentionScan) file(name string, b []byte) {
	seen := map[string]bool{}
	lines(b, func(n int, line string) {
		if strings.HasPrefix(line, "//") || strings.HasPrefix(line, ";") || len(line) > 10_000 {
			return
		}
		for _, m := range s.line(line) {
			if m.File, m.Line = name, n; !seen[m.What+" "+strconv.Itoa(m.Port)] && len(s.out) < maxMentions {
				seen[m.What+" "+strconv.Itoa(m.Port)] = true
				s.out = append(s.out, m)
			}
		}
	})
}

// isWord reports whether c can be part of a host's name or of an address.
func isWord(c byte) bool {
	return c == '.' || c == '-' || c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// line finds the mentions in one line.
func (s *mentionScan) line(line string) (out []inventory.Mention) {
	for i := 0; i < len(line); {
		if !isWord(line[i]) {
			i++
			continue
		}
		from := i
		for i < len(line) && isWord(line[i]) {
			i++
		}
		word := strings.ToLower(strings.Trim(line[from:i], ".-_"))
		if word == "" || !s.counts(word, line[i:]) || plain(word) && !pointed(line, from, i) {
			continue
		}
		out = append(out, inventory.Mention{What: word, Port: portAfter(line[i:])})
	}
	if len(out) == 1 && out[0].Port == 0 {
		out[0].Port = portOnLine(line)
	}
	return out
}

// counts reports whether a word is one that is looked for, or a host's private address.
// An address with a prefix length is a network, unless it is one of those looked for.
func (s *mentionScan) counts(word, rest string) bool {
	if slices.Contains(s.words, word) {
		return true
	}
	a, err := netip.ParseAddr(word)
	if err != nil || !a.Is4() || !a.IsPrivate() || strings.HasPrefix(rest, "/") && len(rest) > 1 && rest[1] >= '0' && rest[1] <= '9' {
		return false
	}
	last := a.As4()[3]
	return last != 0 && last != 255
}

// plain reports whether a host's name may as well be a word of the language: mail, backup.
func plain(word string) bool { return !strings.ContainsAny(word, ".0123456789") }

// pointed reports whether the word at line[from:to] stands where a host does: after one of
// / @ =, or before a port.
func pointed(line string, from, to int) bool {
	return from > 0 && strings.IndexByte("/@=", line[from-1]) >= 0 || portAfter(line[to:]) > 0
}

// portAfter reads a port that follows a host after a colon or, as SQL Server has it, a
// comma.
func portAfter(rest string) int {
	if len(rest) < 2 || rest[0] != ':' && rest[0] != ',' {
		return 0
	}
	return number(rest[1:])
}

// number reads the port that s begins with.
func number(s string) int {
	i := 0
	for i < len(s) && '0' <= s[i] && s[i] <= '9' {
		i++
	}
	n, err := strconv.Atoi(s[:i])
	if err != nil || n < 1 || n > 65535 || i < len(s) && isWord(s[i]) && s[i] != '.' {
		return 0
	}
	return n
}

// portOnLine finds a port=N on the line.
func portOnLine(line string) int {
	low := strings.ToLower(line)
	for _, key := range []string{"port=", "port =", "port:", "\"port\": "} {
		if i := strings.Index(low, key); i >= 0 {
			if n := number(strings.TrimLeft(low[i+len(key):], " \"'")); n > 0 {
				return n
			}
		}
	}
	return 0
}

package look

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

// users lists accounts with a shell to log in to, and who may become whom.
func (l *looker) users(context.Context) {
	passwd, ok := l.config("users", "etc/passwd")
	if !ok {
		return
	}
	shadow := l.shadow()
	lines(passwd, func(_ int, line string) {
		f := strings.Split(line, ":")
		if len(f) < 7 || !canLogin(f[6]) {
			return
		}
		uid, err := strconv.Atoi(f[2])
		if err != nil {
			return
		}
		l.inv.Users = append(l.inv.Users, inventory.User{Name: f[0], UID: uid, Shell: f[6], Home: f[5], Keys: l.keysOf(f[5]), Lock: shadow[f[0]]})
	})
	l.sudoers()
}

// canLogin reports whether a shell of passwd lets anybody in.
func canLogin(shell string) bool {
	switch filepath.Base(shell) {
	case "nologin", "false", "sync", "halt", "shutdown", "true":
		return false
	}
	return shell != "" // empty is /bin/sh, for accounts that are older than that
}

// shadow tells of each user whether there is a password, and nothing of it.
func (l *looker) shadow() map[string]string {
	out := map[string]string{}
	b, err := read(l.path("etc/shadow"), maxConfig)
	if err != nil {
		if !os.IsNotExist(err) {
			l.unknown("which users have a password", err)
		}
		return out
	}
	lines(b, func(_ int, line string) {
		f := strings.Split(line, ":")
		switch {
		case len(f) < 2:
		case f[1] == "":
			out[f[0]] = "none"
		case strings.HasPrefix(f[1], "!"), strings.HasPrefix(f[1], "*"):
			out[f[0]] = "locked"
		default:
			out[f[0]] = "set"
		}
	})
	return out
}

// keysOf counts the keys that open an account.
func (l *looker) keysOf(home string) int {
	b, err := read(l.path(home, ".ssh/authorized_keys"), maxConfig)
	switch {
	case os.IsNotExist(err):
		return 0
	case err != nil:
		return -1
	}
	n := 0
	lines(b, func(int, string) { n++ })
	return n
}

// sudoers reads the rules, whatever their order; aliases stay unresolved.
func (l *looker) sudoers() {
	files := append([]string{"/etc/sudoers"}, l.glob("etc/sudoers.d/*")...)
	for _, file := range files {
		if base := filepath.Base(file); file != "/etc/sudoers" && (strings.Contains(base, ".") || strings.HasSuffix(base, "~")) {
			continue // sudo skips them
		}
		b, ok := l.config("rules of sudo in "+file, file)
		if !ok {
			continue
		}
		l.inv.Sudo = append(l.inv.Sudo, parseSudoers(file, b)...)
	}
}

// parseSudoers reads the user specifications of a file; lines that end with a backslash
// go on in the next.
func parseSudoers(file string, b []byte) (out []inventory.SudoRule) {
	joined := strings.ReplaceAll(string(b), "\\\n", " ")
	lines([]byte(joined), func(_ int, line string) {
		first, rest, _ := strings.Cut(line, " ")
		if tab := strings.IndexByte(first, '\t'); tab >= 0 {
			first, rest = first[:tab], first[tab+1:]+" "+rest
		}
		if strings.HasPrefix(first, "Defaults") || strings.HasPrefix(first, "@") || strings.HasSuffix(first, "_Alias") || !strings.Contains(rest, "=") {
			return
		}
		out = append(out, inventory.SudoRule{Who: first, What: strings.Join(strings.Fields(rest), " "), File: file})
	})
	return slices.Clip(out)
}

package remote

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"syscall"

	"github.com/leeward-dr/leeward/internal/dr"
)

// temporary is an error that also is dr.ErrTemporary, without saying so in words.
type temporary struct{ err error }

func (t *temporary) Error() string   { return t.err.Error() }
func (t *temporary) Unwrap() []error { return []error{t.err, dr.ErrTemporary} }

func isBrokenPipe(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// cause is one way in which ssh fails. The first that matches counts, so the
// particular come before the general.
type cause struct {
	pattern   *regexp.Regexp // in what ssh wrote to its standard error
	text      string         // $1… stand for what the pattern found
	hint      string         // %s is the ssh command of the target
	temporary bool
}

var causes = []cause{
	{regexp.MustCompile(`REMOTE HOST IDENTIFICATION HAS CHANGED`), "the host key has changed", "", false},
	{regexp.MustCompile(`Host key verification failed`), "the host key is unknown",
		"compare its fingerprint with the host's own (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub there) and accept it once by: %s", false},
	{regexp.MustCompile(`(?i)host key .*revoked|REVOKED HOST KEY`), "the host key is marked as revoked", "look into known_hosts before anything else", false},
	{regexp.MustCompile(`Too many authentication failures`), "the host refuses us: too many keys were tried",
		"name the right key (IdentityFile with IdentitiesOnly yes) in ssh_config; see: %s", false},
	{regexp.MustCompile(`Permission denied \(([^)]*)\)`), "the host refuses the login (it takes: $1)",
		"Leeward never asks for a password: give this user a key, or load it into ssh-agent, until this works without a question: %s", false},
	{regexp.MustCompile(`Unable to negotiate with [^:]*: ([^\n]*)`), "ssh and the host have no algorithm in common: $1", "see: %s", false},
	{regexp.MustCompile(`(?m)(Bad owner or permissions on [^\n\r]*)`), "ssh refuses its own configuration: $1", "correct owner and mode of that file", false},
	{regexp.MustCompile(`(?m)(Bad configuration option: [^\n\r]*)`), "ssh refuses its own configuration: $1", "see: %s", false},
	{regexp.MustCompile(`Temporary failure in name resolution`), "the name service does not answer", "", true},
	{regexp.MustCompile(`Could not resolve hostname ([^:\n]*)`), "no such host: $1", "check the name, or give an address", false},
	{regexp.MustCompile(`(?m)connect to host [^\n]*: (No route to host|Network is unreachable|Host is down)`), "the host cannot be reached: $1", "is the host up, and the route there? Try: %s", true},
	{regexp.MustCompile(`(?i)connection refused`), "the host is there but refuses connections on the ssh port", "is sshd running, and on that port? Try: %s", true},
	{regexp.MustCompile(`(?i)connection timed out|operation timed out|timed out during banner exchange`), "the host does not answer", "is the host up, and no firewall between? Try: %s", true},
	{regexp.MustCompile(`Timeout, server [^\n]* not responding`), "the link to the host is dead", "", true},
	{regexp.MustCompile(`(?i)Exceeded MaxStartups|Not allowed at this time`), "the host accepts no more connections at the moment", "", true},
	{regexp.MustCompile(`(?i)connection (reset|closed)|broken pipe|software caused connection abort|unexpectedly closed`), "the connection was cut", "", true},
	{regexp.MustCompile(`(?m)(channel \d+: open failed|stdio forwarding failed)[^\n]*`), "the jump host does not get through to the host", "is the host up, seen from the jump host? Try: %s", true},
}

var offending = regexp.MustCompile(`Offending .* key in ([^\n\r]+):(\d+)`)

// classify turns what ssh wrote into an error, or nil if it names no known cause.
func classify(t Target, stderr string) error {
	for _, c := range causes {
		m := c.pattern.FindStringSubmatchIndex(stderr)
		if m == nil {
			continue
		}
		err := errors.New(string(c.pattern.ExpandString(nil, c.text, stderr, m)))
		if c.temporary {
			err = &temporary{err}
		}
		hint := strings.Replace(c.hint, "%s", t.String(), 1)
		if c.text == "the host key has changed" {
			hint = changedKeyHint(t, stderr)
		}
		if hint != "" {
			err = dr.WithHint(err, hint)
		}
		return err
	}
	return nil
}

var keygenLine = regexp.MustCompile(`(?m)^\s*(ssh-keygen -f [^\n\r]* -R [^\n\r]*)`)

// changedKeyHint tells how to take the old key out, in ssh's own words where it
// gives them.
func changedKeyHint(t Target, stderr string) string {
	remove := "ssh-keygen -R " + t.Host
	if t.Port != 0 && t.Port != 22 {
		remove = fmt.Sprintf("ssh-keygen -R '[%s]:%d'", t.Host, t.Port)
	}
	if m := keygenLine.FindStringSubmatch(stderr); m != nil {
		remove = m[1]
	} else if m := offending.FindStringSubmatch(stderr); m != nil {
		remove += " -f " + m[1]
	}
	return "either the host was installed anew, or somebody is between: find out first. If it is right: " + remove
}

// broken explains an ssh that ended while it was needed.
func broken(t Target, stderr string, code int, err error) error {
	if e := classify(t, stderr); e != nil {
		return e
	}
	said := lastLines(stderr)
	switch {
	case strings.Contains(stderr, "Operation not permitted"), strings.Contains(stderr, "Permission denied"):
		return dr.WithHint(fmt.Errorf("the host does not let the agent run: %s", said),
			"a policy (fapolicyd, SELinux, AppArmor) stops unknown programs there; allow "+cacheDirs[0]+"/leeward-*")
	case strings.Contains(stderr, "Exec format error"):
		return fmt.Errorf("the host cannot run this program: %s", said)
	case strings.Contains(stderr, "libc.so"), strings.Contains(stderr, "libpthread.so"):
		return dr.WithHint(fmt.Errorf("the host's C library cannot run this program: %s", said),
			"this leeward is not static; build it with make build, or with CGO_ENABLED=0")
	case code == 255 && said == "":
		return &temporary{fmt.Errorf("the connection was cut: %w", err)}
	case code == 255:
		return &temporary{fmt.Errorf("the connection was cut: %s", said)}
	case said != "":
		return &temporary{fmt.Errorf("the agent ended (status %d): %s", code, said)}
	}
	return &temporary{fmt.Errorf("the agent ended (status %d): %w", code, err)}
}

// loginRefused explains a login that ended before our script ran.
func loginRefused(t Target, said string, err error) error {
	if said = lastLines(said); said != "" {
		err = fmt.Errorf("%w; it says: %s", err, said)
	}
	return dr.WithHint(err, "the login there may be no shell (nologin, a forced command, a menu); see what this prints: "+t.String()+" true")
}

// refused explains what the script at the host found wrong.
func refused(t Target, word, rest, stderr string) error {
	switch word {
	case sayArch:
		return dr.WithHint(fmt.Errorf("the host is %s, for which this program is not built", strings.ReplaceAll(rest, " ", " on ")),
			"use a Leeward built for that system")
	case sayNoSudo:
		return dr.WithHint(errors.New("the user is not root, and there is no sudo at the host"),
			"log in as root, or install sudo there and let this user use it without a password")
	case saySudo:
		return sudoRefused(t, rest)
	case sayNoSum:
		return dr.WithHint(errors.New("the host has no sha256sum, openssl or shasum to check the agent with"),
			"install coreutils there")
	case sayNoDir:
		return noDirectory(rest)
	case sayBad:
		return notInstalled(rest, stderr)
	}
	return fmt.Errorf("the host answers %q, which we do not understand", word+" "+rest)
}

func sudoRefused(t Target, said string) error {
	err := fmt.Errorf("sudo refuses: %s", said)
	switch {
	case strings.Contains(said, "password"):
		return dr.WithHint(errors.New("sudo asks for a password"),
			"let this user become root without one, in /etc/sudoers.d/leeward at the host: USER ALL=(root) NOPASSWD: ALL; or log in as root")
	case strings.Contains(said, "tty"):
		return dr.WithHint(err, "allow sudo without a terminal there: Defaults:USER !requiretty in /etc/sudoers.d/leeward")
	case strings.Contains(said, "not allowed"), strings.Contains(said, "not in the sudoers"):
		return dr.WithHint(err, "allow this user sh by sudo there: USER ALL=(root) NOPASSWD: ALL; or log in as root")
	}
	return dr.WithHint(err, "see what this prints: "+t.String()+" sudo -n true")
}

func noDirectory(why string) error {
	err := fmt.Errorf("no directory at the host can hold the agent: %s", strings.TrimSuffix(why, ","))
	if strings.Contains(why, "noexec") {
		return dr.WithHint(err, "make "+cacheDirs[0]+" on a filesystem that is not mounted noexec, owned by the user the agent runs as")
	}
	if strings.Contains(why, "KiB free") {
		return dr.WithHint(err, "free some space at the host")
	}
	return dr.WithHint(err, "make "+cacheDirs[0]+" there, writable, with owner and mode 0700 of the user the agent runs as")
}

func notInstalled(size, stderr string) error {
	if strings.Contains(stderr, "No space left") || strings.Contains(stderr, "quota") {
		return dr.WithHint(errors.New("install agent: the disk at the host is full"), "free some space there")
	}
	err := fmt.Errorf("install agent: %s bytes arrived, and they are not what was sent", size)
	if said := lastLines(stderr); said != "" {
		err = fmt.Errorf("%w: %s", err, said)
	}
	return &temporary{err}
}

// lastLines is the end of what somebody said, on one line.
func lastLines(s string) string {
	lines := strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' })
	var out []string
	for _, l := range lines[max(0, len(lines)-4):] {
		if l = strings.TrimSpace(l); l != "" {
			out = append(out, l)
		}
	}
	s = strings.Join(out, "; ")
	if len(s) > 600 {
		s = "…" + strings.ToValidUTF8(s[len(s)-600:], "")
	}
	return s
}

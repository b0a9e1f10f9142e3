package look

import (
	"regexp"
	"strings"
)

// secrets are forms in which passwords stand on command lines and in settings. The first
// group is kept, the rest goes.
var secrets = []*regexp.Regexp{
	regexp.MustCompile(`(?i)([a-z0-9_-]*(?:passw(?:or)?d|passwd|pwd|secret|token|api[_-]?key|credentials?|passphrase)[a-z0-9_-]*['"]?\s*[=:]\s*)('[^']*'|"[^"]*"|[^\s&;,]+)`),
	regexp.MustCompile(`(?i)(--?(?:password|passwd|pass|pw|token|secret|api-key|auth)\s+)('[^']*'|"[^"]*"|[^\s-][^\s]*)`),
	regexp.MustCompile(`((?:mysql|mysqldump|mysqladmin|mariadb|mariadb-dump|mariadb-admin|xtrabackup|mariabackup)\b[^|;&]*?\s-p)('[^']*'|"[^"]*"|[^\s]+)`),
	regexp.MustCompile(`((?:sshpass)\s+-p\s*)('[^']*'|"[^"]*"|[^\s]+)`),
	regexp.MustCompile(`(?i)((?:curl|wget)\b[^|;&]*?\s(?:-u|--user)[ =]?[^\s:]*:)([^\s]+)`),
	regexp.MustCompile(`(?i)(authorization:\s*(?:basic|bearer)\s+)([^\s'"]+)`),
	regexp.MustCompile(`([a-z][a-z0-9+.-]*://[^\s:/@]*:)([^\s@]+)@`),
}

const redacted = "***"

// redact takes what looks like a password out of a line. A secret in an unusual form
// gets through: only lines whose sense needs them are carried at all.
func redact(s string) string {
	for i, re := range secrets {
		with := "${1}" + redacted
		if i == len(secrets)-1 {
			with += "@"
		}
		s = re.ReplaceAllString(s, with)
	}
	return s
}

// redactOptions is redact for the options of a mount.
func redactOptions(s string) string {
	if !strings.Contains(s, "pass") && !strings.Contains(s, "cred") && !strings.Contains(s, "secret") {
		return s
	}
	return redact(s)
}

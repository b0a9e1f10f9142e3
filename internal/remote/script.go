package remote

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"path"
	"strings"
)

// The scripts below run under any POSIX sh. They reach it as single-quoted words
// of one command that the user's login shell parses first, whatever that is: so
// they hold no single quote, no exclamation mark (csh expands history even in
// quotes), no backslash (fish treats it as an escape in quotes) and no newline.
// What they have to say is said in lines that begin with a random marker, so that
// banners and chatter of login files are told apart.

// Words a script says after the marker.
const (
	sayGo     = "GO"     // path: the agent starts; what follows is its output
	sayNeed   = "NEED"   // codecs, directory: the agent must be sent
	sayArch   = "ARCH"   // system, machine: this binary does not run there
	saySudo   = "SUDO"   // text: sudo refused
	sayNoSudo = "NOSUDO" // not root, and there is no sudo
	sayNoSum  = "NOSUM"  // no program to check a hash with
	sayNoDir  = "NODIR"  // reasons: no directory that can hold and run the agent
	sayBad    = "BAD"    // size: what arrived is not what was sent
	sayGone   = "GONE"   // Remove is done
)

// cacheDirs are where a host may keep the agent, in order of preference. The
// script adds the home directory, /dev/shm and /tmp of the user.
var cacheDirs = []string{"/var/cache/leeward", "/run/leeward"}

// privateDirs are the further places, as the script names them: they carry the
// user's number because anybody may make names beside them.
const privateDirs = `"$HOME/.cache/leeward" "/dev/shm/leeward-$u" "/tmp/leeward-$u"`

// elevate is the first script: it becomes root if it has to, then runs its first
// argument.
const elevate = `LC_ALL=C; export LC_ALL; set -f; m=%s; say() { echo "$m $*"; }; ` +
	`if [ "$(id -u)" = 0 ]; then exec sh -c "$1" leeward; fi; ` +
	`command -v sudo >/dev/null 2>&1 || { say ` + sayNoSudo + `; exit 3; }; ` +
	`e=$(sudo -n sh -c "exit 0" 2>&1 </dev/null) || { say ` + saySudo + ` $e; exit 3; }; ` +
	`exec sudo -n sh -c "$1" leeward`

// asUser is elevate for those who want no root.
const asUser = `exec sh -c "$1" leeward`

// prelude begins the second script.
const prelude = `LC_ALL=C; PATH="$PATH:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"; export LC_ALL PATH; ` +
	`umask 077; set -f; m=%s; n=%s; h=%s; k=%d; u=$(id -u); HOME="${HOME:-/nonexistent}"; ` +
	`say() { echo "$m $*"; }; `

// checks refuses a host on which the agent could not run.
const checks = `s=$(uname -s); a=$(uname -m); case "$s-$a" in %s) ;; *) say ` + sayArch + ` "$s" "$a"; exit 3;; esac; ` +
	`if command -v sha256sum >/dev/null 2>&1; then sum() { sha256sum; }; ` +
	`elif command -v openssl >/dev/null 2>&1; then sum() { openssl dgst -sha256 -r; }; ` +
	`elif command -v shasum >/dev/null 2>&1; then sum() { shasum -a 256; }; ` +
	`else say ` + sayNoSum + `; exit 3; fi; ` +
	`good() { x=$(sum <"$1") && [ "${x%%%% *}" = "$h" ]; }; `

// choose finds the first directory that is ours alone, can be written, lets
// programs run and has room. A file without a #! line is run by sh itself, but
// only after the kernel has looked whether it may be executed.
const choose = `drop() { why="$why $d $1,"; rm -f "$d/try-$$" 2>/dev/null; [ "$made" ] && rmdir "$d" 2>/dev/null; return 1; }; ` +
	`try() { d=$1; made=""; ` +
	`[ -d "$d" ] || { mkdir -p "$d" 2>/dev/null || { drop "cannot be made"; return 1; }; made=1; }; ` +
	`if [ -L "$d" ]; then drop "is a symbolic link"; return 1; fi; ` +
	`[ -O "$d" ] || { drop "belongs to somebody else"; return 1; }; ` +
	`{ chmod 700 "$d" && echo "exit 42" >"$d/try-$$" && chmod 700 "$d/try-$$"; } 2>/dev/null || { drop "cannot be written"; return 1; }; ` +
	`"$d/try-$$" >/dev/null 2>&1 </dev/null; [ $? = 42 ] || { drop "does not let programs run (noexec)"; return 1; }; ` +
	`rm -f "$d/try-$$"; [ -f "$d/$n" ] && return 0; ` +
	`set -- $(df -Pk "$d" 2>/dev/null); [ "${11:-x}" -lt $k ] 2>/dev/null && { drop "has less than $k KiB free"; return 1; }; ` +
	`return 0; }; ` +
	`w=""; for c in %s; do try "$c" && { w=1; break; }; done; ` +
	`[ "$w" ] || { say ` + sayNoDir + ` $why; exit 3; }; `

// install makes sure of the agent's file and starts it. The file is checked each
// time: somebody may have changed it since.
const install = `f="$d/$n"; [ -f "$f" ] && { good "$f" || rm -f "$f"; }; ` +
	`if [ -f "$f" ]; then touch "$f" 2>/dev/null; else ` +
	`z=""; for c in zstd gzip; do command -v $c >/dev/null 2>&1 && z="$z$c,"; done; ` +
	`say ` + sayNeed + ` "${z:-none}" "$d"; read -r z b || exit 3; t="$d/new-$$"; wipe() { rm -f "$t"; }; trap wipe EXIT; ` +
	`case "$z" in zstd|gzip) head -c "$b" | $z -dc >"$t";; *) head -c "$b" >"$t";; esac; ` +
	`good "$t" || { say ` + sayBad + ` $(wc -c <"$t"); exit 3; }; ` +
	`chmod 700 "$t" && mv -f "$t" "$f" || exit 3; trap - EXIT; ` +
	`find "$d" -type f -name "leeward-*" -mtime +30 -exec rm -f {} + 2>/dev/null; ` +
	`find "$d" -type f -name "new-*" -mtime +0 -exec rm -f {} + 2>/dev/null; fi; ` +
	`say ` + sayGo + ` "$f"; exec "$f" agent`

// erase removes every cache directory of the user it runs as.
const erase = `for d in %s; do [ -L "$d" ] && continue; [ -d "$d" ] && [ -O "$d" ] || continue; ` +
	`find "$d" -type f -name "leeward-*" -exec rm -f {} +; ` +
	`find "$d" -type f -name "new-*" -exec rm -f {} +; rmdir "$d" || l="$l $d"; done; ` +
	`[ "$l" ] && { say ` + sayBad + ` $l; exit 3; }; say ` + sayGone

// machines tells how uname -m calls the machines a GOARCH runs on.
var machines = map[string]string{
	"amd64":   "Linux-x86_64",
	"arm64":   "Linux-aarch64",
	"386":     "Linux-i?86|Linux-x86_64",
	"arm":     "Linux-armv6*|Linux-armv7*|Linux-armv8*|Linux-aarch64",
	"riscv64": "Linux-riscv64",
	"ppc64le": "Linux-ppc64le",
	"s390x":   "Linux-s390x",
}

// newMarker returns a word that no banner contains by chance.
func newMarker() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails, see its documentation
	return "LW-" + hex.EncodeToString(b[:])
}

// agentName is the file name of the agent with the given hash.
func agentName(hash string) string { return "leeward-" + hash[:12] }

// startScript is the script that starts the agent, installing it if it must.
// kib is the room it needs in the worst case.
func startScript(marker, hash, arch string, kib int64, dirs []string) (string, error) {
	machine, ok := machines[arch]
	if !ok {
		return "", fmt.Errorf("start agent: unknown architecture %s", arch)
	}
	places, err := placeList(dirs)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf(prelude, marker, agentName(hash), hash, kib) +
		fmt.Sprintf(checks, machine) + fmt.Sprintf(choose, places) + install, nil
}

// eraseScript is the script that leaves no trace of the agent.
func eraseScript(marker string, dirs []string) (string, error) {
	places, err := placeList(dirs)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf(prelude, marker, "none", "none", 0) + `l=""; ` + fmt.Sprintf(erase, places), nil
}

// placeList is the list of directories as the words of a for loop.
func placeList(dirs []string) (string, error) {
	if dirs == nil {
		return strings.Join(cacheDirs, " ") + " " + privateDirs, nil
	}
	var words []string
	for _, d := range dirs {
		if !path.IsAbs(d) || strings.ContainsAny(d, "\"'!\\`$\n") {
			return "", fmt.Errorf("cache directory %q: want an absolute path without quotes", d)
		}
		words = append(words, `"`+d+`"`)
	}
	return strings.Join(words, " "), nil
}

// command is what the remote login shell is given to parse: a script that runs
// another, both in single quotes.
func command(marker, script string, root bool) string {
	first := asUser
	if root {
		first = fmt.Sprintf(elevate, marker)
	}
	return "sh -c '" + first + "' leeward '" + script + "'"
}

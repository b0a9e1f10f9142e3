package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/cpu"

	"github.com/leeward-dr/leeward/internal/dr"
)

// fastCipher is several times as fast as OpenSSH's first choice on a processor
// with AES instructions.
const fastCipher = "aes128-gcm@openssh.com"

// base are the arguments that say which host is meant; everything else about it
// comes from the user's own configuration.
func (t Target) base() []string {
	var a []string
	if t.SSHConfig != "" {
		a = append(a, "-F", t.SSHConfig)
	}
	if t.Port != 0 {
		a = append(a, "-p", strconv.Itoa(t.Port))
	}
	if t.User != "" {
		a = append(a, "-l", t.User)
	}
	return append(a, t.ExtraArgs...)
}

// String is the ssh command a person would type to reach the target.
func (t Target) String() string {
	return "ssh " + strings.Join(append(t.base(), t.Host), " ")
}

func (t Target) validate() error {
	switch {
	case t.Host == "":
		return errors.New("no host given")
	case strings.HasPrefix(t.Host, "-"), strings.ContainsAny(t.Host, " \t\n'\""):
		return fmt.Errorf("host %q is not a host name", t.Host)
	case t.Port < 0 || t.Port > 65535:
		return fmt.Errorf("port %d: want 1 to 65535", t.Port)
	}
	return nil
}

// effective is what ssh will do for a host, by lower-case keyword; of keywords
// given more than once it has the first.
type effective map[string]string

// parseEffective reads the output of ssh -G.
func parseEffective(out []byte) effective {
	e := effective{}
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
		if _, seen := e[key]; !seen && key != "" {
			e[key] = value
		}
	}
	return e
}

// effectiveConfig asks ssh what it will do for t. An ssh too old to say (before
// 6.8) leaves it empty.
func effectiveConfig(ctx context.Context, ssh string, t Target) (effective, error) {
	args := append(t.base(), "-G", "--", t.Host)
	cmd := exec.CommandContext(ctx, ssh, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	switch {
	case err == nil:
		return parseEffective(out), nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case strings.Contains(stderr.String(), "illegal option"), strings.Contains(stderr.String(), "unknown option"):
		return effective{}, nil
	}
	text := strings.TrimSpace(stderr.String())
	if text == "" {
		text = err.Error()
	}
	return nil, dr.WithHint(fmt.Errorf("read ssh configuration: %s", text),
		"ssh refuses its own configuration; see: "+t.String())
}

// settings are the -o options of our sessions. Only what a session needs to be a
// clean pipe is forced; what is a matter of taste is set where the user has not.
func settings(e effective, defaults effective, aes bool) []string {
	o := []string{"BatchMode=yes", "ControlMaster=no", "ControlPath=none", "ForwardAgent=no",
		"ForwardX11=no", "ClearAllForwardings=yes", "PermitLocalCommand=no", "EscapeChar=none", "Compression=no"}
	// These are too new for some clients, so they are named only if needed.
	for _, s := range []struct{ key, clean, set string }{
		{"remotecommand", "none", "RemoteCommand=none"},
		{"sessiontype", "default", "SessionType=default"},
		{"stdinnull", "no", "StdinNull=no"},
		{"forkafterauthentication", "no", "ForkAfterAuthentication=no"},
	} {
		if v, ok := e[s.key]; ok && v != s.clean {
			o = append(o, s.set)
		}
	}
	switch e["loglevel"] {
	case "SILENT", "QUIET", "FATAL", "ERROR": // they hide why a connection ended
		o = append(o, "LogLevel=INFO")
	}
	if v, ok := e["connecttimeout"]; !ok || v == "none" || v == "0" {
		o = append(o, "ConnectTimeout=20")
	}
	if v, ok := e["serveraliveinterval"]; !ok || v == "0" {
		o = append(o, "ServerAliveInterval=15", "ServerAliveCountMax=3")
	}
	if c := ciphers(e["ciphers"], defaults["ciphers"]); c != "" && aes {
		o = append(o, "Ciphers="+c)
	}
	var args []string
	for _, s := range o {
		args = append(args, "-o", s)
	}
	return args
}

// ciphers is the list to ask for, with the fastest first, or nothing where the
// user or the system has chosen.
func ciphers(have, byDefault string) string {
	list := strings.Split(have, ",")
	i := slices.Index(list, fastCipher)
	if have == "" || have != byDefault || i <= 0 {
		return ""
	}
	return strings.Join(slices.Insert(slices.Delete(list, i, i+1), 0, fastCipher), ",")
}

// arguments are those of the ssh command that runs remote at t.
func arguments(ctx context.Context, ssh string, t Target, remote string) ([]string, error) {
	e, err := effectiveConfig(ctx, ssh, t)
	if err != nil {
		return nil, err
	}
	var defaults effective
	if e["ciphers"] != "" {
		// Without a configuration file ssh tells what it was built with. If even
		// that fails the user's list is left as it is.
		defaults, _ = effectiveConfig(ctx, ssh, Target{Host: "localhost", SSHConfig: "none"})
	}
	args := append([]string{"-T"}, settings(e, defaults, hasAES())...)
	args = append(args, t.base()...)
	return append(args, "--", t.Host, remote), nil
}

func hasAES() bool {
	switch runtime.GOARCH {
	case "amd64", "386":
		return cpu.X86.HasAES
	case "arm64":
		return cpu.ARM64.HasAES
	case "s390x":
		return cpu.S390X.HasAES
	}
	return false
}

package runbook

import (
	"fmt"
	"os"
	"os/user"
	"strings"
)

// Actor is who gave a word or runs a run, and from where.
type Actor struct {
	User string `json:"user"`
	Host string `json:"host"`
	From string `json:"from,omitempty"` // the address a session came from
	PID  int    `json:"pid,omitempty"`
}

func (a Actor) String() string {
	s := a.User + " on " + a.Host
	if a.From != "" {
		s += ", from " + a.From
	}
	return s
}

// Self is the person at this process, as far as the system knows: who became root by
// sudo is named, not root alone.
func Self(getenv func(string) string) Actor {
	a := Actor{User: "unknown", Host: "unknown", PID: os.Getpid()}
	if u, err := user.Current(); err == nil {
		a.User = u.Username
	} else {
		a.User = fmt.Sprintf("uid %d", os.Getuid())
	}
	if by := getenv("SUDO_USER"); by != "" && by != a.User {
		a.User = by + " as " + a.User
	}
	if h, err := os.Hostname(); err == nil {
		a.Host = h
	}
	if f := strings.Fields(getenv("SSH_CONNECTION")); len(f) > 0 {
		a.From = f[0]
	}
	return a
}

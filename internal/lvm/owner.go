package lvm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Owner names the process that a snapshot belongs to, so that another can tell
// whether anybody still needs it.
type Owner struct {
	boot    string // of the host's boot id, the beginning
	pid     int
	started uint64 // in ticks since boot: process numbers come again
}

// Self returns this process as an owner.
func Self() (Owner, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Owner{}, fmt.Errorf("name snapshots: %w", err)
	}
	o := Owner{boot: strings.TrimSpace(string(boot)), pid: os.Getpid()}
	o.boot = o.boot[:min(8, len(o.boot))]
	if o.started, err = startOf(o.pid); err != nil {
		return Owner{}, fmt.Errorf("name snapshots: %w", err)
	}
	return o, nil
}

// Name is that of the owner's n-th snapshot; prefix must end in a letter.
func (o Owner) Name(prefix string, n int) string {
	return fmt.Sprintf("%s-%s-%d-%d-%d", prefix, o.boot, o.pid, o.started, n)
}

// ownerOf undoes Name.
func ownerOf(prefix, name string) (o Owner, ok bool) {
	rest, ok := strings.CutPrefix(name, prefix+"-")
	if !ok {
		return o, false
	}
	var n int
	f := strings.Split(rest, "-")
	if len(f) != 4 {
		return o, false
	}
	o.boot = f[0]
	_, err := fmt.Sscanf(strings.Join(f[1:], " "), "%d %d %d", &o.pid, &o.started, &n)
	return o, err == nil
}

// Stale returns those of all volumes that are snapshots named with prefix whose
// owner is not there any more. self is who asks.
func Stale(all []Volume, prefix string, self Owner) (out []Volume) {
	for _, v := range all {
		if Abandoned(prefix, v.Name, self) {
			out = append(out, v)
		}
	}
	return out
}

// Abandoned reports whether name is one that Name made and its owner is not there
// any more.
func Abandoned(prefix, name string, self Owner) bool {
	o, ok := ownerOf(prefix, name)
	if !ok {
		return false
	}
	if o.boot != self.boot {
		return true
	}
	started, err := startOf(o.pid)
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	return started != o.started
}

// startOf returns when a process began: field 22 of its stat, behind a name that
// may hold anything.
func startOf(pid int) (started uint64, err error) {
	b, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "stat"))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 20 {
		return 0, fmt.Errorf("read start of process %d: strange stat", pid)
	}
	_, err = fmt.Sscan(f[19], &started)
	return started, err
}

package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// marker names the file that marks a directory as a lab's own.
const marker = ".leeward-lab"

// Down ends all servers and removes everything of the lab: processes,
// namespaces, mounts, loop devices and its directory, with what Leeward stored
// in it. The cache stays. It may be called again after a failure.
func (l *Lab) Down(ctx context.Context) error { return Remove(ctx, l.place.dir) }

// Remove takes down whatever is left of a lab in dir, also when raising it was
// cut short. That there is nothing is no error.
func Remove(ctx context.Context, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("find the lab's directory: %w", err)
	}
	if err := killServers(ctx, dir); err != nil {
		return err
	}
	var errs []error
	errs = append(errs, removeNetwork(ctx))
	if _, err := os.Stat(filepath.Join(dir, marker)); err == nil {
		errs = append(errs, unmountUnder(ctx, dir), detachUnder(ctx, dir))
		if errors.Join(errs...) == nil {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	return errors.Join(errs...)
}

// killServers ends the processes on record. A record that cannot be read has no
// process that went past its gate.
func killServers(ctx context.Context, dir string) error {
	p, err := loadState(dir)
	if errors.Is(err, errNoLab) {
		return nil
	}
	if err != nil {
		return err
	}
	errs := []error{p.Dallas.kill(ctx), p.Home.kill(ctx)}
	for _, s := range p.Servers {
		if err := s.Process.kill(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", s.Name, err))
		}
	}
	return errors.Join(errs...)
}

func removeNetwork(ctx context.Context) error {
	known := []string{miami, dallas}
	for _, s := range Servers() {
		known = append(known, s.NetNS())
	}
	names, err := netnsNames(ctx)
	if err != nil {
		return err
	}
	for _, n := range names {
		if !slices.Contains(known, n) {
			continue
		}
		if _, err := run(ctx, "ip", "netns", "del", n); err != nil {
			return err
		}
	}
	return nil
}

// unmountUnder unmounts what is mounted below dir in this mount namespace, the
// innermost first: a store's pool, for one.
func unmountUnder(ctx context.Context, dir string) error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	defer f.Close()
	var points []string
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if fields := strings.Fields(sc.Text()); len(fields) > 4 {
			if mp := unescapeMount(fields[4]); strings.HasPrefix(mp, dir+"/") {
				points = append(points, mp)
			}
		}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	for _, mp := range slices.Backward(points) {
		if _, err := run(ctx, "umount", mp); err != nil {
			return err
		}
	}
	return nil
}

// unescapeMount undoes the kernel's octal escapes of blanks in mountinfo.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// detachUnder detaches loop devices over files below dir.
func detachUnder(ctx context.Context, dir string) error {
	out, err := run(ctx, "losetup", "--json", "--list", "--output", "NAME,BACK-FILE")
	if err != nil {
		return err
	}
	if strings.TrimSpace(out) == "" {
		return nil
	}
	var list struct {
		Devices []struct {
			Name string `json:"name"`
			Back string `json:"back-file"`
		} `json:"loopdevices"`
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return fmt.Errorf("list loop devices: %w", err)
	}
	for _, d := range list.Devices {
		if strings.HasPrefix(d.Back, dir+"/") {
			if _, err := run(ctx, "losetup", "--detach", d.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

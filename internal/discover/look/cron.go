package look

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

// cron lists every job of every crontab, and the scripts of /etc/cron.daily and the like.
func (l *looker) cron(ctx context.Context) {
	defer l.ownJobs(ctx)
	for _, file := range append([]string{"/etc/crontab"}, l.glob("etc/cron.d/*")...) {
		if strings.ContainsAny(filepath.Base(file), ".~") {
			continue // cron skips them, but for names in lists of its own
		}
		if b, ok := l.config("jobs in "+file, file); ok {
			l.inv.Cron = append(l.inv.Cron, parseCrontab(file, b, "")...)
		}
	}
	for _, dir := range []string{"/var/spool/cron/crontabs", "/var/spool/cron/tabs", "/var/spool/cron", "/etc/crontabs"} {
		entries, err := os.ReadDir(l.path(dir))
		if err != nil {
			if !os.IsNotExist(err) {
				l.unknown("crontabs of users in "+dir, err)
			}
			continue
		}
		for _, e := range entries {
			if !e.Type().IsRegular() || strings.HasPrefix(e.Name(), ".") || dir == "/etc/crontabs" && e.Name() == "cron.update" {
				continue
			}
			file := dir + "/" + e.Name()
			if b, ok := l.config("jobs in "+file, file); ok {
				l.inv.Cron = append(l.inv.Cron, parseCrontab(file, b, e.Name())...)
			}
		}
	}
	for _, span := range []string{"hourly", "daily", "weekly", "monthly", "15min"} {
		for _, p := range l.glob("etc/cron."+span+"/*", "etc/periodic/"+span+"/*") {
			if base := filepath.Base(p); base != "0anacron" && !strings.HasPrefix(base, ".") {
				l.inv.Cron = append(l.inv.Cron, inventory.CronJob{File: p, When: "@" + span, User: "root", Command: p})
			}
		}
	}
}

// ownJobs tells the jobs that somebody here has made from those that packages bring.
// /etc/crontab is a package's file that people add to; what its packages put there starts
// the scripts of cron.daily and the like.
func (l *looker) ownJobs(ctx context.Context) {
	var files []string
	for _, j := range l.inv.Cron {
		files = append(files, j.File)
	}
	owned := l.owners(ctx, slices.Compact(files))
	for i := range l.inv.Cron {
		j := &l.inv.Cron[i]
		j.Own = len(l.inv.Packages) > 0 && owned[j.File] == "" && !strings.Contains(j.Command, "run-parts")
	}
}

// parseCrontab reads the jobs of a crontab; user is whose it is, empty for those with a
// column that says so (crontab(5)).
func parseCrontab(file string, b []byte, user string) (out []inventory.CronJob) {
	lines(b, func(n int, line string) {
		fields := 5
		if line[0] == '@' {
			fields = 1
		} else if !strings.ContainsRune("0123456789*-,/", rune(line[0])) {
			return // a variable
		}
		when, rest := cutFields(line, fields)
		who := user
		if user == "" {
			who, rest = cutFields(rest, 1)
		}
		if when == "" || rest == "" || who == "" {
			return
		}
		out = append(out, inventory.CronJob{File: file, Line: n, When: when, User: who, Command: redact(rest)})
	})
	return out
}

// cutFields takes the first n fields off a line; empty where it has fewer.
func cutFields(line string, n int) (fields, rest string) {
	var got []string
	rest = strings.TrimLeft(line, " \t")
	for range n {
		i := strings.IndexAny(rest, " \t")
		if i < 0 {
			got, rest = append(got, rest), ""
			break
		}
		got, rest = append(got, rest[:i]), strings.TrimLeft(rest[i:], " \t")
	}
	if len(got) < n {
		return "", ""
	}
	return strings.Join(got, " "), rest
}
